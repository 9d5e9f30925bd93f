//! Oracle: the contents that were appended, and `blake3` and `crc_fast` themselves.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use proptest::prelude::*;
use uuid::Uuid;

use super::arbitrary::use_arbitrary;
use super::file::PackFile;
use super::*;

/// What names of nodes are derived with.
const NODES: &str = "ringnbd 2026-11-28 node of a manifest";

/// The file of a pack in memory, with what was done to it.
#[derive(Debug, Default)]
pub(super) struct MemoryPack {
    bytes: RefCell<Vec<u8>>,
    done: RefCell<Vec<&'static str>>,
    /// Bytes that it has room for.
    room: Rc<Cell<Option<usize>>>,
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
        Ok(())
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
        prop_assert_eq!(pack.keys().count(), chunks.len());
        for (slot, ((contents, _), key)) in chunks.iter().zip(pack.keys()).enumerate() {
            prop_assert_eq!(&pack.read(slot as u32).unwrap(), contents);
            prop_assert_eq!(key, ChunkKey { space: identity().space, hash: ChunkHash(*blake3::hash(contents).as_bytes()) });
            prop_assert_eq!(&pack.read(pack.slot(&key.hash).unwrap()).unwrap(), contents);
        }
        prop_assert!(matches!(pack.read(chunks.len() as u32), Err(PackError::NoSlot(_))));
        prop_assert_eq!(pack.slot(&ChunkHash([9; 32])), None);
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
            match pack.read(slot as u32) {
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
    assert!(matches!(open(&bytes).unwrap().read(0), Err(PackError::Renamed { slot: 0 })));
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
    assert_eq!(file.done.into_inner(), ["write", "write", "sync", "write", "sync"]);
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
    let room = Rc::new(Cell::new(Some(8192 + 2000)));
    let file = MemoryPack { room: Rc::clone(&room), ..MemoryPack::default() };
    let mut pack = PackWriter::create(file, identity()).unwrap();
    pack.append(&[1; 100], ChunkCodec::Raw).unwrap();
    for length in [0, 16385] {
        let refused = pack.append(&vec![0; length], ChunkCodec::Raw);
        assert!(matches!(refused, Err(PackError::Length { most: 16384, .. })));
    }
    let before = pack.bytes();
    assert!(matches!(pack.append(&noise(3000, 1), ChunkCodec::Raw), Err(PackError::Io(_))));
    assert_eq!(pack.bytes(), before);
    let (_, hint) = pack.append(&noise(40, 2), ChunkCodec::Raw).unwrap();
    assert_eq!(hint.slot, 1);
    // A part of what failed is still behind it. Somebody makes room.
    room.set(None);
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(pack.read(1).unwrap(), noise(40, 2));

    let mut pack = PackWriter::create(MemoryPack::default(), identity()).unwrap();
    for _ in 0..MOST_CHUNKS {
        pack.append(&[7; 100], ChunkCodec::Lz4).unwrap();
    }
    assert!(matches!(pack.append(&[7; 100], ChunkCodec::Lz4), Err(PackError::Full)));
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(pack.read(MOST_CHUNKS as u32 - 1).unwrap(), [7; 100]);
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
    assert_eq!(pack.read(0).unwrap(), b"node, hints");
    assert_eq!(pack.read(1).unwrap(), b"node, others");
}

#[test]
fn real_files_hold_packs() {
    let file = tempfile::tempfile().unwrap();
    let mut pack = PackWriter::create(file, identity()).unwrap();
    let contents = noise(5000, 1);
    pack.append(&contents, ChunkCodec::Raw).unwrap();
    let pack = PackReader::open(pack.finish().unwrap(), &identity()).unwrap();
    assert_eq!(pack.read(0).unwrap(), contents);
}
