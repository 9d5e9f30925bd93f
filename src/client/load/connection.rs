//! One connection under load: its requests, its send in the making, its stream of replies.

use super::framing::{Framer, ReplyPiece};
use super::plan::{Area, LoadKind, Planned};
use super::records::{LoadRecords, RecordFault, RecordsEnd, room_for};
use super::slots::{RequestSlot, Slots};
use crate::nbd::client::replies::ReplyError;
use crate::nbd::client::request::ClientRequest;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::{NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_WRITE};
use crate::ring::{FileIndex, Received, SendBatch, SharedLease};

/// Pieces of one send that the kernel takes (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;
/// Bytes of the longest request header.
const HEADER: usize = 32;

/// A connection in the transmission phase.
#[derive(Debug)]
pub(super) struct LoadConnection {
    pub(super) socket: FileIndex,
    pub(super) slots: Slots,
    /// Successful operations.
    pub(super) completed: u64,
    /// Stands on the list of those that could start something.
    pub(super) is_listed: bool,
    mode: ReplyMode,
    framer: Framer,
    /// The connection is a secure one.
    records: Option<LoadRecords>,
    /// Bytes of headers that a request needs room for.
    longest: usize,
    /// The send in the making; `None` while it is in flight.
    batch: Option<Box<SendBatch>>,
    /// Requests in the batch whose start is the moment of sending.
    unsent: Vec<u64>,
    header: Vec<u8>,
}

/// Why the stream of a connection cannot be followed.
#[derive(Debug)]
pub(super) enum StreamError {
    Reply(ReplyError),
    Record(RecordFault),
    /// The server said that no more will come.
    Closed,
}

impl From<ReplyError> for StreamError {
    fn from(error: ReplyError) -> Self {
        Self::Reply(error)
    }
}

impl From<RecordFault> for StreamError {
    fn from(error: RecordFault) -> Self {
        Self::Record(error)
    }
}

/// What a connection tells of its stream; the cookie names the slot.
pub(super) trait Heed {
    /// Bytes of a READ.
    fn data(&mut self, slot: u32, start: u64, bytes: &[u8]);
    /// Zeroes of a READ.
    fn hole(&mut self, slot: u32, start: u64, length: u64);
    /// A request is over; its slot is free.
    fn done(&mut self, slot: u32, request: &RequestSlot);
}

impl LoadConnection {
    pub(super) fn new(
        socket: FileIndex,
        mode: ReplyMode,
        depth: usize,
        block_size: u32,
        records: Option<LoadRecords>,
    ) -> Self {
        // A write takes two pieces; reads share one.
        let pieces = (2 * depth + 1).min(MOST_PIECES);
        // What is to be encrypted is copied, so a batch of it has an end before the depth is reached.
        let longest = records.as_ref().map_or(HEADER, |_| room_for(HEADER + block_size as usize));
        let headers = match records {
            None => longest * (depth + 1),
            Some(_) => (longest * (depth + 1)).min(longest + SendBatch::MOST_BYTES),
        };
        Self {
            socket,
            slots: Slots::new(depth, block_size),
            completed: 0,
            is_listed: false,
            mode,
            framer: Framer::new(mode),
            records,
            longest,
            batch: Some(Box::new(SendBatch::with_capacity(pieces, headers))),
            unsent: Vec::with_capacity(depth),
            header: Vec::with_capacity(HEADER),
        }
    }

    #[inline]
    pub(super) fn can_start(&self) -> bool {
        let has_room = |batch: &SendBatch| batch.room() >= 2 && batch.header_room() >= self.longest;
        self.slots.free() > 0 && self.batch.as_deref().is_some_and(has_room)
    }

    /// Puts a request into the batch, a WRITE with its payload.
    #[inline]
    pub(super) fn start(
        &mut self,
        planned: &Planned,
        area: &Area,
        generation: u32,
        payload: Option<(SharedLease, u32)>,
    ) {
        let Planned { kind, block, intended } = *planned;
        // "length and offset of a FLUSH MUST be zero".
        let is_flush = kind == LoadKind::Flush;
        let offset = if is_flush { 0 } else { area.offset_of(block) };
        let (_, cookie) = self.slots.take(kind, block, offset, intended.unwrap_or_default());
        self.slots.get_mut(cookie).generation = generation;
        if intended.is_none() {
            self.unsent.push(cookie);
        }
        let command = match kind {
            LoadKind::Read => NBD_CMD_READ,
            LoadKind::Write => NBD_CMD_WRITE,
            LoadKind::Trim => NBD_CMD_TRIM,
            LoadKind::Flush => NBD_CMD_FLUSH,
        };
        let length = if is_flush { 0 } else { u64::from(area.block_size) };
        self.push_header(ClientRequest { command, flags: 0, cookie, offset, length });
        if let Some((lease, start)) = payload {
            let batch = self.batch.as_deref_mut().expect("seen by `can_start`");
            let payload = start as usize..start as usize + area.block_size as usize;
            match &mut self.records {
                None => batch.push_lease(lease, payload),
                Some(records) => records.push(batch, lease.bytes(payload)),
            }
        }
    }

    #[inline]
    fn push_header(&mut self, request: ClientRequest) {
        self.header.clear();
        request.encode(self.mode, &mut self.header);
        let batch = self.batch.as_deref_mut().expect("no send is in flight");
        match &mut self.records {
            None => batch.push_header(&self.header),
            Some(records) => records.push(batch, &self.header),
        }
    }

    /// Puts the request to disconnect into the batch, if no send is in flight.
    pub(super) fn say_goodbye(&mut self) {
        if self.batch.is_some() {
            let command = crate::nbd::wire::NBD_CMD_DISC;
            self.push_header(ClientRequest { command, flags: 0, cookie: 0, offset: 0, length: 0 });
        }
        if let (Some(batch), Some(records)) = (self.batch.as_deref_mut(), &mut self.records) {
            records.say_goodbye(batch);
        }
    }

    /// The batch to send now, if there is anything in it. Requests without an intended start begin at `now`.
    #[inline]
    pub(super) fn take_batch(&mut self, now: u64) -> Option<Box<SendBatch>> {
        for cookie in self.unsent.drain(..) {
            self.slots.get_mut(cookie).start = now;
        }
        if let (Some(batch), Some(records)) = (self.batch.as_deref_mut(), &mut self.records) {
            records.finish(batch);
        }
        self.batch.take_if(|batch| !batch.is_empty())
    }

    pub(super) fn sent(&mut self, mut batch: Box<SendBatch>) {
        batch.clear();
        self.batch = Some(batch);
    }

    /// Takes what was received.
    ///
    /// # Errors
    /// [`StreamError`]: the server broke the protocol, or left.
    #[inline]
    pub(super) fn feed(&mut self, received: &mut Received, heed: &mut impl Heed) -> Result<(), StreamError> {
        let Self { framer, slots, completed, records, .. } = self;
        let Some(records) = records else {
            return Ok(take_replies(framer, slots, completed, received.bytes(), heed)?);
        };
        let end = records.open(received.bytes_mut(), |bytes| {
            Ok::<_, StreamError>(take_replies(framer, slots, completed, bytes, heed)?)
        })?;
        match end {
            RecordsEnd::More => Ok(()),
            RecordsEnd::Closed => Err(StreamError::Closed),
        }
    }
}

#[inline]
fn take_replies(
    framer: &mut Framer,
    slots: &mut Slots,
    completed: &mut u64,
    mut input: &[u8],
    heed: &mut impl Heed,
) -> Result<(), ReplyError> {
    while let Some(piece) = framer.feed(&mut input, |cookie| slots.asked(cookie))? {
        match piece {
            ReplyPiece::Data { cookie, offset, bytes } => {
                let slot = slots.get_mut(cookie);
                slot.covered += bytes.len() as u64;
                heed.data(cookie as u32, offset - slot.offset, bytes);
            }
            ReplyPiece::Hole { cookie, offset, length } => {
                let slot = slots.get_mut(cookie);
                slot.covered += length;
                heed.hole(cookie as u32, offset - slot.offset, length);
            }
            ReplyPiece::Failed { cookie, error } => {
                let slot = slots.get_mut(cookie);
                if slot.error == 0 {
                    slot.error = error;
                }
            }
            ReplyPiece::Done { cookie } => {
                let asked = slots.asked(cookie).expect("the framer vouches for it").length;
                let slot = slots.release(cookie);
                if slot.error == 0 {
                    let got = slot.covered;
                    if slot.kind == LoadKind::Read && got != asked {
                        return Err(ReplyError::Incomplete { got, asked });
                    }
                    *completed += u64::from(slot.kind != LoadKind::Flush);
                }
                heed.done(cookie as u32, &slot);
            }
        }
    }
    Ok(())
}
