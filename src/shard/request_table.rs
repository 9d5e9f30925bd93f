//! Requests that a backend works on, by their own number.
//!
//! The client's cookie is no key: it may repeat. A [`RequestId`] is the slab key of the entry and the index of the task that serves it, if
//! one does.

use slab::Slab;

use crate::nbd::request::Request;
use crate::stats::Timing;

/// A request in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestId(pub(super) u32);

/// What is remembered of a request while a backend works on it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The connection that waits for the reply.
    pub(super) connection: u32,
    /// Bytes of memory that the connection holds for it.
    pub(super) held: u32,
    /// Its moments so far; 0 for those that have not come.
    pub(super) timing: Timing,
    /// What is asked for, while it is read without a task.
    pub(super) single: Option<Request>,
}

/// A fixed number of slots.
#[derive(Debug)]
pub(super) struct RequestTable {
    entries: Slab<Entry>,
    capacity: usize,
    reserve: usize,
}

impl RequestTable {
    /// `capacity` slots, and `reserve` more for writes whose payload was being received when the others ran out.
    pub(super) fn new(capacity: usize, reserve: usize) -> Self {
        Self { entries: Slab::with_capacity(1024), capacity, reserve }
    }

    /// Slots that new requests may take.
    pub(super) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.entries.len())
    }

    /// Takes a request in; the caller has checked that there is room.
    pub(super) fn insert(&mut self, entry: Entry) -> RequestId {
        assert!(self.entries.len() < self.capacity + self.reserve, "the caller checks for room");
        RequestId(self.entries.insert(entry) as u32)
    }

    /// Notes when a request was handed to its backend, if it is still there.
    pub(super) fn submitted(&mut self, id: RequestId, now: u64) {
        if let Some(entry) = self.entries.get_mut(id.0 as usize) {
            entry.timing.submitted = now;
        }
    }

    /// A request is read without a task.
    pub(super) fn read_alone(&mut self, id: RequestId, request: Request) {
        self.entries[id.0 as usize].single = Some(request);
    }

    pub(super) fn entry(&mut self, id: RequestId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// Requests in the table.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Entry {
        self.entries.remove(id.0 as usize)
    }
}
