//! All requests of a shard, from when they take up memory until their reply is out.
//!
//! The client's cookie is no key: it may repeat. A [`RequestId`] is the slab key of the request's record. Whatever a request goes through
//! carries the id alone; so what is known of it is written once and moved nowhere.

use slab::Slab;

use crate::stats::Timing;

/// A request in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(crate) u32);

/// What is remembered of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The connection that waits for the reply.
    pub(crate) connection: u32,
    /// Bytes of memory that the connection holds for it.
    pub(crate) held: u32,
    /// What the client calls it, for the reply.
    pub(crate) cookie: u64,
    /// Its moments so far; 0 for those that have not come. None for a refused request, and while a payload is received.
    pub(crate) timing: Option<Timing>,
}

/// A fixed number of slots for requests that a backend works on, and records of those and of all whose reply is not out.
#[derive(Debug)]
pub(crate) struct RequestTable {
    records: Slab<Record>,
    working: usize,
    capacity: usize,
    reserve: usize,
}

impl RequestTable {
    /// `capacity` slots, and `reserve` more for writes whose payload was being received when the others ran out.
    pub(crate) fn new(capacity: usize, reserve: usize) -> Self {
        Self { records: Slab::with_capacity(1024), working: 0, capacity, reserve }
    }

    /// Slots that new requests may take.
    pub(crate) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.working)
    }

    /// Requests that a backend works on.
    pub(crate) fn working(&self) -> usize {
        self.working
    }

    /// Requests whose reply is not out.
    pub(crate) fn unsent(&self) -> usize {
        self.records.len()
    }

    /// Notes a request; it takes no slot yet.
    pub(crate) fn insert(&mut self, record: Record) -> RequestId {
        RequestId(self.records.insert(record) as u32)
    }

    /// A request goes to its backend, and takes a slot; the caller has checked that there is one.
    pub(crate) fn admitted(&mut self, id: RequestId, timing: Timing) {
        assert!(self.working < self.capacity + self.reserve, "the caller checks for room");
        self.working += 1;
        self.records[id.0 as usize].timing = Some(timing);
    }

    /// Notes when a request was handed to its backend, if that still works on it.
    pub(crate) fn submitted(&mut self, id: RequestId, now: u64) {
        if let Some(Record { timing: Some(timing), .. }) = self.records.get_mut(id.0 as usize)
            && timing.completed == 0
        {
            timing.submitted = now;
        }
    }

    /// The backend is done with a request; it gives up its slot.
    pub(crate) fn answered(&mut self, id: RequestId) -> &mut Record {
        self.working -= 1;
        &mut self.records[id.0 as usize]
    }

    /// Bytes that connections hold, by their keys, for requests whose backend is done: they come back when the client fetches its reply.
    pub(crate) fn held_by_replies(&self) -> impl Iterator<Item = (u32, u32)> {
        let is_answered = |record: &&Record| record.timing.is_some_and(|timing| timing.completed > 0);
        let held = |(_, record): (usize, &Record)| (record.connection, record.held);
        self.records.iter().filter(move |(_, record)| is_answered(record)).map(held)
    }

    /// What is remembered of a request.
    pub(crate) fn record(&mut self, id: RequestId) -> &mut Record {
        &mut self.records[id.0 as usize]
    }

    /// A request's reply is out, or will never be.
    pub(crate) fn remove(&mut self, id: RequestId) -> Record {
        self.records.remove(id.0 as usize)
    }
}
