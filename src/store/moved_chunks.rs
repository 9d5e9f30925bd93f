//! Which packs took over from others, as far as readers have found out.
//!
//! A node says in which pack a chunk was when the node was written. Collection moves chunks, and the packs
//! that they come from go. Whoever looks a moved chunk up learns where its neighbours are too.

use std::collections::VecDeque;

/// Packs that went, of which it is known who took over.
const MOST_PACKS: usize = 256;
/// Packs that took over from one of them.
const MOST_TAKERS: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MovedChunks {
    /// The one that was learnt last is the last.
    from: VecDeque<(u64, VecDeque<u64>)>,
}

impl MovedChunks {
    /// Packs that may have what was in this one, the likeliest first.
    pub(super) fn takers(&self, pack: u64) -> Vec<u64> {
        let found = self.from.iter().rev().find(|(from, _)| *from == pack);
        found.map(|(_, takers)| takers.iter().copied().collect()).unwrap_or_default()
    }

    /// A chunk of one pack is in another one.
    pub(super) fn learn(&mut self, pack: u64, taker: u64) {
        let known = self.from.iter().position(|(from, _)| *from == pack);
        let known = known.and_then(|at| self.from.remove(at));
        let (_, mut takers) = known.unwrap_or_default();
        takers.retain(|other| *other != taker);
        takers.truncate(MOST_TAKERS - 1);
        takers.push_front(taker);
        while self.from.len() >= MOST_PACKS {
            self.from.pop_front();
        }
        self.from.push_back((pack, takers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known_and_no_more() {
        let mut moved = MovedChunks::default();
        assert!(moved.takers(1).is_empty());
        for taker in [7, 8, 9, 8, 10, 11] {
            moved.learn(1, taker);
        }
        assert_eq!(moved.takers(1), [11, 10, 8, 9]);
        for pack in 2..2 + MOST_PACKS as u64 {
            moved.learn(pack, 5);
        }
        assert_eq!((moved.takers(1), moved.takers(2)), (vec![], vec![5]));
        assert_eq!(moved.from.len(), MOST_PACKS);
    }
}
