//! What is written over the bytes of a base, by the real program.

use std::sync::atomic::{AtomicU64, Ordering};

use ringnbd::{Client, Timeouts};

use super::Store;
use super::served::{qemu_io, read};
use crate::support::image::disk_dir;
use crate::support::server::{Options, Server};

const SIZE: usize = 4 << 20;
const OF_BASE: u8 = 0x5a;
const WRITTEN: u8 = 0xa5;

fn store() -> Store {
    let store = Store::init();
    std::fs::write(store.directory().join("base.raw"), vec![OF_BASE; SIZE]).unwrap();
    store.run("image create STORE/vm --base file:DIR/base.raw").ok();
    store
}

fn serve(store: &Store) -> Server {
    let export = format!("vm=store:{}/vm", store.path().display());
    Options::new().shards(2).memory("128M").export(export).start()
}

/// S2: what was trimmed or zeroed over the base reads as zeroes after each kind of end, and takes writes.
#[test]
fn s2_what_was_zeroed_over_the_base_stays_zero_after_a_restart() {
    let (store, scratch) = (store(), disk_dir());
    let mut expected = vec![OF_BASE; SIZE];
    let mut server = serve(&store);
    let zeroes =
        ["discard 0 64k", "discard 70001 9999", "write -z 1M 64k", "write -z -u 1200001 99999", "flush"];
    if qemu_io(&server, "vm", &zeroes).is_none() {
        return;
    }
    for (offset, length) in [(0, 64 << 10), (1 << 20, 64 << 10), (1_200_001, 99_999)] {
        expected[offset..offset + length].fill(0);
    }
    // A client may round a TRIM inwards, and a server may leave parts of blocks: here it zeroes them.
    let found = read(&server, "vm", scratch.path()).unwrap();
    let trimmed = 70_001..80_000;
    assert!(found[trimmed.clone()].iter().all(|byte| [0, OF_BASE].contains(byte)));
    expected[trimmed.clone()].copy_from_slice(&found[trimmed]);
    assert!(found == expected, "zeroes that are not there");
    server.stop();
    let mut server = serve(&store);
    assert!(
        read(&server, "vm", scratch.path()).unwrap() == expected,
        "the base is back after an orderly end"
    );
    // Of these nothing is flushed: a kill keeps what was answered.
    qemu_io(
        &server,
        "vm",
        &["discard 2M 128k", "write -P 165 4k 512", "write -P 165 1100000 10", "write -P 165 2101248 4k"],
    );
    expected[2 << 20..(2 << 20) + (128 << 10)].fill(0);
    for (offset, length) in [(4096, 512), (1_100_000, 10), (2_101_248, 4096)] {
        expected[offset..offset + length].fill(WRITTEN);
    }
    server.crash();
    let mut server = serve(&store);
    assert!(read(&server, "vm", scratch.path()).unwrap() == expected, "the base is back after a kill");
    server.stop();
}

/// S3: whoever asks after an overwrite was answered gets none of the base's bytes, from the page cache or
/// past it, on whichever connection.
#[test]
fn s3_no_read_after_an_overwrite_has_bytes_of_the_base() {
    const STEP: usize = 1000;
    let store = store();
    let mut server = serve(&store);
    let open = || Client::open(&server.uri("vm").parse().unwrap(), &[], Timeouts::default()).unwrap();
    let (mut writer, mut reader) = (open(), open());
    // The base is in the page cache, and known to be there.
    let mut bytes = vec![0; SIZE];
    for _ in 0..2 {
        reader.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == OF_BASE));
    }
    // Bytes from the start on whose overwrites were answered.
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for offset in (0..1 << 20).step_by(STEP) {
                writer.write_at(offset as u64, &[WRITTEN; STEP]).unwrap();
                written.store((offset + STEP) as u64, Ordering::Release);
            }
        });
        loop {
            let until = written.load(Ordering::Acquire);
            let from = until.saturating_sub(6000);
            let found = &mut bytes[..(until - from) as usize];
            reader.read_at(from, found).unwrap();
            let old = found.iter().position(|byte| *byte != WRITTEN);
            assert_eq!(old.map(|at| from + at as u64), None, "{until} bytes were overwritten");
            if until >= 1 << 20 {
                break;
            }
        }
    });
    server.stop();
}
