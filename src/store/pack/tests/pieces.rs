//! Oracle: the contents that were appended, and packs that one thread wrote.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::*;

const PIECE: u64 = 256 << 10;

/// The page cache keeps a file in folios that are no larger than the writes they came from.
#[test]
fn a_pack_is_written_in_large_pieces_at_their_multiples() {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    let mut appended = Vec::new();
    for seed in 0..200 {
        let (length, codec) = match seed % 3 {
            0 => (8192, ChunkCodec::Raw),
            1 => (5000, ChunkCodec::Lz4),
            _ => (16000, ChunkCodec::Raw),
        };
        let contents = if length == 5000 { noise(50, seed).repeat(100) } else { noise(length, seed) };
        pack.append(&contents, codec).unwrap();
        assert!(pack.gathered_bytes() <= PIECE as usize + (20 << 10), "{}", pack.gathered_bytes());
        // What is in memory is read as well as what is in the file, and what is in both.
        if seed % 50 == 49 {
            (0..=seed).step_by(7).for_each(|slot| {
                let expected = appended.get(slot as usize).unwrap_or(&contents);
                assert_eq!(pack.read(slot as u32).unwrap(), *expected);
            });
        }
        appended.push(contents);
    }
    let (end, file) = (pack.bytes(), pack.finish().unwrap());
    let written = file.written.borrow().clone();
    let (footer, payloads) = written.split_last().unwrap();
    let expected = (0..end).step_by(PIECE as usize).map(|start| (start, end.min(start + PIECE)));
    assert_eq!(payloads, expected.collect::<Vec<_>>());
    assert_eq!(footer.0, end);
    let pack = PackReader::open(MemoryPack::new(file.bytes.into_inner()), &identity()).unwrap();
    for (slot, contents) in appended.iter().enumerate() {
        assert_eq!(read(&pack, slot as u32).unwrap(), *contents);
    }
}

/// Oracle: a pack that was written by one thread.
#[test]
fn a_second_thread_writes_the_same_pack() {
    let time = Arc::new(AsideTime::default());
    let made = |turns: fn(u64) -> bool| {
        let mut pack = PackWriter::create(tempfile::tempfile().unwrap(), identity()).unwrap();
        for seed in 0..1200 {
            pack.write_aside(turns(seed).then_some(&time));
            pack.append(&noise(8192, seed), ChunkCodec::Raw).unwrap();
            if seed % 100 == 0 {
                pack.settle();
                assert_eq!(pack.read(seed as u32 / 2).unwrap(), noise(8192, seed / 2));
            }
        }
        let file = pack.finish().unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        PackFile::read(&file, &mut bytes, 0).unwrap();
        bytes
    };
    let alone = made(|_| false);
    assert_eq!(time.told(), Duration::ZERO);
    assert!(made(|_| true) == alone);
    assert!(time.told() > Duration::ZERO, "its time is told");
    assert!(made(|seed| seed / 150 % 2 == 1) == alone);
}

/// What the second thread could not write is not in the pack, so the pack must not become complete.
#[test]
fn a_pack_that_the_second_thread_could_not_write_fails() {
    let named = tempfile::NamedTempFile::new().unwrap();
    let writable = || File::options().read(true).write(true).open(named.path()).unwrap();
    let made = |file| {
        let mut pack = PackWriter::create(file, identity()).unwrap();
        pack.write_aside(Some(&Arc::default()));
        let appended =
            (0..300).try_for_each(|seed| pack.append(&noise(8192, seed), ChunkCodec::Raw).map(drop));
        pack.settle();
        // It does not go on as if nothing had happened.
        pack.write_aside(None);
        let next = pack.append(&noise(8192, 1000), ChunkCodec::Raw);
        (appended.is_ok() && next.is_ok(), pack.finish())
    };
    assert!(matches!(made(writable()), (true, Ok(_))));
    let read_only = File::open(named.path()).unwrap();
    assert!(matches!(made(read_only), (false, Err(PackError::Io(_)))));
}
