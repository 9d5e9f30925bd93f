//! A buddy allocator over numbered units: pure bookkeeping, no memory of its own.
//!
//! Every step is O(log n), nothing is allocated after construction, and a block is aligned to its own size.

/// No block.
const NONE: u32 = u32::MAX;
/// Marks a unit that does not start a free block.
const NOT_FREE: u8 = u8::MAX;

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
    pub(super) fn has(&self, order: u8) -> bool {
        self.heads.get(usize::from(order)..).is_some_and(|heads| heads.iter().any(|head| *head != NONE))
    }

    /// Takes a block of `2^order` units and returns its first unit.
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        let mut found = order;
        while self.heads.get(usize::from(found)).copied()? == NONE {
            found += 1;
        }
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
    pub(super) fn give(&mut self, mut start: u32, mut order: u8) {
        self.free_units += 1 << order;
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
        for unit in all {
            buddy.give(unit, 0);
        }
        assert_eq!(buddy.free_units(), 96);
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
