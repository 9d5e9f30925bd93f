//! Replies on their way out: a queue of chunks, and one vectored send in flight.
//!
//! Chunks leave in the order in which they were pushed, each header directly before its payload, so a reply is never torn by another.

use std::collections::VecDeque;

use crate::nbd::reply::{HeaderBytes, LONGEST_HEADER};
use crate::ring::{Payload, SendBatch};
use crate::stats::Timing;

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
}

/// What a request gives back when its reply is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    /// Bytes of memory.
    pub(super) held: u32,
    /// Its moments; none for a refused request.
    pub(super) timing: Option<Timing>,
}

/// A queued chunk, and what its leaving releases: the last one of a reply ends the request.
#[derive(Debug)]
struct Queued {
    chunk: ReplyChunk,
    releases: Option<Release>,
    /// Bytes of header and payload that have left; of the first chunk only.
    left: usize,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    queue: VecDeque<Queued>,
    /// A refusal whose request is still coming in.
    held_back: Option<(Reply, Release)>,
    /// Bytes of leases that the replies in the queue and in the send in flight keep.
    held: u64,
    /// Bytes of mapped files in the queue and in the send in flight.
    mapped: u64,
    /// Those of the send in flight, and the moment at which it started, in nanoseconds of the shard's clock.
    mapped_sending: u64,
    started: u64,
    /// What each chunk of the send in flight releases.
    sending: Option<Sending>,
}

/// What the chunks of a send release, one by one.
pub(super) type Sending = Vec<Option<Release>>;

/// Bytes of mapped files that a connection may have outbound. What was looked up must be true when it leaves, so it must leave soon.
const MOST_MAPPED: u64 = 4 << 20;
/// A client that takes longer than this for one send, in nanoseconds, is slow: what it asks for waits in memory of ours.
const PROMPT: u64 = 50_000_000;

/// A queue that is empty keeps room for so many chunks: most connections never need more.
const KEPT_CHUNKS: usize = 256;

impl Outbound {
    /// Appends a reply; what its request holds is released when it is out.
    pub(super) fn push(&mut self, reply: Reply, release: Release) {
        self.held += u64::from(release.held);
        match reply {
            Reply::One(chunk) => {
                if let Payload::Mapped(mapped) = &chunk.payload {
                    self.mapped += mapped.length();
                }
                self.queue.push_back(Queued { chunk, releases: Some(release), left: 0 });
            }
            Reply::Many(mut chunks) => {
                if canary!(ChunksSwapped) {
                    chunks.reverse();
                }
                let last = chunks.len() - 1;
                for (index, chunk) in chunks.into_iter().enumerate() {
                    let releases = (index == last).then_some(release);
                    self.queue.push_back(Queued { chunk, releases, left: 0 });
                }
            }
        }
    }

    /// Keeps a reply until [`Outbound::let_go`]: while a client still sends the payload of a request it does not look for the answer;
    /// libnbd then loses its place in the stream.
    pub(super) fn hold_back(&mut self, reply: Reply, release: Release) {
        assert!(self.held_back.is_none(), "one request comes in at a time");
        self.held_back = Some((reply, release));
    }

    /// Appends the reply that was held back, if there is one.
    pub(super) fn let_go(&mut self) {
        if let Some((reply, release)) = self.held_back.take() {
            self.push(reply, release);
        }
    }

    /// Forgets the reply that is held back, if there is one: what it would have released.
    pub(super) fn forget_held_back(&mut self) -> Option<Release> {
        self.held_back.take().map(|(_reply, release)| release)
    }

    /// Whether a reply is held back.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Whether so many bytes of a mapped file can be queued: they will leave soon.
    pub(super) fn has_room_for_mapped(&self, length: u64, now: u64) -> bool {
        let is_slow = self.sending.is_some() && now - self.started > PROMPT;
        !is_slow && self.mapped + length <= MOST_MAPPED
    }

    /// Whether a send could start.
    pub(super) fn wants_to_send(&self) -> bool {
        self.sending.is_none() && !self.queue.is_empty()
    }

    /// A send is in flight.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Bytes of leases that come free when the client fetches its replies.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Nothing queued, nothing in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.sending.is_none() && self.queue.is_empty()
    }

    /// Chunks that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Moves as many chunks into `batch` as fit, and what they release into `sending`, which comes empty; a send then has to start.
    ///
    /// `now` is the moment of the turn, in nanoseconds of the shard's clock.
    pub(super) fn fill(&mut self, batch: &mut SendBatch, mut sending: Sending, now: u64) {
        self.started = now;
        while batch.has_room_for_chunk(LONGEST_HEADER)
            && let Some(Queued { chunk, releases, left }) = self.queue.pop_front()
        {
            if let Payload::Mapped(mapped) = &chunk.payload {
                self.mapped_sending += mapped.length();
            }
            batch.push_chunk(chunk.header.as_bytes(), chunk.payload, left);
            sending.push(releases);
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(KEPT_CHUNKS);
        }
        assert!(!batch.is_empty(), "one chunk always fits into an empty batch");
        assert!(self.sending.replace(sending).is_none(), "one send at a time");
    }

    /// The send in flight has ended, and so many bytes have left: what is released. The rest is queued again, and the batch is empty.
    pub(super) fn sent(&mut self, batch: &mut SendBatch, bytes: usize) -> Sending {
        let mut sending = self.sending.take().expect("a send was in flight");
        self.mapped -= std::mem::take(&mut self.mapped_sending);
        if bytes == batch.length() && batch.is_whole() {
            batch.clear();
            self.held -= held_by(sending.iter().flatten());
            return sending;
        }
        let mut unsent = Vec::new();
        let complete = batch.take_unsent(bytes, |header, payload, left| {
            let header = HeaderBytes::from_bytes(header);
            unsent.push((ReplyChunk { header, payload }, left));
        });
        for ((chunk, left), releases) in unsent.into_iter().zip(sending.drain(complete..)).rev() {
            if let Payload::Mapped(mapped) = &chunk.payload {
                self.mapped += mapped.length();
            }
            self.queue.push_front(Queued { chunk, releases, left });
        }
        self.held -= held_by(sending.iter().flatten());
        sending
    }

    /// Forgets what is queued: the client is gone.
    pub(super) fn abandon(&mut self) -> Vec<Release> {
        self.mapped = self.mapped_sending;
        let releases: Vec<Release> = self.queue.drain(..).filter_map(|queued| queued.releases).collect();
        self.held -= held_by(&releases);
        releases
    }
}

/// Bytes of leases in all.
fn held_by<'a>(releases: impl IntoIterator<Item = &'a Release>) -> u64 {
    releases.into_iter().map(|release| u64::from(release.held)).sum()
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

    const RELEASE: Release = Release { held: 4096, timing: None };

    #[test]
    fn a_batch_takes_what_fits_and_releases_it_when_sent() {
        let mut outbound = Outbound::default();
        (0..5).for_each(|_| outbound.push(reply(512), RELEASE));
        let mut batch = SendBatch::with_capacity(7, 1024);
        outbound.fill(&mut batch, Vec::new(), 0);
        assert_eq!(batch.length(), 3 * 528, "three replies of two pieces each");
        assert!(!outbound.wants_to_send());
        assert_eq!(outbound.sent(&mut batch, 3 * 528), [Some(RELEASE); 3]);
        assert_eq!(outbound.abandon(), [RELEASE; 2]);
        assert!(outbound.is_empty());
    }

    #[test]
    fn a_short_send_is_gone_on_with_where_it_stopped() {
        let mut outbound = Outbound::default();
        (0..5).for_each(|_| outbound.push(reply(512), RELEASE));
        let mut batch = SendBatch::with_capacity(100, 1024);
        let mut left = 5 * 528;
        // Within a payload, at an edge, nothing, within a header, a header's end.
        for (sent, released) in [(700, 1), (356, 1), (0, 0), (5, 0), (11, 0), (1040, 2), (528, 1)] {
            outbound.fill(&mut batch, Vec::new(), 0);
            assert_eq!(batch.length(), left);
            assert_eq!(outbound.sent(&mut batch, sent), vec![Some(RELEASE); released]);
            left -= sent;
        }
        assert!(left == 0 && outbound.is_empty());
    }

    #[test]
    fn a_reply_that_is_held_back_keeps_its_request() {
        let mut outbound = Outbound::default();
        outbound.hold_back(reply(512), RELEASE);
        assert!(outbound.holds_back() && !outbound.wants_to_send());
        outbound.let_go();
        assert!(!outbound.holds_back() && outbound.wants_to_send());
        assert_eq!(outbound.abandon(), [RELEASE]);
    }
}
