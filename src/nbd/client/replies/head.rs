//! One header of a reply, with the fixed fields of its chunk, out of contiguous bytes.

use zerocopy::FromBytes;

use super::error::ReplyError;
use crate::session::ReplyMode;
use crate::wire::*;

/// The longest header with its fixed fields: an extended hole.
pub const LONGEST_HEAD: usize = size_of::<ExtendedReply>() + 12;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the request.
    pub cookie: u64,
    /// The request's offset, which an extended header echoes.
    pub echoed: Option<u64>,
    /// Nothing of the reply follows after this chunk.
    pub is_last: bool,
    /// What it announces.
    pub body: Body,
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A simple reply, with its error value or 0.
    Simple(u32),
    /// A chunk without content.
    Nothing,
    /// `length` bytes of data follow, for offset `at`.
    Data {
        /// From the start of the export, in bytes.
        at: u64,
        /// Bytes.
        length: u64,
    },
    /// Zeroes.
    Hole {
        /// From the start of the export, in bytes.
        at: u64,
        /// Bytes.
        length: u64,
    },
    /// An error, of whose chunk `left` bytes follow.
    Error {
        /// `NBD_E*`.
        error: u32,
        /// Bytes.
        left: u64,
    },
    /// A type that no READ or WRITE has.
    Unknown(u16),
}

/// What the bytes at hand gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many bytes in all are needed.
    Need(usize),
    /// A header, and its length with the fixed fields.
    Head(Head, usize),
}

/// The header at the front of `bytes`.
///
/// # Errors
/// [`ReplyError`]: a wrong magic, or a chunk whose length does not fit its type.
#[inline]
pub fn parse_head(mode: ReplyMode, bytes: &[u8]) -> Result<Parsed, ReplyError> {
    const SIMPLE: usize = size_of::<SimpleReply>();
    let Some(magic) = bytes.first_chunk() else { return Ok(Parsed::Need(4)) };
    match (mode, u32::from_be_bytes(*magic)) {
        (ReplyMode::Simple | ReplyMode::Structured, NBD_SIMPLE_REPLY_MAGIC) => {
            let Ok((header, _)) = SimpleReply::read_from_prefix(bytes) else {
                return Ok(Parsed::Need(SIMPLE));
            };
            let body = Body::Simple(header.error.get());
            Ok(Parsed::Head(Head { cookie: header.cookie.get(), echoed: None, is_last: true, body }, SIMPLE))
        }
        (ReplyMode::Structured, NBD_STRUCTURED_REPLY_MAGIC) => {
            let Ok((header, rest)) = StructuredReply::read_from_prefix(bytes) else {
                return Ok(Parsed::Need(size_of::<StructuredReply>()));
            };
            let is_last = header.flags.get() & NBD_REPLY_FLAG_DONE != 0;
            let body = parse_body(header.kind.get(), header.length.get().into(), is_last, rest)?;
            let head = |body| Head { cookie: header.cookie.get(), echoed: None, is_last, body };
            Ok(with_fields(size_of::<StructuredReply>(), body, head))
        }
        (ReplyMode::Extended, NBD_EXTENDED_REPLY_MAGIC) => {
            let Ok((header, rest)) = ExtendedReply::read_from_prefix(bytes) else {
                return Ok(Parsed::Need(size_of::<ExtendedReply>()));
            };
            let is_last = header.flags.get() & NBD_REPLY_FLAG_DONE != 0;
            let body = parse_body(header.kind.get(), header.length.get(), is_last, rest)?;
            let echoed = Some(header.offset.get());
            let head = |body| Head { cookie: header.cookie.get(), echoed, is_last, body };
            Ok(with_fields(size_of::<ExtendedReply>(), body, head))
        }
        (_, magic) => Err(ReplyError::Magic(magic)),
    }
}

#[inline]
fn with_fields(header: usize, (fields, body): (usize, Option<Body>), head: impl Fn(Body) -> Head) -> Parsed {
    match body {
        Some(body) => Parsed::Head(head(body), header + fields),
        None => Parsed::Need(header + fields),
    }
}

/// The length of the fixed fields at the front of `rest`, and the body once they are there.
#[inline]
fn parse_body(
    kind: u16,
    length: u64,
    is_last: bool,
    rest: &[u8],
) -> Result<(usize, Option<Body>), ReplyError> {
    let word = |range: core::ops::Range<usize>| rest.get(range).map(big_endian);
    let (fits, fields, body) = match kind {
        NBD_REPLY_TYPE_NONE => (length == 0 && is_last, 0, Some(Body::Nothing)),
        NBD_REPLY_TYPE_OFFSET_DATA => {
            let body = word(0..8).map(|at| Body::Data { at, length: length.wrapping_sub(8) });
            (length > 8, 8, body)
        }
        NBD_REPLY_TYPE_OFFSET_HOLE => {
            let body = word(0..8).zip(word(8..12)).map(|(at, length)| Body::Hole { at, length });
            (length == 12, 12, body)
        }
        _ if kind & NBD_REPLY_TYPE_FLAG_ERROR != 0 => {
            let least = if kind == NBD_REPLY_TYPE_ERROR_OFFSET { 14 } else { 6 };
            let body = word(0..4)
                .zip(word(4..6))
                .map(|(error, _)| Body::Error { error: error as u32, left: length.wrapping_sub(6) });
            (length >= least, 6, body)
        }
        // Refused by its type, whatever its length.
        _ => (true, 0, Some(Body::Unknown(kind))),
    };
    if fits { Ok((fields, body)) } else { Err(ReplyError::Length { kind, length }) }
}

/// A big-endian number of at most eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
