//! Transmission statements T13 to T15: TRIM and WRITE_ZEROES, long, odd, allocated and fast.

use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

use crate::common::{Disk, Disks, Medium, assert_same, assert_zero};
use crate::requests::Dice;
use crate::support::image::pattern;
use crate::support::raw::{CHUNKED, Connection, MODES, Mode, Request, spoken};
use crate::support::wire::*;

/// 65 MiB, 1 GiB and 4 GiB - 512, all longer than any payload.
const LONG: [u64; 3] = [65 * MIB, GIB, 4 * GIB - 512];
const START: u64 = 12_288;
const PIECE: usize = 4096;

/// Data before, behind, at both ends of and all over a range, so that any part left out shows.
fn scatter(client: &mut Connection, length: u64, seed: u64) -> Vec<u64> {
    let mut dice = Dice(seed);
    let blocks = length / PIECE as u64;
    let mut offsets: Vec<u64> = (0..40).map(|_| START + dice.below(blocks) * PIECE as u64).collect();
    // The places where a server that works in slices would slip: multiples of 2^25, 2^30, 2^31, 2^32.
    for boundary in [32 * MIB, 64 * MIB, GIB, 2 * GIB, 4 * GIB] {
        if boundary + PIECE as u64 <= length {
            offsets.extend([START + boundary - PIECE as u64, START + boundary]);
        }
    }
    offsets.push(START);
    offsets.sort_unstable();
    offsets.dedup();
    for &offset in &offsets {
        client.write(offset, &pattern(seed, offset, PIECE));
    }
    // The edges: the last 512 bytes inside, and the neighbours on both sides.
    client.write(START - 512, &pattern(seed, START - 512, 512));
    client.write(START + length - 512, &pattern(seed, START + length - 512, 1024));
    offsets
}

fn assert_zeroed(client: &mut Connection, disk: &Disk, length: u64, seed: u64, offsets: &[u64]) {
    for &offset in offsets {
        assert_zero(&client.read(offset, PIECE), &format!("{length:#x} bytes of zeroes at {offset:#x}"));
    }
    assert_zero(&client.read(START + length - 512, 512), "the end of the range");
    assert_same(&client.read(START - 512, 512), &pattern(seed, START - 512, 512), "before the range");
    let end = START + length;
    assert_same(&client.read(end, 512), &pattern(seed, end, 512), "behind the range");
    match &disk.medium {
        Medium::File(image) => assert_no_data(&image.path, START, length),
        Medium::Loop(device) => {
            // Its backing file tells what the device holds once the device's own cache is flushed.
            client.flush();
            assert_no_data(&device.image.path, START, length);
        }
        Medium::Memory => {}
    }
}

/// All bytes of the range, holes skipped: SEEK_DATA leads from one piece of data to the next.
fn assert_no_data(path: &Path, start: u64, length: u64) {
    let file = std::fs::File::open(path).expect("open the image");
    let mut at = start;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        if data >= start + length {
            break;
        }
        let hole = seek(&file, SeekFrom::Hole(data)).expect("the end of the data").min(start + length);
        let mut buffer = vec![0; (1 << 20).min((hole - data) as usize)];
        file.read_exact_at(&mut buffer, data).expect("read");
        assert_zero(&buffer, &format!("the image at {data:#x}"));
        at = data + buffer.len() as u64;
    }
}

fn long_zeroes(make: impl Fn(u64) -> Request, mode: Mode, lengths: &[u64]) {
    let disks = Disks::of(6 * GIB);
    disks.each(&[mode], |disk, client| {
        for (seed, &length) in lengths.iter().enumerate() {
            eprintln!("-- {length:#x} bytes");
            let offsets = scatter(client, length, seed as u64);
            client.succeed(&make(length));
            assert_zeroed(client, disk, length, seed as u64, &offsets);
        }
    });
}

#[test]
fn t13_write_zeroes_beyond_max_payload() {
    long_zeroes(|length| Request::zeroes(START, length), Mode::Simple, &LONG);
}

#[test]
fn t13_write_zeroes_beyond_32_bits() {
    long_zeroes(|length| Request::zeroes(START, length), Mode::Extended, &[4 * GIB, 5 * GIB + 512]);
}

#[test]
fn t13_write_zeroes_with_fua_beyond_max_payload() {
    long_zeroes(
        |length| Request::zeroes(START, length).flags(NBD_CMD_FLAG_FUA),
        Mode::Structured,
        &LONG[..1],
    );
}

#[test]
fn t13_every_byte_of_65_mib_reads_zero() {
    const LENGTH: usize = 65 << 20;
    let disks = Disks::of(80 * MIB);
    disks.each(&[Mode::Simple], |_, client| {
        for offset in (0..80 * MIB).step_by(16 << 20) {
            client.write(offset, &vec![0xff; 16 << 20]);
        }
        client.succeed(&Request::zeroes(MIB, LENGTH as u64));
        for offset in (MIB..66 * MIB).step_by(13 << 20) {
            assert_zero(&client.read(offset, 13 << 20), "a range of zeroes");
        }
        assert_same(&client.read(0, 1 << 20), &vec![0xff; 1 << 20], "before it");
        assert_same(&client.read(66 * MIB, 14 << 20), &vec![0xff; 14 << 20], "behind it");
    });
}

#[test]
fn t13_trim_beyond_max_payload() {
    let disks = Disks::of(6 * GIB);
    disks.each(&spoken(MODES), |_, client| {
        let mut lengths = LONG.to_vec();
        if client.mode == Mode::Extended {
            lengths.push(5 * GIB + 512);
        }
        for length in lengths {
            client.write(START - 512, &pattern(1, START - 512, 512));
            client.write(START + length, &pattern(1, START + length, 512));
            let reply = client.call(&Request::trim(START, length));
            assert!(
                [0, NBD_EINVAL, NBD_EOVERFLOW].contains(&reply.error),
                "TRIM of {length:#x}: {}",
                reply.error
            );
            assert_same(&client.read(START - 512, 512), &pattern(1, START - 512, 512), "before a TRIM");
            let end = START + length;
            assert_same(&client.read(end, 512), &pattern(1, end, 512), "behind a TRIM");
        }
    });
}

#[test]
fn t14_write_zeroes_reads_zero() {
    let disks = Disks::of(4 * MIB);
    let length = 256 << 10;
    let before = pattern(2, 0, length);
    disks.each(&spoken(MODES), |_, client| {
        let minimum = u64::from(client.block_sizes()[0]);
        let ranges =
            [(0, 65536), (4096, 4096), (65536, 131_072), (512, 512), (1, 1), (4095, 4098), (513, 100_000)];
        for (offset, size) in ranges.into_iter().filter(|(a, b)| a % minimum == 0 && b % minimum == 0) {
            for flags in [0, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_FUA] {
                for trim_first in [false, true] {
                    client.write(0, &before);
                    if trim_first {
                        client.succeed(&Request::trim(offset, size));
                    }
                    client.succeed(&Request::zeroes(offset, size).flags(flags));
                    let mut expected = before.clone();
                    expected[offset as usize..(offset + size) as usize].fill(0);
                    assert_same(&client.read(0, length), &expected, &format!("zeroes {offset:#x}+{size:#x}"));
                }
            }
        }
    });
}

#[test]
fn t14_zeroes_are_behind_the_server_too() {
    let disks = Disks::of(4 * MIB);
    disks.each_filled(1 << 20, &[Mode::Simple], |disk, client| {
        client.succeed(&Request::zeroes(4096, 512 << 10));
        client.flush();
        if let Some(bytes) = disk.behind(0, 1 << 20) {
            let mut expected = pattern(1, 0, 1 << 20);
            expected[4096..4096 + (512 << 10)].fill(0);
            assert_same(&bytes, &expected, "the storage itself");
        }
    });
}

#[test]
fn t14_no_hole_stays_allocated() {
    let disks = Disks::of(4 * MIB);
    disks.each(&spoken(CHUNKED), |disk, client| {
        // Over data, over what was a hole before, and over a trimmed range.
        client.write(0, &pattern(1, 0, 1 << 20));
        client.succeed(&Request::trim(512 << 10, 512 << 10));
        for (offset, length) in
            [(0, 256 << 10), (2 * MIB, MIB), (512 << 10, 512 << 10), (3 * MIB + 4096, 8192)]
        {
            client.succeed(&Request::zeroes(offset, length).flags(NBD_CMD_FLAG_NO_HOLE));
            assert_zero(&client.read(offset, length as usize), "zeroes without a hole");
            let extents = client.extents(&Request::status(offset, length));
            let mut left = length;
            for (size, flags) in extents {
                assert!(
                    left == 0 || flags & NBD_STATE_HOLE == 0,
                    "{offset:#x}+{length:#x} has a hole: {size:#x}"
                );
                left = left.saturating_sub(size);
            }
            assert_eq!(left, 0, "the status of the whole range");
        }
        if let Medium::File(image) = &disk.medium {
            assert!(image.allocated() >= MIB + 256 * KIB, "{} bytes allocated", image.allocated());
        }
    });
}

#[test]
fn t15_fast_zero() {
    let disks = Disks::of(4 * MIB);
    disks.each(&spoken(MODES), |disk, client| {
        let offered = client.export.has(NBD_FLAG_SEND_FAST_ZERO);
        let minimum = u64::from(client.block_sizes()[0]);
        const FILLED: usize = 256 << 10;
        let before = pattern(6, 0, FILLED);
        for extra in [0, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE] {
            for (offset, length) in [(0, MIB), (4096, 4096), (512, 512), (1, 1), (4095, 65537), (0, 4 * MIB)]
            {
                if offset % minimum != 0 || length % minimum != 0 {
                    continue;
                }
                client.write(0, &before);
                let mut expected = before.clone();
                let request = Request::zeroes(offset, length).flags(extra | NBD_CMD_FLAG_FAST_ZERO);
                let error = client.call(&request).error;
                eprintln!("-- {}: fast zero {offset:#x}+{length:#x} flags {extra:#x}: {error}", disk.name);
                match error {
                    0 if offered => {
                        expected[offset as usize..((offset + length) as usize).min(FILLED)].fill(0)
                    }
                    NBD_ENOTSUP if offered => {}
                    NBD_EINVAL if !offered => {}
                    other => panic!("error {other}, FAST_ZERO offered: {offered}"),
                }
                assert_same(&client.read(0, FILLED), &expected, "after a fast zero");
                // Without the flag the same request succeeds, however slow it is.
                client.succeed(&Request::zeroes(offset, length).flags(extra));
            }
        }
        // "SHOULD NOT fail with NBD_EOVERFLOW regardless of the client length".
        let flags = if offered { NBD_CMD_FLAG_FAST_ZERO } else { 0 };
        client.fail_past_the_end(&Request::zeroes(4 * MIB, 512).flags(flags));
    });
}
