//! Who waits for what the connections of a shard share: memory, slots, room for replies, receive buffers.
//!
//! Each waits in a queue by what it needs, and each queue knows what the least of its needs is. As long as that is not there nobody is
//! fed again: beside hundreds who hoard, and so wait for long, all others would wait for hundreds of tries in vain in every turn. When it is
//! there, all of the queue are to be tried once. Who gets something may be followed by the next one in the same turn; after a try in
//! vain the turn has other things to do, and the next turn tries the next one.
//!
//! Kept after each turn: **everybody in a queue was fed in vain, and since then either nothing came back or less than he needs; or he is
//! among those that are to be tried**, who stand before the others. While there are such the shard does not sleep. When there are
//! none it does, however many wait, until something comes back that is enough for one of them. Who was tried goes to the end, so that
//! one who needs much cannot keep those behind him, who need little, from being tried.
//!
//! A need is true as long as its connection holds what it held. So whoever waits and gives something back is fed at once
//! (`Shard::list`); and when the shares of all have grown, all are to be tried.

use std::collections::BTreeMap;

use crate::ring::Shortage;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A lease.
    Memory(Shortage),
    /// A slot, and room for so many replies.
    Slot { room: usize },
    /// A receive buffer.
    Buffer,
}

impl Need {
    fn queue(self) -> usize {
        match self {
            Self::Memory(shortage) if shortage.is_long() => LONG_LEASES,
            Self::Memory(shortage) if shortage.is_bulk() => MIDDLE_LEASES,
            Self::Memory(_) => SMALL_LEASES,
            Self::Slot { .. } => SLOTS,
            Self::Buffer => BUFFERS,
        }
    }

    /// The kind of lease that it needs and its bytes, if it needs one.
    pub(crate) fn lease(self) -> Option<(usize, usize)> {
        match self {
            Self::Memory(shortage) => Some((self.queue(), shortage.bytes())),
            _ => None,
        }
    }

    /// A need that is met when either of two of the same queue is.
    fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::Memory(one), Self::Memory(other)) => Self::Memory(one.least(other)),
            (Self::Slot { room: one }, Self::Slot { room: other }) => Self::Slot { room: one.min(other) },
            (need, _) => need,
        }
    }
}

/// The queues of those who wait for what is shared out.
const LONG_LEASES: usize = 0;
const MIDDLE_LEASES: usize = 1;
const SMALL_LEASES: usize = 2;
/// Kinds of leases: each has a queue of its own.
pub(crate) const KINDS: usize = 3;
const SLOTS: usize = 3;
const BUFFERS: usize = 4;
pub(crate) const QUEUES: usize = 5;

/// A place in a queue; in each they are given out in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    queue: u8,
    number: u64,
}

/// Which of the shard's lists a connection is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// On none: it needs no bytes, or is receiving some.
    No,
    /// It is fed in this turn or one of the next.
    ToFeed,
    /// It waits for others to give something back; so many bytes of leases it held when that began.
    Waiting { place: Place, held: usize },
}

/// Connections that wait, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queues: [Queue; QUEUES],
}

#[derive(Debug, Default)]
struct Queue {
    /// By number. Whoever leaves from the middle costs no look at the others.
    places: BTreeMap<u64, u32>,
    /// Numbers that were given out.
    given: u64,
    /// All with a lower number are to be tried.
    untried: u64,
    /// No more than the least need of the others.
    least: Option<Need>,
}

impl Queue {
    fn try_all(&mut self) {
        (self.untried, self.least) = (self.given, None);
    }

    fn has_untried(&self) -> bool {
        self.places.first_key_value().is_some_and(|(number, _)| *number < self.untried)
    }

    fn pop_untried(&mut self) -> Option<u32> {
        let first = self.places.first_entry()?;
        (*first.key() < self.untried).then(|| first.remove())
    }
}

impl Waiting {
    /// Appends a connection that has just been fed in vain.
    pub(crate) fn push(&mut self, key: u32, need: Need) -> Place {
        let index = need.queue();
        let queue = &mut self.queues[index];
        let number = queue.given;
        queue.given += 1;
        queue.places.insert(number, key);
        queue.least = Some(queue.least.map_or(need, |least| least.least(need)));
        Place { queue: index as u8, number }
    }

    /// Takes a connection out, wherever it stands.
    pub(crate) fn remove(&mut self, place: Place) {
        self.queues[usize::from(place.queue)].places.remove(&place.number).expect("it stands there");
    }

    /// The shares of all have grown: what was needed may be too much.
    pub(crate) fn shares_grew(&mut self) {
        self.queues[SMALL_LEASES].try_all();
        self.queues[SLOTS].try_all();
    }

    /// All who wait for leases of a kind are to be tried: they may have been kept for somebody else.
    pub(crate) fn try_all(&mut self, kind: usize) {
        self.queues[kind].try_all();
    }

    /// The next one to be tried in a queue.
    pub(crate) fn pop_untried(&mut self, queue: usize) -> Option<u32> {
        self.queues[queue].pop_untried()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.places.is_empty())
    }

    /// Whether somebody waits for one of the longest leases.
    pub(crate) fn wants_long(&self) -> bool {
        !self.queues[LONG_LEASES].places.is_empty()
    }

    pub(crate) fn has_untried(&self) -> bool {
        self.queues.iter().any(Queue::has_untried)
    }

    /// Whether what is there may be enough for somebody who is not to be tried yet.
    pub(crate) fn is_enough(&self, is_met: impl Fn(Need) -> bool) -> bool {
        self.queues.iter().any(|queue| !queue.places.is_empty() && queue.least.is_some_and(&is_met))
    }

    /// In each queue for which there may be enough, all are to be tried.
    pub(crate) fn wake(&mut self, is_met: impl Fn(Need) -> bool) {
        self.queues.iter_mut().filter(|queue| queue.least.is_some_and(&is_met)).for_each(Queue::try_all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(room: usize) -> Need {
        Need::Slot { room }
    }

    fn has(room: usize) -> impl Fn(Need) -> bool {
        move |need| need.queue() == slot(0).queue() && need.least(slot(room)) == need
    }

    impl Waiting {
        fn pop(&mut self) -> Option<u32> {
            self.queues.iter_mut().find_map(Queue::pop_untried)
        }

        fn iter(&self) -> impl Iterator<Item = u32> {
            self.queues.iter().flat_map(|queue| queue.places.values().copied())
        }
    }

    #[test]
    fn all_are_tried_once_when_there_is_enough_for_one() {
        let mut waiting = Waiting::default();
        for (key, room) in [(0, 5), (1, 3), (2, 9)] {
            waiting.push(key, slot(room));
        }
        assert_eq!((waiting.has_untried(), waiting.pop()), (false, None), "they have just been tried");
        assert!(!waiting.is_enough(has(2)) && waiting.is_enough(has(3)));
        waiting.wake(has(2));
        assert!(!waiting.has_untried());
        waiting.wake(has(3));
        let mut tried = Vec::new();
        while let Some(key) = waiting.pop() {
            tried.push(key);
            if key != 1 {
                waiting.push(key, slot([5, 3, 9][key as usize]));
            }
        }
        assert_eq!(tried, [0, 1, 2], "one round, in order");
        assert!(!waiting.has_untried() && !waiting.is_empty(), "then the shard may sleep");
        assert!(!waiting.is_enough(has(4)) && waiting.is_enough(has(5)));
    }

    #[test]
    fn who_needs_much_does_not_keep_others_from_their_try() {
        let mut waiting = Waiting::default();
        for key in 0..3 {
            waiting.push(key, slot(9));
        }
        // Each turn something comes back, and one try is in vain.
        let tried: Vec<u32> = (0..6)
            .map(|_| {
                waiting.wake(has(9));
                let key = waiting.pop().unwrap();
                waiting.push(key, slot(9));
                key
            })
            .collect();
        assert_eq!(tried, [0, 1, 2, 0, 1, 2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Wake(usize),
        Pop,
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..10).prop_map(Step::Push),
            (0usize..10).prop_map(Step::Wake),
            Just(Step::Pop),
            any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// Oracle: a list of those who wait, each with its need.
        #[test]
        fn nobody_misses_what_is_enough_for_him(steps in prop::collection::vec(step(), 1..100)) {
            let (mut waiting, mut naive) = (Waiting::default(), Vec::<(Place, u32, usize)>::new());
            let is_untried = |waiting: &Waiting, place: Place| {
                place.number < waiting.queues[usize::from(place.queue)].untried
            };
            for (step, key) in steps.into_iter().zip(0..) {
                match step {
                    Step::Push(room) => {
                        let place = waiting.push(key, slot(room));
                        prop_assert!(!is_untried(&waiting, place));
                        naive.push((place, key, room));
                    }
                    Step::Wake(room) => {
                        let is_noticed = waiting.is_enough(has(room)) || waiting.has_untried();
                        waiting.wake(has(room));
                        for (place, _, _) in naive.iter().filter(|(_, _, need)| *need <= room) {
                            prop_assert!(is_noticed && is_untried(&waiting, *place));
                        }
                    }
                    Step::Pop => {
                        let first = naive.first().filter(|(place, _, _)| is_untried(&waiting, *place));
                        let expected = first.map(|(_, key, _)| *key);
                        prop_assert_eq!((waiting.has_untried(), waiting.pop()), (expected.is_some(), expected));
                        naive.retain(|(_, key, _)| Some(*key) != expected);
                    }
                    Step::Leave(index) if !naive.is_empty() => {
                        waiting.remove(naive.remove(index.index(naive.len())).0);
                    }
                    Step::Leave(_) => {}
                }
                prop_assert!(waiting.iter().eq(naive.iter().map(|(_, key, _)| *key)));
            }
        }
    }
}
