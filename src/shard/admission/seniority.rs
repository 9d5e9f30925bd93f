//! Which connection has waited longest for memory: none waits for ever.
//!
//! A long lease needs a whole block of its zone, and shorter ones that come and go all the time never leave
//! one free. So for each kind of lease there is a line of connections that wait and hold nothing themselves.
//! Others may overtake the first of a line, because idle memory is of no use, but by no more than
//! [`PATIENCE`] times the bytes that it waits for. From then on what comes back is kept for it. It gets it
//! when the present holders have given theirs back, and clients that keep memory idle meanwhile are evicted
//! (see [`stall`](crate::shard::admission::stall)).
//!
//! Two kinds of small leases are never kept for others: those that a connection is guaranteed, and those
//! below [`SHORT`], as clients that hoard would stop all others through one that waits. It takes hundreds of
//! those in flight all the time to keep one of 1 MiB waiting.

use std::collections::BTreeMap;

use crate::shard::admission::queue::KINDS;

/// The first of a line is overtaken by so many times the bytes that it needs.
const PATIENCE: usize = 4;
/// Shorter leases are never kept for others.
pub(crate) const SHORT: usize = 64 << 10;

/// The lines, by kind of lease.
#[derive(Debug, Default)]
pub(crate) struct Seniority {
    lines: [LeaseLine; KINDS],
    /// Kinds of which nothing is kept any more: all that wait for them are to be retried.
    freed: [bool; KINDS],
    /// Connections in all lines.
    waiting: usize,
}

#[derive(Debug, Default)]
struct LeaseLine {
    /// Connections and the bytes that they need, by number.
    places: BTreeMap<u64, (u32, usize)>,
    given: u64,
    /// Bytes that others got since the first one is the first.
    overtaken: usize,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineTicket {
    pub(crate) kind: usize,
    number: u64,
}

impl LeaseLine {
    fn first(&self) -> Option<(u32, usize)> {
        self.places.first_key_value().map(|(_, place)| *place)
    }

    /// The connection for which what comes back is kept.
    fn kept_for(&self) -> Option<u32> {
        let (key, bytes) = self.first()?;
        (self.overtaken >= PATIENCE * bytes && !canary!(LongestOvertaken)).then_some(key)
    }
}

impl Seniority {
    /// Whether all lines are empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether a connection may have a lease of a kind, if there is one.
    pub(crate) fn may_take(&self, kind: usize, key: u32) -> bool {
        self.lines[kind].kept_for().is_none_or(|first| first == key)
    }

    /// It got one of so many bytes.
    pub(crate) fn took(&mut self, kind: usize, key: u32, bytes: usize) {
        let line = &mut self.lines[kind];
        if line.first().is_some_and(|(first, _)| first != key) {
            line.overtaken += bytes;
        }
    }

    /// It waits for so many bytes, and for nothing of its own.
    pub(crate) fn line_up(&mut self, kind: usize, key: u32, bytes: usize) -> LineTicket {
        let line = &mut self.lines[kind];
        let number = line.given;
        line.given += 1;
        line.places.insert(number, (key, bytes));
        self.waiting += 1;
        LineTicket { kind, number }
    }

    /// It got what it waited for, or waits no more.
    pub(crate) fn leave(&mut self, ticket: LineTicket) {
        let LineTicket { kind, number } = ticket;
        let line = &mut self.lines[kind];
        let was_kept = line.kept_for().is_some();
        let was_first = line.places.first_key_value().is_some_and(|(first, _)| *first == number);
        line.places.remove(&number).expect("it stands there");
        self.waiting -= 1;
        if was_first {
            line.overtaken = 0;
            self.freed[kind] |= was_kept;
        }
    }

    /// Kinds of which nothing is kept any more since the last call.
    pub(crate) fn take_freed(&mut self) -> impl Iterator<Item = usize> + use<> {
        let freed = std::mem::take(&mut self.freed);
        (0..KINDS).filter(move |kind| freed[*kind])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_is_overtaken_by_a_few_times_what_it_needs() {
        let mut seniority = Seniority::default();
        assert!(seniority.may_take(0, 1));
        let first = seniority.line_up(0, 7, 100);
        let second = seniority.line_up(0, 8, 1000);
        let mut overtaken = 0;
        while seniority.may_take(0, 1) {
            seniority.took(0, 1, 30);
            overtaken += 30;
        }
        assert_eq!(overtaken, 420);
        assert!(seniority.may_take(0, 7) && !seniority.may_take(0, 8), "neither by those behind it");
        assert!(seniority.may_take(1, 1), "of another kind there is no line");
        seniority.leave(second);
        assert_eq!(seniority.take_freed().count(), 0, "it is still kept for the first");
        let third = seniority.line_up(0, 9, 1000);
        seniority.leave(first);
        assert_eq!(seniority.take_freed().collect::<Vec<_>>(), [0]);
        assert!(seniority.may_take(0, 1), "the next one is patient again");
        seniority.leave(third);
        assert_eq!((seniority.take_freed().count(), seniority.waiting), (0, 0));
    }

    proptest! {
        /// A zone of 64 units; each request wants some of them at once. Whatever the others ask for, and in
        /// whatever order they are tried, each gets its turn within a bounded number of grants.
        #[test]
        fn nobody_waits_for_ever(
            wants in prop::collection::vec(1usize..=64, 2..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 4000),
        ) {
            let mut seniority = Seniority::default();
            let mut tickets = vec![None; wants.len()];
            let mut holds: std::collections::VecDeque<usize> = Default::default();
            let mut since = vec![0; wants.len()];
            let mut free = 64;
            for index in order {
                let key = index.index(wants.len());
                let bytes = wants[key];
                if free >= bytes && seniority.may_take(0, key as u32) {
                    free -= bytes;
                    holds.push_back(bytes);
                    seniority.took(0, key as u32, bytes);
                    if let Some(ticket) = tickets[key].take() {
                        seniority.leave(ticket);
                    }
                    since[key] = 0;
                    since.iter_mut().for_each(|since| *since += bytes);
                } else {
                    tickets[key] = tickets[key].or_else(|| Some(seniority.line_up(0, key as u32, bytes)));
                    // The oldest lease comes back.
                    free += holds.pop_front().unwrap_or(0);
                }
                for (key, since) in since.iter_mut().enumerate() {
                    *since = if tickets[key].is_some() { *since } else { 0 };
                    prop_assert!(*since <= 8 * (PATIENCE * 64 + 64 + 64), "{key} of {wants:?} waits: {since}");
                }
            }
        }
    }
}
