//! Which generation each block of the working area holds, and which blocks operations in flight use.
//!
//! Five bytes a block. No operation in flight overlaps with a write, so the content that a read must find is
//! always known.

use super::plan::LoadKind;

/// The last write failed: the block may hold this generation or the one before it, or parts of both.
const UNCERTAIN: u32 = 1 << 31;
/// A write is in flight.
const WRITING: u8 = u8::MAX;

/// The state of every block.
#[derive(Debug)]
pub(super) struct Tracker {
    /// 0: never written.
    generations: Vec<u32>,
    /// Readers in flight, or [`WRITING`].
    users: Vec<u8>,
}

impl Tracker {
    /// More blocks than this are not tracked: 320 MiB of memory.
    pub(super) const MOST_BLOCKS: u64 = 1 << 26;

    pub(super) fn new(blocks: u64) -> Self {
        // Both come as zero pages, which take no memory before they are used.
        Self { generations: vec![0; blocks as usize], users: vec![0; blocks as usize] }
    }

    /// Reserves a block for an operation; false if that conflicts with one in flight.
    pub(super) fn begin(&mut self, kind: LoadKind, block: u64) -> bool {
        let users = &mut self.users[block as usize];
        match kind {
            LoadKind::Read if *users < WRITING - 1 => *users += 1,
            LoadKind::Write | LoadKind::Trim if *users == 0 => *users = WRITING,
            _ => return false,
        }
        true
    }

    /// The generation that the write in flight writes.
    pub(super) fn to_write(&self, block: u64) -> u32 {
        (self.generations[block as usize] & !UNCERTAIN) + 1
    }

    /// The generation that must be read now; `None` when that is not known.
    pub(super) fn to_read(&self, block: u64) -> Option<u32> {
        let generation = self.generations[block as usize];
        (generation != 0 && generation & UNCERTAIN == 0).then_some(generation)
    }

    pub(super) fn end_read(&mut self, block: u64) {
        self.users[block as usize] -= 1;
    }

    pub(super) fn end_write(&mut self, block: u64, has_succeeded: bool) {
        let generation = self.to_write(block);
        assert_eq!(std::mem::take(&mut self.users[block as usize]), WRITING, "a write was in flight");
        self.generations[block as usize] = if has_succeeded { generation } else { generation | UNCERTAIN };
    }

    /// The first block from `from` whose content is known.
    pub(super) fn next_known(&self, from: u64) -> Option<u64> {
        (from..self.generations.len() as u64).find(|block| self.to_read(*block).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_excludes_all_others_and_reads_share() {
        let mut tracker = Tracker::new(2);
        assert!(tracker.begin(LoadKind::Read, 0) && tracker.begin(LoadKind::Read, 0));
        assert!(!tracker.begin(LoadKind::Write, 0));
        assert!(tracker.begin(LoadKind::Write, 1));
        assert!(!tracker.begin(LoadKind::Write, 1) && !tracker.begin(LoadKind::Read, 1));
        tracker.end_read(0);
        assert!(!tracker.begin(LoadKind::Write, 0), "one reader is left");
        tracker.end_read(0);
        tracker.end_write(1, true);
        assert!(tracker.begin(LoadKind::Write, 0) && tracker.begin(LoadKind::Write, 1));
    }

    #[test]
    fn generations_count_writes_and_a_failed_one_leaves_the_content_unknown() {
        let mut tracker = Tracker::new(3);
        assert_eq!(tracker.to_read(1), None, "never written");
        assert_eq!(tracker.next_known(0), None);
        for (succeeds, generation, known) in
            [(true, 1, Some(1)), (true, 2, Some(2)), (false, 3, None), (true, 4, Some(4))]
        {
            assert!(tracker.begin(LoadKind::Write, 1));
            assert_eq!(tracker.to_write(1), generation);
            tracker.end_write(1, succeeds);
            assert_eq!(tracker.to_read(1), known, "generation {generation}");
        }
        assert_eq!((tracker.next_known(0), tracker.next_known(2)), (Some(1), None));
    }

    #[test]
    fn readers_are_counted_without_overflow() {
        let mut tracker = Tracker::new(1);
        let granted = (0..1_000).filter(|_| tracker.begin(LoadKind::Read, 0)).count();
        assert_eq!(granted, 254);
        (0..granted).for_each(|_| tracker.end_read(0));
        assert!(tracker.begin(LoadKind::Write, 0));
    }
}
