//! Frames the replies of a connection under load: a smaller parser than the checking one, over the same
//! headers.
//!
//! It keeps nothing per request and copies only headers that a receive split. A reply is checked against the
//! request that its cookie names, so that a broken server ends the run and does not skew it. That each byte
//! of a READ came exactly once is checked by the sum of the lengths only.

#[cfg(test)]
mod tests;

use crate::nbd::client::replies::ReplyError;
use crate::nbd::client::replies::head::{Body, Head, Heads};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// What a reply may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct RequestInFlight {
    /// A READ; else a WRITE.
    pub(in crate::client) is_read: bool,
    /// Bytes from the start of the export.
    pub(in crate::client) offset: u64,
    /// Bytes.
    pub(in crate::client) length: u64,
}

/// What the stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum ReplyPiece<'a> {
    /// Bytes of a READ; a chunk may come as several pieces.
    Data { cookie: u64, offset: u64, bytes: &'a [u8] },
    /// Zeroes of a READ.
    Hole { cookie: u64, offset: u64, length: u64 },
    /// The request failed with that error value; the end of its reply still follows.
    Failed { cookie: u64, error: u32 },
    /// The reply is complete.
    Done { cookie: u64 },
}

/// Where a connection's stream stands.
#[derive(Debug)]
pub(in crate::client) struct Framer {
    heads: Heads,
    state: FramerState,
}

#[derive(Debug, Clone, Copy)]
enum FramerState {
    Head,
    Data {
        cookie: u64,
        offset: u64,
        left: u64,
        is_last: bool,
    },
    /// The text of an error chunk.
    Skip {
        cookie: u64,
        left: u64,
        is_last: bool,
    },
    Done(u64),
}

impl Framer {
    pub(in crate::client) fn new(mode: ReplyMode) -> Self {
        Self { heads: Heads::new(mode), state: FramerState::Head }
    }

    /// The data of a READ that comes next: its cookie, offset and length. Whoever receives that many bytes,
    /// or fewer, to where they belong has nothing to copy, and feeds them all the same.
    pub(in crate::client) fn data_ahead(&self) -> Option<(u64, u64, u64)> {
        match self.state {
            FramerState::Data { cookie, offset, left, .. } => Some((cookie, offset, left)),
            _ => None,
        }
    }

    /// Takes bytes off the front of `input` up to the next piece. `None`: all was taken, feed more. `asked`
    /// gives the request in flight that has a cookie.
    ///
    /// # Errors
    /// [`ReplyError`]: the server broke the protocol.
    #[inline]
    pub(in crate::client) fn feed<'a>(
        &mut self,
        input: &mut &'a [u8],
        asked: impl Fn(u64) -> Option<RequestInFlight>,
    ) -> Result<Option<ReplyPiece<'a>>, ReplyError> {
        loop {
            match self.state {
                FramerState::Head => {
                    let Some(head) = self.heads.feed(input)? else { return Ok(None) };
                    let request = asked(head.cookie).ok_or(ReplyError::Cookie(head.cookie))?;
                    if let Some(piece) = self.begin(head, request)? {
                        return Ok(Some(piece));
                    }
                }
                FramerState::Data { cookie, offset, left, is_last } => {
                    let taken = left.min(input.len() as u64);
                    if taken == 0 {
                        return Ok(None);
                    }
                    let (bytes, rest) = input.split_at(taken as usize);
                    *input = rest;
                    self.state = if taken == left {
                        after(cookie, is_last)
                    } else {
                        FramerState::Data { cookie, offset: offset + taken, left: left - taken, is_last }
                    };
                    return Ok(Some(ReplyPiece::Data { cookie, offset, bytes }));
                }
                FramerState::Skip { cookie, left, is_last } => {
                    let taken = left.min(input.len() as u64);
                    *input = &input[taken as usize..];
                    if taken < left {
                        self.state = FramerState::Skip { cookie, left: left - taken, is_last };
                        return Ok(None);
                    }
                    self.state = after(cookie, is_last);
                }
                FramerState::Done(cookie) => {
                    self.state = FramerState::Head;
                    return Ok(Some(ReplyPiece::Done { cookie }));
                }
            }
        }
    }

    /// What a header means for the request it answers.
    #[inline]
    fn begin(
        &mut self,
        head: Head,
        request: RequestInFlight,
    ) -> Result<Option<ReplyPiece<'static>>, ReplyError> {
        let Head { cookie, echoed, is_last, body } = head;
        if let Some(got) = echoed.filter(|offset| *offset != request.offset) {
            return Err(ReplyError::Offset { got, asked: request.offset });
        }
        let command = if request.is_read { NBD_CMD_READ } else { NBD_CMD_WRITE };
        self.state = after(cookie, is_last);
        match body {
            // "MUST NOT use a simple reply for `NBD_CMD_READ`" once structured replies are in force.
            Body::Simple(_) if request.is_read && self.heads.mode() == ReplyMode::Structured => {
                Err(ReplyError::Simple(command))
            }
            Body::Simple(0) if request.is_read => {
                let RequestInFlight { offset, length: left, .. } = request;
                self.state = FramerState::Data { cookie, offset, left, is_last };
                Ok(None)
            }
            Body::Simple(0) | Body::Nothing => Ok(None),
            Body::Simple(error) => Ok(Some(ReplyPiece::Failed { cookie, error })),
            Body::Data { at: offset, length: left } if request.is_read => {
                check_range(request, offset, left)?;
                self.state = FramerState::Data { cookie, offset, left, is_last };
                Ok(None)
            }
            Body::Hole { at: offset, length } if request.is_read => {
                check_range(request, offset, length)?;
                Ok(Some(ReplyPiece::Hole { cookie, offset, length }))
            }
            Body::Error { kind, error: 0, .. } => {
                Err(ReplyError::Malformed { kind, what: "has no error value" })
            }
            Body::Error { error, left, .. } => {
                self.state = FramerState::Skip { cookie, left, is_last };
                Ok(Some(ReplyPiece::Failed { cookie, error }))
            }
            Body::Data { .. } => Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_DATA, command }),
            Body::Hole { .. } => Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_HOLE, command }),
            // No command of a load has extents.
            Body::Status { count: None, .. } => {
                Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_BLOCK_STATUS, command })
            }
            Body::Status { .. } => Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_BLOCK_STATUS_EXT, command }),
            Body::Unknown(kind) => Err(ReplyError::Kind { kind, command }),
        }
    }
}

fn after(cookie: u64, is_last: bool) -> FramerState {
    if is_last { FramerState::Done(cookie) } else { FramerState::Head }
}

fn check_range(request: RequestInFlight, offset: u64, length: u64) -> Result<(), ReplyError> {
    let end = offset.checked_add(length);
    let is_inside = length > 0
        && offset >= request.offset
        && end.is_some_and(|end| end - request.offset <= request.length);
    if is_inside { Ok(()) } else { Err(ReplyError::Outside { offset, length }) }
}
