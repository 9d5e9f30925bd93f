//! A server's replies, parsed: simple, structured and extended ("Simple reply message" and the two after it).
//!
//! Bytes in, [`Event`]s out. Data is never copied: an event borrows what was fed. What the parser itself
//! keeps is bounded by the requests in flight, whatever the server sends, and each rule that a reply must
//! keep is checked here. [`head`] is the base below it, for those who keep their requests themselves.

mod error;
mod event;
pub mod head;
mod pending;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

pub use error::ReplyError;
pub use event::Event;

use crate::client::request::ClientRequest;
use crate::error::from_wire;
use crate::session::ReplyMode;
use crate::wire::*;
use head::{Body, Head, Heads, big_endian};
use pending::Pending;

/// The replies of one connection.
#[derive(Debug)]
pub struct ReplyParser {
    heads: Heads,
    contexts: Vec<u32>,
    pending: BTreeMap<u64, Pending>,
    state: ReplyState,
    /// The part of a chunk that is collected: the text of an error, or a descriptor.
    part: Vec<u8>,
}

/// The chunk whose header has come.
#[derive(Debug, Clone, Copy)]
struct OpenChunk {
    cookie: u64,
    is_last: bool,
}

/// An error chunk after its fixed fields.
#[derive(Debug, Clone, Copy)]
struct ErrorChunk {
    kind: u16,
    error: u32,
    message: u16,
    left: usize,
}

/// What is left of a status chunk.
#[derive(Debug, Clone, Copy)]
struct Descriptors {
    context: u32,
    left: u64,
    /// Where the next one begins, in bytes from the start of the request.
    before: u64,
}

#[derive(Debug, Clone, Copy)]
enum ReplyState {
    Head,
    /// Data, streamed.
    Data {
        chunk: OpenChunk,
        offset: u64,
        left: u64,
    },
    Failure(OpenChunk, ErrorChunk),
    Descriptor(OpenChunk, Descriptors),
    /// The reply is complete, which was not yet told.
    Finish(u64),
}

impl ReplyParser {
    /// A parser for a connection with that reply mode and those selected meta contexts.
    pub fn new(mode: ReplyMode, contexts: Vec<u32>) -> Self {
        Self {
            heads: Heads::new(mode),
            contexts,
            pending: BTreeMap::new(),
            state: ReplyState::Head,
            part: Vec::new(),
        }
    }

    /// A request was sent. DISC has no reply and is not announced.
    ///
    /// # Panics
    /// When a request with that cookie is in flight.
    pub fn expect(&mut self, request: ClientRequest) {
        self.insert(Pending::new(request));
    }

    /// A BLOCK_STATUS was sent that [asks for one context](ClientRequest::encode_for_context).
    ///
    /// # Panics
    /// As [`ReplyParser::expect`].
    pub fn expect_of_context(&mut self, request: ClientRequest, context: u32) {
        self.insert(Pending::for_context(request, context));
    }

    fn insert(&mut self, pending: Pending) {
        let earlier = self.pending.insert(pending.request.cookie, pending);
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
            let event = match self.state {
                ReplyState::Head => {
                    let Some(head) = self.heads.feed(input)? else { return Ok(None) };
                    self.begin(head)?
                }
                ReplyState::Data { chunk, offset, left } => {
                    let taken = left.min(input.len() as u64);
                    if taken == 0 {
                        return Ok(None);
                    }
                    let (data, rest) = input.split_at(taken as usize);
                    *input = rest;
                    self.state = if taken < left {
                        ReplyState::Data { chunk, offset: offset + taken, left: left - taken }
                    } else {
                        after(chunk)
                    };
                    Some(Event::Data { cookie: chunk.cookie, offset, data })
                }
                ReplyState::Failure(chunk, failure) => {
                    let Some(part) = self.collect(input, failure.left) else { return Ok(None) };
                    let event = self.failure(chunk, failure, &part);
                    self.keep(part);
                    Some(event?)
                }
                ReplyState::Descriptor(chunk, descriptors) => {
                    let size = descriptor_size(self.heads.mode());
                    let Some(part) = self.collect(input, size) else { return Ok(None) };
                    let event = self.descriptor(chunk, descriptors, &part);
                    self.keep(part);
                    Some(event?)
                }
                ReplyState::Finish(cookie) => Some(self.finish(cookie)?),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Collects a part of so many bytes; it is given once it is complete, and goes back by
    /// [`keep`](Self::keep).
    fn collect(&mut self, input: &mut &[u8], length: usize) -> Option<Vec<u8>> {
        let taken = (length - self.part.len()).min(input.len());
        self.part.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        (self.part.len() == length).then(|| core::mem::take(&mut self.part))
    }

    /// The memory of a part serves the next.
    fn keep(&mut self, mut part: Vec<u8>) {
        part.clear();
        self.part = part;
    }

    /// What a header means for the request that it answers.
    fn begin(&mut self, head: Head) -> Result<Option<Event<'static>>, ReplyError> {
        let Head { cookie, echoed, is_last, body } = head;
        let mode = self.heads.mode();
        let pending = self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))?;
        let ClientRequest { command, offset: asked, length: asked_length, .. } = pending.request;
        if let Some(got) = echoed.filter(|got| *got != asked) {
            return Err(ReplyError::Offset { got, asked });
        }
        let chunk = OpenChunk { cookie, is_last };
        match body {
            Body::Simple(error) => self.simple(cookie, error)?,
            Body::Nothing => self.state = ReplyState::Finish(cookie),
            Body::Data { at, length } if command == NBD_CMD_READ => {
                if length > asked_length {
                    return Err(ReplyError::Length { kind: NBD_REPLY_TYPE_OFFSET_DATA, length: length + 8 });
                }
                pending.cover(at, length)?;
                self.state = ReplyState::Data { chunk, offset: at, left: length };
            }
            Body::Hole { at, length } if command == NBD_CMD_READ => {
                if length == 0 {
                    let kind = NBD_REPLY_TYPE_OFFSET_HOLE;
                    return Err(ReplyError::Malformed { kind, what: "has no bytes" });
                }
                pending.cover(at, length)?;
                self.state = after(chunk);
                return Ok(Some(Event::Hole { cookie, offset: at, length }));
            }
            Body::Status { context, count, left } if command == NBD_CMD_BLOCK_STATUS => {
                let kind = status_kind(mode);
                let left = left / descriptor_size(mode) as u64;
                if count.is_some_and(|count| u64::from(count) != left) {
                    let what = "has another number of extents than it says";
                    return Err(ReplyError::Malformed { kind, what });
                }
                pending.describe(kind, context, left, &self.contexts)?;
                self.state = ReplyState::Descriptor(chunk, Descriptors { context, left, before: 0 });
            }
            Body::Error { kind, error, message, left } => {
                self.state =
                    ReplyState::Failure(chunk, ErrorChunk { kind, error, message, left: left as usize });
            }
            Body::Data { .. } => return Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_DATA, command }),
            Body::Hole { .. } => return Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_HOLE, command }),
            Body::Status { .. } => return Err(ReplyError::Kind { kind: status_kind(mode), command }),
            Body::Unknown(kind) => return Err(ReplyError::Kind { kind, command }),
        }
        Ok(None)
    }

    fn simple(&mut self, cookie: u64, error: u32) -> Result<(), ReplyError> {
        let pending = self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))?;
        let ClientRequest { command, offset, length, .. } = pending.request;
        // "MUST NOT use a simple reply for `NBD_CMD_READ` (even for the case of an early `NBD_EINVAL` due to
        // bad flags)", and one for anything else "only if the reply has no data payload".
        let needs_chunks = command == NBD_CMD_READ || (command == NBD_CMD_BLOCK_STATUS && error == 0);
        if self.heads.mode() == ReplyMode::Structured && needs_chunks {
            return Err(ReplyError::Simple(command));
        }
        self.state = ReplyState::Finish(cookie);
        if error != 0 {
            return pending.fail(error, NBD_REPLY_TYPE_NONE, None);
        }
        if command == NBD_CMD_READ && length > 0 {
            pending.cover_all();
            self.state =
                ReplyState::Data { chunk: OpenChunk { cookie, is_last: true }, offset, left: length };
        }
        Ok(())
    }

    /// An error chunk whose text has come.
    fn failure(
        &mut self,
        chunk: OpenChunk,
        failure: ErrorChunk,
        part: &[u8],
    ) -> Result<Event<'static>, ReplyError> {
        let ErrorChunk { kind, error, message, .. } = failure;
        let cookie = chunk.cookie;
        let malformed = |what| ReplyError::Malformed { kind, what };
        if error == 0 {
            return Err(malformed("has no error value"));
        }
        let (message, rest) =
            part.split_at_checked(message.into()).ok_or(malformed("has a message longer than itself"))?;
        if message.len() > NBD_MAX_STRING {
            return Err(malformed("has a message of more than 4096 bytes"));
        }
        let offset = match (kind, rest.first_chunk::<8>()) {
            (NBD_REPLY_TYPE_ERROR_OFFSET, Some(offset)) => Some(u64::from_be_bytes(*offset)),
            (NBD_REPLY_TYPE_ERROR_OFFSET, None) => return Err(malformed("has no offset after its message")),
            _ => None,
        };
        self.request(cookie)?.fail(error, kind, offset)?;
        self.state = after(chunk);
        let message = String::from_utf8_lossy(message).into_owned();
        Ok(Event::Failure { cookie, error: from_wire(error), message, offset })
    }

    /// A descriptor of a status chunk.
    fn descriptor(
        &mut self,
        chunk: OpenChunk,
        descriptors: Descriptors,
        part: &[u8],
    ) -> Result<Event<'static>, ReplyError> {
        let (cookie, kind) = (chunk.cookie, status_kind(self.heads.mode()));
        let Descriptors { context, left, before } = descriptors;
        let (length, flags) = part.split_at(part.len() / 2);
        let (length, flags) = (big_endian(length), big_endian(flags));
        let before = self.request(cookie)?.extend(kind, before, length)?;
        self.state = match left - 1 {
            0 => after(chunk),
            left => ReplyState::Descriptor(chunk, Descriptors { context, left, before }),
        };
        Ok(Event::Extent { cookie, context, length, flags })
    }

    fn finish(&mut self, cookie: u64) -> Result<Event<'static>, ReplyError> {
        self.state = ReplyState::Head;
        let pending = self.pending.remove(&cookie).ok_or(ReplyError::Cookie(cookie))?;
        let error = pending.finish(&self.contexts)?;
        Ok(Event::Done { cookie, result: error.map_or(Ok(()), |error| Err(from_wire(error))) })
    }

    fn request(&mut self, cookie: u64) -> Result<&mut Pending, ReplyError> {
        self.pending.get_mut(&cookie).ok_or(ReplyError::Cookie(cookie))
    }
}

fn after(chunk: OpenChunk) -> ReplyState {
    if chunk.is_last { ReplyState::Finish(chunk.cookie) } else { ReplyState::Head }
}

/// The type of a status chunk.
const fn status_kind(mode: ReplyMode) -> u16 {
    match mode {
        ReplyMode::Extended => NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
        _ => NBD_REPLY_TYPE_BLOCK_STATUS,
    }
}

/// Bytes of one descriptor: a length and as wide flags.
const fn descriptor_size(mode: ReplyMode) -> usize {
    match mode {
        ReplyMode::Extended => 16,
        _ => 8,
    }
}
