//! A connection as an end of a copy: many requests under way, and data received where it belongs.

use std::collections::HashMap;

use super::jobs::{CopyJob, DataRanges, PIECE};
use crate::client::error::ClientError;
use crate::client::load::framing::{Framer, ReplyPiece, RequestInFlight};
use crate::client::socket::{Link, Timeouts};
use crate::client::uri::NbdUri;
use crate::nbd::client::handshake::{Goal, HandshakeOutcome, Transmission};
use crate::nbd::client::replies::{Event, ReplyError, ReplyParser};
use crate::nbd::client::request::ClientRequest;
use crate::nbd::error::from_wire;
use crate::nbd::names;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const BASE_ALLOCATION: &str = "base:allocation";
const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
/// The flag of that context: it has changed.
const DIRTY: u64 = 1;
/// Bytes that are received when a header comes next: little of what comes behind it has to be copied.
const STAGE: usize = 256;
/// Changes that may be unanswered.
const MOST_CHANGES: usize = 16;
/// The longest BLOCK_STATUS: it fits into a compact request, at any alignment.
const LONGEST_STATUS: u64 = 1 << 31;

/// A request that is not answered.
#[derive(Debug)]
struct Unfinished {
    request: ClientRequest,
    /// Which buffer it fills.
    slot: usize,
    covered: u64,
    error: Option<u32>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct CopyLink {
    link: Link,
    pub(super) transmission: Transmission,
    allocation: Option<u32>,
    /// The context that tells what has changed, where that was asked for and is offered.
    changed: Option<u32>,
    framer: Framer,
    unfinished: HashMap<u64, Unfinished>,
    /// Changes among them.
    changes: usize,
    next: u64,
    stage: [u8; STAGE],
    /// What of it was received and not taken.
    staged: std::ops::Range<usize>,
    is_broken: bool,
}

impl CopyLink {
    /// `bitmap`: the one of what has changed.
    pub(super) fn open(uri: &NbdUri, bitmap: Option<&str>, timeouts: Timeouts) -> Result<Self, ClientError> {
        // One context alone, so that a BLOCK_STATUS is answered for that one.
        let bitmap = bitmap.map(|bitmap| format!("{DIRTY_BITMAP}{bitmap}"));
        let context = bitmap.clone().unwrap_or_else(|| BASE_ALLOCATION.to_owned());
        let goal = Goal::Go { export: uri.export.clone(), contexts: vec![context] };
        let (link, outcome) = Link::open(uri, timeouts)?.negotiate(goal)?;
        let HandshakeOutcome::Transmission(transmission) = outcome else {
            unreachable!("a handshake ends by its goal")
        };
        let selected = |name: &str| {
            let context = transmission.contexts.iter().find(|context| context.name == name);
            context.map(|context| context.id)
        };
        Ok(Self {
            link,
            allocation: selected(BASE_ALLOCATION),
            changed: bitmap.and_then(|bitmap| selected(&bitmap)),
            framer: Framer::new(transmission.dialect.reply_mode),
            transmission,
            unfinished: HashMap::new(),
            changes: 0,
            next: 0,
            stage: [0; STAGE],
            staged: 0..0,
            is_broken: false,
        })
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.transmission.export.transmission_flags & flag != 0
    }

    pub(super) fn has_bitmap(&self) -> bool {
        self.changed.is_some()
    }

    pub(super) fn size(&self) -> u64 {
        self.transmission.export.size
    }

    /// Calls `each` with the bounds of each extent, and whether it reads as zeroes, until it says false.
    /// Nothing else may be under way. Without a map all is data.
    pub(super) fn walk(
        &mut self,
        size: u64,
        mut each: impl FnMut(u64, u64, bool) -> bool,
    ) -> Result<(), ClientError> {
        let Some(context) = self.allocation else {
            each(0, size, false);
            return Ok(());
        };
        self.walk_context(context, size, |start, end, flags| {
            each(start, end, flags & u64::from(NBD_STATE_ZERO) != 0)
        })
    }

    /// As [`CopyLink::walk`], with the flags of a context.
    fn walk_context(
        &mut self,
        context: u32,
        size: u64,
        mut each: impl FnMut(u64, u64, u64) -> bool,
    ) -> Result<(), ClientError> {
        let mut parser = ReplyParser::new(self.mode(), vec![context]);
        let mut at = 0;
        while at < size {
            let length = (size - at).min(LONGEST_STATUS);
            for (length, flags) in self.status(&mut parser, at, length)? {
                let end = at.saturating_add(length).min(size);
                if end > at && !each(at, end, flags) {
                    return Ok(());
                }
                at = end;
            }
        }
        Ok(())
    }

    fn status(
        &mut self,
        parser: &mut ReplyParser,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64)>, ClientError> {
        let request = self.request(NBD_CMD_BLOCK_STATUS, offset, length);
        self.send(request, &[])?;
        parser.expect(request);
        let (mut extents, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let received = self.receive_into(|link| link.receive(&mut buffer))?;
            let mut input = &buffer[..received];
            while let Some(event) = parser.feed(&mut input).inspect_err(|_| self.is_broken = true)? {
                match event {
                    Event::Extent { length, flags, .. } => extents.push((length, flags)),
                    Event::Done { result: Ok(()), .. } => return Ok(extents),
                    Event::Done { result: Err(error), .. } => {
                        let command = names::command(request.command);
                        return Err(ClientError::Request { command, offset, error, message: String::new() });
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) fn begin_read(&mut self, slot: usize, job: CopyJob) -> Result<(), ClientError> {
        let request = self.request(NBD_CMD_READ, job.offset, job.length);
        self.begin(request, slot, &[])
    }

    /// Waits until a read is complete, and gives its slot.
    pub(super) fn finish_read(&mut self, buffers: &mut [Vec<u8>]) -> Result<usize, ClientError> {
        loop {
            let done = self.finish(buffers)?;
            if done.request.command == NBD_CMD_READ {
                return Ok(done.slot);
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        let request = self.request(NBD_CMD_WRITE, offset, bytes.len() as u64);
        self.change(request, bytes)
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) -> Result<(), ClientError> {
        if self.has(NBD_FLAG_SEND_WRITE_ZEROES) {
            let request = self.request(NBD_CMD_WRITE_ZEROES, offset, length);
            return self.change(request, &[]);
        }
        let zeroes = vec![0; PIECE as usize];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let step = (end - at).min(PIECE);
            self.write(at, &zeroes[..step as usize])?;
            at += step;
        }
        Ok(())
    }

    /// Waits for all changes.
    pub(super) fn settle(&mut self) -> Result<(), ClientError> {
        while self.changes > 0 {
            self.finish(&mut [])?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ClientError> {
        if self.has(NBD_FLAG_SEND_FLUSH) {
            let request = self.request(NBD_CMD_FLUSH, 0, 0);
            self.change(request, &[])?;
        }
        self.settle()
    }

    fn change(&mut self, request: ClientRequest, payload: &[u8]) -> Result<(), ClientError> {
        while self.changes >= MOST_CHANGES {
            self.finish(&mut [])?;
        }
        self.begin(request, 0, payload)?;
        self.changes += 1;
        Ok(())
    }

    fn begin(&mut self, request: ClientRequest, slot: usize, payload: &[u8]) -> Result<(), ClientError> {
        self.send(request, payload)?;
        self.unfinished.insert(request.cookie, Unfinished { request, slot, covered: 0, error: None });
        Ok(())
    }

    /// Waits until a request is complete. Data goes to the buffers.
    fn finish(&mut self, buffers: &mut [Vec<u8>]) -> Result<Unfinished, ClientError> {
        loop {
            let done = match self.framer.data_ahead() {
                Some((cookie, offset, left)) if self.staged.is_empty() => {
                    self.receive_ahead(buffers, cookie, offset, left)?
                }
                _ => self.take_staged(buffers)?,
            };
            let Some(cookie) = done else { continue };
            let done = self.unfinished.remove(&cookie).expect("the framer asks for it");
            let request = done.request;
            if request.command != NBD_CMD_READ {
                self.changes -= 1;
            } else if done.error.is_none() && done.covered != request.length {
                self.is_broken = true;
                return Err(ReplyError::Incomplete { got: done.covered, asked: request.length }.into());
            }
            return match done.error {
                None => Ok(done),
                Some(error) => Err(ClientError::Request {
                    command: names::command(request.command),
                    offset: request.offset,
                    error: from_wire(error),
                    message: String::new(),
                }),
            };
        }
    }

    /// Receives data to where it belongs.
    fn receive_ahead(
        &mut self,
        buffers: &mut [Vec<u8>],
        cookie: u64,
        offset: u64,
        left: u64,
    ) -> Result<Option<u64>, ClientError> {
        let Unfinished { request, slot, .. } = self.unfinished[&cookie];
        let at = (offset - request.offset) as usize;
        // The framer has checked that it is inside the request.
        let target = &mut buffers[slot][at..at + left as usize];
        let received = self.receive_into(|link| link.receive(target))?;
        let mut input = &buffers[slot][at..at + received];
        // Data, perhaps the end of it, and after that the end of the reply without a further byte.
        while !input.is_empty() {
            feed(&mut self.framer, &self.unfinished, &mut input)?;
        }
        self.unfinished.get_mut(&cookie).expect("it is not complete").covered += received as u64;
        Ok(None)
    }

    /// Takes the next piece of what was staged, or stages more. The cookie of what is complete.
    fn take_staged(&mut self, buffers: &mut [Vec<u8>]) -> Result<Option<u64>, ClientError> {
        let mut input = &self.stage[self.staged.clone()];
        let piece =
            feed(&mut self.framer, &self.unfinished, &mut input).inspect_err(|_| self.is_broken = true)?;
        self.staged.start = self.staged.end - input.len();
        match piece {
            None => {
                let mut stage = self.stage;
                let received = self.receive_into(|link| link.receive(&mut stage))?;
                (self.stage, self.staged) = (stage, 0..received);
            }
            Some(ReplyPiece::Data { cookie, offset, bytes }) => {
                let unfinished = self.unfinished.get_mut(&cookie).expect("the framer asks for it");
                let at = (offset - unfinished.request.offset) as usize;
                buffers[unfinished.slot][at..at + bytes.len()].copy_from_slice(bytes);
                unfinished.covered += bytes.len() as u64;
            }
            Some(ReplyPiece::Hole { cookie, offset, length }) => {
                let unfinished = self.unfinished.get_mut(&cookie).expect("the framer asks for it");
                let at = (offset - unfinished.request.offset) as usize;
                buffers[unfinished.slot][at..at + length as usize].fill(0);
                unfinished.covered += length;
            }
            Some(ReplyPiece::Failed { cookie, error }) => {
                self.unfinished.get_mut(&cookie).expect("the framer asks for it").error.get_or_insert(error);
            }
            Some(ReplyPiece::Done { cookie }) => return Ok(Some(cookie)),
        }
        Ok(None)
    }

    fn receive_into(
        &mut self,
        receive: impl FnOnce(&mut Link) -> Result<usize, ClientError>,
    ) -> Result<usize, ClientError> {
        match receive(&mut self.link) {
            Ok(0) => {
                self.is_broken = true;
                Err(ClientError::Closed)
            }
            result => result.inspect_err(|_| self.is_broken = true),
        }
    }

    fn send(&mut self, request: ClientRequest, payload: &[u8]) -> Result<(), ClientError> {
        let mut header = Vec::with_capacity(32);
        request.encode(self.mode(), &mut header);
        let sent = self.link.send(&header).and_then(|()| self.link.send(payload));
        sent.inspect_err(|_| self.is_broken = true)
    }

    fn request(&mut self, command: u16, offset: u64, length: u64) -> ClientRequest {
        self.next += 1;
        ClientRequest { command, flags: 0, cookie: self.next, offset, length }
    }

    fn mode(&self) -> ReplyMode {
        self.transmission.dialect.reply_mode
    }

    /// What its bitmap says; all of it without one.
    pub(super) fn changed_ranges(&mut self, unit: u64) -> Result<DataRanges, ClientError> {
        let size = self.size();
        let Some(context) = self.changed else { return Ok(DataRanges::whole(size)) };
        let mut ranges = DataRanges::default();
        self.walk_context(context, size, |start, end, flags| {
            if flags & DIRTY == 0 || ranges.add(start, end, unit) {
                return true;
            }
            ranges.add(start, size, unit);
            false
        })?;
        Ok(ranges)
    }

    pub(super) fn data_ranges(&mut self, unit: u64) -> Result<DataRanges, ClientError> {
        let (mut ranges, size) = (DataRanges::default(), self.size());
        self.walk(size, |start, end, is_zero| {
            if is_zero || ranges.add(start, end, unit) {
                return true;
            }
            ranges.add(start, size, unit);
            false
        })?;
        Ok(ranges)
    }
}

fn feed<'a>(
    framer: &mut Framer,
    unfinished: &HashMap<u64, Unfinished>,
    input: &mut &'a [u8],
) -> Result<Option<ReplyPiece<'a>>, ReplyError> {
    framer.feed(input, |cookie| {
        let ClientRequest { command, offset, length, .. } = unfinished.get(&cookie)?.request;
        Some(RequestInFlight { is_read: command == NBD_CMD_READ, offset, length })
    })
}

impl Drop for CopyLink {
    fn drop(&mut self) {
        if !self.is_broken {
            let request = self.request(NBD_CMD_DISC, 0, 0);
            // The connection ends in any case.
            let _ = self.send(request, &[]);
        }
    }
}
