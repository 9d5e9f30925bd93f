//! Connections that wait for what a shard shares out: memory, slots, room for replies, receive buffers.
//!
//! Each waits in a queue by what it needs, and each queue knows the least of its needs. As long as that
//! cannot be met none of it is fed: beside hundreds that hoard, and so wait for long, all others would wait
//! for hundreds of retries in vain in every turn. When it can be met, all of the queue are marked for one
//! retry. A retry that got something may be followed by the next one in the same turn; after one in vain the
//! next turn goes on.
//!
//! Kept after each turn: **every queued connection has been retried since its need could last be met, or is
//! marked for retry.** Those that are marked stand before the others. While there are such the shard does not
//! sleep. When there are none it does, however many wait, until something comes back that is enough for one
//! of them. A connection that was retried goes to the end, so that one that needs much cannot keep those
//! behind it, which need little, from their retry.
//!
//! A need stays true as long as its connection holds what it held. So a connection that waits and gives
//! something back is fed at once (`Shard::list`), and when the shares of all have grown, all are marked.

use std::collections::BTreeMap;

use crate::ring::ZoneKind;
use crate::shard::admission::memory::Shortage;

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
            Self::Memory(shortage) => match shortage.kind() {
                ZoneKind::Long => LONG_LEASES,
                ZoneKind::Middle => MIDDLE_LEASES,
                ZoneKind::Small | ZoneKind::Apart | ZoneKind::Reserve => SMALL_LEASES,
            },
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

/// The queues, by what their connections wait for.
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
pub(crate) struct QueuePlace {
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
    Waiting { place: QueuePlace, held: usize },
}

/// Connections that wait, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: [WaitQueue; QUEUES],
}

#[derive(Debug, Default)]
struct WaitQueue {
    /// By number, so that one that leaves from the middle costs no look at the others.
    places: BTreeMap<u64, u32>,
    /// Numbers that were given out.
    given: u64,
    /// All with a lower number are marked for retry.
    marked: u64,
    /// No more than the least need of the others.
    least: Option<Need>,
}

impl WaitQueue {
    fn mark_all(&mut self) {
        (self.marked, self.least) = (self.given, None);
    }

    fn has_marked(&self) -> bool {
        self.places.first_key_value().is_some_and(|(number, _)| *number < self.marked)
    }

    fn pop_marked(&mut self) -> Option<u32> {
        let first = self.places.first_entry()?;
        (*first.key() < self.marked).then(|| first.remove())
    }
}

impl Queues {
    /// Appends a connection that has just been fed in vain.
    pub(crate) fn push(&mut self, key: u32, need: Need) -> QueuePlace {
        let index = need.queue();
        let queue = &mut self.queues[index];
        let number = queue.given;
        queue.given += 1;
        queue.places.insert(number, key);
        queue.least = Some(queue.least.map_or(need, |least| least.least(need)));
        QueuePlace { queue: index as u8, number }
    }

    /// Takes a connection out, wherever it stands.
    pub(crate) fn remove(&mut self, place: QueuePlace) {
        self.queues[usize::from(place.queue)].places.remove(&place.number).expect("it stands there");
    }

    /// Marks all whose need was for more than their share, which has grown.
    pub(crate) fn shares_grew(&mut self) {
        self.queues[SMALL_LEASES].mark_all();
        self.queues[SLOTS].mark_all();
    }

    /// Marks all that wait for leases of a kind: some may have been kept for another.
    pub(crate) fn mark_all(&mut self, kind: usize) {
        self.queues[kind].mark_all();
    }

    /// Takes out the next one of a queue that is marked for retry.
    pub(crate) fn pop_marked(&mut self, queue: usize) -> Option<u32> {
        self.queues[queue].pop_marked()
    }

    /// Whether no connection waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.places.is_empty())
    }

    /// Whether a connection waits for one of the longest leases.
    pub(crate) fn wants_long(&self) -> bool {
        !self.queues[LONG_LEASES].places.is_empty()
    }

    pub(crate) fn has_marked(&self) -> bool {
        self.queues.iter().any(WaitQueue::has_marked)
    }

    /// Whether the least need of a queue can be met.
    pub(crate) fn is_enough(&self, is_met: impl Fn(Need) -> bool) -> bool {
        self.queues.iter().any(|queue| !queue.places.is_empty() && queue.least.is_some_and(&is_met))
    }

    /// Marks all of each queue whose least need can be met.
    pub(crate) fn wake(&mut self, is_met: impl Fn(Need) -> bool) {
        self.queues.iter_mut().filter(|queue| queue.least.is_some_and(&is_met)).for_each(WaitQueue::mark_all);
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

    impl Queues {
        fn pop(&mut self) -> Option<u32> {
            self.queues.iter_mut().find_map(WaitQueue::pop_marked)
        }

        fn iter(&self) -> impl Iterator<Item = u32> {
            self.queues.iter().flat_map(|queue| queue.places.values().copied())
        }
    }

    #[test]
    fn all_are_tried_once_when_there_is_enough_for_one() {
        let mut waiting = Queues::default();
        for (key, room) in [(0, 5), (1, 3), (2, 9)] {
            waiting.push(key, slot(room));
        }
        assert_eq!((waiting.has_marked(), waiting.pop()), (false, None), "they have just been tried");
        assert!(!waiting.is_enough(has(2)) && waiting.is_enough(has(3)));
        waiting.wake(has(2));
        assert!(!waiting.has_marked());
        waiting.wake(has(3));
        let mut tried = Vec::new();
        while let Some(key) = waiting.pop() {
            tried.push(key);
            if key != 1 {
                waiting.push(key, slot([5, 3, 9][key as usize]));
            }
        }
        assert_eq!(tried, [0, 1, 2], "one round, in order");
        assert!(!waiting.has_marked() && !waiting.is_empty(), "then the shard may sleep");
        assert!(!waiting.is_enough(has(4)) && waiting.is_enough(has(5)));
    }

    #[test]
    fn one_that_needs_much_does_not_keep_others_from_their_retry() {
        let mut waiting = Queues::default();
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
        /// Oracle: a list of those that wait, each with its need.
        #[test]
        fn nobody_misses_what_is_enough_for_it(steps in prop::collection::vec(step(), 1..100)) {
            let (mut waiting, mut naive) = (Queues::default(), Vec::<(QueuePlace, u32, usize)>::new());
            let is_marked = |waiting: &Queues, place: QueuePlace| {
                place.number < waiting.queues[usize::from(place.queue)].marked
            };
            for (step, key) in steps.into_iter().zip(0..) {
                match step {
                    Step::Push(room) => {
                        let place = waiting.push(key, slot(room));
                        prop_assert!(!is_marked(&waiting, place));
                        naive.push((place, key, room));
                    }
                    Step::Wake(room) => {
                        let is_noticed = waiting.is_enough(has(room)) || waiting.has_marked();
                        waiting.wake(has(room));
                        for (place, _, _) in naive.iter().filter(|(_, _, need)| *need <= room) {
                            prop_assert!(is_noticed && is_marked(&waiting, *place));
                        }
                    }
                    Step::Pop => {
                        let first = naive.first().filter(|(place, _, _)| is_marked(&waiting, *place));
                        let expected = first.map(|(_, key, _)| *key);
                        prop_assert_eq!((waiting.has_marked(), waiting.pop()), (expected.is_some(), expected));
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
