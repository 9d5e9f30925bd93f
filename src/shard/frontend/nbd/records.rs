//! Records of TLS that were received: each is opened where it lies, and parsed there.
//!
//! A record that has not come as a whole is kept apart, so that it holds no shared receive buffer: clients
//! that send half of a record and stop cannot take them all. What is kept so is counted for the whole shard
//! and limited by [`Limits::partial_records`](crate::config::Limits).

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use crate::ring::{Lease, Received};
use crate::tls::{Opened, RecordError, TlsSession};

/// What was received together.
#[derive(Debug)]
pub(crate) struct Records {
    memory: RecordMemory,
    /// Where the first record begins that is not opened.
    next: usize,
    /// The record that is being parsed, if its parts came with different receives.
    joined: Option<Partial>,
    /// What is opened and not parsed: in `joined`, or in the memory.
    plain: Range<usize>,
}

#[derive(Debug)]
enum RecordMemory {
    /// A shared receive buffer.
    Buffer(Received),
    /// Copied out of one.
    Stash { lease: Lease, length: usize },
    /// Received on the control plane.
    Bytes(Vec<u8>),
}

impl RecordMemory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffer(received) => received.bytes(),
            Self::Stash { lease, length } => lease.bytes(0..*length),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(received) => received.bytes_mut(),
            Self::Stash { lease, length } => lease.bytes_mut(0..*length),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The front of a record, whose rest has not come.
#[derive(Debug)]
pub(crate) struct Partial {
    bytes: Vec<u8>,
    /// Bytes of all of them on the shard.
    held: Rc<Cell<usize>>,
    /// When it began, in nanoseconds of the shard's clock.
    since: u64,
}

impl Partial {
    pub(crate) fn new(held: &Rc<Cell<usize>>) -> Self {
        Self { bytes: Vec::new(), held: Rc::clone(held), since: 0 }
    }

    /// Since when there is one.
    pub(crate) fn since(&self) -> Option<u64> {
        (!self.bytes.is_empty()).then_some(self.since)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn forget(&mut self) {
        self.held.set(self.held.get() - self.bytes.capacity());
        self.bytes = Vec::new();
    }

    fn extend(&mut self, bytes: &[u8], now: u64) {
        if self.bytes.is_empty() {
            self.since = now;
        }
        let before = self.bytes.capacity();
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.held.set(self.held.get() + self.bytes.capacity() - before);
    }

    fn take(&mut self) -> Self {
        let next = Self::new(&self.held);
        std::mem::replace(self, next)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.forget();
    }
}

/// What came of opening the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextRecord {
    /// There is something to parse.
    Opened,
    /// All is parsed, and no further record is there as a whole.
    Nothing,
    /// The client says that no more will come.
    Closed,
}

impl Records {
    pub(crate) fn buffer(received: Received) -> Self {
        Self::new(RecordMemory::Buffer(received))
    }

    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        Self::new(RecordMemory::Bytes(bytes))
    }

    fn new(memory: RecordMemory) -> Self {
        Self { memory, next: 0, joined: None, plain: 0..0 }
    }

    /// What is opened and not parsed.
    pub(crate) fn rest(&self) -> &[u8] {
        let all = self.joined.as_ref().map_or_else(|| self.memory.bytes(), |joined| &joined.bytes);
        &all[self.plain.clone()]
    }

    /// What is not opened.
    pub(crate) fn unopened(&self) -> &[u8] {
        &self.memory.bytes()[self.next..]
    }

    /// The first bytes of the rest are parsed.
    pub(crate) fn parsed(&mut self, bytes: usize) {
        self.plain.start += bytes;
    }

    /// Opens the next record that carries anything, when all before it is parsed. What is left at the end
    /// goes into `partial`.
    pub(crate) fn open_next(
        &mut self,
        session: &mut TlsSession,
        partial: &mut Partial,
        now: u64,
    ) -> Result<NextRecord, RecordError> {
        (self.plain, self.joined) = (0..0, None);
        loop {
            let rest = &mut self.memory.bytes_mut()[self.next..];
            if partial.bytes.is_empty() {
                match session.open(rest)? {
                    Opened::Need(_) => {
                        if !canary!(PartialRecordLost) {
                            partial.extend(rest, now);
                        }
                        return Ok(NextRecord::Nothing);
                    }
                    Opened::Record { length, data } => {
                        self.plain = self.next + data.start..self.next + data.end;
                        self.next += length;
                    }
                    Opened::Closed { .. } => return Ok(NextRecord::Closed),
                }
            } else {
                match session.open(&mut partial.bytes)? {
                    Opened::Need(whole) => {
                        let more = (whole - partial.bytes.len()).min(rest.len());
                        if more == 0 {
                            return Ok(NextRecord::Nothing);
                        }
                        partial.extend(&rest[..more], now);
                        self.next += more;
                        continue;
                    }
                    Opened::Record { data, .. } => {
                        self.plain = data;
                        self.joined = Some(partial.take());
                    }
                    Opened::Closed { .. } => {
                        // The stream is at a record's end.
                        partial.forget();
                        return Ok(NextRecord::Closed);
                    }
                }
            }
            if !self.plain.is_empty() {
                return Ok(NextRecord::Opened);
            }
            self.joined = None;
        }
    }

    /// Whether a shared receive buffer is being kept.
    pub(crate) fn keeps_buffer(&self) -> bool {
        matches!(self.memory, RecordMemory::Buffer(_))
    }

    /// Bytes of what is left: opened, and not.
    pub(crate) fn left(&self) -> usize {
        self.plain.len() + self.memory.bytes().len() - self.next
    }

    /// Moves what is left into `lease`; the receive buffer goes back.
    pub(crate) fn stash(&mut self, mut lease: Lease) {
        let (plain, length) = (self.plain.len(), self.left());
        lease.bytes_mut(0..plain).copy_from_slice(self.rest());
        lease.bytes_mut(plain..length).copy_from_slice(&self.memory.bytes()[self.next..]);
        *self = Self::new(RecordMemory::Stash { lease, length });
        (self.next, self.plain) = (plain, 0..plain);
    }

    /// Moves what is left to memory of its own; the receive buffer goes back.
    pub(crate) fn copy_out(&mut self) {
        let plain = self.plain.len();
        let left = [self.rest(), &self.memory.bytes()[self.next..]].concat();
        *self = Self::new(RecordMemory::Bytes(left));
        (self.next, self.plain) = (plain, 0..plain);
    }
}
