//! Headers of replies: the base of every parser of replies.
//!
//! A header is taken together with the fixed fields of its chunk, so that what it announces is one value. The
//! checks here depend only on the header itself; its reader checks whether it fits the request.

use zerocopy::FromBytes;

use super::error::ReplyError;
use crate::headers::{ExtendedReply, SimpleReply, StructuredReply};
use crate::session::ReplyMode;
use crate::wire::*;

/// The longest header with its fixed fields: an extended hole.
pub const LONGEST_HEAD: usize = size_of::<ExtendedReply>() + 12;
/// The longest accepted error chunk, in bytes: a message of 4,096, an offset, and room for fields that later
/// types add.
pub const LONGEST_ERROR: u64 = 8 << 10;

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
    /// A chunk without content, which is the last.
    Nothing,
    /// `length` bytes of data follow, for offset `at`.
    Data {
        /// From the start of the export, in bytes.
        at: u64,
        /// Bytes, at least 1.
        length: u64,
    },
    /// Zeroes.
    Hole {
        /// From the start of the export, in bytes.
        at: u64,
        /// Bytes; a broken server may say 0.
        length: u64,
    },
    /// Extents of a meta context, of whose chunk `left` bytes follow: descriptors of 8 bytes, or of 16 with
    /// extended headers.
    Status {
        /// The id of the context.
        context: u32,
        /// How many descriptors the chunk says it has; without extended headers it does not say.
        count: Option<u32>,
        /// Bytes, at least one descriptor and at most 2^20.
        left: u64,
    },
    /// An error, of whose chunk `left` bytes follow: the message and what the type adds.
    Error {
        /// `NBD_REPLY_TYPE_*`.
        kind: u16,
        /// `NBD_E*`; a broken server may say 0.
        error: u32,
        /// Bytes of the message; a broken server may say more than `left`.
        message: u16,
        /// Bytes, at most [`LONGEST_ERROR`].
        left: u64,
    },
    /// A type that does not exist in this reply mode.
    Unknown(u16),
}

/// The headers in a stream of replies: each is put together here if it comes in parts.
///
/// The bytes that a header announces are not taken: its reader takes them before it asks for the next header.
#[derive(Debug)]
pub struct Heads {
    mode: ReplyMode,
    /// The beginning of a header whose rest has not come.
    stash: [u8; LONGEST_HEAD],
    stashed: usize,
}

impl Heads {
    /// Headers of that reply mode.
    pub const fn new(mode: ReplyMode) -> Self {
        Self { mode, stash: [0; LONGEST_HEAD], stashed: 0 }
    }

    /// The reply mode.
    #[inline]
    pub const fn mode(&self) -> ReplyMode {
        self.mode
    }

    /// Takes the next header off the front of `input`. `None`: all was taken, feed more.
    ///
    /// # Errors
    /// [`ReplyError`]: a wrong magic, or a chunk whose length does not fit its type.
    #[inline]
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Head>, ReplyError> {
        if self.stashed == 0
            && let Parsed::Head(head, length) = parse(self.mode, input)?
        {
            *input = &input[length..];
            return Ok(Some(head));
        }
        self.feed_parts(input)
    }

    /// The same for a header that comes in parts.
    #[cold]
    fn feed_parts(&mut self, input: &mut &[u8]) -> Result<Option<Head>, ReplyError> {
        loop {
            match parse(self.mode, &self.stash[..self.stashed])? {
                Parsed::Head(head, _) => {
                    self.stashed = 0;
                    return Ok(Some(head));
                }
                Parsed::Need(length) => {
                    let taken = (length - self.stashed).min(input.len());
                    if taken == 0 {
                        return Ok(None);
                    }
                    self.stash[self.stashed..][..taken].copy_from_slice(&input[..taken]);
                    self.stashed += taken;
                    *input = &input[taken..];
                }
            }
        }
    }
}

/// What the bytes at hand gave.
enum Parsed {
    /// At least so many bytes in all are needed.
    Need(usize),
    /// A header, and its length with the fixed fields.
    Head(Head, usize),
}

/// The header at the front of `bytes`.
#[inline]
fn parse(mode: ReplyMode, bytes: &[u8]) -> Result<Parsed, ReplyError> {
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
            let body = parse_body(header.kind.get(), header.length.get().into(), is_last, false, rest)?;
            let head = |body| Head { cookie: header.cookie.get(), echoed: None, is_last, body };
            Ok(with_fields(size_of::<StructuredReply>(), body, head))
        }
        (ReplyMode::Extended, NBD_EXTENDED_REPLY_MAGIC) => {
            let Ok((header, rest)) = ExtendedReply::read_from_prefix(bytes) else {
                return Ok(Parsed::Need(size_of::<ExtendedReply>()));
            };
            let is_last = header.flags.get() & NBD_REPLY_FLAG_DONE != 0;
            let body = parse_body(header.kind.get(), header.length.get(), is_last, true, rest)?;
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
    is_extended: bool,
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
        NBD_REPLY_TYPE_BLOCK_STATUS if !is_extended => {
            let left = length.wrapping_sub(4);
            let body = word(0..4).map(|context| Body::Status { context: context as u32, count: None, left });
            (has_descriptors(left, 8), 4, body)
        }
        NBD_REPLY_TYPE_BLOCK_STATUS_EXT if is_extended => {
            let left = length.wrapping_sub(8);
            let body = word(0..4).zip(word(4..8)).map(|(context, count)| Body::Status {
                context: context as u32,
                count: Some(count as u32),
                left,
            });
            (has_descriptors(left, 16), 8, body)
        }
        // "an unknown or unexpected type with bit 15 set": "All error chunk types have bit 15 set, and begin
        // with the same *error*, *message length*, and optional *message* fields".
        _ if kind & NBD_REPLY_TYPE_FLAG_ERROR != 0 => {
            let least = if kind == NBD_REPLY_TYPE_ERROR_OFFSET { 14 } else { 6 };
            let left = length.wrapping_sub(6);
            let body = word(0..4).zip(word(4..6)).map(|(error, message)| Body::Error {
                kind,
                error: error as u32,
                message: message as u16,
                left,
            });
            ((least..=LONGEST_ERROR).contains(&length), 6, body)
        }
        // Refused by its type, whatever its length.
        _ => (true, 0, Some(Body::Unknown(kind))),
    };
    if fits { Ok((fields, body)) } else { Err(ReplyError::Length { kind, length }) }
}

/// Whether so many bytes are descriptors of that size: at least one, and not more than a chunk may have.
const fn has_descriptors(left: u64, size: u64) -> bool {
    left > 0 && left <= size * NBD_MAX_STATUS_DESCRIPTORS as u64 && left.is_multiple_of(size)
}

/// A big-endian number of at most eight bytes.
#[inline]
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// A structured header, byte by byte, DONE set.
    fn structured(kind: u16, length: u32, fields: &[u8]) -> Vec<u8> {
        let start = [&[0x66, 0x8e, 0x33, 0xef, 0, 1][..], &kind.to_be_bytes(), &7_u64.to_be_bytes()].concat();
        [&start[..], &length.to_be_bytes(), fields].concat()
    }

    #[test]
    fn a_header_comes_whole_or_byte_by_byte_and_nothing_behind_it_is_taken() {
        for (bytes, body) in [
            (structured(0, 0, &[]), Body::Nothing),
            (structured(1, 9, &[0, 0, 0, 0, 0, 0, 2, 0]), Body::Data { at: 512, length: 1 }),
            (structured(2, 12, &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0]), Body::Hole { at: 512, length: 256 }),
            (structured(5, 20, &[0, 0, 0, 9]), Body::Status { context: 9, count: None, left: 16 }),
            (
                structured(0x8001, 8, &[0, 0, 0, 5, 0, 2]),
                Body::Error { kind: 0x8001, error: 5, message: 2, left: 2 },
            ),
            (structured(6, 1, &[]), Body::Unknown(6)),
        ] {
            let head = Head { cookie: 7, echoed: None, is_last: true, body };
            let stream = [&bytes[..], b"behind"].concat();
            let mut input = &stream[..];
            assert_eq!(Heads::new(ReplyMode::Structured).feed(&mut input), Ok(Some(head)));
            assert_eq!(input, b"behind");
            let mut heads = Heads::new(ReplyMode::Structured);
            let (last, before) = bytes.split_last().expect("a header has bytes");
            for byte in before {
                assert_eq!(heads.feed(&mut &[*byte][..]), Ok(None));
            }
            assert_eq!(heads.feed(&mut &[*last][..]), Ok(Some(head)));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused_before_the_fields_come() {
        let most = 4 + 8 * (1 << 20);
        for (kind, length) in [
            (0, 1),
            (1, 8),
            (2, 11),
            (5, 4),
            (5, 13),
            (5, most + 8),
            (0x8001, 5),
            (0x8002, 13),
            (0x8001, 8193),
        ] {
            let mut input = &structured(kind, length, &[])[..];
            let error = ReplyError::Length { kind, length: length.into() };
            assert_eq!(Heads::new(ReplyMode::Structured).feed(&mut input), Err(error));
        }
        let mut input = &structured(5, most, &[0, 0, 0, 1])[..];
        assert!(Heads::new(ReplyMode::Structured).feed(&mut input).is_ok());
    }
}
