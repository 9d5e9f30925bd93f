//! What is under way: records and checkpoints that are being written.

use std::collections::{BTreeMap, BTreeSet};

use super::geometry::Geometry;
use super::log::PendingLog;
use super::node::NodeEntry;
use super::record::JournalPoint;
use super::states::BlockRun;
use super::superblock::LayerIdentity;

/// The log of a map, and what the commit that is under way covers of it.
#[derive(Debug)]
pub(super) struct ChangeLog {
    pub(super) log: PendingLog,
    /// A mark of the map, and the mark of the log at that moment.
    pub(super) covered: Option<(u64, u64)>,
}

/// A record that is being written.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) runs: Vec<BlockRun>,
    /// The oldest change that it has.
    pub(super) since: Option<u64>,
    /// The size of the disk after it.
    pub(super) size: u64,
    pub(super) end: JournalPoint,
}

impl Commit {
    pub(super) fn since(&self) -> Option<u64> {
        self.since
    }

    /// Whether it has a block of `start..end`.
    pub(super) fn touches(&self, start: u64, end: u64) -> bool {
        self.runs.iter().any(|run| run.start < end && start < run.end())
    }
}

/// A checkpoint that is under way.
#[derive(Debug)]
pub(super) struct Checkpointing {
    pub(super) now_s: u64,
    /// What the nodes will have; `None` while replayed pages are being loaded.
    pub(super) frozen: Option<Frozen>,
}

#[derive(Debug)]
pub(super) struct Frozen {
    /// The level whose nodes are being written.
    pub(super) level: u32,
    /// Its nodes that are still to be written.
    pub(super) left: BTreeSet<u64>,
    /// Nodes that were written, by level and index.
    pub(super) entries: BTreeMap<(u32, u64), NodeEntry>,
    /// What the superblock says of the moment at which the checkpoint took its pages.
    pub(super) identity: LayerIdentity,
    pub(super) hidden_from: u64,
    pub(super) replay_from: JournalPoint,
    /// The journal was used so much that it is to grow.
    pub(super) wants_growth: bool,
    /// The sizes once the superblock is durable, if the journal grows.
    pub(super) grown: Option<Geometry>,
    pub(super) has_superblock: bool,
}

impl Checkpointing {
    /// No record may be written at this position or behind it before the checkpoint has ended: it would be
    /// at another place in the journal that the superblock describes.
    pub(super) fn records_end(&self, geometry: &Geometry) -> Option<u64> {
        let frozen = self.frozen.as_ref().filter(|frozen| frozen.grown.is_some())?;
        Some(geometry.same_place_until(frozen.replay_from.position))
    }

    /// Whether the leaf of a page is a part of it.
    pub(super) fn has(&self, page: u64) -> bool {
        self.frozen.as_ref().is_some_and(|frozen| {
            frozen.entries.contains_key(&(0, page)) || frozen.level == 0 && frozen.left.contains(&page)
        })
    }
}
