//! [`LayerMap`]: what it knows, and the questions that change nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::error::LayerMapError;
use super::geometry::Geometry;
use super::node::{NodeAddress, NodePlace, slot_offset};
use super::record::JournalPoint;
use super::replay::ReplayedRuns;
use super::states::{BlockRun, BlockState, WORD_BLOCKS};
use super::superblock::LayerIdentity;
use super::tree::{Spot, Tree};
use super::under_way::{ChangeLog, Checkpointing, Commit};

/// Clean leaves that stay in RAM: 64 MiB, those of a disk of 1 TiB. Few in tests, so that they come and go.
const MOST_LEAVES: usize = if cfg!(any(test, feature = "sim")) { 2 } else { 1 << 15 };
/// Leaves that are looked at when some are to go.
const LEAVES_STEP: usize = 64;
/// Pages that one lookup goes through at most.
const MOST_PAGES: usize = 256;

/// Bytes that are to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileWrite {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What is known of a range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Its first blocks have this state. More behind them may have it too.
    Run(BlockRun),
    /// This node must be loaded first.
    Load(NodeAddress),
}

/// The map of one layer.
#[derive(Debug)]
pub(crate) struct LayerMap {
    /// With the size that is journaled.
    pub(super) identity: LayerIdentity,
    pub(super) geometry: Geometry,
    pub(super) tree: Tree,
    /// ABSENT blocks from here on read as zeroes.
    pub(super) hidden_from: u64,
    /// How often the layer has been opened for writing.
    pub(super) generation: u64,
    /// Of the durable superblock.
    pub(super) sequence: u64,
    /// Behind the last durable record.
    pub(super) end: JournalPoint,
    /// The durable superblock needs records from this position on.
    pub(super) needed_from: u64,
    /// Pages with pending changes, by the number of the change since which they have some.
    pub(super) pending: BTreeMap<u64, u64>,
    /// How many numbers were given.
    pub(super) changes: u64,
    /// The record that is under way.
    pub(super) commits: VecDeque<Commit>,
    /// Pages whose journaled states are not those of their node.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) checkpoint: Option<Checkpointing>,
    /// Notes changes until durable records have them.
    pub(super) log: Option<ChangeLog>,
    /// Records whose pages have not been loaded yet.
    pub(super) replayed: ReplayedRuns,
    /// How many want the leaves to stay.
    pub(super) holds: usize,
    pub(super) is_failed: bool,
    pub(super) is_read_only: bool,
    pub(super) is_fallback: bool,
}

impl LayerMap {
    pub(crate) fn identity(&self) -> &LayerIdentity {
        &self.identity
    }

    /// Gives the layer another name, parent, base or image. It is durable with the next checkpoint.
    pub(crate) fn set_identity(&mut self, identity: LayerIdentity) -> Result<(), LayerMapError> {
        assert_eq!(
            (identity.layer, identity.size),
            (self.identity.layer, self.identity.size),
            "it stays itself"
        );
        identity.check(&self.geometry)?;
        self.identity = identity;
        Ok(())
    }

    /// The size of the disk, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.identity.size
    }

    /// ABSENT blocks from this one on read as zeroes.
    pub(crate) fn hidden_from(&self) -> u64 {
        self.hidden_from
    }

    /// Blocks of the disk. The last one may be cut by its end.
    pub(crate) fn blocks(&self) -> u64 {
        self.geometry.blocks(self.identity.size)
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A write or a sync of the map failed: nothing is journaled until it is opened again.
    pub(crate) fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// It has features with which it may be read, and not written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// The newer superblock could not be read. Every node must be loaded once before anything is served:
    /// those that the older one names may have been overwritten.
    pub(crate) fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// The next node on disk, after one that was loaded, that is not in RAM.
    pub(crate) fn next_live(&self, after: Option<NodeAddress>) -> Option<NodeAddress> {
        self.tree.next_live(after)
    }

    /// The state of the first blocks of a range of the disk.
    pub(crate) fn lookup(&self, start: u64, length: u64) -> Lookup {
        let mut end = start + length;
        assert!(length > 0 && end <= self.blocks(), "blocks {start} to {end} are blocks of the disk");
        if start < self.hidden_from {
            end = end.min(self.hidden_from);
        }
        let mut found: Option<BlockRun> = None;
        for _ in 0..MOST_PAGES {
            let at = found.map_or(start, |run| run.end());
            if at == end {
                break;
            }
            let next = match self.first_run(at, end) {
                Lookup::Run(run) => run,
                load @ Lookup::Load(_) if found.is_none() => return load,
                Lookup::Load(_) => break,
            };
            match &mut found {
                None => found = Some(next),
                Some(run) if run.state == next.state => run.length += next.length,
                Some(_) => break,
            }
        }
        let mut run = found.expect("there is a first block");
        if run.state == BlockState::Absent && start >= self.hidden_from {
            run.state = BlockState::Zero;
        }
        Lookup::Run(run)
    }

    /// The first run within one page, or within pages that were never written.
    fn first_run(&self, start: u64, end: u64) -> Lookup {
        let page = self.geometry.page(start);
        match self.tree.find(page) {
            Spot::Unloaded(node) => Lookup::Load(node),
            Spot::Empty { end: pages } => {
                let end = end.min(self.geometry.first_block(pages));
                Lookup::Run(BlockRun { start, length: end - start, state: BlockState::Absent })
            }
            Spot::Resident(leaf) => {
                let end = end.min(self.geometry.first_block(page + 1));
                let first = self.geometry.within(start);
                let (state, run_end) = leaf.current.run(first, first + (end - start) as usize);
                Lookup::Run(BlockRun { start, length: (run_end - first) as u64, state })
            }
        }
    }

    /// The one state that all blocks of a range have, `Some(None)` if they differ, `None` if a node has to be
    /// loaded. Quick when the range is in one word of a leaf.
    #[inline]
    pub(crate) fn uniform(&self, start: u64, length: u64) -> Option<Option<BlockState>> {
        let first = self.geometry.within(start);
        let is_in_word = first % WORD_BLOCKS + length as usize <= WORD_BLOCKS && length > 0;
        if is_in_word && let Some(leaf) = self.tree.leaf(self.geometry.page(start)) {
            let state = leaf.current.uniform_in_word(first, length as usize);
            // Behind the first hidden block ABSENT and ZERO are the same.
            if start + length <= self.hidden_from || matches!(state, Some(BlockState::Data)) {
                return Some(state);
            }
        }
        self.uniform_elsewhere(start, length)
    }

    #[cold]
    fn uniform_elsewhere(&self, start: u64, length: u64) -> Option<Option<BlockState>> {
        let end = start + length;
        let Lookup::Run(mut run) = self.lookup(start, length) else { return None };
        while run.end() < end {
            let Lookup::Run(next) = self.lookup(run.end(), end - run.end()) else { return None };
            if next.state != run.state {
                return Some(None);
            }
            run.length += next.length;
        }
        Some(Some(run.state))
    }

    /// The first node that must be loaded before a range of blocks can be changed.
    pub(crate) fn missing(&self, start: u64, length: u64) -> Option<NodeAddress> {
        let last = self.geometry.page(start + length - 1);
        let mut page = self.geometry.page(start);
        while page <= last {
            match self.tree.find(page) {
                Spot::Unloaded(node) => return Some(node),
                Spot::Empty { end } => page = end,
                Spot::Resident(_) => page += 1,
            }
        }
        None
    }

    /// Where a node lies: offset and length in the file. `None` if there is nothing to load any more: it was
    /// loaded, or written anew, since its address was given.
    pub(crate) fn address(&self, node: NodeAddress) -> Option<(u64, usize)> {
        let NodeAddress { level, index, sequence } = node;
        let entry = self.tree.entry(level, index).filter(|_| !self.tree.has(level, index))?;
        let offset = slot_offset(&self.geometry, level, index, entry.slot);
        (entry.sequence == sequence && !entry.is_empty())
            .then_some((offset, self.geometry.slot_bytes as usize))
    }

    /// Takes the bytes of a node that was loaded. It does nothing if they are not needed any more.
    pub(crate) fn loaded(&mut self, node: NodeAddress, bytes: &[u8]) -> Result<(), LayerMapError> {
        let NodeAddress { level, index, sequence } = node;
        if self.address(node).is_none() {
            return Ok(());
        }
        let crc = self.tree.entry(level, index).expect("it has an address").crc;
        let place = self.node_place(level, index, sequence);
        if level == 0 {
            let states = place.decode_leaf(bytes, crc)?;
            self.tree.insert_leaf(index, states);
            self.apply_replayed(index);
        } else {
            let entries = place.decode_inner(bytes, crc)?;
            self.tree.insert_inner(level, index, entries);
            self.make_replayed(self.tree.pages_below(level, index));
        }
        Ok(())
    }

    pub(super) fn node_place(&self, level: u32, index: u64, sequence: u64) -> NodePlace<'_> {
        NodePlace { geometry: &self.geometry, layer: self.identity.layer, level, index, sequence }
    }

    /// Makes leaves of pages that records name and that were never written, among those of which the nodes
    /// above are known.
    pub(super) fn make_replayed(&mut self, pages: std::ops::Range<u64>) {
        let mut next = self.replayed.next_page(pages.start);
        while let Some(page) = next.filter(|page| *page < pages.end) {
            if let Spot::Empty { .. } = self.tree.find(page) {
                self.tree.make(page);
                self.apply_replayed(page);
            }
            next = self.replayed.next_page(page + 1);
        }
    }

    fn apply_replayed(&mut self, page: u64) {
        for run in self.replayed.take(page) {
            let start = self.geometry.within(run.start);
            self.tree.changed_leaf(page).replay(start, run.length as usize, run.state);
            self.dirty.insert(page);
        }
    }

    /// Leaves that are in RAM: a quarter of a byte for each of their blocks.
    pub(crate) fn leaves_in_ram(&self) -> usize {
        self.tree.leaves_in_ram()
    }

    /// Drops leaves from RAM until `keep` are left, the oldest first. Those stay that have changes which are
    /// not on disk, or are being written.
    pub(crate) fn evict_clean(&mut self, keep: usize) {
        self.evict(keep, usize::MAX);
    }

    /// Drops some leaves from RAM if there are more than a layer may have, unless they are held.
    pub(crate) fn evict_some(&mut self) {
        if self.holds == 0 && self.leaves_in_ram() > MOST_LEAVES {
            self.evict(MOST_LEAVES, LEAVES_STEP);
        }
    }

    /// All leaves that are in RAM stay, until [`release_leaves`](LayerMap::release_leaves) was called as
    /// often.
    pub(crate) fn hold_leaves(&mut self) {
        self.holds += 1;
    }

    pub(crate) fn release_leaves(&mut self) {
        self.holds -= 1;
    }

    fn evict(&mut self, keep: usize, most: usize) {
        let Self { tree, dirty, checkpoint, .. } = self;
        tree.evict(keep, most, |page, leaf| {
            let is_written = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.has(page));
            leaf.is_journaled() && !dirty.contains(&page) && !is_written
        });
    }
}
