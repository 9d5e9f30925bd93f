//! Opening the journal: which records count, and whether it is sound.
//!
//! Records form a chain: each has the position and sequence that follow from the one before, and that one's
//! CRC. The chain begins where the superblock says. It ends at the first place without such a record. What
//! may be found at its end:
//!
//! * Bytes that are no whole record: the last one was torn, or none came. It was never answered for. A last
//!   record that was durable and rots cannot be told from that, unless the superblock knows of it.
//! * A record of an earlier lap of the ring, which has a smaller position. If the ring has grown since, it
//!   may be where a smaller ring had it.
//! * A whole record with a position at or behind the end: the place where the chain ends had a record once,
//!   which is damaged or was given up. Then nothing is known of the blocks in between, and the layer does
//!   not open. So a superblock that is too old is refused, too: later records are where its own were.
//!
//! One record is under way at a time, so a power cut never leaves a whole record behind a torn one.

use std::collections::BTreeMap;

use super::error::LayerMapError;
use super::geometry::Geometry;
use super::planted::{MapBug, is_planted};
use super::record::{self, FoundRecord, JournalPoint, NoRecord};
use super::states::BlockRun;
use super::superblock::Superblock;

/// What the chain of records says.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) end: JournalPoint,
    /// The latest one of superblock and records.
    pub(super) generation: u64,
    /// The size of the disk after all of them, and the largest meanwhile.
    pub(super) size: u64,
    pub(super) largest: u64,
    pub(super) hidden_from: u64,
    pub(super) runs: ReplayedRuns,
}

/// Runs of records that the nodes do not have, until the page of each is loaded.
#[derive(Debug, Default)]
pub(super) struct ReplayedRuns {
    /// By page, then in the order of the records.
    runs: BTreeMap<(u64, u32), BlockRun>,
    count: u32,
}

impl ReplayedRuns {
    fn push(&mut self, page: u64, run: BlockRun) {
        self.runs.insert((page, self.count), run);
        self.count += 1;
    }

    /// The first page from `page` on that has some.
    pub(super) fn next_page(&self, page: u64) -> Option<u64> {
        self.runs.range((page, 0)..).next().map(|((page, _), _)| *page)
    }

    /// Those of a page, the earliest first.
    pub(super) fn take(&mut self, page: u64) -> Vec<BlockRun> {
        self.runs.extract_if((page, 0)..=(page, u32::MAX), |_, _| true).map(|(_, run)| run).collect()
    }
}

/// What the ring has at record block `slot`.
fn at(superblock: &Superblock, ring: &[u8], slot: u64) -> Result<FoundRecord, NoRecord> {
    let bytes = &ring[slot as usize * superblock.geometry.record_block_bytes as usize..];
    record::find(&superblock.geometry, superblock.identity.layer, bytes)
}

/// Reads the chain that begins where `superblock` says. `ring` has the ring's length, or beside a damaged
/// superblock the length that it may have grown to.
pub(super) fn replay(
    superblock: &Superblock,
    ring: &[u8],
    is_fallback: bool,
) -> Result<Replay, LayerMapError> {
    let geometry = &superblock.geometry;
    let size = superblock.identity.size;
    let mut replay = Replay {
        end: superblock.replay_from,
        generation: superblock.generation,
        size,
        largest: size,
        hidden_from: superblock.hidden_from,
        runs: ReplayedRuns::default(),
    };
    let full = superblock.replay_from.position + geometry.ring_blocks();
    while replay.end.position < full {
        let Ok(found) = at(superblock, ring, replay.end.position % geometry.ring_blocks()) else { break };
        if found.at != replay.end || found.record.generation < replay.generation {
            break;
        }
        if found.record.sizes.0 != replay.size || found.end.position > full {
            return Err(damaged(found.at.position, "a record that does not fit the one before"));
        }
        replay.apply(geometry, found);
    }
    if !(is_fallback && is_planted(MapBug::SlotFallback)) {
        expect_nothing_later(superblock, ring, replay.end)?;
    }
    Ok(replay)
}

impl Replay {
    fn apply(&mut self, geometry: &Geometry, found: FoundRecord) {
        let FoundRecord { record, end, .. } = found;
        for run in record.runs {
            self.runs.push(geometry.page(run.start), run);
        }
        self.hidden_from = self.hidden_from.min(geometry.blocks(record.sizes.1));
        self.size = record.sizes.1;
        self.largest = self.largest.max(self.size);
        (self.end, self.generation) = (end, record.generation);
    }
}

/// Looks at every record block there is: no record may follow the end of the chain.
fn expect_nothing_later(
    superblock: &Superblock,
    ring: &[u8],
    end: JournalPoint,
) -> Result<(), LayerMapError> {
    let geometry = &superblock.geometry;
    for slot in 0..ring.len() as u64 / u64::from(geometry.record_block_bytes) {
        match at(superblock, ring, slot) {
            Ok(found) if found.at.position >= end.position || found.at.sequence >= end.sequence => {
                return Err(damaged(end.position, "there is a later record behind one that is not whole"));
            }
            Ok(found)
                if found.at.position >= superblock.replay_from.position
                    && found.at.position % geometry.ring_blocks() != slot =>
            {
                return Err(damaged(found.at.position, "a record is at another's place"));
            }
            Ok(_) | Err(NoRecord::Torn) => {}
            Err(NoRecord::Foreign) => return Err(damaged(end.position, "a record is another layer's")),
            Err(NoRecord::Impossible(what)) => return Err(damaged(end.position, what)),
            Err(NoRecord::Newer(error)) => return Err(error),
        }
    }
    if end.position < superblock.durable_to.position {
        return Err(damaged(end.position, "a record that was durable is not whole"));
    }
    Ok(())
}

const fn damaged(position: u64, what: &'static str) -> LayerMapError {
    LayerMapError::Journal { position, what }
}
