//! A buddy allocator over numbered units: pure bookkeeping, no memory of its own.
//!
//! Every step is O(log n), nothing is allocated after construction, and a block is aligned to its own size.
//! Most blocks are single units that are taken and returned all the time. Some returned units are kept
//! unmerged for the next request, and merge when a larger block is wanted.

/// No block.
const NONE: u32 = u32::MAX;
/// Marks a unit that does not start a free block.
const NOT_FREE: u8 = u8::MAX;
/// Marks a free unit that has not been merged.
const READY: u8 = u8::MAX - 1;
/// Units that are kept unmerged: as many as the requests that a busy shard answers in a turn or two.
const MOST_READY: usize = 256;

/// Which units of a zone are free.
#[derive(Debug)]
pub(super) struct Buddy {
    /// First free block of each order.
    heads: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// The order of the free block that starts at a unit, or [`NOT_FREE`].
    order_of_free: Vec<u8>,
    free_units: u32,
    /// The unit that was returned last is taken first: its memory is in the processor's caches.
    ready: Vec<u32>,
}

impl Buddy {
    /// All of `units` free, in blocks of at most `2^max_order` units.
    pub(super) fn new(units: u32, max_order: u8) -> Self {
        let count = units as usize;
        let mut buddy = Self {
            heads: vec![NONE; usize::from(max_order) + 1],
            next: vec![NONE; count],
            previous: vec![NONE; count],
            order_of_free: vec![NOT_FREE; count],
            free_units: units,
            ready: Vec::with_capacity(MOST_READY),
        };
        let mut start = 0;
        while start < units {
            let mut order = max_order;
            while start & ((1 << order) - 1) != 0 || start + (1 << order) > units {
                order -= 1;
            }
            buddy.push(start, order);
            start += 1 << order;
        }
        buddy
    }

    /// Units that are free, in blocks of any size.
    pub(super) fn free_units(&self) -> u32 {
        self.free_units
    }

    /// The largest order it can ever give.
    pub(super) fn max_order(&self) -> u8 {
        self.heads.len() as u8 - 1
    }

    /// Whether a block of `2^order` units can be taken.
    pub(super) fn has(&mut self, order: u8) -> bool {
        order == 0 && !self.ready.is_empty() || self.find(order).is_some()
    }

    /// The order of the smallest free block of at least `2^order` units.
    fn find(&mut self, order: u8) -> Option<u8> {
        let first =
            |heads: &[u32]| heads.iter().position(|head| *head != NONE).map(|above| order + above as u8);
        let heads = self.heads.get(usize::from(order)..)?;
        first(heads).or_else(|| {
            self.merge_ready();
            first(&self.heads[usize::from(order)..])
        })
    }

    /// Takes a block of `2^order` units and returns its first unit.
    #[inline]
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        if order == 0
            && let Some(unit) = self.ready.pop()
        {
            self.order_of_free[unit as usize] = NOT_FREE;
            self.free_units -= 1;
            return Some(unit);
        }
        self.take_merged(order)
    }

    fn take_merged(&mut self, order: u8) -> Option<u32> {
        let mut found = self.find(order)?;
        let start = self.heads[usize::from(found)];
        self.unlink(start, found);
        while found > order {
            found -= 1;
            self.push(start + (1 << found), found);
        }
        self.free_units -= 1 << order;
        Some(start)
    }

    /// Gives a block back; it merges with its free neighbours.
    #[inline]
    pub(super) fn give(&mut self, start: u32, order: u8) {
        self.free_units += 1 << order;
        if order == 0 && self.ready.len() < MOST_READY {
            assert_eq!(self.order_of_free[start as usize], NOT_FREE, "unit {start} is freed twice");
            self.order_of_free[start as usize] = READY;
            self.ready.push(start);
        } else {
            self.merge(start, order);
        }
    }

    #[cold]
    fn merge_ready(&mut self) {
        while let Some(unit) = self.ready.pop() {
            self.order_of_free[unit as usize] = NOT_FREE;
            self.merge(unit, 0);
        }
    }

    fn merge(&mut self, mut start: u32, mut order: u8) {
        while order < self.max_order() {
            let neighbour = start ^ (1 << order);
            if self.order_of_free.get(neighbour as usize) != Some(&order) {
                break;
            }
            self.unlink(neighbour, order);
            start = start.min(neighbour);
            order += 1;
        }
        self.push(start, order);
    }

    fn push(&mut self, start: u32, order: u8) {
        let head = self.heads[usize::from(order)];
        self.next[start as usize] = head;
        self.previous[start as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = start;
        }
        self.heads[usize::from(order)] = start;
        assert_eq!(self.order_of_free[start as usize], NOT_FREE, "unit {start} is freed twice");
        self.order_of_free[start as usize] = order;
    }

    fn unlink(&mut self, start: u32, order: u8) {
        let (next, previous) = (self.next[start as usize], self.previous[start as usize]);
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        if previous == NONE {
            self.heads[usize::from(order)] = next;
        } else {
            self.next[previous as usize] = next;
        }
        self.order_of_free[start as usize] = NOT_FREE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everything_given_back_merges_to_the_start_value() {
        let mut buddy = Buddy::new(96, 6);
        let all: Vec<u32> = (0..96).map(|_| buddy.take(0).unwrap()).collect();
        assert_eq!(buddy.take(0), None);
        all.iter().for_each(|unit| buddy.give(*unit, 0));
        let last = all[95];
        assert_eq!(buddy.take(0), Some(last), "it came back last");
        buddy.give(last, 0);
        assert_eq!((buddy.free_units(), buddy.has(6)), (96, true));
        assert_eq!(buddy.take(6), Some(0));
        assert_eq!(buddy.take(5), Some(64));
        assert_eq!(buddy.take(5), None);
    }

    proptest! {
        /// Oracle: a plain set of taken units.
        #[test]
        fn blocks_never_overlap(steps in prop::collection::vec((0u8..7, any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let mut buddy = Buddy::new(200, 6);
            let mut taken = [false; 200];
            let mut held: Vec<(u32, u8)> = Vec::new();
            for (order, give, which) in steps {
                if give && !held.is_empty() {
                    let (start, order) = held.swap_remove(which.index(held.len()));
                    (start..start + (1 << order)).for_each(|unit| taken[unit as usize] = false);
                    buddy.give(start, order);
                } else if let Some(start) = buddy.take(order) {
                    prop_assert_eq!(start % (1 << order), 0);
                    for unit in start..start + (1 << order) {
                        prop_assert!(!std::mem::replace(&mut taken[unit as usize], true));
                    }
                    held.push((start, order));
                }
                prop_assert_eq!(buddy.free_units() as usize, taken.iter().filter(|unit| !**unit).count());
            }
        }
    }
}
