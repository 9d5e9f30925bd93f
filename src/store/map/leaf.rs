//! A leaf in RAM: what requests see, and how far the journal is behind.

use super::states::{BlockSet, BlockState, States};

/// The states of a page.
#[derive(Debug)]
pub(super) struct Leaf {
    /// What requests see.
    pub(super) current: States,
    /// While a change is pending or in a record that is under way; otherwise the journaled states are the
    /// current ones.
    unjournaled: Option<Box<Unjournaled>>,
}

#[derive(Debug)]
struct Unjournaled {
    journaled: States,
    /// Blocks whose current state is in no record.
    pending: BlockSet,
    /// The number of the change since which there are some.
    since: u64,
}

impl Leaf {
    pub(super) fn new(current: States) -> Self {
        Self { current, unjournaled: None }
    }

    /// The states that durable records say.
    pub(super) fn journaled(&self) -> &States {
        self.unjournaled.as_ref().map_or(&self.current, |changes| &changes.journaled)
    }

    /// Whether the current states are the journaled ones, and no record is under way.
    pub(super) fn is_journaled(&self) -> bool {
        self.unjournaled.is_none()
    }

    /// Since which change blocks are pending, if any are.
    pub(super) fn pending_since(&self) -> Option<u64> {
        self.unjournaled.as_ref().filter(|changes| !changes.pending.is_empty()).map(|changes| changes.since)
    }

    /// Gives blocks a state. True if it made the first pending block: its number is `number` then.
    pub(super) fn change(&mut self, start: usize, length: usize, state: BlockState, number: u64) -> bool {
        let had_pending = self.pending_since().is_some();
        let (mut at, end) = (start, start + length);
        let mut changed = false;
        while at < end {
            let (before, run_end) = self.current.run(at, end);
            if before != state {
                self.pend(at, run_end - at, number);
                self.current.set(at, run_end - at, state);
                changed = true;
            }
            at = run_end;
        }
        changed && !had_pending
    }

    fn pend(&mut self, start: usize, length: usize, number: u64) {
        let current = &self.current;
        let changes = self.unjournaled.get_or_insert_with(|| {
            let pending = BlockSet::new(current.words().len() * super::states::WORD_BLOCKS);
            Box::new(Unjournaled { journaled: current.clone(), pending, since: number })
        });
        if changes.pending.is_empty() {
            changes.since = number;
        }
        changes.pending.insert(start, length);
    }

    /// The first run of pending blocks with one state, within `start..end`.
    pub(super) fn pending_run(&self, start: usize, end: usize) -> Option<(usize, usize, BlockState)> {
        let (first, last) = self.unjournaled.as_ref()?.pending.first_range(start, end)?;
        let (state, run_end) = self.current.run(first, last);
        Some((first, run_end - first, state))
    }

    /// These blocks are in a record now.
    pub(super) fn taken(&mut self, start: usize, length: usize) {
        let changes = self.unjournaled.as_mut().expect("there are pending blocks");
        changes.pending.remove(start, length);
    }

    /// A durable record says this.
    pub(super) fn journal(&mut self, start: usize, length: usize, state: BlockState) {
        let changes = self.unjournaled.as_mut().expect("its record was under way");
        changes.journaled.set(start, length, state);
    }

    /// No record is under way any more: what is left are the pending changes.
    pub(super) fn settle(&mut self) {
        if self.unjournaled.as_ref().is_some_and(|changes| changes.pending.is_empty()) {
            self.unjournaled = None;
        }
    }

    /// A durable record said this before the layer was opened.
    pub(super) fn replay(&mut self, start: usize, length: usize, state: BlockState) {
        assert!(self.is_journaled(), "replay comes before every change");
        self.current.set(start, length, state);
    }
}
