//! Which connections may begin a request, and hold memory, slots and room for replies; which wait for them,
//! and which are evicted.
//!
//! ```text
//! ledger      what each connection holds, by the grants of its requests
//! memory      how much of the arena one may have
//! budget      how many replies that are not out
//! queue       which connections wait, and for which a retry could succeed
//! seniority   for which memory is kept that comes back
//! stall       which clients move too little while others wait
//! gate        which requests wait for a rate of their export or its tenant
//! rate        such a rate, which all shards keep together
//! share       which requests wait for their turn at a device, by weight
//! fair        whose turn it is
//! cost        what a request costs them
//! ```

mod budget;
pub(crate) mod cost;
pub(crate) mod fair;
pub(crate) mod gate;
pub(crate) mod ledger;
mod memory;
pub(crate) mod queue;
pub(crate) mod rate;
mod seniority;
pub(crate) mod share;
pub(crate) mod stall;

use std::cell::Cell;
use std::rc::Rc;

use crate::config::Limits;
use crate::ring::{BufferPool, Lease};
use budget::Budget;
use ledger::{Grant, Ledger, Usage};
use memory::MemoryQuotas;
use queue::{Need, QUEUES, QueuePlace, Queues};
use seniority::{SHORT, Seniority};

/// What a shard shares out among its connections.
#[derive(Debug)]
pub(crate) struct Admission {
    memory: MemoryQuotas,
    budget: Budget,
    usage: Rc<Usage>,
    /// Slots that new requests may take.
    slots: usize,
    /// More of them, for writes whose payload was being received when the others ran out.
    reserve: usize,
    requests_per_connection: usize,
    queues: Queues,
    seniority: Seniority,
}

/// Why a request cannot begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Its connection has as many as it may: its own replies let it go on.
    OwnReplies,
    /// What the shard shares out is used up: others let it go on.
    Shared(Need),
}

impl Admission {
    pub(crate) fn new(limits: &Limits, pool: BufferPool) -> Self {
        Self {
            memory: MemoryQuotas::new(pool),
            budget: Budget::new(limits.replies_per_shard()),
            usage: Rc::default(),
            slots: limits.requests_per_shard,
            reserve: limits.connections,
            requests_per_connection: limits.requests_per_connection,
            queues: Queues::default(),
            seniority: Seniority::default(),
        }
    }

    /// A ledger for one more connection; `load`: what its device works on.
    pub(crate) fn open_ledger(&self, load: Rc<Cell<usize>>) -> Rc<Ledger> {
        Ledger::new(&self.usage, load)
    }

    /// A connection is gone: it waits for nothing any more.
    pub(crate) fn close_ledger(&mut self, ledger: &Ledger) {
        if let Some(ticket) = ledger.take_ticket() {
            self.seniority.leave(ticket);
            self.mark_freed();
        }
    }

    /// So many connections share it all from now on.
    pub(crate) fn share_among(&mut self, connections: usize) {
        let more_memory = self.memory.share_among(connections);
        if self.budget.share_among(connections) || more_memory {
            self.queues.shares_grew();
        }
    }

    /// What all connections hold.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The shard's memory.
    pub(crate) fn pool(&self) -> &BufferPool {
        self.memory.pool()
    }

    /// How many requests a connection may have in flight now, for its own sake and that of the others; of
    /// all, `unsent` replies are not out.
    pub(crate) fn most_in_flight(&self, ledger: &Ledger, unsent: usize) -> usize {
        let most = self.budget.most(ledger.in_flight(), unsent);
        most.min(self.requests_per_connection)
    }

    /// Whether a connection that may have `most` requests in flight may begin a further one.
    ///
    /// # Errors
    /// What it waits for.
    #[inline]
    pub(crate) fn check(&self, ledger: &Ledger, most: usize) -> Result<(), Denial> {
        if ledger.in_flight() < most && self.has_free_slot() {
            return Ok(());
        }
        Err(match ledger.in_flight() >= self.requests_per_connection {
            true => Denial::OwnReplies,
            false => Denial::Shared(Need::Slot { room: self.budget.needed(ledger.in_flight()) }),
        })
    }

    /// Whether a device can be given one more request.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.usage.working() < self.slots
    }

    /// A request goes to its device, and takes a slot. One that had waited for memory or for its payload may
    /// come when none is free any more: there is one more for each connection.
    #[inline]
    pub(crate) fn begin_work(&self, grant: &mut Grant) {
        assert!(self.usage.working() < self.slots + self.reserve, "the caller checks for room");
        grant.begin_work();
    }

    /// A lease for a request of the connection `key`, or what is missing. A connection does not wait for its
    /// own replies only: memory that others give back lets it go on, even if its client reads nothing.
    ///
    /// # Errors
    /// What it waits for.
    #[inline]
    pub(crate) fn lend(&mut self, key: u32, ledger: &Ledger, length: usize) -> Result<Lease, Need> {
        if self.seniority.is_empty() {
            let held = ledger.held();
            return self.memory.lend(length, held).ok_or_else(|| self.need(length, held));
        }
        self.lend_beside_lines(key, ledger, length)
    }

    #[cold]
    fn need(&self, length: usize, held: usize) -> Need {
        Need::Memory(self.memory.shortage(length, held))
    }

    /// The same while connections stand in lines.
    fn lend_beside_lines(&mut self, key: u32, ledger: &Ledger, length: usize) -> Result<Lease, Need> {
        let held = ledger.held();
        let needed = self.need(length, held);
        let kind = needed.lease().expect("it is one of memory").0;
        let is_short = self.memory.is_guaranteed(length, held) || length < SHORT;
        if !is_short && !self.seniority.may_take(kind, key) {
            return Err(needed);
        }
        let lease = self.memory.lend(length, held).ok_or(needed)?;
        if !is_short {
            self.seniority.took(kind, key, length);
        }
        if let Some(ticket) = ledger.take_ticket() {
            self.seniority.leave(ticket);
        }
        Ok(lease)
    }

    /// A lease for what leaves late, if it can be had at once.
    pub(crate) fn lend_copy(&self, ledger: &Ledger, length: usize) -> Option<Lease> {
        self.memory.lend(length, ledger.held())
    }

    /// A lease for a connection that waits, to keep there what it has received.
    pub(crate) fn lend_stash(&self, length: usize) -> Option<Lease> {
        self.memory.lend_stash(length)
    }

    /// A connection was fed: it stands in a line while it waits for memory that others hold.
    #[inline]
    pub(crate) fn fed(&mut self, key: u32, ledger: &Ledger, need: Option<Need>) {
        let waits = need.and_then(Need::lease).filter(|_| ledger.held() == 0);
        let ticket = ledger.take_ticket();
        if ticket.map(|ticket| ticket.kind) == waits.map(|(kind, _)| kind) {
            ledger.set_ticket(ticket);
        } else {
            if let Some(ticket) = ticket {
                self.seniority.leave(ticket);
            }
            ledger.set_ticket(waits.map(|(kind, bytes)| self.seniority.line_up(kind, key, bytes)));
        }
        self.mark_freed();
    }

    fn mark_freed(&mut self) {
        self.seniority.take_freed().for_each(|kind| self.queues.mark_all(kind));
    }

    /// A connection that was fed in vain waits from now on.
    pub(crate) fn wait(&mut self, key: u32, need: Need) -> QueuePlace {
        self.queues.push(key, need)
    }

    /// It waits no more.
    pub(crate) fn stop_waiting(&mut self, place: QueuePlace) {
        self.queues.remove(place);
    }

    /// Whether any connection waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Whether a retry of a connection that waits could succeed; `buffers`: there are receive buffers; of
    /// all, `unsent` replies are not out.
    pub(crate) fn may_retry(&mut self, buffers: bool, unsent: usize) -> bool {
        // One that waited for a long lease may have left.
        self.memory.want_long(self.queues.wants_long());
        let returned = self.memory.has_returned();
        self.has_waiting()
            && (self.queues.has_marked()
                || self.queues.is_enough(|need| self.is_met(need, returned, (buffers, unsent))))
    }

    /// Marks the connections for which a retry could succeed.
    pub(crate) fn mark_retries(&mut self, buffers: bool, unsent: usize) {
        self.memory.want_long(self.queues.wants_long());
        if !self.has_waiting() {
            return;
        }
        let returned = self.memory.take_returned();
        let mut queues = std::mem::take(&mut self.queues);
        queues.wake(|need| self.is_met(need, returned, (buffers, unsent)));
        self.queues = queues;
    }

    /// The queues of those that wait.
    pub(crate) fn queues() -> std::ops::Range<usize> {
        0..QUEUES
    }

    /// The next connection of a queue that is marked for retry; it waits no more.
    pub(crate) fn next_retry(&mut self, queue: usize) -> Option<u32> {
        self.queues.pop_marked(queue)
    }

    /// Whether a need may be met now. Memory that is there is not enough by itself, as it may lie in pieces:
    /// some must have `returned`. For the others being there is enough, so the one that needs the least of
    /// them gets it when it is retried.
    fn is_met(&self, need: Need, returned: bool, (buffers, unsent): (bool, usize)) -> bool {
        let met = match need {
            Need::Memory(shortage) => returned && self.memory.could_meet(shortage),
            Need::Slot { room } => self.budget.has(unsent, room) && self.has_free_slot(),
            Need::Buffer => return buffers,
        };
        met && !canary!(LostWakeUp)
    }
}
