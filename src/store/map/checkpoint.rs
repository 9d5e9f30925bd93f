//! Checkpoints: changed nodes are written, so that the journal's space can be given up.
//!
//! The caller asks for one step after the other and does what each says, beside commits and requests:
//!
//! ```text
//! begin_checkpoint ► Load…, Write…, Grow?, Superblock ► end_checkpoint
//! ```
//!
//! Nodes go into slots that are not live, and are synced before the superblock is written, which is synced
//! before the space is given up. A leaf is written with the states that are journaled when its turn comes.
//! That may be more than were when the checkpoint began, and replay then repeats what the leaf has; the
//! superblock says that replay must get at least so far.
//!
//! A journal begins small and doubles with each checkpoint that comes because half of it was used, as long as
//! it has room: whoever writes little pays for little, and whoever writes much has few checkpoints. The place
//! of a record is its position modulo the journal's length. So a journal grows only when all records that the
//! superblock needs are at the same place in the larger one, and no record leaves that place until the
//! superblock is durable. The older superblock has the smaller journal: nothing is in the rest of the larger
//! one before the newer one is durable, and whoever must go back to the older one looks there, too.

use std::collections::BTreeMap;

use super::layer::{FileWrite, LayerMap};
use super::node::{NodeAddress, NodeEntry, slot_offset};
use super::planted::{MapBug, is_planted};
use super::superblock::{Superblock, superblock_offset};
use super::tree::Spot;
use super::under_way::{Checkpointing, Frozen};

/// Nodes of one step; few in tests, so that commits come between.
const BATCH: usize = if cfg!(test) { 2 } else { 32 };

/// What a checkpoint needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckpointStep {
    /// This node is to be loaded; then the next step.
    Load(NodeAddress),
    /// These are to be written, in any order; then the next step. Nothing has to be durable yet.
    Write(Vec<FileWrite>),
    /// The rest of a larger journal is to be written with zeroes, like nodes, so that records need no
    /// allocation later. If there is no room for it, [`stay_small`](LayerMap::stay_small). Then the next
    /// step.
    Grow { offset: u64, length: usize },
    /// Everything before is to be synced, then this is to be written and synced, then the checkpoint ends.
    Superblock(FileWrite),
}

impl LayerMap {
    /// Whether it is time for a checkpoint: half of the journal is used.
    pub(crate) fn should_checkpoint(&self) -> bool {
        self.checkpoint.is_none() && !self.is_failed && self.is_half_used()
    }

    fn is_half_used(&self) -> bool {
        2 * (self.end.position - self.needed_from) >= self.geometry.ring_blocks()
    }

    /// Begins a checkpoint at a time in seconds. One is under way at a time, and none begins after a failure.
    pub(crate) fn begin_checkpoint(&mut self, now_s: u64) {
        assert!(self.checkpoint.is_none(), "one checkpoint is under way at a time");
        assert!(!self.is_failed && !self.is_read_only, "the map can be written");
        self.checkpoint = Some(Checkpointing { now_s, frozen: None });
    }

    /// What the checkpoint needs next.
    pub(crate) fn checkpoint_step(&mut self) -> CheckpointStep {
        // Pages of replayed records count as changed once they are there.
        if self.checkpoint.as_ref().expect("a checkpoint is under way").frozen.is_none() {
            if let Some(page) = self.replayed.next_page(0) {
                match self.tree.find(page) {
                    Spot::Unloaded(node) => return CheckpointStep::Load(node),
                    _ => unreachable!("a page that is there has its records"),
                }
            }
            self.freeze();
        }
        loop {
            let level = self.frozen().level;
            let batch: Vec<u64> = {
                let left = &mut self.frozen().left;
                std::iter::from_fn(|| left.pop_first()).take(BATCH).collect()
            };
            if !batch.is_empty() {
                return CheckpointStep::Write(
                    batch.into_iter().map(|index| self.node(level, index)).collect(),
                );
            }
            if level == self.geometry.inner_levels {
                return match self.begin_growth() {
                    Some((offset, length)) => CheckpointStep::Grow { offset, length },
                    None => CheckpointStep::Superblock(self.superblock()),
                };
            }
            let entries = self.checkpoint.as_ref().and_then(|all| all.frozen.as_ref()).expect("frozen");
            let children = entries.entries.range((level, 0)..(level + 1, 0));
            let parents = children.map(|((_, index), _)| self.tree.parent(*index)).collect();
            (self.frozen().level, self.frozen().left) = (level + 1, parents);
        }
    }

    fn frozen(&mut self) -> &mut Frozen {
        self.checkpoint.as_mut().and_then(|checkpoint| checkpoint.frozen.as_mut()).expect("it was frozen")
    }

    fn freeze(&mut self) {
        let frozen = Frozen {
            level: 0,
            left: std::mem::take(&mut self.dirty),
            entries: BTreeMap::new(),
            identity: self.identity.clone(),
            hidden_from: self.hidden_from,
            replay_from: self.end,
            wants_growth: self.is_half_used(),
            grown: None,
            has_superblock: false,
        };
        self.checkpoint.as_mut().expect("a checkpoint is under way").frozen = Some(frozen);
    }

    /// The write of a changed node.
    fn node(&mut self, level: u32, index: u64) -> FileWrite {
        let sequence = self.sequence + 1;
        let before = self.tree.entry(level, index).expect("it is above or at a leaf that is there");
        let slot = if is_planted(MapBug::LiveSlotOverwritten) { before.slot } else { before.next_slot() };
        let place = self.node_place(level, index, sequence);
        let (bytes, crc) = if level == 0 {
            let leaf = self.tree.leaf(index).expect("a dirty leaf stays");
            let from_ram = is_planted(MapBug::PageFromRam);
            place.encode_leaf(if from_ram { &leaf.current } else { leaf.journaled() })
        } else {
            place.encode_inner(self.new_entries(level, index).into_iter())
        };
        let offset = slot_offset(&self.geometry, level, index, slot);
        self.frozen().entries.insert((level, index), NodeEntry { sequence, crc, slot });
        FileWrite { offset, bytes }
    }

    /// The entries of an inner node, or with the level above all of them those of the roots.
    fn new_entries(&self, level: u32, index: u64) -> Vec<NodeEntry> {
        let is_top = level > self.geometry.inner_levels;
        let live = if is_top { self.tree.roots() } else { self.tree.entries(level, index) };
        let first = if is_top { 0 } else { index * u64::from(self.geometry.fan_out) };
        let written = &self.checkpoint.as_ref().and_then(|all| all.frozen.as_ref()).expect("frozen").entries;
        let mut entries = live.to_vec();
        for ((_, child), entry) in written.range((level - 1, first)..(level - 1, first + live.len() as u64)) {
            entries[(child - first) as usize] = *entry;
        }
        entries
    }

    /// Where the rest of a larger journal lies, if it is to grow and can. That is asked once.
    fn begin_growth(&mut self) -> Option<(u64, usize)> {
        let (geometry, end) = (self.geometry, self.next_point().position);
        let frozen = self.frozen();
        let grown = std::mem::take(&mut frozen.wants_growth).then(|| geometry.grown()).flatten()?;
        let last = geometry.same_place_until(frozen.replay_from.position);
        if end > last && !is_planted(MapBug::GrowthInAnyLap) {
            return None;
        }
        frozen.grown = Some(grown);
        let (offset, length) = geometry.ring();
        Some((offset + length as u64, grown.ring().1 - length))
    }

    /// There is no room for a larger journal: this checkpoint goes on without it.
    pub(crate) fn stay_small(&mut self) {
        let frozen = self.frozen();
        assert!(!frozen.has_superblock, "the superblock would say something else");
        frozen.grown = None;
    }

    fn superblock(&mut self) -> FileWrite {
        let roots = self.new_entries(self.geometry.inner_levels + 1, 0);
        let (geometry, generation, sequence, end) =
            (self.geometry, self.generation, self.sequence + 1, self.end);
        let now_s = self.checkpoint.as_ref().expect("a checkpoint is under way").now_s;
        let frozen = self.frozen();
        assert!(!frozen.has_superblock, "after its superblock a checkpoint ends");
        frozen.has_superblock = true;
        let replay_from = frozen.replay_from;
        let superblock = Superblock {
            identity: frozen.identity.clone(),
            geometry: frozen.grown.unwrap_or(geometry),
            sequence,
            generation,
            written_s: now_s,
            hidden_from: frozen.hidden_from,
            replay_from,
            durable_to: if is_planted(MapBug::DurableEndForgotten) { replay_from } else { end },
            roots,
            is_read_only: false,
        };
        if is_planted(MapBug::SpaceGivenUpEarly) {
            self.needed_from = replay_from.position;
        }
        FileWrite { offset: superblock_offset(sequence), bytes: superblock.encode() }
    }

    /// The superblock is durable, or it is not known to be: then nothing is journaled any more.
    pub(crate) fn end_checkpoint(&mut self, durable: bool) {
        if !durable {
            self.is_failed = true;
            return self.thaw();
        }
        let checkpoint = self.checkpoint.take().expect("a checkpoint is under way");
        let frozen = checkpoint.frozen.filter(|frozen| frozen.has_superblock).expect("it has all steps");
        for ((level, index), entry) in frozen.entries {
            self.tree.set_entry(level, index, entry);
        }
        self.geometry = frozen.grown.unwrap_or(self.geometry);
        self.needed_from = frozen.replay_from.position;
        self.sequence += 1;
    }

    /// Gives a checkpoint up of which nothing but nodes was written: a write failed, and may be tried again
    /// later. After a sync that failed it [ends](LayerMap::end_checkpoint) instead.
    pub(crate) fn abandon_checkpoint(&mut self) {
        let frozen = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.frozen.as_ref());
        let has_superblock = frozen.is_some_and(|frozen| frozen.has_superblock);
        assert!(!has_superblock, "a superblock that may be there counts");
        self.thaw();
    }

    /// What the checkpoint took is not in the nodes that are live: only memory has it.
    fn thaw(&mut self) {
        let checkpoint = self.checkpoint.take().expect("a checkpoint is under way");
        let Some(frozen) = checkpoint.frozen else { return };
        let written = frozen.entries.keys().filter(|(level, _)| *level == 0).map(|(_, page)| *page);
        self.dirty.extend(written);
        if frozen.level == 0 {
            self.dirty.extend(frozen.left);
        }
    }
}
