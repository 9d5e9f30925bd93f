//! Replies on their way out: a queue of chunks, and one vectored send in flight.
//!
//! Chunks leave in the order in which they were pushed, each header directly before its payload, so a reply is never torn by another.

use std::collections::VecDeque;

use crate::nbd::reply::{HeaderBytes, LONGEST_HEADER};
use crate::ring::{Lease, SendBatch};

/// What follows a chunk's header.
#[derive(Debug)]
pub(super) enum Payload {
    /// Nothing.
    Nothing,
    /// Part of a lease.
    Leased { lease: Lease, start: u32, length: u32 },
    /// Zeroes that need no memory.
    Zeroes(u32),
    /// Bytes of its own.
    Text(Vec<u8>),
}

/// One chunk of a reply.
#[derive(Debug)]
pub(super) struct ReplyChunk {
    pub(super) header: HeaderBytes,
    pub(super) payload: Payload,
}

/// All chunks of a reply.
#[derive(Debug)]
pub(super) enum Reply {
    /// The usual case.
    One(ReplyChunk),
    /// Sparse reads, errors half-way, several meta contexts.
    Many(Vec<ReplyChunk>),
}

impl Reply {
    /// A header alone.
    pub(super) fn header(header: HeaderBytes) -> Self {
        Self::One(ReplyChunk { header, payload: Payload::Nothing })
    }

    /// An error with its text.
    pub(super) fn error((header, text): (HeaderBytes, Vec<u8>)) -> Self {
        Self::One(ReplyChunk::with_text(header, text))
    }
}

impl ReplyChunk {
    pub(super) fn with_text(header: HeaderBytes, text: Vec<u8>) -> Self {
        let payload = if text.is_empty() { Payload::Nothing } else { Payload::Text(text) };
        Self { header, payload }
    }

    fn pieces(&self) -> usize {
        1 + match &self.payload {
            Payload::Nothing => 0,
            Payload::Zeroes(length) => SendBatch::pieces_of_zeroes(*length as usize),
            Payload::Leased { .. } | Payload::Text(_) => 1,
        }
    }
}

/// A queued chunk, and what its leaving releases.
#[derive(Debug)]
struct Queued {
    chunk: ReplyChunk,
    /// The request's memory, on its last chunk.
    releases: Option<u32>,
}

/// What a finished send released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// Requests whose reply is out.
    pub(super) requests: usize,
    /// Bytes of memory that they held.
    pub(super) held: usize,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    queue: VecDeque<Queued>,
    sending: Option<Released>,
}

impl Outbound {
    /// Appends a reply, whose request holds `held` bytes of memory until it is out.
    pub(super) fn push(&mut self, reply: Reply, held: u32) {
        match reply {
            Reply::One(chunk) => self.queue.push_back(Queued { chunk, releases: Some(held) }),
            Reply::Many(chunks) => {
                let last = chunks.len() - 1;
                for (index, chunk) in chunks.into_iter().enumerate() {
                    self.queue.push_back(Queued { chunk, releases: (index == last).then_some(held) });
                }
            }
        }
    }

    /// Whether a send could start.
    pub(super) fn wants_to_send(&self) -> bool {
        self.sending.is_none() && !self.queue.is_empty()
    }

    /// Nothing queued, nothing in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.sending.is_none() && self.queue.is_empty()
    }

    /// Chunks that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Moves as many chunks into `batch` as fit; a send of it then has to start.
    pub(super) fn fill(&mut self, batch: &mut SendBatch) {
        let mut released = Released::default();
        while let Some(front) = self.queue.front() {
            let fits = batch.room() >= front.chunk.pieces() && batch.header_room() >= LONGEST_HEADER;
            if !fits {
                assert!(!batch.is_empty(), "one chunk always fits into an empty batch");
                break;
            }
            let Queued { chunk, releases } = self.queue.pop_front().expect("there is a front");
            batch.push_header(chunk.header.as_bytes());
            match chunk.payload {
                Payload::Nothing => {}
                Payload::Leased { lease, start, length } => {
                    batch.push_lease(lease, start as usize..(start + length) as usize);
                }
                Payload::Zeroes(length) => batch.push_zeroes(length as usize),
                Payload::Text(text) => batch.push_text(text),
            }
            if let Some(held) = releases {
                released.requests += 1;
                released.held += held as usize;
            }
        }
        assert!(self.sending.replace(released).is_none(), "one send at a time");
    }

    /// The send in flight has ended.
    pub(super) fn sent(&mut self) -> Released {
        self.sending.take().expect("a send was in flight")
    }

    /// Forgets what is queued: the client is gone.
    pub(super) fn abandon(&mut self) -> Released {
        let mut released = Released::default();
        for queued in self.queue.drain(..) {
            if let Some(held) = queued.releases {
                released.requests += 1;
                released.held += held as usize;
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::reply::ReplyTo;
    use crate::nbd::request::Cookie;
    use crate::nbd::session::ReplyMode;

    fn reply(length: u32) -> Reply {
        let to = ReplyTo { mode: ReplyMode::Simple, cookie: Cookie(1), offset: 0, chunked: true };
        Reply::One(ReplyChunk { header: to.data(0, length, true), payload: Payload::Zeroes(length) })
    }

    #[test]
    fn a_batch_takes_what_fits_and_releases_it_when_sent() {
        let mut outbound = Outbound::default();
        (0..5).for_each(|_| outbound.push(reply(512), 4096));
        let mut batch = SendBatch::with_capacity(7, 1024);
        outbound.fill(&mut batch);
        assert_eq!(batch.length(), 3 * 528, "three replies of two pieces each");
        assert!(!outbound.wants_to_send());
        assert_eq!(outbound.sent(), Released { requests: 3, held: 3 * 4096 });
        assert_eq!(outbound.abandon(), Released { requests: 2, held: 2 * 4096 });
        assert!(outbound.is_empty());
    }
}
