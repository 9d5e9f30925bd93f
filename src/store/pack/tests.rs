//! Oracle: the contents that were appended, and `blake3` and `crc_fast` themselves.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use proptest::prelude::*;
use uuid::Uuid;

use super::arbitrary::use_arbitrary;
use super::file::PackFile;
use super::*;

mod pieces;

/// What names of nodes are derived with.
const NODES: &str = "ringnbd 2026-11-28 node of a manifest";

/// The file of a pack in memory, with what was done to it.
#[derive(Debug, Default)]
pub(super) struct MemoryPack {
    bytes: RefCell<Vec<u8>>,
    done: RefCell<Vec<&'static str>>,
    /// Where writes began and ended.
    written: RefCell<Vec<(u64, u64)>>,
    /// Bytes that it has room for.
    room: Rc<Cell<Option<usize>>>,
    reads: Cell<usize>,
    on_their_way: RefCell<Vec<(u64, u64)>>,
}

impl MemoryPack {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RefCell::new(bytes), ..Self::default() }
    }
}

impl PackFile for MemoryPack {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        let file = self.bytes.borrow();
        let found = file.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        let mut file = self.bytes.borrow_mut();
        let (start, length) = (offset as usize, file.len());
        if let Some(room) = self.room.get().filter(|room| end > *room) {
            // As much as fits is written.
            file.resize(length.max(room), 0);
            file[start..room].copy_from_slice(&bytes[..room - start]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.resize(length.max(end), 0);
        file[start..end].copy_from_slice(bytes);
        self.done.borrow_mut().push("write");
        self.written.borrow_mut().push((offset, end as u64));
        Ok(())
    }

    fn begin_writeback(&self, range: std::ops::Range<u64>) {
        self.on_their_way.borrow_mut().push((range.start, range.end));
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.bytes.borrow_mut().resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.done.borrow_mut().push("sync");
        Ok(())
    }
}

pub(super) fn identity() -> PackIdentity {
    let space = ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 8192, domain: Uuid::nil() };
    PackIdentity { store: Uuid::from_u128(7), number: 3, space }
}

fn written(chunks: &[(Vec<u8>, ChunkCodec)]) -> Vec<u8> {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    for (slot, (contents, codec)) in chunks.iter().enumerate() {
        let (hash, hint) = pack.append(contents, *codec).unwrap();
        assert_eq!(hash.0, *blake3::hash(contents).as_bytes());
        assert_eq!(hint, ChunkHint { pack: 3, slot: slot as u32 });
    }
    pack.finish().unwrap().bytes.into_inner()
}

fn open(bytes: &[u8]) -> Result<PackReader<MemoryPack>, PackError> {
    PackReader::open(MemoryPack::new(bytes.to_vec()), &identity())
}

fn read(pack: &PackReader<MemoryPack>, slot: u32) -> Result<Vec<u8>, PackError> {
    pack.read(&pack.chunk(slot)?)
}

/// Bytes that no codec makes smaller.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn small() -> Vec<(Vec<u8>, ChunkCodec)> {
    let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(8192).collect();
    let mixed = [&noise(300, 1)[..], &text[..5000]].concat();
    vec![
        (text.clone(), ChunkCodec::Lz4),
        (noise(4100, 2), ChunkCodec::Zstd),
        (mixed, ChunkCodec::Zstd),
        (noise(40, 3), ChunkCodec::Raw),
        (text, ChunkCodec::Raw),
    ]
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..600),
        (1..8193_usize, any::<u64>()).prop_map(|(length, seed)| noise(length, seed)),
        (1..8193_usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        (1..90_usize, 1..90_usize, any::<u64>())
            .prop_map(|(unit, times, seed)| noise(unit, seed).repeat(times)),
    ]
}

fn codec() -> impl Strategy<Value = ChunkCodec> {
    prop_oneof![Just(ChunkCodec::Raw), Just(ChunkCodec::Lz4), Just(ChunkCodec::Zstd)]
}

proptest! {
    #[test]
    fn what_was_appended_is_read(chunks in prop::collection::vec((contents(), codec()), 0..12)) {
        let pack = open(&written(&chunks)).unwrap();
        let keys = pack.keys().unwrap();
        prop_assert_eq!((keys.len(), pack.count() as usize), (chunks.len(), chunks.len()));
        for (slot, ((contents, _), key)) in chunks.iter().zip(keys).enumerate() {
            prop_assert_eq!(&read(&pack, slot as u32).unwrap(), contents);
            prop_assert_eq!(key, ChunkKey { space: identity().space, hash: ChunkHash(*blake3::hash(contents).as_bytes()) });
            for hint in [None, Some(slot as u32), Some(slot as u32 + 1), Some(u32::MAX)] {
                let found = pack.find(&key.hash, hint).unwrap().unwrap();
                prop_assert_eq!(&pack.read(&found).unwrap(), contents);
            }
        }
        prop_assert!(matches!(pack.chunk(chunks.len() as u32), Err(PackError::NoSlot(_))));
        prop_assert!(pack.find(&ChunkHash([9; 32]), Some(0)).unwrap().is_none());
    }

    /// L3: bytes of a pack that anybody may have made.
    #[test]
    fn any_bytes_are_refused_or_used(
        kind in 0..8_u8,
        pages in any::<u8>(),
        count in 0..4_u8,
        head in prop::collection::vec(any::<u8>(), 0..70),
        entries in prop::collection::vec((any::<[u8; 4]>(), 8..13_u8, 0..6_u8, 0..6_u8, 0..3_u8, 0..4_u8), 0..4),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut data = head;
        if kind & 2 != 0 {
            data.resize(64, 0);
            data[56..60].copy_from_slice(&u32::from(count).to_le_bytes());
            for (hash, offset, payload, bytes, hashed, codec) in entries {
                let mut entry = [0; 96];
                entry[..4].copy_from_slice(&hash);
                entry[32..40].copy_from_slice(&(u64::from(offset) * 512).to_le_bytes());
                for (at, number) in [(40, u32::from(payload)), (44, u32::from(bytes)), (48, u32::from(hashed))] {
                    entry[at..at + 4].copy_from_slice(&(number * 100).to_le_bytes());
                }
                entry[52] = codec;
                data.extend(entry);
            }
        }
        data.extend(rest);
        data.splice(..0, [kind, pages]);
        use_arbitrary(&data);
    }
}

/// A4: also where a flip hits the length, the codec or the place of a chunk.
#[test]
fn a_flipped_byte_gives_an_error_or_the_same_data() {
    let chunks = small();
    let whole = written(&chunks);
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let Ok(pack) = open(&bytes) else {
            refused += 1;
            continue;
        };
        for (slot, (contents, _)) in chunks.iter().enumerate() {
            match read(&pack, slot as u32) {
                Ok(found) => assert_eq!(found, *contents, "byte {at}"),
                Err(PackError::Checksum { slot: named, offset }) => {
                    assert_eq!(named, slot as u32);
                    let distance = at as u64 - offset;
                    assert!(distance < PAGE, "byte {at} is told as one of {offset}");
                    refused += 1;
                }
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
        harmless += 1;
    }
    // Between payloads are bytes that nobody needs, fewer than a page before each raw one.
    let payloads: u64 = 4100 + 40 + 8192;
    assert!(refused as u64 > PAGE + payloads, "{refused} refused, {harmless} opened");
}

/// What a pack of a few thousand small chunks has.
fn many(count: u64) -> Vec<(Vec<u8>, ChunkCodec)> {
    (0..count).map(|seed| (noise(20, seed).repeat(9), ChunkCodec::Lz4)).collect()
}

/// A4: what is read of a footer again may have changed since it was verified.
#[test]
fn a_footer_that_changes_behind_an_open_pack_gives_an_error_or_the_same_data() {
    let chunks = small();
    let whole = written(&chunks);
    let footer = open(&whole).unwrap().footer_offset() as usize;
    let mut refused = 0;
    for at in footer..whole.len() {
        let pack = open(&whole).unwrap();
        pack.file.bytes.borrow_mut()[at] ^= 1 << (at % 8);
        for (slot, (contents, _)) in chunks.iter().enumerate() {
            let hash = ChunkHash(*blake3::hash(contents).as_bytes());
            let found = pack.find(&hash, Some(slot as u32));
            match found.and_then(|found| pack.read(&found.expect("it is there"))) {
                Ok(found) => assert_eq!(found, *contents, "byte {at}"),
                Err(PackError::Damaged { what: "footer" }) => refused += 1,
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
    // All of a group are refused: each entry and each checksum is needed.
    assert_eq!(refused, (5 * 96 + 4 * 7) * 5);
    let pack = open(&whole).unwrap();
    for length in (0..whole.len()).rev() {
        pack.file.bytes.borrow_mut().truncate(length);
        if length < footer {
            assert!(matches!(pack.chunk(0), Err(PackError::Io(_))), "{length} bytes");
        }
        assert!(pack.walk().all(|chunk| chunk.is_ok()) == (length >= whole.len() - 64), "{length} bytes");
    }
}

/// A4: entries that belong to other chunks do not make these readable by a name that they have not.
#[test]
fn entries_that_were_exchanged_behind_an_open_pack_are_noticed() {
    let chunks = many(40);
    let pack = open(&written(&chunks)).unwrap();
    let entries = pack.footer_offset() as usize + 64;
    let hash = ChunkHash(*blake3::hash(&chunks[1].0).as_bytes());
    let (first, second) = (entries..entries + 96, entries + 96..entries + 192);
    let taken = pack.file.bytes.borrow()[first].to_vec();
    pack.file.bytes.borrow_mut()[second].copy_from_slice(&taken);
    assert!(matches!(pack.find(&hash, Some(1)), Err(PackError::Damaged { what: "footer" })));
    assert!(read(&pack, 17).is_ok(), "another group");
}

/// Oracle: a map.
#[test]
fn chunks_are_found_by_their_names_wherever_a_hint_tells() {
    let chunks = many(3000);
    let pack = open(&written(&chunks)).unwrap();
    for (slot, (contents, _)) in chunks.iter().enumerate() {
        let mut hash = ChunkHash(*blake3::hash(contents).as_bytes());
        for hint in [None, Some(slot as u32 / 2), Some(3000)] {
            assert_eq!(pack.find(&hash, hint).unwrap().unwrap().slot(), slot as u32);
        }
        hash.0[31] ^= 1;
        assert!(pack.find(&hash, Some(slot as u32)).unwrap().is_none());
    }
    // Names that begin alike: somebody may have made them on purpose.
    let mut made = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    for seed in 0..200 {
        made.append(&noise(30, seed), ChunkCodec::Raw).unwrap();
    }
    let mut bytes = made.finish().unwrap().bytes.into_inner();
    let (footer, end) = (bytes.len() - 64 - 64 - 200 * 100, bytes.len() - 64);
    (0..200).for_each(|slot| bytes[footer + 64 + slot * 96..][..30].fill(7));
    bytes[footer + 24..footer + 28].fill(0);
    let crc = crc_fast::crc32_iscsi(&bytes[footer..end]);
    bytes[footer + 24..footer + 28].copy_from_slice(&crc.to_le_bytes());
    let pack = open(&bytes).unwrap();
    for (slot, key) in pack.keys().unwrap().iter().enumerate() {
        pack.file.reads.set(0);
        let found = pack.find(&key.hash, None).unwrap().unwrap();
        assert_eq!(found.told().hash, key.hash, "{slot}");
        assert!(pack.file.reads.get() <= 2 * 10, "{} reads", pack.file.reads.get());
    }
}

#[test]
fn an_open_pack_takes_a_byte_a_chunk_and_five_if_chunks_were_looked_for() {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    for _ in 0..MOST_CHUNKS {
        pack.append(&[7; 100], ChunkCodec::Lz4).unwrap();
    }
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    for slot in (0..MOST_CHUNKS as u32).step_by(64) {
        let chunk = pack.chunk(slot).unwrap();
        let hash = chunk.told().hash;
        assert_eq!(pack.find(&hash, Some(slot)).unwrap().unwrap().slot(), slot);
    }
    assert!(pack.kept_bytes() <= MOST_CHUNKS, "{} bytes", pack.kept_bytes());
    pack.find(&ChunkHash([1; 32]), None).unwrap();
    assert!(pack.kept_bytes() <= 5 * MOST_CHUNKS, "{} bytes", pack.kept_bytes());
}

/// Whoever goes through a pack reads two parts of its footer for 16 chunks.
#[test]
fn neighbours_share_what_is_read_of_a_footer() {
    let chunks = many(320);
    let pack = open(&written(&chunks)).unwrap();
    pack.file.reads.set(0);
    for (slot, (contents, _)) in chunks.iter().enumerate() {
        assert_eq!(read(&pack, slot as u32).unwrap(), *contents);
    }
    assert_eq!(pack.file.reads.get(), 320 + 2 * 320 / 16);
    pack.file.reads.set(0);
    assert_eq!(pack.walk().count(), 320);
    assert_eq!(pack.file.reads.get(), 2);
}

/// Checksums that fit do not make other contents right.
#[test]
fn the_hash_is_checked_behind_the_checksums() {
    let (contents, other) = (noise(500, 1), noise(500, 2));
    let mut bytes = written(&[(contents, ChunkCodec::Raw)]);
    bytes[4096..4596].copy_from_slice(&other);
    let (footer, end) = (4596, bytes.len() - 64);
    bytes[end - 4..end].copy_from_slice(&crc_fast::crc32_iscsi(&other).to_le_bytes());
    bytes[footer + 24..footer + 28].fill(0);
    let crc = crc_fast::crc32_iscsi(&bytes[footer..end]);
    bytes[footer + 24..footer + 28].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(read(&open(&bytes).unwrap(), 0), Err(PackError::Renamed { slot: 0 })));
}

#[test]
fn a_pack_that_was_cut_is_unfinished_or_damaged() {
    let whole = written(&small());
    for length in 0..whole.len() {
        let error = open(&whole[..length]).unwrap_err();
        assert!(matches!(error, PackError::Unfinished | PackError::NotAPack), "{length} bytes: {error}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(open(&longer), Err(PackError::Unfinished)));
}

#[test]
fn another_pack_is_not_taken_for_it() {
    let whole = written(&small());
    let mut others = [identity(); 4];
    others[0].number = 4;
    others[1].store = Uuid::from_u128(8);
    others[2].space.chunk_bytes = 4096;
    others[3].space.domain = Uuid::from_u128(1);
    for other in others {
        let opened = PackReader::open(MemoryPack::new(whole.clone()), &other);
        assert!(matches!(opened, Err(PackError::Foreign)));
    }
    assert!(matches!(open(&[5; 9000]), Err(PackError::NotAPack)));
}

#[test]
fn payloads_are_durable_before_a_footer_is_written() {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    pack.append(&noise(4096, 1), ChunkCodec::Raw).unwrap();
    let file = pack.finish().unwrap();
    assert_eq!(file.done.into_inner(), ["write", "sync", "write", "sync"]);
}

/// The sync waits for the end of a pack only.
#[test]
fn a_pack_goes_to_the_medium_while_it_is_filled() {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    let chunk = noise(16 << 10, 1);
    for _ in 0..1100 {
        pack.append(&chunk, ChunkCodec::Raw).unwrap();
    }
    let file = pack.finish().unwrap();
    let sent = file.on_their_way.into_inner();
    assert_eq!(sent, [(0, 8 << 20), (8 << 20, 16 << 20)]);
}

#[test]
fn raw_payloads_begin_at_a_page_and_little_saving_is_none() {
    let text = b"0123456789abcdef".repeat(512);
    // About 7 % of it can be saved.
    let noisy = [&noise(7600, 1)[..], &[0; 592]].concat();
    let chunks =
        [(text.clone(), ChunkCodec::Zstd), (noisy.clone(), ChunkCodec::Zstd), (text, ChunkCodec::Raw)];
    let bytes = written(&chunks);
    assert_eq!(bytes[8192..16384], noisy, "the first is in one page");
    assert_eq!(bytes[16384..16400], *b"0123456789abcdef");
    assert_eq!(bytes.len(), 16384 + 8192 + 64 + 3 * 96 + 5 * 4 + 64);
}

#[test]
fn a_full_pack_or_disk_refuses_and_stays_as_it_is() {
    // In the second piece.
    let room = Rc::new(Cell::new(Some((256 << 10) + 2000)));
    let file = MemoryPack { room: Rc::clone(&room), ..MemoryPack::default() };
    let mut pack = PackWriter::create(file, identity()).unwrap();
    pack.append(&[1; 100], ChunkCodec::Raw).unwrap();
    for length in [0, 16385] {
        let refused = pack.append(&vec![0; length], ChunkCodec::Raw);
        assert!(matches!(refused, Err(PackError::Length { most: 16384, .. })));
    }
    let mut next = 1;
    let refused = loop {
        let before = pack.bytes();
        match pack.append(&noise(16384, 1), ChunkCodec::Raw) {
            Ok(_) => next += 1,
            Err(error) => {
                assert_eq!(pack.bytes(), before);
                break error;
            }
        }
    };
    assert!(matches!(refused, PackError::Io(_)));
    assert_eq!(next, 32, "the one that completes the second piece");
    let (_, hint) = pack.append(&noise(40, 2), ChunkCodec::Raw).unwrap();
    assert_eq!(hint.slot, next);
    // A part of what failed is still behind it. Somebody makes room.
    room.set(None);
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(read(&pack, next).unwrap(), noise(40, 2));
    assert_eq!(read(&pack, next - 1).unwrap(), noise(16384, 1));

    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    for _ in 0..MOST_CHUNKS {
        pack.append(&[7; 100], ChunkCodec::Lz4).unwrap();
    }
    assert!(matches!(pack.append(&[7; 100], ChunkCodec::Lz4), Err(PackError::Full)));
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(read(&pack, MOST_CHUNKS as u32 - 1).unwrap(), [7; 100]);
}

/// Hints of a node may be others under the same name.
#[test]
fn a_name_can_be_of_the_first_bytes_only() {
    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    let (first, _) = pack.append_node(b"node, hints", 4, ChunkCodec::Raw).unwrap();
    let (second, _) = pack.append_node(b"node, others", 4, ChunkCodec::Raw).unwrap();
    assert_eq!(
        (first, first.0),
        (second, *blake3::Hasher::new_derive_key(NODES).update(b"node").finalize().as_bytes())
    );
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(read(&pack, 0).unwrap(), b"node, hints");
    assert_eq!(read(&pack, 1).unwrap(), b"node, others");
}

#[test]
fn real_files_hold_packs() {
    let file = tempfile::tempfile().unwrap();
    let mut pack = PackWriter::create(file, identity()).unwrap();
    let contents = noise(5000, 1);
    pack.append(&contents, ChunkCodec::Raw).unwrap();
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(pack.read(&pack.chunk(0).unwrap()).unwrap(), contents);
}
