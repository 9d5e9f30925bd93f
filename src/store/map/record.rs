//! Records of the journal, as bytes.
//!
//! ```text
//!   0  header (`format`)
//!  32  uuid of the layer
//!  48  generation: how often the layer had been opened for writing
//!  56  position: the record blocks before it, since the layer was made
//!  64  sequence: the records before it, likewise
//!  72  CRC of the record before it
//!  76  kind: 1 changes, 2 a new size
//!  80  record blocks that it has
//!  84  runs
//!  88  size of the disk before it, in bytes
//!  96  size of the disk after it
//! 104  reserved
//! 128  runs, 8 bytes each: 40 bits for the first block, 22 for the length less one, 2 for the state
//! ```
//!
//! It begins at the record block of its position, and its blocks lie one behind the other: none is cut by the
//! end of the ring. A run does not leave its page, so what replay keeps is bounded by the bytes of the ring.

use uuid::Uuid;

use super::error::LayerMapError;
use super::format::{Encoder, StructureFields, StructureKind, check};
use super::geometry::{Geometry, MOST_BLOCKS, RECORD_HEADER_BYTES};
use super::states::{BlockRun, BlockState};

const KIND: StructureKind = StructureKind { magic: *b"rnbmJRNL", name: "journal of the map" };
/// Bytes of a run.
pub(super) const RUN_BYTES: usize = 8;
const CHANGES: u32 = 1;
const SIZE: u32 = 2;
const BLOCKS_AT: usize = 80;

/// A place in the journal, between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalPoint {
    /// Where the next record begins, in record blocks.
    pub(super) position: u64,
    /// The next record's sequence.
    pub(super) sequence: u64,
    /// The CRC of the record before.
    pub(super) crc: u32,
}

impl JournalPoint {
    /// Of a journal without records.
    pub(super) const BEGINNING: Self = Self { position: 0, sequence: 0, crc: 0 };

    pub(super) fn encode(&self, to: &mut Encoder) {
        to.put_u64(self.position);
        to.put_u64(self.sequence);
        to.put_u32(self.crc);
        to.skip(4);
    }

    pub(super) fn decode(from: &mut StructureFields<'_>) -> Option<Self> {
        let point = Self { position: from.u64()?, sequence: from.u64()?, crc: from.u32()? };
        from.u32()?;
        Some(point)
    }
}

/// A record, before it has a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JournalRecord {
    pub(super) generation: u64,
    /// The size before and after it; the same in one that has changes.
    pub(super) sizes: (u64, u64),
    pub(super) runs: Vec<BlockRun>,
}

/// A record that was found in the ring.
#[derive(Debug)]
pub(super) struct FoundRecord {
    pub(super) record: JournalRecord,
    /// Where it says it is.
    pub(super) at: JournalPoint,
    pub(super) end: JournalPoint,
}

/// Why there is no record at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoRecord {
    /// None begins there, or it is not whole.
    Torn,
    /// It is whole and of another layer: not one of this file.
    Foreign,
    /// It is whole, and what it says cannot be.
    Impossible(&'static str),
    Newer(LayerMapError),
}

/// Record blocks of a record with so many runs.
pub(super) fn record_blocks(geometry: &Geometry, runs: usize) -> u64 {
    ((RECORD_HEADER_BYTES + runs * RUN_BYTES) as u64).div_ceil(geometry.record_block_bytes.into())
}

/// Runs that fit in a record of so many record blocks.
pub(super) fn runs_in(geometry: &Geometry, blocks: u64) -> usize {
    (blocks as usize * geometry.record_block_bytes as usize - RECORD_HEADER_BYTES) / RUN_BYTES
}

/// Blocks of a run.
pub(super) const MOST_RUN_BLOCKS: u64 = 1 << 22;

pub(super) fn packed(run: &BlockRun) -> u64 {
    run.start | (run.length - 1) << 40 | (run.state as u64) << 62
}

/// `None` if it is beyond every disk.
pub(super) fn unpacked(word: u64) -> Option<BlockRun> {
    let (start, length) = (word & ((1 << 40) - 1), (word >> 40 & ((1 << 22) - 1)) + 1);
    (start + length <= MOST_BLOCKS).then_some(BlockRun {
        start,
        length,
        state: BlockState::of_bits(word >> 62),
    })
}

impl JournalRecord {
    /// The bytes of the record at `point`, and the point behind it.
    pub(super) fn encode(
        &self,
        geometry: &Geometry,
        layer: Uuid,
        point: JournalPoint,
    ) -> (Vec<u8>, JournalPoint) {
        let blocks = record_blocks(geometry, self.runs.len());
        let mut to = Encoder::new(KIND, blocks as usize * geometry.record_block_bytes as usize);
        to.put(layer.as_bytes());
        to.put_u64(self.generation);
        to.put_u64(point.position);
        to.put_u64(point.sequence);
        to.put_u32(point.crc);
        to.put_u32(if self.sizes.0 == self.sizes.1 { CHANGES } else { SIZE });
        to.put_u32(blocks as u32);
        to.put_u32(self.runs.len() as u32);
        to.put_u64(self.sizes.0);
        to.put_u64(self.sizes.1);
        to.skip(RECORD_HEADER_BYTES - 104);
        self.runs.iter().for_each(|run| to.put_u64(packed(run)));
        let (bytes, crc) = to.finish();
        let end = JournalPoint { position: point.position + blocks, sequence: point.sequence + 1, crc };
        (bytes, end)
    }
}

/// The record that begins at the first of `bytes`, which are what the ring has from there on.
pub(super) fn find(geometry: &Geometry, layer: Uuid, bytes: &[u8]) -> Result<FoundRecord, NoRecord> {
    if bytes.len() < RECORD_HEADER_BYTES || bytes[..8] != KIND.magic {
        return Err(NoRecord::Torn);
    }
    let block = geometry.record_block_bytes as usize;
    let blocks = u32::from_le_bytes(bytes[BLOCKS_AT..BLOCKS_AT + 4].try_into().expect("four bytes"));
    if blocks == 0 || u64::from(blocks) > geometry.most_record_blocks() {
        return Err(NoRecord::Torn);
    }
    let bytes = bytes.get(..blocks as usize * block).ok_or(NoRecord::Torn)?;
    let whole =
        check(bytes, KIND).map_err(|flaw| flaw.newer(KIND).map_or(NoRecord::Torn, NoRecord::Newer))?;
    let mut from = StructureFields(whole.body);
    if from.array().map(Uuid::from_bytes) != Some(layer) {
        return Err(NoRecord::Foreign);
    }
    decode(geometry, &mut from, whole.crc).ok_or(NoRecord::Impossible("a record that cannot be"))
}

/// What follows the uuid; `None` if it cannot be.
fn decode(geometry: &Geometry, from: &mut StructureFields<'_>, crc: u32) -> Option<FoundRecord> {
    let generation = from.u64()?;
    let at = JournalPoint { position: from.u64()?, sequence: from.u64()?, crc: from.u32()? };
    let (kind, blocks, count) = (from.u32()?, from.u32()?, from.u32()? as usize);
    let sizes = (from.u64()?, from.u64()?);
    from.bytes(RECORD_HEADER_BYTES - 104)?;
    let is_known = match kind {
        CHANGES => sizes.0 == sizes.1,
        SIZE => sizes.0 != sizes.1 && count == 0,
        _ => false,
    };
    if !is_known || count > runs_in(geometry, blocks.into()) || sizes.0.max(sizes.1) > geometry.most_bytes() {
        return None;
    }
    let blocks_of_disk = geometry.blocks(sizes.0);
    let is_possible = |run: &BlockRun| {
        run.end() <= blocks_of_disk && geometry.page(run.start) == geometry.page(run.end() - 1)
    };
    let runs = (0..count).map(|_| unpacked(from.u64()?).filter(is_possible)).collect::<Option<_>>()?;
    let end = JournalPoint {
        position: at.position.checked_add(blocks.into())?,
        sequence: at.sequence.checked_add(1)?,
        crc,
    };
    Some(FoundRecord { record: JournalRecord { generation, sizes, runs }, at, end })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            record_block_bytes: 512,
            ring_bytes: 16 << 10,
            ring_room_bytes: 16 << 10,
            ..Geometry::default()
        }
    }

    const LAYER: Uuid = Uuid::from_u128(9);

    #[test]
    fn no_run_looks_like_the_beginning_of_a_record() {
        assert_eq!(unpacked(u64::from_le_bytes(KIND.magic)), None);
    }

    #[test]
    fn records_that_are_impossible_are_refused() {
        let run = |start, length| BlockRun { start, length, state: BlockState::Data };
        let refused = |sizes, runs| {
            let record = JournalRecord { generation: 1, sizes, runs };
            let (bytes, _) = record.encode(&geometry(), LAYER, JournalPoint::BEGINNING);
            matches!(find(&geometry(), LAYER, &bytes), Err(NoRecord::Impossible(_)))
        };
        let size = 10_000 * 4096;
        assert!(!refused((size, size), vec![run(9_999, 1), run(0, 8192)]));
        assert!(refused((size, size), vec![run(9_999, 2)]), "beyond the disk");
        assert!(refused((size, size), vec![run(8_191, 2)]), "in two pages");
        assert!(refused((size, size + 1), vec![run(0, 1)]), "a size and changes");
        assert!(refused((size, u64::MAX), vec![]), "larger than any");
    }

    proptest! {
        /// What is written is read; torn at any sector, or for another layer, it is not.
        #[test]
        fn a_record_is_read_whole_or_not(
            places in prop::collection::vec((0..1_u64 << 20, 1..8192_u64, 0..4_u64), 0..120),
            point in (any::<u32>(), any::<u32>(), any::<u32>()),
            torn in any::<prop::sample::Index>(),
        ) {
            let runs = places.into_iter().map(|(start, length, state)| {
                let length = length.min(8192 - start % 8192);
                BlockRun { start, length, state: BlockState::of_bits(state) }
            });
            let size = 4096 << 20;
            let record = JournalRecord { generation: 3, sizes: (size, size), runs: runs.collect() };
            let at = JournalPoint { position: point.0.into(), sequence: point.1.into(), crc: point.2 };
            let (mut bytes, end) = record.encode(&geometry(), LAYER, at);
            prop_assert_eq!(bytes.len() as u64, 512 * (end.position - at.position));
            let found = find(&geometry(), LAYER, &bytes).unwrap();
            prop_assert_eq!((&found.record, found.at, found.end), (&record, at, end));
            prop_assert_eq!(find(&geometry(), Uuid::from_u128(1), &bytes).unwrap_err(), NoRecord::Foreign);
            let sector = torn.index(bytes.len() / 512) * 512;
            if bytes[sector..sector + 512].iter().any(|byte| *byte != 0) {
                bytes[sector..sector + 512].fill(0);
                prop_assert_eq!(find(&geometry(), LAYER, &bytes).unwrap_err(), NoRecord::Torn);
            }
        }
    }
}
