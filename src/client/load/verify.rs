//! Verification of content: what is written, what must be read, and what was found instead.

use super::pattern::{self, Mismatch, Stamp};
use super::plan::{Area, LoadKind};
use super::slots::RequestSlot;
use super::tracker::Tracker;

/// Mismatches that are kept with their details.
const KEPT: usize = 10;

/// What verification found.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Blocks that were read during the run and whose content was known.
    pub checked: u64,
    /// Blocks that were read back after the run.
    pub read_back: u64,
    /// Blocks that were wrong.
    pub wrong: u64,
    /// The first of them.
    pub mismatches: Vec<Mismatch>,
}

/// Keeps the content of reads in flight, and checks it.
#[derive(Debug)]
pub(super) struct Verifier {
    seed: u64,
    area: Area,
    depth: usize,
    pub(super) tracker: Tracker,
    /// One for each slot of each connection; taken when first used.
    buffers: Vec<Vec<u8>>,
    pub(super) found: Verification,
    pub(super) is_reading_back: bool,
}

impl Verifier {
    /// Bytes of content in flight that are kept at most.
    pub(super) const MOST_CONTENT: u64 = 2 << 30;

    pub(super) fn new(seed: u64, area: Area, connections: usize, depth: usize) -> Self {
        Self {
            seed,
            area,
            depth,
            tracker: Tracker::new(area.blocks),
            buffers: vec![Vec::new(); connections * depth],
            found: Verification::default(),
            is_reading_back: false,
        }
    }

    /// Fills the payload of a write; gives its generation.
    pub(super) fn fill(&self, block: u64, payload: &mut [u8]) -> u32 {
        let generation = self.tracker.to_write(block);
        pattern::fill(payload, self.stamp(block, generation));
        generation
    }

    fn stamp(&self, block: u64, generation: u32) -> Stamp {
        Stamp { seed: self.seed, offset: self.area.offset_of(block), generation }
    }

    /// The buffer of a slot, from byte `start` of the request.
    pub(super) fn content(&mut self, connection: usize, slot: u32, start: u64) -> &mut [u8] {
        let buffer = &mut self.buffers[connection * self.depth + slot as usize];
        buffer.resize(self.area.block_size as usize, 0);
        &mut buffer[start as usize..]
    }

    pub(super) fn done(&mut self, connection: usize, index: u32, slot: &RequestSlot) {
        match slot.kind {
            // What a TRIM leaves is not known; there is none in such a run.
            LoadKind::Flush => {}
            LoadKind::Trim => self.tracker.end_write(slot.block, false),
            LoadKind::Write => self.tracker.end_write(slot.block, slot.error == 0),
            LoadKind::Read => {
                self.tracker.end_read(slot.block);
                if slot.error == 0 && slot.generation != 0 {
                    self.check(connection, index, slot);
                }
            }
        }
    }

    fn check(&mut self, connection: usize, index: u32, slot: &RequestSlot) {
        if self.is_reading_back {
            self.found.read_back += 1;
        } else {
            self.found.checked += 1;
        }
        let bytes = &self.buffers[connection * self.depth + index as usize];
        if let Err(mismatch) = pattern::check(bytes, self.stamp(slot.block, slot.generation)) {
            self.found.wrong += 1;
            if self.found.mismatches.len() < KEPT {
                self.found.mismatches.push(*mismatch);
            }
        }
    }
}
