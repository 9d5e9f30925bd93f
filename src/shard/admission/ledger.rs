//! What connections hold, counted by the grants that they hold it with.
//!
//! A [`Grant`] is what one request takes of the shard: room for its reply, memory, and a slot while a device
//! works on it. It gives all of that back when it is dropped. Nothing else changes the counts, so they are
//! never wrong.

use std::cell::Cell;
use std::rc::Rc;

use crate::shard::admission::rate::RATES;
use crate::shard::admission::seniority::LineTicket;

/// What all connections of a shard hold.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Requests that a device works on.
    working: Cell<usize>,
}

/// What one connection holds.
#[derive(Debug)]
pub(crate) struct Ledger {
    usage: Rc<Usage>,
    in_flight: Cell<usize>,
    held: Cell<usize>,
    working: Cell<usize>,
    /// What its device works on, where requests go by weight.
    load: Rc<Cell<usize>>,
    /// Its place among those that wait for memory that others hold.
    ticket: Cell<Option<LineTicket>>,
}

/// What one request holds.
#[derive(Debug)]
pub(crate) struct Grant {
    ledger: Rc<Ledger>,
    held: u32,
    /// 0 while no device works on the request; else one more than it counts there. One number, because a
    /// record of a request is moved as a whole.
    work: u32,
}

#[inline]
fn add(count: &Cell<usize>, more: usize) {
    count.set(count.get() + more);
}

#[inline]
fn subtract(count: &Cell<usize>, less: usize) {
    count.set(count.get() - less);
}

impl Usage {
    /// Requests that a device works on.
    pub(crate) fn working(&self) -> usize {
        self.working.get()
    }
}

impl Ledger {
    /// A ledger of nothing.
    pub(crate) fn new(usage: &Rc<Usage>, load: Rc<Cell<usize>>) -> Rc<Self> {
        let (in_flight, held, working, ticket) = Default::default();
        Rc::new(Self { usage: Rc::clone(usage), in_flight, held, working, load, ticket })
    }

    /// Requests that are not answered, or whose reply is not out.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Bytes of leases held by them.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Those that a device works on.
    pub(crate) fn working(&self) -> usize {
        self.working.get()
    }

    pub(super) fn take_ticket(&self) -> Option<LineTicket> {
        self.ticket.take()
    }

    pub(super) fn set_ticket(&self, ticket: Option<LineTicket>) {
        self.ticket.set(ticket);
    }

    /// Room for the reply of one more request, which holds a lease of so many bytes.
    #[inline]
    pub(crate) fn grant(self: &Rc<Self>, held: usize) -> Grant {
        add(&self.in_flight, 1);
        add(&self.held, held);
        Grant { ledger: Rc::clone(self), held: held as u32, work: 0 }
    }
}

impl Grant {
    /// Bytes of memory that it is for.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// It is for a lease of so many bytes more.
    pub(crate) fn hold(&mut self, bytes: usize) {
        self.held += bytes as u32;
        add(&self.ledger.held, bytes);
    }

    /// Its memory is not needed any more.
    #[inline]
    pub(crate) fn release_memory(&mut self) {
        subtract(&self.ledger.held, std::mem::take(&mut self.held) as usize);
    }

    /// A device begins to work on the request.
    #[inline]
    pub(crate) fn begin_work(&mut self) {
        debug_assert!(self.work == 0, "one device works on a request");
        self.work = 1;
        add(&self.ledger.working, 1);
        add(&self.ledger.usage.working, 1);
    }

    /// The device that works on the request has so much to do with it.
    pub(crate) fn weigh_on_device(&mut self, load: u16) {
        if self.work == 1 {
            self.work += u32::from(load);
            add(&self.ledger.load, load.into());
        }
    }

    /// The device is done.
    #[inline]
    pub(crate) fn end_work(&mut self) {
        let work = std::mem::take(&mut self.work);
        if work > 0 {
            subtract(&self.ledger.working, 1);
            subtract(&self.ledger.usage.working, 1);
            if RATES && work > 1 {
                self.relieve_device(work - 1);
            }
        }
    }

    #[cold]
    fn end_work_unanswered(&mut self) {
        self.end_work();
    }

    #[cold]
    fn relieve_device(&self, load: u32) {
        subtract(&self.ledger.load, load as usize);
    }
}

impl Drop for Grant {
    #[inline]
    fn drop(&mut self) {
        // The work on a request ends with its answer, so it is seldom to be ended here.
        if self.work > 0 {
            self.end_work_unanswered();
        }
        self.release_memory();
        subtract(&self.ledger.in_flight, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Oracle: the counts are summed up over the grants that are there.
        #[test]
        fn counts_are_those_of_the_grants_that_are_held(
            steps in prop::collection::vec((0..3_usize, 0..7_u8, 1..100_000_usize, any::<prop::sample::Index>()), 1..200)
        ) {
            let (usage, load) = (Rc::new(Usage::default()), Rc::new(Cell::new(0)));
            let ledgers: Vec<_> = (0..3).map(|_| Ledger::new(&usage, Rc::clone(&load))).collect();
            let mut grants: Vec<(usize, Grant)> = Vec::new();
            for (of, step, bytes, index) in steps {
                let count = grants.len();
                match step {
                    0 | 1 => grants.push((of, ledgers[of].grant(bytes))),
                    _ if count == 0 => {}
                    2 => drop(grants.swap_remove(index.index(count))),
                    3 => grants[index.index(count)].1.hold(bytes),
                    4 => grants[index.index(count)].1.release_memory(),
                    5 => grants[index.index(count)].1.weigh_on_device(bytes as u16),
                    _ => {
                        let grant = &mut grants[index.index(count)].1;
                        if grant.work > 0 { grant.end_work() } else { grant.begin_work() }
                    }
                }
                for (index, ledger) in ledgers.iter().enumerate() {
                    let own = || grants.iter().filter(|(of, _)| *of == index).map(|(_, grant)| grant);
                    prop_assert_eq!(ledger.in_flight(), own().count());
                    prop_assert_eq!(ledger.held(), own().map(|grant| grant.held() as usize).sum::<usize>());
                    prop_assert_eq!(ledger.working(), own().filter(|grant| grant.work > 0).count());
                }
                prop_assert_eq!(usage.working(), grants.iter().filter(|(_, grant)| grant.work > 0).count());
                prop_assert_eq!(load.get(), grants.iter().map(|(_, grant)| grant.work.saturating_sub(1) as usize).sum::<usize>());
            }
            drop(grants);
            prop_assert_eq!((usage.working(), load.get()), (0, 0));
        }
    }
}
