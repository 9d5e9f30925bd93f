//! The map on bytes that anybody may have made, for fuzzing: whatever they are, it says what is wrong with
//! them or works with them.

use uuid::Uuid;

use super::checkpoint::CheckpointStep;
use super::format::seal;
use super::geometry::Geometry;
use super::layer::{LayerMap, Lookup};
use super::node::NodePlace;
use super::open::MapFront;
use super::states::BlockState;
use super::superblock::LayerIdentity;

const GEOMETRY: Geometry = Geometry {
    block_bytes: 512,
    page_blocks: 64,
    slot_bytes: 512,
    record_block_bytes: 512,
    ring_bytes: 8 * 512,
    ring_room_bytes: 32 * 512,
    fan_out: 2,
    inner_levels: 2,
    roots: 2,
};

const LAYER: Uuid = Uuid::from_u128(3);

/// Reads `data` as a map's file and uses what comes of it.
///
/// The first byte says what is made right in it, because no mutation hits a checksum: bit 0, the checksums
/// and magic numbers; bit 1, the superblocks, so that the rest of the bytes is a journal.
pub fn use_arbitrary(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let is_sealed = kind & 1 != 0;
    use_as_node(data, is_sealed);
    let Some((front, ring)) = file(data, is_sealed, kind & 2 != 0) else { return };
    let Ok(front) = MapFront::read(&front) else { return };
    let (_, length) = front.ring();
    assert!(length <= 8 << 20, "a bound before the journal is read");
    let mut ring = ring.to_vec();
    ring.resize(length, 0);
    if let Ok(mut map) = front.open(&ring) {
        use_map(&mut map, &ring);
    }
}

/// Superblocks and the journal.
fn file(data: &[u8], is_sealed: bool, is_new: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut front = vec![0; MapFront::BYTES];
    if !is_new {
        let (a, rest) = data.split_at(data.len().min(4096));
        let (b, ring) = rest.split_at(rest.len().min(4096));
        for (at, slot) in [(0, a), (MapFront::BYTES - 4096, b)] {
            front[at..at + slot.len()].copy_from_slice(slot);
            if is_sealed && !slot.is_empty() {
                front[at..at + 12].copy_from_slice(b"rnbmSUPR\x01\0\0\0");
                front[at + 20..at + 24].fill(0);
                seal(&mut front[at..at + 4096]);
            }
        }
        return Some((front, ring.to_vec()));
    }
    let identity = LayerIdentity {
        store: Uuid::from_u128(1),
        image: Uuid::from_u128(2),
        layer: LAYER,
        parent: None,
        name: String::new(),
        created_s: 0,
        size: 500 * 512,
        base: None,
    };
    for write in LayerMap::create(&identity, GEOMETRY).ok()?.writes {
        let at = write.offset as usize;
        front
            .get_mut(at..at + write.bytes.len())
            .into_iter()
            .for_each(|place| place.copy_from_slice(&write.bytes));
    }
    let mut ring = data.to_vec();
    let (mut blocks, mut previous) = (0_u32, 0);
    for record in ring.chunks_exact_mut(512).filter(|_| is_sealed) {
        record[..12].copy_from_slice(b"rnbmJRNL\x01\0\0\0");
        record[20..24].fill(0);
        record[32..48].copy_from_slice(LAYER.as_bytes());
        record[56..60].copy_from_slice(&blocks.to_le_bytes());
        record[64..68].copy_from_slice(&blocks.to_le_bytes());
        record[72..76].copy_from_slice(&u32::to_le_bytes(previous));
        (blocks, previous) = (blocks + 1, seal(record));
    }
    Some((front, ring))
}

fn use_as_node(data: &[u8], is_sealed: bool) {
    let mut bytes = data.to_vec();
    bytes.resize(GEOMETRY.slot_bytes as usize, 0);
    if is_sealed {
        bytes[..12].copy_from_slice(b"rnbmNODE\x01\0\0\0");
        bytes[20..24].fill(0);
        bytes[32..48].copy_from_slice(LAYER.as_bytes());
        seal(&mut bytes);
    }
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let crc = field(24) as u32;
    let place =
        |level| NodePlace { geometry: &GEOMETRY, layer: LAYER, level, index: field(56), sequence: field(64) };
    if let Ok(states) = place(0).decode_leaf(&bytes, crc) {
        assert_eq!(states.words().len(), 2);
    }
    if let Ok(entries) = place(1).decode_inner(&bytes, crc) {
        assert_eq!(entries.len(), 2);
    }
}

/// Asks it everything; nodes are made of the journal's bytes, which are hardly ever any.
fn use_map(map: &mut LayerMap, bytes: &[u8]) {
    let blocks = map.blocks();
    for start in [0, blocks / 3, blocks.saturating_sub(1)].into_iter().filter(|start| *start < blocks) {
        match map.lookup(start, blocks - start) {
            Lookup::Run(run) => {
                assert!(run.start == start && run.length > 0 && run.end() <= blocks);
                assert_eq!(map.uniform(start, run.length), Some(Some(run.state)));
            }
            Lookup::Load(node) => {
                let (offset, length) = map.address(node).expect("it is to be loaded");
                assert!(offset >= 64 << 10 && length <= 1 << 20);
                assert!(map.loaded(node, bytes.get(..length).unwrap_or_default()).is_err());
            }
        }
        if map.missing(start, 1).is_none() {
            map.new_slots(start, 1);
            map.change(start, 1, BlockState::Data);
        }
    }
    while let Ok(Some(write)) = map.begin_commit() {
        assert!(write.offset >= 64 << 10);
        map.end_commit(true);
    }
    if !map.is_failed() && !map.is_read_only() {
        map.begin_checkpoint(0);
        while let CheckpointStep::Write(writes) = map.checkpoint_step() {
            assert!(writes.len() <= 64);
        }
    }
    map.evict_clean(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A superblock of a real map, of which a few bytes are changed.
    fn superblock() -> Vec<u8> {
        let (front, _) = file(&[], false, true).unwrap();
        front[..4096].to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_refused_or_used(
            kind in 0..4_u8,
            is_real in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            changes in prop::collection::vec((0..4096_usize, any::<u8>()), 0..6),
            near in prop::collection::vec((90..260_usize, any::<u8>()), 0..3),
        ) {
            let mut data = vec![kind];
            if is_real {
                data.extend(superblock());
                changes.iter().chain(&near).for_each(|(at, byte)| data[1 + at] = *byte);
            }
            data.extend(bytes);
            use_arbitrary(&data);
        }

        /// Records of few runs: a byte of the header is what it should be more often than not.
        #[test]
        fn any_records_are_refused_or_used(
            records in prop::collection::vec((0..3_u8, 0..3_u8, 0..4_u8, prop::collection::vec(0..600_u64, 3)), 1..10),
        ) {
            let mut data = vec![3];
            for (kind, blocks, count, runs) in records {
                let mut record = [0; 512];
                let size = 500_u64 * 512;
                (record[48], record[76], record[80], record[84]) = (1, kind, blocks, count);
                record[88..96].copy_from_slice(&size.to_le_bytes());
                record[96..104].copy_from_slice(&(size + u64::from(kind / 2)).to_le_bytes());
                for (place, run) in record[128..].chunks_exact_mut(8).zip(runs) {
                    place.copy_from_slice(&(run | (run % 3) << 40 | (run % 4) << 62).to_le_bytes());
                }
                data.extend(record);
            }
            use_arbitrary(&data);
        }
    }
}
