//! A server's replies, parsed: simple, structured and extended ("Simple reply message" and the two after it).
//!
//! Bytes in, [`Event`]s out. Data is never copied: an event borrows what was fed. What the parser itself keeps is bounded by the
//! requests in flight, whatever the server sends, and each rule that a reply must keep is checked here.

mod error;
mod event;
pub mod head;
mod pending;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

pub use error::ReplyError;
pub use event::Event;

use alloc::collections::BTreeMap;

use zerocopy::FromBytes;

use crate::client::request::ClientRequest;
use crate::error::from_wire;
use crate::session::ReplyMode;
use crate::wire::*;
use pending::Pending;

/// The longest accepted error chunk, in bytes: a message of 4,096, an offset, and room for fields that later types add.
const MAX_ERROR_CHUNK: u64 = 8 << 10;
/// Magic, the first part of every header.
const MAGIC: usize = 4;

/// The replies of one connection.
#[derive(Debug)]
pub struct ReplyParser {
    mode: ReplyMode,
    contexts: Vec<u32>,
    pending: BTreeMap<u64, Pending>,
    state: State,
    /// The part that is collected, `wanted` bytes long: a header, or the fixed fields of a chunk.
    part: Vec<u8>,
    wanted: usize,
}

/// A chunk after its header.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    cookie: u64,
    kind: u16,
    length: u64,
    is_last: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Magic,
    SimpleHeader,
    StructuredHeader,
    ExtendedHeader,
    /// The fixed fields of a chunk.
    Fields(Chunk),
    /// The next descriptor of a status chunk: `left` of them, the next one `before` bytes into the request.
    Descriptor {
        chunk: Chunk,
        context: u32,
        left: u64,
        before: u64,
    },
    /// Data, streamed.
    Data {
        cookie: u64,
        offset: u64,
        left: u64,
        is_last: bool,
    },
    /// The reply is complete, which was not yet told.
    Finish(u64),
}

impl ReplyParser {
    /// A parser for a connection with that reply mode and those selected meta contexts.
    pub fn new(mode: ReplyMode, contexts: Vec<u32>) -> Self {
        Self {
            mode,
            contexts,
            pending: BTreeMap::new(),
            state: State::Magic,
            part: Vec::new(),
            wanted: MAGIC,
        }
    }

    /// A request was sent. DISC has no reply and is not announced.
    ///
    /// # Panics
    /// When a request with that cookie is in flight.
    pub fn expect(&mut self, request: ClientRequest) {
        let earlier = self.pending.insert(request.cookie, Pending::new(request));
        assert!(earlier.is_none(), "two requests in flight with one cookie");
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all was taken, feed more.
    ///
    /// # Errors
    /// [`ReplyError`]: the connection cannot be used further.
    pub fn feed<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, ReplyError> {
        loop {
            match self.state {
                State::Finish(cookie) => return self.finish(cookie).map(Some),
                State::Data { cookie, offset, left, is_last } => {
                    let taken = left.min(input.len() as u64);
                    if taken == 0 {
                        return Ok(None);
                    }
                    let (data, rest) = input.split_at(taken as usize);
                    *input = rest;
                    self.state = if taken < left {
                        State::Data { cookie, offset: offset + taken, left: left - taken, is_last }
                    } else {
                        self.after_chunk(cookie, is_last)
                    };
                    return Ok(Some(Event::Data { cookie, offset, data }));
                }
                _ => {}
            }
            let taken = (self.wanted - self.part.len()).min(input.len());
            self.part.extend_from_slice(&input[..taken]);
            *input = &input[taken..];
            if self.part.len() < self.wanted {
                return Ok(None);
            }
            if let Some(event) = self.collected()? {
                return Ok(Some(event));
            }
        }
    }

    /// The wanted part is complete.
    fn collected(&mut self) -> Result<Option<Event<'static>>, ReplyError> {
        // The magic stays: it is the first field of the header that follows.
        if !matches!(self.state, State::Magic) {
            let part = core::mem::take(&mut self.part);
            let event = self.interpret(&part);
            // Its memory serves the next part.
            self.part = part;
            self.part.clear();
            return event;
        }
        let magic = u32::from_be_bytes(*self.part.first_chunk().expect("four bytes"));
        let (state, wanted) = match (self.mode, magic) {
            (ReplyMode::Simple | ReplyMode::Structured, NBD_SIMPLE_REPLY_MAGIC) => {
                (State::SimpleHeader, size_of::<SimpleReply>())
            }
            (ReplyMode::Structured, NBD_STRUCTURED_REPLY_MAGIC) => {
                (State::StructuredHeader, size_of::<StructuredReply>())
            }
            (ReplyMode::Extended, NBD_EXTENDED_REPLY_MAGIC) => {
                (State::ExtendedHeader, size_of::<ExtendedReply>())
            }
            _ => return Err(ReplyError::Magic(magic)),
        };
        self.state = state;
        self.wanted = wanted;
        Ok(None)
    }

    fn interpret(&mut self, part: &[u8]) -> Result<Option<Event<'static>>, ReplyError> {
        match self.state {
            State::SimpleHeader => {
                let header = SimpleReply::read_from_bytes(part).expect("the part has the header's size");
                self.simple(header.cookie.get(), header.error.get())?;
                Ok(None)
            }
            State::StructuredHeader => {
                let header = StructuredReply::read_from_bytes(part).expect("the part has the header's size");
                let chunk = Chunk {
                    cookie: header.cookie.get(),
                    kind: header.kind.get(),
                    length: header.length.get().into(),
                    is_last: header.flags.get() & NBD_REPLY_FLAG_DONE != 0,
                };
                self.chunk(chunk)?;
                Ok(None)
            }
            State::ExtendedHeader => {
                let header = ExtendedReply::read_from_bytes(part).expect("the part has the header's size");
                let chunk = Chunk {
                    cookie: header.cookie.get(),
                    kind: header.kind.get(),
                    length: header.length.get(),
                    is_last: header.flags.get() & NBD_REPLY_FLAG_DONE != 0,
                };
                let (got, asked) = (header.offset.get(), self.request(chunk.cookie)?.request.offset);
                if got != asked {
                    return Err(ReplyError::Offset { got, asked });
                }
                self.chunk(chunk)?;
                Ok(None)
            }
            State::Fields(chunk) if chunk.kind & NBD_REPLY_TYPE_FLAG_ERROR != 0 => {
                self.error_chunk(chunk, part).map(Some)
            }
            State::Fields(chunk) => self.fields(chunk, part),
            State::Descriptor { chunk, context, left, before } => {
                let half = part.len() / 2;
                let (length, flags) = (big_endian(&part[..half]), big_endian(&part[half..]));
                let before = self.request(chunk.cookie)?.extend(chunk.kind, before, length)?;
                self.state = match left - 1 {
                    0 => self.after_chunk(chunk.cookie, chunk.is_last),
                    left => State::Descriptor { chunk, context, left, before },
                };
                Ok(Some(Event::Extent { cookie: chunk.cookie, context, length, flags }))
            }
            State::Magic | State::Data { .. } | State::Finish(_) => unreachable!("they collect nothing here"),
        }
    }

    fn simple(&mut self, cookie: u64, error: u32) -> Result<(), ReplyError> {
        let pending = self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))?;
        let ClientRequest { command, offset, length, .. } = pending.request;
        // "MUST NOT use a simple reply for `NBD_CMD_READ` (even for the case of an early `NBD_EINVAL` due to bad flags)", and one
        // for anything else "only if the reply has no data payload".
        let needs_chunks = command == NBD_CMD_READ || (command == NBD_CMD_BLOCK_STATUS && error == 0);
        if self.mode == ReplyMode::Structured && needs_chunks {
            return Err(ReplyError::Simple(command));
        }
        self.state = State::Finish(cookie);
        if error != 0 {
            return pending.fail(error, NBD_REPLY_TYPE_NONE, None);
        }
        if command == NBD_CMD_READ && length > 0 {
            pending.cover_all();
            self.state = State::Data { cookie, offset, left: length, is_last: true };
        }
        Ok(())
    }

    /// The header of a chunk: its type is one of the command's, its length one of the type's.
    fn chunk(&mut self, chunk: Chunk) -> Result<(), ReplyError> {
        let mode = self.mode;
        let pending = self.request(chunk.cookie)?;
        let Chunk { kind, length, .. } = chunk;
        let command = pending.request.command;
        // A bound by the request, before anything else is read: its data, or 2^20 descriptors.
        let descriptors = NBD_MAX_STATUS_DESCRIPTORS as u64;
        let (fields, fits) = match (kind, command, mode) {
            (NBD_REPLY_TYPE_NONE, ..) => (0, length == 0 && chunk.is_last),
            (NBD_REPLY_TYPE_OFFSET_DATA, NBD_CMD_READ, _) => {
                (8, length > 8 && length - 8 <= pending.request.length)
            }
            (NBD_REPLY_TYPE_OFFSET_HOLE, NBD_CMD_READ, _) => (12, length == 12),
            (NBD_REPLY_TYPE_BLOCK_STATUS, NBD_CMD_BLOCK_STATUS, ReplyMode::Structured) => {
                (4, length > 4 && (length - 4).is_multiple_of(8) && (length - 4) / 8 <= descriptors)
            }
            (NBD_REPLY_TYPE_BLOCK_STATUS_EXT, NBD_CMD_BLOCK_STATUS, ReplyMode::Extended) => {
                (8, length > 8 && (length - 8).is_multiple_of(16) && (length - 8) / 16 <= descriptors)
            }
            // "an unknown or unexpected type with bit 15 set": the reply failed, the connection lives.
            _ if kind & NBD_REPLY_TYPE_FLAG_ERROR != 0 => {
                (length.min(MAX_ERROR_CHUNK) as usize, (6..=MAX_ERROR_CHUNK).contains(&length))
            }
            _ => return Err(ReplyError::Kind { kind, command }),
        };
        if !fits {
            return Err(ReplyError::Length { kind, length });
        }
        self.state = State::Fields(chunk);
        self.wanted = fields;
        if kind == NBD_REPLY_TYPE_NONE {
            self.state = State::Finish(chunk.cookie);
        }
        Ok(())
    }

    /// The fixed fields of a content or status chunk.
    fn fields(&mut self, chunk: Chunk, part: &[u8]) -> Result<Option<Event<'static>>, ReplyError> {
        let Chunk { cookie, kind, length, is_last } = chunk;
        match kind {
            NBD_REPLY_TYPE_OFFSET_DATA => {
                let (offset, left) = (big_endian(part), length - 8);
                self.request(cookie)?.cover(offset, left)?;
                self.state = State::Data { cookie, offset, left, is_last };
                Ok(None)
            }
            NBD_REPLY_TYPE_OFFSET_HOLE => {
                let (offset, length) = (big_endian(&part[..8]), big_endian(&part[8..]));
                if length == 0 {
                    return Err(ReplyError::Malformed { kind, what: "has no bytes" });
                }
                self.request(cookie)?.cover(offset, length)?;
                self.state = self.after_chunk(cookie, is_last);
                Ok(Some(Event::Hole { cookie, offset, length }))
            }
            _ => {
                let context = big_endian(&part[..4]) as u32;
                let is_extended = kind == NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
                let size = if is_extended { 16 } else { 8 };
                let left = (length - part.len() as u64) / size;
                if is_extended && big_endian(&part[4..]) != left {
                    return Err(ReplyError::Malformed {
                        kind,
                        what: "has another number of extents than it says",
                    });
                }
                let pending = self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))?;
                pending.describe(kind, context, left, &self.contexts)?;
                self.state = State::Descriptor { chunk, context, left, before: 0 };
                self.wanted = size as usize;
                Ok(None)
            }
        }
    }

    /// "All error chunk types have bit 15 set, and begin with the same *error*, *message length*, and optional *message* fields".
    fn error_chunk(&mut self, chunk: Chunk, part: &[u8]) -> Result<Event<'static>, ReplyError> {
        let Chunk { cookie, kind, is_last, .. } = chunk;
        let malformed = |what| ReplyError::Malformed { kind, what };
        let error = big_endian(&part[..4]) as u32;
        let message_length = big_endian(&part[4..6]) as usize;
        if error == 0 {
            return Err(malformed("has no error value"));
        }
        let (message, rest) = part[6..]
            .split_at_checked(message_length)
            .ok_or(malformed("has a message longer than itself"))?;
        if message_length > NBD_MAX_STRING {
            return Err(malformed("has a message of more than 4096 bytes"));
        }
        let offset = match (kind, rest.first_chunk::<8>()) {
            (NBD_REPLY_TYPE_ERROR_OFFSET, Some(offset)) => Some(u64::from_be_bytes(*offset)),
            (NBD_REPLY_TYPE_ERROR_OFFSET, None) => return Err(malformed("has no offset after its message")),
            _ => None,
        };
        self.request(cookie)?.fail(error, kind, offset)?;
        self.state = self.after_chunk(cookie, is_last);
        let message = String::from_utf8_lossy(message).into_owned();
        Ok(Event::Failure { cookie, error: from_wire(error), message, offset })
    }

    fn after_chunk(&mut self, cookie: u64, is_last: bool) -> State {
        self.wanted = MAGIC;
        if is_last { State::Finish(cookie) } else { State::Magic }
    }

    fn finish(&mut self, cookie: u64) -> Result<Event<'static>, ReplyError> {
        self.state = State::Magic;
        self.wanted = MAGIC;
        let pending = self.pending.remove(&cookie).ok_or(ReplyError::Cookie(cookie))?;
        let error = pending.finish(&self.contexts)?;
        Ok(Event::Done { cookie, result: error.map_or(Ok(()), |error| Err(from_wire(error))) })
    }

    fn request(&mut self, cookie: u64) -> Result<&mut Pending, ReplyError> {
        self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))
    }
}

/// A big-endian number of at most eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
