//! All requests of a shard, from when they take up memory until their reply is out.
//!
//! The client's cookie is no key: it may repeat. A [`RequestId`] is the slab key of the request's record.
//! Whatever a request goes through carries the id alone; so what is known of it is written once and moved
//! nowhere.

use slab::Slab;

use crate::shard::admission::ledger::Grant;
use crate::stats::Timing;

/// A request in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(crate) u32);

/// What is remembered of a request.
#[derive(Debug)]
pub(crate) struct Record {
    /// The connection that waits for the reply.
    pub(crate) connection: u32,
    /// What it holds of the shard; given back with the record.
    pub(crate) grant: Grant,
    /// What the client calls it, for the reply.
    pub(crate) cookie: u64,
    /// Its moments so far; 0 for those that have not come. None for a refused request, and while a payload is
    /// received.
    pub(crate) timing: Option<Timing>,
}

/// Records of the requests that a device works on, and of all whose reply is not out.
#[derive(Debug)]
pub(crate) struct RequestTable {
    records: Slab<Record>,
}

impl RequestTable {
    pub(crate) fn new() -> Self {
        Self { records: Slab::with_capacity(1024) }
    }

    /// Requests whose reply is not out.
    pub(crate) fn unsent(&self) -> usize {
        self.records.len()
    }

    /// Notes a request.
    #[inline]
    pub(crate) fn insert(&mut self, record: Record) -> RequestId {
        RequestId(self.records.insert(record) as u32)
    }

    /// Notes when a request was handed to its device, if that still works on it.
    pub(crate) fn submitted(&mut self, id: RequestId, now: u64) {
        if let Some(Record { timing: Some(timing), .. }) = self.records.get_mut(id.0 as usize)
            && timing.completed == 0
        {
            timing.submitted = now;
        }
    }

    /// Bytes that connections hold, by their keys, for requests whose device is done: they come back when the
    /// client fetches its reply.
    pub(crate) fn held_by_replies(&self) -> impl Iterator<Item = (u32, u32)> {
        let is_answered = |record: &&Record| record.timing.is_some_and(|timing| timing.completed > 0);
        let held = |(_, record): (usize, &Record)| (record.connection, record.grant.held());
        self.records.iter().filter(move |(_, record)| is_answered(record)).map(held)
    }

    /// What is remembered of a request.
    #[inline]
    pub(crate) fn record(&mut self, id: RequestId) -> &mut Record {
        &mut self.records[id.0 as usize]
    }

    /// A request's reply is out, or will never be.
    #[inline]
    pub(crate) fn remove(&mut self, id: RequestId) -> Record {
        self.records.remove(id.0 as usize)
    }
}
