//! Replies on their way out: a queue of chunks, and one vectored send in flight.
//!
//! Chunks leave in the order in which they were pushed, each header directly before its payload, so a reply
//! is never torn by another.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backend::Standing;
use crate::nbd::server::reply::{HeaderBytes, LONGEST_HEADER};
use crate::ring::{MappedRange, OpKey, Payload, SendBatch, SendMode, SharedLease, Unsent};
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::reply::{Reply, ReplyChunk};
use crate::shard::request::table::RequestId;

/// A queued chunk, and the request that its leaving ends: it is the last one of a reply.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) chunk: ReplyChunk,
    /// The request, or [`MORE_FOLLOWS`].
    ends: u32,
    /// Bytes of header and payload that have left; of the first chunk only.
    pub(crate) left: u32,
    /// It could not leave in the turn in which it was queued.
    waits: bool,
    /// When it was queued or last tried, in nanoseconds of the shard's clock. Only for a mapped payload.
    since: u64,
}

/// Instead of the request that a chunk ends: others of its reply come behind it.
const MORE_FOLLOWS: u32 = u32::MAX;

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) queue: VecDeque<Queued>,
    /// The send that starts at the end of this turn. Replies with data go there and need no queue, as long as
    /// nothing must come before them.
    open: Option<Box<SendBatch>>,
    /// Chunks of the last send: as many as the next one is likely to have.
    usual_chunks: usize,
    /// A refusal whose request is still coming in.
    held_back: Option<(Reply, RequestId)>,
    /// Bytes of mapped files in the queue, in `open` and in the send in flight.
    mapped: u64,
    /// Those in `open`, or in the send in flight: there is only one of both.
    mapped_sending: u64,
    /// When the last send started, in nanoseconds of the shard's clock.
    pub(crate) started: u64,
    /// A send is in flight.
    pub(crate) sending: bool,
    /// That send, when it ends only when everything has left.
    pub(crate) whole: Option<OpKey>,
    /// The last send was slow.
    pub(crate) is_slow: bool,
    /// Bytes that the socket is likely to take at once. More of mapped files need not be asked about before a
    /// send.
    room: u64,
    /// It is on the list of those that are looked at.
    pub(crate) is_watched: bool,
    /// Operations in flight that must end before the next send starts.
    pub(crate) pausing: u8,
    /// The last send filled the socket, and did not wait for room.
    full: bool,
    /// It ended within a payload, of which nothing is copied yet, should it be mapped.
    pub(crate) uncopied: bool,
    /// READs whose reply was to be sent from the page cache and cannot be: they are to be read in the usual
    /// way.
    lost: VecDeque<RequestId>,
    /// How the first chunk is sent that has left in part.
    torn: Torn,
}

/// What is done about the rest of a mapped chunk of which a part has left. No other reply can take its place
/// any more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Torn {
    /// It is sent when its pages are there.
    #[default]
    Usual,
    /// Its pages could not be read: they are brought in first.
    Populate,
    /// They were brought in: it is sent alone, so that a further failure is its own.
    Alone,
}

/// What a connection does next to send.
#[derive(Debug)]
pub(crate) enum Next {
    /// Starts a send of the batch.
    Send(SendMode),
    /// Waits until the socket takes some bytes.
    AwaitRoom,
    /// Brings pages in first.
    Populate(MappedRange),
    /// Nothing: what was queued is to be read in the usual way.
    Nothing,
    /// It cannot go on within a reply.
    Broken,
}

/// Bytes of mapped files that a connection may have outbound. What was looked up must be true when it leaves,
/// so it must leave soon.
const MOST_MAPPED: u64 = 4 << 20;
/// A client that takes longer than this for one send, in nanoseconds: what it asks for waits in memory of
/// ours.
const LATE: u64 = 50_000_000;

/// A client that takes longer for a send is slow.
pub(crate) const PROMPT: Duration = Duration::from_millis(10);
/// What any socket takes at once when it is empty.
const LEAST_ROOM: u64 = 64 << 10;

/// A queue that is empty keeps room for so many chunks: most connections never need more.
const KEPT_CHUNKS: usize = 256;

impl Default for Outbound {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            open: None,
            usual_chunks: 0,
            held_back: None,
            mapped: 0,
            mapped_sending: 0,
            started: 0,
            sending: false,
            whole: None,
            is_slow: false,
            room: SendBatch::MOST_BYTES as u64,
            is_watched: false,
            pausing: 0,
            full: false,
            uncopied: false,
            lost: VecDeque::new(),
            torn: Torn::Usual,
        }
    }
}

impl Outbound {
    /// Appends a reply of one chunk; when its data are those of a mapped file, they were seen in the page
    /// cache at `now`, the moment of this turn.
    #[inline]
    pub(crate) fn push_one(
        &mut self,
        header: HeaderBytes,
        payload: Payload,
        request: RequestId,
        now: u64,
        batches: &mut Batches,
    ) {
        let mapped = if let Payload::Mapped(mapped) = &payload { mapped.length() } else { 0 };
        self.mapped += mapped;
        let waits = self.is_sending();
        let Some(batch) = self.open(batches) else {
            let chunk = ReplyChunk { header, payload };
            return self.queue.push_back(Queued { chunk, ends: request.0, left: 0, waits, since: now });
        };
        let (header, length) = header.padded();
        batch.push_fixed(header, length, payload, request.0);
        self.mapped_sending += mapped;
    }

    /// The batch of the send that starts at the end of this turn, with room for another chunk, if that can be
    /// the next one.
    #[inline(always)]
    fn open(&mut self, batches: &mut Batches) -> Option<&mut Box<SendBatch>> {
        match &mut self.open {
            Some(batch) => {
                let has_room = batch.has_room_for_chunk(LONGEST_HEADER) || batches.grow(batch);
                (has_room && self.queue.is_empty()).then_some(batch)
            }
            none => {
                let is_held_up = self.sending || self.pausing > 0 || self.full;
                if is_held_up || self.torn != Torn::Usual || !self.queue.is_empty() {
                    return None;
                }
                Some(none.insert(batches.take(self.usual_chunks)))
            }
        }
    }

    /// The batch of the next send, empty or begun.
    pub(crate) fn take_batch(&mut self, batches: &mut Batches) -> Box<SendBatch> {
        self.open.take().unwrap_or_else(|| batches.take(self.queue.len()))
    }

    /// Appends a part of a reply that was sealed, and the request that it ends.
    #[cfg(feature = "tls")]
    pub(crate) fn push_part(&mut self, chunk: ReplyChunk, ends: Option<RequestId>, batches: &mut Batches) {
        let Some(batch) = self.open(batches) else { return self.push_later(chunk, ends) };
        let (header, length) = chunk.header.padded();
        batch.push_fixed(header, length, chunk.payload, ends.map_or(MORE_FOLLOWS, |id| id.0));
    }

    /// The same behind all that is queued.
    #[cfg(feature = "tls")]
    pub(crate) fn push_later(&mut self, chunk: ReplyChunk, ends: Option<RequestId>) {
        let ends = ends.map_or(MORE_FOLLOWS, |request| request.0);
        self.queue.push_back(Queued { chunk, ends, left: 0, waits: false, since: 0 });
    }

    /// Appends the reply to a request.
    pub(crate) fn push(&mut self, reply: Reply, request: RequestId) {
        match reply {
            Reply::One(chunk) => {
                self.queue.push_back(Queued { chunk, ends: request.0, left: 0, waits: false, since: 0 });
            }
            Reply::Many(mut chunks) => {
                if canary!(ChunksSwapped) {
                    chunks.reverse();
                }
                let last = chunks.len() - 1;
                for (index, chunk) in chunks.into_iter().enumerate() {
                    let ends = if index == last { request.0 } else { MORE_FOLLOWS };
                    self.queue.push_back(Queued { chunk, ends, left: 0, waits: false, since: 0 });
                }
            }
        }
    }

    /// Keeps a reply until [`Outbound::take_held_back`]: while a client still sends the payload of a request
    /// it does not look for the answer; libnbd then loses its place in the stream.
    pub(crate) fn hold_back(&mut self, reply: Reply, request: RequestId) {
        assert!(self.held_back.is_none(), "one request comes in at a time");
        self.held_back = Some((reply, request));
    }

    /// The reply that was held back, if there is one.
    pub(crate) fn take_held_back(&mut self) -> Option<(Reply, RequestId)> {
        self.held_back.take()
    }

    /// Forgets the reply that is held back, if there is one: the request that it would have ended.
    pub(crate) fn forget_held_back(&mut self) -> Option<RequestId> {
        self.held_back.take().map(|(_reply, request)| request)
    }

    /// Whether a reply is held back.
    pub(crate) fn holds_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Whether so many bytes of a mapped file can be queued: they will leave soon.
    pub(crate) fn has_room_for_mapped(&self, length: u64, now: u64) -> bool {
        let is_slow = self.is_sending() && now - self.started > LATE;
        !is_slow && self.mapped + length <= MOST_MAPPED
    }

    /// Whether a send could start.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.is_sending() && (self.open.is_some() || !self.queue.is_empty())
    }

    /// A send is in flight, or the next one waits for something.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending || self.pausing > 0
    }

    /// The next send waits for one more operation.
    pub(crate) fn pause(&mut self) {
        assert!(!self.sending && self.pausing < 2, "room is waited for, and beside it a copy");
        self.pausing += 1;
    }

    /// That operation has ended.
    pub(crate) fn go_on(&mut self) {
        self.pausing = self.pausing.checked_sub(1).expect("it was waited for");
    }

    /// The payload of the first chunk was copied into a lease: the request that holds it from now on, unless
    /// nothing is queued any more.
    pub(crate) fn copied(&mut self, copy: SharedLease) -> Option<RequestId> {
        let Queued { chunk, ends, .. } = self.queue.front_mut()?;
        let length = chunk.payload.length() as u32;
        self.mapped -= u64::from(length);
        chunk.payload = Payload::Leased { lease: copy, start: 0, length };
        Some(RequestId(*ends))
    }

    /// The pages of the first chunk were brought in.
    pub(crate) fn populated(&mut self) {
        if !self.queue.is_empty() {
            self.torn = Torn::Alone;
        }
    }

    /// A READ that must be read in the usual way, if there is one.
    pub(crate) fn lost(&self) -> Option<RequestId> {
        self.lost.front().copied()
    }

    /// It is being read.
    pub(crate) fn found(&mut self) {
        self.lost.pop_front().expect("there was one");
    }

    /// Nothing queued, nothing in flight.
    pub(crate) fn is_empty(&self) -> bool {
        !self.sending && self.open.is_none() && self.queue.is_empty() && self.lost.is_empty()
    }

    /// How the next send of memory of ours ends.
    fn usual_mode(&self) -> SendMode {
        if self.is_slow { SendMode::Some } else { SendMode::Whole }
    }

    /// Moves as many chunks of the queue into `batch` as fit, behind those that are there.
    ///
    /// `now` is the moment of the turn, in nanoseconds of the shard's clock; `standing` tells what has become
    /// of mapped ranges that have waited, which may have been longer than a moment.
    pub(crate) fn fill(
        &mut self,
        batch: &mut SendBatch,
        now: u64,
        mut standing: impl FnMut(&MappedRange, bool) -> Standing,
    ) -> Next {
        let mut next = if batch.is_empty() {
            if std::mem::take(&mut self.full) {
                return Next::AwaitRoom;
            }
            Next::Nothing
        } else {
            Next::Send(if self.mapped_sending > 0 { SendMode::Now } else { self.usual_mode() })
        };
        self.uncopied = false;
        self.started = now;
        while batch.has_room_for_chunk(LONGEST_HEADER)
            && let Some(mut front) = self.queue.pop_front()
        {
            if let Payload::Mapped(mapped) = &front.chunk.payload {
                if self.mapped_sending >= self.room {
                    self.queue.push_front(front);
                    break;
                }
                let is_torn = front.left > 0;
                let found = match self.torn {
                    Torn::Populate if is_torn => Standing::Gone,
                    // They were there, so it is tried; only the size is asked for again.
                    Torn::Alone if is_torn && standing(mapped, true) != Standing::Cut => Standing::There,
                    _ if !front.waits && front.since == now => Standing::There,
                    _ => standing(mapped, now >= front.since + PROMPT.as_nanos() as u64),
                };
                if found != Standing::There {
                    if !is_torn {
                        self.mapped -= mapped.length();
                        self.lost.push_back(RequestId(front.ends));
                        continue;
                    }
                    let is_cut = found == Standing::Cut;
                    next = if is_cut { Next::Broken } else { Next::Populate(mapped.clone()) };
                    self.queue.push_front(front);
                    break;
                }
                (front.waits, front.since) = (true, now);
                self.mapped_sending += mapped.length();
                next = Next::Send(SendMode::Now);
            } else if matches!(next, Next::Nothing) {
                next = Next::Send(self.usual_mode());
            }
            batch.push_chunk(front.chunk.header.as_bytes(), front.chunk.payload, front.left, front.ends);
            if self.torn == Torn::Alone {
                break;
            }
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(KEPT_CHUNKS);
        }
        self.usual_chunks = batch.chunks();
        if !batch.is_empty() {
            assert!(!std::mem::replace(&mut self.sending, true), "one send at a time");
        }
        next
    }

    /// The send in flight has ended: tells the requests whose replies are out; whether the connection can go
    /// on. What did not leave is queued again, and the batch is empty.
    pub(crate) fn sent(
        &mut self,
        batch: &mut SendBatch,
        result: Result<u32, i32>,
        now: u64,
        ended: &mut Vec<RequestId>,
    ) -> bool {
        assert!(std::mem::take(&mut self.sending), "a send was in flight");
        self.whole = None;
        self.is_slow = now >= self.started + PROMPT.as_nanos() as u64;
        self.mapped -= std::mem::take(&mut self.mapped_sending);
        let (bytes, whole) = (result.unwrap_or(0) as usize, batch.length());
        let faulted = result == Err(libc::EFAULT);
        let goes_on = match result {
            Ok(sent) => sent > 0,
            Err(libc::EFAULT) => self.torn != Torn::Alone && !canary!(FaultIsTheEnd),
            Err(errno) => matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED),
        };
        if bytes > 0 {
            self.torn = Torn::Usual;
        }
        self.full = bytes < whole && !faulted;
        self.room = match self.full {
            true => (bytes as u64).max(LEAST_ROOM),
            false => (2 * self.room).min(SendBatch::MOST_BYTES as u64),
        };
        self.uncopied = self.full;
        let mut unsent = Vec::new();
        let complete = |tag| ended.extend(request(tag));
        batch.take_sent(bytes, complete, |Unsent { header, payload, left, tag }| {
            let chunk = ReplyChunk { header: HeaderBytes::from_bytes(header), payload };
            unsent.push(Queued { chunk, ends: tag, left, waits: true, since: self.started });
        });
        for queued in unsent.into_iter().rev() {
            if let Payload::Mapped(mapped) = &queued.chunk.payload {
                if faulted && queued.left == 0 {
                    // One of those in the send could not be read; which one shows when each is read for
                    // itself.
                    self.lost.push_back(RequestId(queued.ends));
                    continue;
                }
                if faulted {
                    self.torn = Torn::Populate;
                }
                self.mapped += mapped.length();
            }
            self.queue.push_front(queued);
        }
        goes_on
    }

    /// Forgets what is queued, since the client is gone: the requests that it would have ended.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        let mut ended = Vec::new();
        if let Some(mut batch) = self.open.take() {
            batch.take_sent(0, |_tag| (), |unsent| ended.extend(request(unsent.tag)));
            self.mapped_sending = 0;
        }
        self.mapped = self.mapped_sending;
        self.torn = Torn::Usual;
        ended.extend(self.queue.drain(..).filter_map(|queued| request(queued.ends)));
        ended.extend(self.lost.drain(..));
        ended
    }
}

/// The request that a chunk ends, if it is the last one of its reply.
fn request(ends: u32) -> Option<RequestId> {
    (ends != MORE_FOLLOWS).then_some(RequestId(ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::server::reply::ReplyTo;
    use crate::nbd::server::request::Cookie;
    use crate::nbd::session::ReplyMode;

    const REQUEST: RequestId = RequestId(5);

    fn reply(length: u32) -> Reply {
        let to = ReplyTo { mode: ReplyMode::Simple, cookie: Cookie(1), offset: 0, chunked: true };
        Reply::One(ReplyChunk { header: to.data(0, length, true), payload: Payload::Zeroes(length) })
    }

    /// What the next send is; waits for room are over at once.
    fn fill(outbound: &mut Outbound, batch: &mut SendBatch) -> Next {
        let everything_is_there = |_: &MappedRange, _| Standing::There;
        match outbound.fill(batch, 0, everything_is_there) {
            Next::AwaitRoom => outbound.fill(batch, 0, everything_is_there),
            next => next,
        }
    }

    /// How many requests have ended with a send that went well enough.
    fn sent(outbound: &mut Outbound, batch: &mut SendBatch, result: Result<u32, i32>) -> usize {
        let mut ended = Vec::new();
        assert!(outbound.sent(batch, result, 0, &mut ended));
        ended.iter().for_each(|request| assert_eq!(*request, REQUEST));
        ended.len()
    }

    #[test]
    fn a_batch_takes_what_fits_and_releases_it_when_sent() {
        let mut outbound = Outbound::default();
        (0..5).for_each(|_| outbound.push(reply(512), REQUEST));
        let mut batch = SendBatch::with_capacity(7, 1024);
        fill(&mut outbound, &mut batch);
        assert_eq!(batch.length(), 3 * 528, "three replies of two pieces each");
        assert!(!outbound.wants_to_send());
        assert_eq!(sent(&mut outbound, &mut batch, Ok(3 * 528)), 3);
        assert_eq!(outbound.abandon(), [REQUEST; 2]);
        assert!(outbound.is_empty());
    }

    #[test]
    fn what_can_leave_at_once_needs_no_queue_and_what_cannot_comes_behind_it() {
        let mut batches = Batches::new(1024);
        let to = ReplyTo { mode: ReplyMode::Simple, cookie: Cookie(1), offset: 0, chunked: true };
        let mut outbound = Outbound::default();
        let mut one = |outbound: &mut Outbound, request| {
            outbound.push_one(
                to.data(0, 512, true),
                Payload::Zeroes(512),
                RequestId(request),
                7,
                &mut batches,
            );
        };
        // More than a small batch has room for.
        (0..20).for_each(|request| one(&mut outbound, request));
        assert!(outbound.queue.is_empty() && outbound.wants_to_send());
        outbound.push(reply(512), RequestId(20));
        one(&mut outbound, 21);
        assert_eq!(outbound.queue.len(), 2, "the order is kept");
        let mut batch = outbound.open.take().unwrap();
        fill(&mut outbound, &mut batch);
        one(&mut outbound, 22);
        assert!(outbound.open.is_none() && outbound.queue.len() == 1, "a send is in flight");
        let mut ended = Vec::new();
        assert!(outbound.sent(&mut batch, Ok(22 * 528), 0, &mut ended));
        assert_eq!(ended, (0..22).map(RequestId).collect::<Vec<_>>());
        assert_eq!(outbound.abandon(), [RequestId(22)]);
        one(&mut outbound, 23);
        assert_eq!(outbound.abandon(), [RequestId(23)], "of the batch, too");
        assert!(outbound.is_empty());
    }

    #[test]
    fn a_short_send_is_gone_on_with_where_it_stopped() {
        let mut outbound = Outbound::default();
        (0..5).for_each(|_| outbound.push(reply(512), REQUEST));
        let mut batch = SendBatch::with_capacity(100, 1024);
        let mut left = 5 * 528;
        // Within a payload, at an edge, nothing, within a header, a header's end.
        for (bytes, ended) in [(700, 1), (356, 1), (0, 0), (5, 0), (11, 0), (1040, 2), (528, 1)] {
            fill(&mut outbound, &mut batch);
            assert_eq!(batch.length(), left);
            let result = if bytes == 0 { Err(libc::EINTR) } else { Ok(bytes as u32) };
            assert_eq!(sent(&mut outbound, &mut batch, result), ended);
            left -= bytes;
        }
        assert!(left == 0 && outbound.is_empty());
    }

    #[test]
    fn a_reply_that_is_held_back_keeps_its_request() {
        let mut outbound = Outbound::default();
        outbound.hold_back(reply(512), REQUEST);
        assert!(outbound.holds_back() && !outbound.wants_to_send());
        let (reply, request) = outbound.take_held_back().unwrap();
        outbound.push(reply, request);
        assert!(!outbound.holds_back() && outbound.wants_to_send());
        assert_eq!(outbound.abandon(), [REQUEST]);
    }
}
