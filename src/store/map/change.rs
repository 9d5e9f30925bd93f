//! Changes of blocks' states, until a record has them.

use super::layer::LayerMap;
use super::states::{BlockRun, BlockState};
use super::tree::Spot;

impl LayerMap {
    /// Gives blocks a state, at once for requests, and pending for the journal.
    ///
    /// Nothing of the range may be [missing](LayerMap::missing), and what [`new_slots`](LayerMap::new_slots)
    /// says must be allocated.
    pub(crate) fn change(&mut self, start: u64, length: u64, state: BlockState) {
        let end = start + length;
        assert!(end <= self.lasting_blocks(), "blocks {start} to {end} are blocks of the disk");
        self.log_change(BlockRun { start, length, state });
        let mut at = start;
        while at < end {
            let page = self.geometry.page(at);
            let page_end = end.min(self.geometry.first_block(page + 1));
            let first = self.geometry.within(at);
            let number = self.changes + 1;
            let leaf = match self.tree.find(page) {
                Spot::Unloaded(node) => panic!("{node:?} was to be loaded before blocks below it change"),
                Spot::Empty { .. } => self.tree.make(page),
                Spot::Resident(_) => self.tree.changed_leaf(page),
            };
            if leaf.change(first, (page_end - at) as usize, state, number) {
                self.pending.insert(number, page);
                self.changes = number;
            }
            at = page_end;
        }
    }

    /// Blocks that the disk has, and still has when a new size that is under way is durable. Others cannot
    /// change.
    pub(crate) fn lasting_blocks(&self) -> u64 {
        let under_way = self.commits.iter().map(|commit| self.geometry.blocks(commit.size));
        under_way.fold(self.blocks(), u64::min)
    }

    /// Slots of nodes, as offset and length, that must be allocated in the file before blocks of this range
    /// get their first states: a checkpoint must not meet a full disk. Nothing of the range may be missing.
    pub(crate) fn new_slots(&self, start: u64, length: u64) -> Vec<(u64, u64)> {
        let pages = self.geometry.page(start)..=self.geometry.page(start + length - 1);
        let mut nodes = Vec::new();
        for page in pages.filter(|page| matches!(self.tree.find(*page), Spot::Empty { .. })) {
            nodes.push((0, page));
            nodes.extend(self.tree.missing_above(page));
        }
        nodes.sort_unstable();
        nodes.dedup();
        let slots = 2 * u64::from(self.geometry.slot_bytes);
        nodes.into_iter().map(|(level, index)| (self.geometry.slots_offset(level, index), slots)).collect()
    }

    /// Whether a change is in no durable record yet.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.commits.is_empty()
    }

    /// The same for changes of some blocks.
    pub(crate) fn has_pending_in(&self, start: u64, length: u64) -> bool {
        let end = start + length;
        let is_pending = |page: u64| {
            let first = self.geometry.first_block(page);
            let last = self.geometry.first_block(page + 1);
            let (from, to) = (start.clamp(first, last) - first, end.clamp(first, last) - first);
            self.tree.leaf(page).is_some_and(|leaf| leaf.pending_run(from as usize, to as usize).is_some())
        };
        self.pending_pages(start, end).any(|(_, page)| is_pending(page))
            || self.commits.iter().any(|commit| commit.touches(start, end))
    }

    /// Pages of `start..end` with pending changes, and since when they have some. It looks at those of the
    /// range or at those with changes, whichever are fewer.
    pub(super) fn pending_pages(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (first, last) = (self.geometry.page(start), self.geometry.page(end.saturating_sub(1)));
        let is_short = last - first < self.pending.len() as u64;
        let range = if is_short { first..last + 1 } else { 0..0 };
        let of_range = range.filter_map(|page| {
            let since = self.tree.leaf(page)?.pending_since()?;
            Some((since, page))
        });
        let all = self.pending.iter().filter(move |_| !is_short).map(|(since, page)| (*since, *page));
        of_range.chain(all.filter(move |(_, page)| (first..=last).contains(page)))
    }

    /// A mark behind all changes so far. A FLUSH takes one, then has records made until
    /// [`is_committed`](LayerMap::is_committed): changes that come later do not keep it.
    pub(crate) fn mark(&self) -> u64 {
        self.changes
    }

    /// Whether durable records have all changes before a mark.
    pub(crate) fn is_committed(&self, mark: u64) -> bool {
        let oldest = self.pending.keys().next().copied();
        let taken = self.commits.iter().filter_map(|commit| commit.since());
        oldest.into_iter().chain(taken).all(|since| since > mark)
    }
}
