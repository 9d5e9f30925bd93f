//! A connection in the transmission phase, one request at a time.

use std::os::fd::OwnedFd;

use super::error::ClientError;
use super::extents::MappedExtent;
use super::socket::{Link, Timeouts};
use super::uri::NbdUri;
use crate::block::BlockError;
use crate::nbd::client::handshake::{Goal, HandshakeOutcome, Transmission};
use crate::nbd::client::replies::{Event, ReplyParser};
use crate::nbd::client::request::{ClientRequest, LONGEST_REQUEST};
use crate::nbd::names;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// Bytes that are received at once.
const RECEIVE: usize = 256 << 10;
/// The longest payload for a server that advertised no limit ("limit `NBD_CMD_READ` and `NBD_CMD_WRITE`
/// commands to a maximum payload size of 2^25"), and the longest that is sent to one that did.
const MAX_PAYLOAD: u32 = 32 << 20;

/// One extent of a BLOCK_STATUS reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes, at least 1.
    pub length: u64,
    /// By the definition of the context.
    pub flags: u64,
}

/// A connection to one export. Dropping it says goodbye with DISC.
#[derive(Debug)]
pub struct Client {
    link: Link,
    transmission: Transmission,
    parser: ReplyParser,
    cookie: u64,
    buffer: Vec<u8>,
    /// The server broke the protocol or the socket failed: nothing more is sent.
    is_broken: bool,
}

impl Client {
    /// Connects, negotiates, and enters the transmission phase with those of `contexts` that the server
    /// offers.
    ///
    /// # Errors
    /// [`ClientError`], while connecting or negotiating.
    pub fn open(uri: &NbdUri, contexts: &[String], timeouts: Timeouts) -> Result<Self, ClientError> {
        let goal = Goal::Go { export: uri.export.clone(), contexts: contexts.to_vec() };
        let (link, outcome) = Link::open(uri, timeouts)?.negotiate(goal)?;
        let HandshakeOutcome::Transmission(transmission) = outcome else {
            unreachable!("a handshake ends by its goal")
        };
        Ok(Self::over(link, transmission))
    }

    fn over(link: Link, transmission: Transmission) -> Self {
        let ids = transmission.contexts.iter().map(|context| context.id).collect();
        let parser = ReplyParser::new(transmission.dialect.reply_mode, ids);
        let buffer = vec![0; RECEIVE];
        Self { link, transmission, parser, cookie: 0, buffer, is_broken: false }
    }

    /// A client of a connection that somebody else has, who does nothing with it until
    /// [`Client::give_back`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn borrowing(
        socket: &OwnedFd,
        transmission: &Transmission,
        timeouts: Timeouts,
    ) -> Result<Self, ClientError> {
        let link = Link::over(socket.try_clone()?, &transmission.export.name, timeouts);
        Ok(Self::over(link, transmission.clone()))
    }

    /// Ends without a goodbye, so that the connection goes on.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn give_back(mut self) -> Result<(), ClientError> {
        self.is_broken = true;
        self.link.forget_timeouts()
    }

    /// What the handshake fixed.
    pub fn transmission(&self) -> &Transmission {
        &self.transmission
    }

    /// Fills `buffer` with the bytes at `offset`; both ends are multiples of the minimum block size.
    ///
    /// # Errors
    /// [`ClientError::Request`] leaves the connection usable; all others end it.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ClientError> {
        self.check_range(offset, buffer.len() as u64)?;
        let step = self.longest_payload();
        for (index, piece) in buffer.chunks_mut(step).enumerate() {
            let start = offset + (index * step) as u64;
            let request = self.request(NBD_CMD_READ, 0, start, piece.len() as u64);
            self.run(request, &[], |event| {
                // The parser vouches for the ranges.
                match event {
                    Event::Data { offset, data, .. } => {
                        piece[(offset - start) as usize..][..data.len()].copy_from_slice(data);
                    }
                    Event::Hole { offset, length, .. } => {
                        piece[(offset - start) as usize..][..length as usize].fill(0);
                    }
                    _ => {}
                }
            })?;
        }
        Ok(())
    }

    /// The same for a range of any bytes, of which whole blocks are read.
    ///
    /// # Errors
    /// As [`Client::read_at`].
    pub(crate) fn read_any(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ClientError> {
        let minimum = u64::from(self.transmission.export.block_sizes.map_or(1, |sizes| sizes.minimum));
        let skipped = offset % minimum;
        let wide = (skipped + buffer.len() as u64).next_multiple_of(minimum);
        let mut blocks = vec![0; wide as usize];
        self.read_at(offset - skipped, &mut blocks)?;
        buffer.copy_from_slice(&blocks[skipped as usize..][..buffer.len()]);
        Ok(())
    }

    /// Writes `data` at `offset`; both ends are multiples of the minimum block size.
    ///
    /// # Errors
    /// [`ClientError::Request`] leaves the connection usable; all others end it.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.check_range(offset, data.len() as u64)?;
        if self.has_flag(NBD_FLAG_READ_ONLY) {
            return Err(ClientError::Unsupported("the export is read-only"));
        }
        let step = self.longest_payload();
        for (index, piece) in data.chunks(step).enumerate() {
            let start = offset + (index * step) as u64;
            let request = self.request(NBD_CMD_WRITE, 0, start, piece.len() as u64);
            self.run(request, piece, |_| {})?;
        }
        Ok(())
    }

    /// Makes durable what was written; nothing where the server has no FLUSH.
    ///
    /// # Errors
    /// [`ClientError::Request`] leaves the connection usable; all others end it.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        if !self.has_flag(NBD_FLAG_SEND_FLUSH) {
            return Ok(());
        }
        let request = self.request(NBD_CMD_FLUSH, 0, 0, 0);
        self.run(request, &[], |_| {})
    }

    /// The status in one selected context of the bytes from `offset`, up to `length` of them; the server may
    /// tell of fewer or more, but of at least one. `length` is cut to what one request can carry.
    ///
    /// # Errors
    /// [`ClientError::Request`] leaves the connection usable; all others end it.
    pub fn block_status(
        &mut self,
        context: u32,
        offset: u64,
        length: u64,
    ) -> Result<Vec<StatusExtent>, ClientError> {
        if self.transmission.contexts.iter().all(|selected| selected.id != context) {
            return Err(ClientError::Unsupported("the meta context was not selected"));
        }
        let longest = match self.transmission.dialect.reply_mode {
            ReplyMode::Extended => u64::MAX,
            // The longest 32-bit number that is a multiple of every allowed minimum block size.
            _ => 0xffff_0000,
        };
        let request = self.request(NBD_CMD_BLOCK_STATUS, 0, offset, length.min(longest));
        let mut extents = Vec::new();
        // Otherwise the server tells of all that were selected.
        let can_choose = self.has_flag(NBD_FLAG_BLOCK_STATUS_PAYLOAD)
            && self.transmission.dialect.reply_mode == ReplyMode::Extended;
        let only = (can_choose && self.transmission.contexts.len() > 1).then_some(context);
        self.run_for(request, only, &[], |event| match event {
            Event::Extent { context: of, length, flags, .. } if of == context => {
                extents.push(StatusExtent { length, flags });
            }
            _ => {}
        })?;
        Ok(extents)
    }

    /// Calls `each` with the status of the whole export in one context, in order and without gaps; adjacent
    /// equal extents are not merged.
    ///
    /// # Errors
    /// As [`Client::block_status`], or what `each` gave.
    pub fn walk<E: From<ClientError>>(
        &mut self,
        context: u32,
        mut each: impl FnMut(MappedExtent) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.transmission.export.size;
        let minimum = u64::from(self.transmission.export.block_sizes.map_or(1, |sizes| sizes.minimum));
        // "the client would be unable to access the final few bytes of the export"
        let reachable = size - size % minimum;
        let mut offset = 0;
        while offset < reachable {
            for extent in self.block_status(context, offset, reachable - offset)? {
                let length = extent.length.min(size - offset);
                if length > 0 {
                    each(MappedExtent { offset, length, flags: extent.flags })?;
                }
                offset += length;
            }
        }
        Ok(())
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> ClientRequest {
        self.cookie += 1;
        ClientRequest { command, flags, cookie: self.cookie, offset, length }
    }

    /// Sends one request and waits for its reply.
    fn run(
        &mut self,
        request: ClientRequest,
        payload: &[u8],
        each: impl FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        self.run_for(request, None, payload, each)
    }

    /// As [`Client::run`]; a BLOCK_STATUS may be for one context only.
    fn run_for(
        &mut self,
        request: ClientRequest,
        only: Option<u32>,
        payload: &[u8],
        each: impl FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        let result = self.exchange(request, only, payload, each);
        // "If the client receives an `NBD_ESHUTDOWN` error it MUST initiate a soft disconnect": that is what
        // dropping does.
        self.is_broken |= !matches!(result, Ok(()) | Err(ClientError::Request { .. }));
        result
    }

    fn exchange(
        &mut self,
        request: ClientRequest,
        only: Option<u32>,
        payload: &[u8],
        mut each: impl FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        if self.is_broken {
            return Err(ClientError::Closed);
        }
        let mut header = Vec::with_capacity(LONGEST_REQUEST);
        match only {
            Some(context) => {
                request.encode_for_context(context, &mut header);
                self.parser.expect_of_context(request, context);
            }
            None => {
                request.encode(self.transmission.dialect.reply_mode, &mut header);
                self.parser.expect(request);
            }
        }
        self.link.send(&header)?;
        self.link.send(payload)?;
        let mut failure = None;
        loop {
            let received = self.link.receive(&mut self.buffer)?;
            if received == 0 {
                return Err(ClientError::Closed);
            }
            let mut input = &self.buffer[..received];
            while let Some(event) = self.parser.feed(&mut input)? {
                match event {
                    Event::Failure { message, offset, .. } => {
                        failure.get_or_insert((message, offset));
                    }
                    Event::Done { result: Ok(()), .. } => return Ok(()),
                    Event::Done { result: Err(error), .. } => {
                        return Err(refusal(&request, error, failure.unwrap_or_default()));
                    }
                    other => each(other),
                }
            }
        }
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        let export = &self.transmission.export;
        let minimum = u64::from(export.block_sizes.map_or(1, |sizes| sizes.minimum));
        if offset.checked_add(length).is_none_or(|end| end > export.size) {
            return Err(ClientError::Unsupported("the range lies beyond the end of the export"));
        }
        // Block sizes were asked for in GO, so they MUST be kept.
        if !offset.is_multiple_of(minimum) || !length.is_multiple_of(minimum) {
            return Err(ClientError::Unsupported(
                "the range is no multiple of the export's minimum block size",
            ));
        }
        Ok(())
    }

    /// Bytes, a multiple of the minimum block size.
    fn longest_payload(&self) -> usize {
        let sizes = self.transmission.export.block_sizes;
        let longest = sizes.map_or(MAX_PAYLOAD, |sizes| sizes.maximum.min(MAX_PAYLOAD));
        (longest - longest % sizes.map_or(1, |sizes| sizes.minimum)) as usize
    }

    fn has_flag(&self, flag: u16) -> bool {
        self.transmission.export.transmission_flags & flag != 0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.is_broken {
            return;
        }
        let mut header = Vec::new();
        self.request(NBD_CMD_DISC, 0, 0, 0).encode(self.transmission.dialect.reply_mode, &mut header);
        // The connection ends in any case.
        let _ = self.link.send(&header);
        self.link.part();
    }
}

fn refusal(request: &ClientRequest, error: BlockError, failure: (String, Option<u64>)) -> ClientError {
    let command = names::command(request.command);
    let (message, offset) = failure;
    ClientError::Request { command, offset: offset.unwrap_or(request.offset), error, message }
}
