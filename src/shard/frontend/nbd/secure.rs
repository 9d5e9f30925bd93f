//! A connection with TLS: a stage between what is received and what is parsed, and one between replies and
//! what is sent.
//!
//! ```text
//! receive buffer ─► Records: opened in place, one after the other ─► Inbound ─► … as without TLS
//!      └─ the front of a record ─► Partial, until its rest comes
//!
//! reply ─► SealedParts: sealed in the lease of its payload ─► Outbound ─► … as without TLS
//! ```
//!
//! A reply is a record of its header and records of its payload, which stay where they are. What stands
//! between two payloads is in the send's batch: the end of a record, a header, the beginning of the next
//! record. A record is numbered when it is sealed. So a reply is sealed when it is queued, and the queue
//! keeps the order. What was sent in part goes on as it is and is never sealed again. A mapped file cannot be
//! sealed where it is, so all data come by leases.
//!
//! A payload of one record is sealed later: with the header of the next reply in the same record, if that
//! comes in the same turn, and alone at the turn's end if it does not. So replies to small reads that leave
//! together are one record each, and one more, and nothing waits for a reply that is not there. Until then
//! the payload is the connection's [`Tail`], which comes behind all that is queued.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use crate::nbd::server::reply::{HeaderBytes, LONGEST_HEADER};
use crate::ring::{Lease, Payload, SharedLease};
use crate::shard::frontend::nbd::records::{NextRecord, Partial, Records};
use crate::shard::frontend::nbd::reply::{Reply, ReplyChunk};
use crate::shard::request::table::RequestId;
use crate::tls::{
    Alert, RECORD_DATA_BYTES, RECORD_FRONT_BYTES, RECORD_MORE_BYTES, RECORD_TRAILER_BYTES, RecordError,
    TlsSession, TlsVersion,
};

/// A connection with TLS after its handshake.
#[derive(Debug)]
pub struct Secured {
    /// Its keys.
    pub session: TlsSession,
    /// Bytes that came with the handshake and are not opened.
    pub received: Vec<u8>,
}

/// What another process needs of a connection with TLS, beside what it needs of any.
#[derive(Debug)]
pub(crate) struct LeavingSecure {
    /// Its keys, and who the client is; see [`TlsSession::to_state`].
    pub(crate) keys: zeroize::Zeroizing<Vec<u8>>,
    /// Bytes that are not opened.
    pub(crate) received: Vec<u8>,
}

/// What a shard has of a connection with TLS.
#[derive(Debug)]
pub(crate) struct Secure {
    session: TlsSession,
    /// What came with the handshake.
    first: Vec<u8>,
    partial: Partial,
    /// What the client is told at the end; nothing once it was told, or if it gave up by itself.
    farewell: Option<Alert>,
    /// What goes before the next payload; kept for its memory.
    pending: Vec<u8>,
    /// Ends of records that are sealed and not queued; kept for its memory.
    edges: Vec<u8>,
    /// Renewals of our key that were counted.
    counted: u64,
    tail: Option<Tail>,
}

/// The last payload, which is not sealed, and the request that it ends. Something of its reply is queued.
#[derive(Debug)]
struct Tail {
    lease: Lease,
    range: Range<usize>,
    ends: Option<RequestId>,
}

/// Bytes around a record's data at most.
const EDGE_BYTES: usize = RECORD_FRONT_BYTES + RECORD_TRAILER_BYTES;

/// A part of a sealed reply, and the request that it ends. What ends a record may come behind that part.
pub(crate) type PutPart<'a> = &'a mut dyn FnMut(ReplyChunk, Option<RequestId>);

impl Secure {
    /// `held`: bytes of partial records on the whole shard.
    pub(crate) fn new(secured: Secured, held: &Rc<Cell<usize>>) -> Self {
        let Secured { session, received } = secured;
        let farewell = Some(Alert::CLOSE_NOTIFY);
        let partial = Partial::new(held);
        let (pending, edges) = (Vec::new(), Vec::new());
        Self { session, first: received, partial, farewell, pending, edges, counted: 0, tail: None }
    }

    /// What came with the handshake, once.
    pub(crate) fn take_first(&mut self) -> Option<Records> {
        let first = std::mem::take(&mut self.first);
        (!first.is_empty()).then(|| Records::bytes(first))
    }

    pub(crate) fn open_next(&mut self, records: &mut Records, now: u64) -> Result<NextRecord, RecordError> {
        records.open_next(&mut self.session, &mut self.partial, now)
    }

    /// What another process needs to go on; `behind`: what came last and is not opened. `None` when it cannot
    /// go on from here.
    pub(crate) fn leaving(&self, behind: &[u8]) -> Option<LeavingSecure> {
        let is_at_end = self.farewell != Some(Alert::CLOSE_NOTIFY) || !self.pending.is_empty();
        let keys = self.session.to_state().filter(|_| !is_at_end)?;
        Some(LeavingSecure { keys, received: [&self.first, self.partial.bytes(), behind].concat() })
    }

    /// Whether nothing of a record has come.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.first.is_empty() && self.partial.since().is_none()
    }

    /// Since when it keeps the front of a record.
    pub(crate) fn partial_since(&self) -> Option<u64> {
        self.partial.since()
    }

    /// No more records will be opened.
    pub(crate) fn forget_received(&mut self) {
        self.partial.forget();
        self.first = Vec::new();
    }

    /// The client is told this at the end, and not that all is well.
    pub(crate) fn set_farewell(&mut self, alert: Option<Alert>) {
        self.farewell = alert;
    }

    /// Bytes around a record's data: before, and in all.
    fn edge(&self) -> (usize, usize) {
        let sealer = &self.session.sealer;
        (sealer.front_bytes(), sealer.front_bytes() + sealer.trailer_bytes())
    }

    pub(crate) fn version(&self) -> TlsVersion {
        self.session.version
    }

    /// How often the client has renewed its key.
    pub(crate) fn key_updates_by_client(&self) -> u64 {
        self.session.receiver.key_updates()
    }

    /// How often our key was renewed since this was asked last.
    pub(crate) fn take_key_updates(&mut self) -> u64 {
        let updates = self.session.sealer.key_updates();
        updates - std::mem::replace(&mut self.counted, updates)
    }

    /// Seals what the client is told at the end, unless it was told.
    pub(crate) fn say_farewell(&mut self, put: PutPart<'_>) {
        if let Some(alert) = self.farewell.take()
            && !canary!(FarewellForgotten)
        {
            self.session.sealer.alert(alert, &mut self.pending);
            self.put_pending(Payload::Nothing, None, put);
        }
    }

    /// Seals the tail, if there is one, with these bytes in its record; what ends the record is pending then.
    fn end_tail(&mut self, more: &[u8], put: PutPart<'_>) {
        let Some(Tail { mut lease, range, ends }) = self.tail.take() else { return };
        self.session.renew_if_due(&mut self.pending);
        let (front_bytes, edge_bytes) = self.edge();
        let mut edge = [0; EDGE_BYTES + RECORD_MORE_BYTES];
        let (front, trailer) = edge[..edge_bytes + more.len()].split_at_mut(front_bytes);
        self.session.sealer.seal_with(front, lease.bytes_mut(range.clone()), more, trailer);
        self.pending.extend_from_slice(front);
        let (start, length) = (range.start as u32, range.len() as u32);
        self.put_pending(Payload::Leased { lease: lease.freeze(), start, length }, ends, put);
        self.pending.extend_from_slice(trailer);
    }

    /// Seals a header: in the record of the tail, or in one of its own.
    fn seal_header(&mut self, header: &[u8], put: PutPart<'_>) {
        let has_room = |tail: &Tail| tail.range.len() + header.len() <= RECORD_DATA_BYTES;
        if header.len() <= RECORD_MORE_BYTES && self.tail.as_ref().is_some_and(has_room) {
            return self.end_tail(header, put);
        }
        self.end_tail(&[], put);
        self.session.append(header, &mut self.pending);
    }

    /// The turn ends: no more comes into the record of the tail.
    pub(crate) fn seal_tail(&mut self, put: PutPart<'_>) {
        if self.tail.is_some() {
            self.end_tail(&[], put);
            self.put_pending(Payload::Nothing, None, put);
        }
    }

    /// Forgets the tail, which will not leave: the request that it would have ended.
    pub(crate) fn forget_tail(&mut self) -> Option<RequestId> {
        self.tail.take()?.ends
    }

    /// Seals a reply to a request.
    pub(crate) fn seal_reply(&mut self, reply: Reply, request: RequestId, put: PutPart<'_>) {
        match reply {
            Reply::One(chunk) => self.seal_chunk(chunk.header.as_bytes(), chunk.payload, Some(request), put),
            Reply::Many(chunks) => match United::new(chunks) {
                Ok(united) => self.seal_united(united, request, put),
                Err(chunks) => {
                    let last = chunks.len() - 1;
                    for (index, ReplyChunk { header, payload }) in chunks.into_iter().enumerate() {
                        let ends = (index == last).then_some(request);
                        self.seal_chunk(header.as_bytes(), payload, ends, put);
                    }
                }
            },
        }
    }

    /// Seals a reply of one chunk, or a chunk of one; but for a payload that becomes the tail.
    pub(crate) fn seal_chunk(
        &mut self,
        header: &[u8],
        payload: Payload,
        ends: Option<RequestId>,
        put: PutPart<'_>,
    ) {
        let is_late = canary!(RecordsReordered) && matches!(payload, Payload::Leased { .. });
        if is_late {
            self.end_tail(&[], put);
        } else {
            self.seal_header(header, put);
        }
        match payload {
            Payload::Nothing => self.put_pending(Payload::Nothing, ends, put),
            Payload::Leased { lease, start, length } => {
                let range = start as usize..(start + length) as usize;
                match lease.into_exclusive() {
                    Ok(lease) if canary!(PayloadUnsealed) => {
                        let payload = Payload::Leased { lease: lease.freeze(), start, length };
                        self.put_pending(payload, ends, put);
                    }
                    Ok(lease) if (1..=RECORD_DATA_BYTES).contains(&range.len()) && !is_late => {
                        self.put_pending(Payload::Nothing, None, put);
                        self.tail = Some(Tail { lease, range, ends });
                    }
                    Ok(mut lease) => {
                        self.edges.clear();
                        seal_in_place(&mut self.session, &mut lease, range.clone(), &mut self.edges);
                        if is_late {
                            self.session.append(header, &mut self.pending);
                        }
                        self.put_leased(&lease.freeze(), range, put);
                        self.put_pending(Payload::Nothing, ends, put);
                    }
                    Err(shared) => self.copy(shared.bytes(range), ends, put),
                }
            }
            Payload::Text(text) => self.copy(&text, ends, put),
            Payload::Zeroes(length) => self.copy(&vec![0; length as usize], ends, put),
            Payload::Mapped(_) => unreachable!("a connection with TLS reads into leases"),
        }
    }

    /// Seals a copy of bytes that cannot be sealed where they are: texts, and what others hold as well.
    fn copy(&mut self, bytes: &[u8], ends: Option<RequestId>, put: PutPart<'_>) {
        if bytes.is_empty() {
            return self.put_pending(Payload::Nothing, ends, put);
        }
        let mut pieces = bytes.chunks(RECORD_DATA_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let mut record = Vec::with_capacity(piece.len() + EDGE_BYTES);
            self.session.append(piece, &mut record);
            self.put_pending(Payload::Text(record), ends.filter(|_| pieces.peek().is_none()), put);
        }
    }

    /// Seals a reply whose payloads lie in one lease.
    fn seal_united(&mut self, united: United, request: RequestId, put: PutPart<'_>) {
        self.end_tail(&[], put);
        let United { mut lease, chunks } = united;
        let mut sealed = Vec::with_capacity(chunks.len());
        self.edges.clear();
        // A header's record comes before those of its payload, and all before the lease is shared again.
        for (header, range) in chunks {
            let before = self.pending.len();
            self.session.append(header.as_bytes(), &mut self.pending);
            let front = self.pending.split_off(before);
            let edges = self.edges.len();
            if let Some(range) = range.clone() {
                seal_in_place(&mut self.session, &mut lease, range, &mut self.edges);
            }
            sealed.push((front, range, edges));
        }
        let lease = lease.freeze();
        let all_edges = std::mem::take(&mut self.edges);
        let last = sealed.len() - 1;
        for (index, (front, range, edges)) in sealed.into_iter().enumerate() {
            self.pending.extend_from_slice(&front);
            if let Some(range) = range {
                self.edges.clear();
                let length = range.len().div_ceil(RECORD_DATA_BYTES) * self.edge().1;
                self.edges.extend_from_slice(&all_edges[edges..edges + length]);
                self.put_leased(&lease, range, put);
            }
            self.put_pending(Payload::Nothing, (index == last).then_some(request), put);
        }
    }

    /// Queues records that were sealed in a lease, all but the end of the last one.
    fn put_leased(&mut self, lease: &SharedLease, range: Range<usize>, put: PutPart<'_>) {
        let (front_bytes, edge_bytes) = self.edge();
        let edges = std::mem::take(&mut self.edges);
        let starts = range.clone().step_by(RECORD_DATA_BYTES);
        for (start, edge) in starts.zip(edges.chunks_exact(edge_bytes)) {
            let length = RECORD_DATA_BYTES.min(range.end - start) as u32;
            let (front, trailer) = edge.split_at(front_bytes);
            self.pending.extend_from_slice(front);
            let payload = Payload::Leased { lease: lease.clone(), start: start as u32, length };
            self.put_pending(payload, None, put);
            self.pending.extend_from_slice(trailer);
        }
        self.edges = edges;
    }

    /// Queues what is pending, and a payload behind it, and the request that this ends. There is something to
    /// queue.
    fn put_pending(&mut self, payload: Payload, ends: Option<RequestId>, put: PutPart<'_>) {
        let mut payload = Some(payload);
        let mut pieces = self.pending.chunks(LONGEST_HEADER).peekable();
        if pieces.peek().is_none() {
            let chunk =
                ReplyChunk { header: HeaderBytes::from_bytes(&[]), payload: payload.take().expect("once") };
            assert!(chunk.payload.length() > 0, "a part of a reply is never empty");
            return put(chunk, ends);
        }
        while let Some(piece) = pieces.next() {
            let is_end = pieces.peek().is_none();
            let payload = if is_end { payload.take() } else { None };
            let header = HeaderBytes::from_bytes(piece);
            put(ReplyChunk { header, payload: payload.unwrap_or(Payload::Nothing) }, ends.filter(|_| is_end));
        }
        self.pending.clear();
    }
}

/// Seals a range in records; for each of them what is before and behind its data is appended to `edges`.
fn seal_in_place(session: &mut TlsSession, lease: &mut Lease, range: Range<usize>, edges: &mut Vec<u8>) {
    let (front_bytes, trailer_bytes) = (session.sealer.front_bytes(), session.sealer.trailer_bytes());
    for data in lease.bytes_mut(range).chunks_mut(RECORD_DATA_BYTES) {
        let start = edges.len();
        edges.resize(start + front_bytes + trailer_bytes, 0);
        let (front, trailer) = edges[start..].split_at_mut(front_bytes);
        session.sealer.seal(front, data, trailer);
    }
}

/// A reply of several chunks whose payloads are all of one lease.
struct United {
    lease: Lease,
    /// Headers, and where their payloads lie.
    chunks: Vec<(HeaderBytes, Option<Range<usize>>)>,
}

impl United {
    /// Gives the chunks back if their payloads are of different leases, or there are none.
    fn new(chunks: Vec<ReplyChunk>) -> Result<Self, Vec<ReplyChunk>> {
        let is_leased = |chunk: &ReplyChunk| matches!(chunk.payload, Payload::Leased { .. });
        let is_other =
            |chunk: &ReplyChunk| !matches!(chunk.payload, Payload::Leased { .. } | Payload::Nothing);
        if chunks.iter().any(is_other) || !chunks.iter().any(is_leased) {
            return Err(chunks);
        }
        let (mut parts, mut places) = (Vec::with_capacity(chunks.len()), Vec::with_capacity(chunks.len()));
        for ReplyChunk { header, payload } in chunks {
            match payload {
                Payload::Leased { lease, start, length } => {
                    parts.push(lease);
                    places.push((header, Some((start as usize, length as usize))));
                }
                _ => places.push((header, None)),
            }
        }
        match SharedLease::unite(parts) {
            Ok((lease, starts)) => {
                let mut starts = starts.into_iter();
                let chunks = places.into_iter().map(|(header, place)| {
                    let range = place.map(|(start, length)| {
                        let start = start + starts.next().expect("one for each part") as usize;
                        start..start + length
                    });
                    (header, range)
                });
                Ok(Self { lease, chunks: chunks.collect() })
            }
            Err(parts) => {
                let mut parts = parts.into_iter();
                let chunks = places.into_iter().map(|(header, place)| {
                    let payload = place.map_or(Payload::Nothing, |(start, length)| {
                        let lease = parts.next().expect("one for each place");
                        Payload::Leased { lease, start: start as u32, length: length as u32 }
                    });
                    ReplyChunk { header, payload }
                });
                Err(chunks.collect())
            }
        }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
