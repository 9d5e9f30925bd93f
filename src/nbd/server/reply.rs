//! Replies as header bytes: simple, structured and extended.
//!
//! Source: "Simple reply message", "Structured reply chunk message", "Extended reply chunk message",
//! "Structured reply types". Only headers are built here; the data of a READ never passes through.

use alloc::vec::Vec;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned, transmute};

use super::request::{Cookie, Refusal, Request};
use crate::error::to_wire;
use crate::headers::{ExtendedReply, SimpleReply, StructuredReply};
use crate::session::ReplyMode;
use crate::vocabulary::{BlockError, Extent};
use crate::wire::*;

/// The longest header: an extended chunk with offset and hole size.
pub const LONGEST_HEADER: usize = 32 + 12;

/// The bytes before a chunk's data.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBytes {
    bytes: [u8; LONGEST_HEADER],
    length: u8,
}

impl HeaderBytes {
    /// A header that is one value: its size is known to the compiler.
    #[inline]
    fn of<const N: usize>(bytes: [u8; N]) -> Self {
        let mut header = Self { bytes: [0; LONGEST_HEADER], length: N as u8 };
        header.bytes[..N].copy_from_slice(&bytes);
        header
    }

    fn new(parts: [&[u8]; 3]) -> Self {
        let mut header = Self { bytes: [0; LONGEST_HEADER], length: 0 };
        for part in parts {
            let start = usize::from(header.length);
            header.bytes[start..start + part.len()].copy_from_slice(part);
            header.length += part.len() as u8;
        }
        header
    }

    /// A header whose bytes are known already.
    ///
    /// # Panics
    /// When there are more than [`LONGEST_HEADER`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::new([bytes, &[], &[]])
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The bytes with room behind them, and how many they are.
    #[inline]
    pub fn padded(&self) -> (&[u8; LONGEST_HEADER], usize) {
        (&self.bytes, usize::from(self.length))
    }
}

/// The header of a chunk of data, with what precedes them.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct WithOffset<T> {
    header: T,
    offset: U64,
}

/// What replies to a request have in common.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTo {
    /// Of the connection.
    pub mode: ReplyMode,
    /// Of the request.
    pub cookie: Cookie,
    /// Of the request.
    pub offset: u64,
    /// The request is a READ or BLOCK_STATUS: in structured mode its replies are chunks.
    pub chunked: bool,
}

impl ReplyTo {
    /// Replies to a request.
    #[inline]
    pub fn request(request: &Request, mode: ReplyMode) -> Self {
        use super::request::Command::{BlockStatus, Read};
        let chunked = matches!(request.command, Read { .. } | BlockStatus { .. });
        Self { mode, cookie: request.cookie, offset: request.offset, chunked }
    }

    /// Replies to a request that was refused.
    pub fn refusal(refusal: &Refusal, mode: ReplyMode) -> Self {
        Self { mode, cookie: refusal.cookie, offset: refusal.offset, chunked: refusal.chunked }
    }

    /// The header of a chunk of `length` bytes, of which `fixed` are given here.
    fn chunk(&self, kind: u16, done: bool, length: u64, fixed: [&[u8]; 2]) -> HeaderBytes {
        match self.mode {
            ReplyMode::Extended => {
                HeaderBytes::new([self.extended(kind, done, length).as_bytes(), fixed[0], fixed[1]])
            }
            _ => HeaderBytes::new([self.structured(kind, done, length).as_bytes(), fixed[0], fixed[1]]),
        }
    }

    #[inline]
    fn extended(&self, kind: u16, done: bool, length: u64) -> ExtendedReply {
        ExtendedReply {
            magic: U32::new(NBD_EXTENDED_REPLY_MAGIC),
            flags: U16::new(if done { NBD_REPLY_FLAG_DONE } else { 0 }),
            kind: U16::new(kind),
            cookie: U64::new(self.cookie.0),
            offset: U64::new(self.offset),
            length: U64::new(length),
        }
    }

    #[inline]
    fn structured(&self, kind: u16, done: bool, length: u64) -> StructuredReply {
        StructuredReply {
            magic: U32::new(NBD_STRUCTURED_REPLY_MAGIC),
            flags: U16::new(if done { NBD_REPLY_FLAG_DONE } else { 0 }),
            kind: U16::new(kind),
            cookie: U64::new(self.cookie.0),
            length: U32::new(u32::try_from(length).expect("a chunk is shorter than 4 GiB")),
        }
    }

    #[inline]
    fn simple(&self, error: u32) -> HeaderBytes {
        let magic = U32::new(NBD_SIMPLE_REPLY_MAGIC);
        let reply = SimpleReply { magic, error: U32::new(error), cookie: U64::new(self.cookie.0) };
        HeaderBytes::of::<16>(transmute!(reply))
    }

    /// Success without data: for everything but a READ with data, and the end of a chunked reply.
    #[inline]
    pub fn success(&self) -> HeaderBytes {
        match (self.mode, self.chunked) {
            (ReplyMode::Simple, _) | (ReplyMode::Structured, false) => self.simple(0),
            (ReplyMode::Structured, true) => {
                HeaderBytes::of::<20>(transmute!(self.structured(NBD_REPLY_TYPE_NONE, true, 0)))
            }
            (ReplyMode::Extended, _) => {
                HeaderBytes::of::<32>(transmute!(self.extended(NBD_REPLY_TYPE_NONE, true, 0)))
            }
        }
    }

    /// What precedes `length` bytes of data (at least 1) read from `offset`; in simple mode the only one of
    /// the reply.
    #[inline]
    pub fn data(&self, offset: u64, length: u32, done: bool) -> HeaderBytes {
        let (kind, length, offset) = (NBD_REPLY_TYPE_OFFSET_DATA, 8 + u64::from(length), U64::new(offset));
        match self.mode {
            ReplyMode::Simple => self.simple(0),
            ReplyMode::Structured => {
                let header = self.structured(kind, done, length);
                HeaderBytes::of::<28>(transmute!(WithOffset { header, offset }))
            }
            ReplyMode::Extended => {
                let header = self.extended(kind, done, length);
                HeaderBytes::of::<40>(transmute!(WithOffset { header, offset }))
            }
        }
    }

    /// `length` zeroes (at least 1) at `offset` that are not sent; never in simple mode.
    #[inline]
    pub fn hole(&self, offset: u64, length: u32, done: bool) -> HeaderBytes {
        assert_ne!(self.mode, ReplyMode::Simple, "a simple reply has no holes");
        let (offset, length) = (offset.to_be_bytes(), length.to_be_bytes());
        self.chunk(NBD_REPLY_TYPE_OFFSET_HOLE, done, 12, [&offset, &length])
    }

    /// An error, with a text for people where the form has room for one, as header and payload.
    ///
    /// `at` makes it an `NBD_REPLY_TYPE_ERROR_OFFSET`: everything in the reply before that offset is good.
    pub fn error(&self, error: BlockError, reason: &str, at: Option<u64>) -> (HeaderBytes, Vec<u8>) {
        let error = to_wire(error);
        // "The server SHOULD prefer sending errors via a structured reply, as the error can then be
        // accompanied by a string payload."
        if self.mode == ReplyMode::Simple {
            return (self.simple(error), Vec::new());
        }
        let reason = &reason.as_bytes()[..reason.floor_char_boundary(NBD_MAX_STRING)];
        let mut payload = Vec::with_capacity(reason.len() + 14);
        payload.extend_from_slice(&error.to_be_bytes());
        payload.extend_from_slice(&(reason.len() as u16).to_be_bytes());
        payload.extend_from_slice(reason);
        let kind = match at {
            None => NBD_REPLY_TYPE_ERROR,
            Some(offset) => {
                payload.extend_from_slice(&offset.to_be_bytes());
                NBD_REPLY_TYPE_ERROR_OFFSET
            }
        };
        (self.chunk(kind, true, payload.len() as u64, [&[], &[]]), payload)
    }

    /// The status chunk of one meta context: its header, and how many bytes of `payload` follow it. 32-bit
    /// descriptors in a structured reply, 64-bit in an extended one; `payload` has room for [`status_length`]
    /// bytes.
    ///
    /// `runs` are lengths and flags, such as [`allocation_run`]s: merged already and not empty. A length
    /// beyond 32 bits is cut to `0xffff_f000` in a structured reply, which then ends there.
    ///
    /// # Panics
    /// When flags do not fit into the 32 bits of a structured reply.
    pub fn status(
        &self,
        context_id: u32,
        runs: impl ExactSizeIterator<Item = (u64, u64)>,
        done: bool,
        payload: &mut [u8],
    ) -> (HeaderBytes, usize) {
        assert!(runs.len() > 0 && runs.len() <= NBD_MAX_STATUS_DESCRIPTORS);
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            payload[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        put(&context_id.to_be_bytes());
        if self.mode == ReplyMode::Extended {
            put(&(runs.len() as u32).to_be_bytes());
            for (length, flags) in runs {
                put(&length.to_be_bytes());
                put(&flags.to_be_bytes());
            }
            return (self.chunk(NBD_REPLY_TYPE_BLOCK_STATUS_EXT, done, length as u64, [&[], &[]]), length);
        }
        for (run, flags) in runs {
            let cut = u32::try_from(run).unwrap_or(0xffff_f000);
            put(&cut.to_be_bytes());
            put(&u32::try_from(flags).expect("flags that fit were asked for").to_be_bytes());
            if u64::from(cut) != run {
                break;
            }
        }
        (self.chunk(NBD_REPLY_TYPE_BLOCK_STATUS, done, length as u64, [&[], &[]]), length)
    }
}

/// The most bytes that follow the header of a status chunk of so many extents.
pub const fn status_length(extents: usize) -> usize {
    8 + 16 * extents
}

/// The length of an extent, and its flags in `base:allocation`.
pub fn allocation_run(extent: &Extent) -> (u64, u64) {
    let hole = if extent.hole { NBD_STATE_HOLE } else { 0 };
    let zero = if extent.zero { NBD_STATE_ZERO } else { 0 };
    (extent.length, u64::from(hole | zero))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_to(mode: ReplyMode, chunked: bool) -> ReplyTo {
        ReplyTo { mode, cookie: Cookie(0x0102_0304_0506_0708), offset: 0x1000, chunked }
    }

    #[test]
    fn each_mode_has_its_form() {
        let simple = reply_to(ReplyMode::Simple, true).success();
        assert_eq!(simple.as_bytes(), b"\x67\x44\x66\x98\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08");
        let structured = reply_to(ReplyMode::Structured, false).success();
        assert_eq!(structured.as_bytes().len(), 16, "only READ and BLOCK_STATUS need chunks");
        let chunk = reply_to(ReplyMode::Structured, true).success();
        assert_eq!(chunk.as_bytes(), b"\x66\x8e\x33\xef\0\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0");
        let extended = reply_to(ReplyMode::Extended, false).success();
        let expected =
            b"\x6e\x8a\x27\x8c\0\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0";
        assert_eq!(extended.as_bytes(), expected);
    }

    #[test]
    fn errors_carry_a_text_and_the_offset_last() {
        let (header, payload) = reply_to(ReplyMode::Structured, true).error(BlockError::Io, "dead", Some(7));
        assert_eq!(header.as_bytes()[4..8], [0, 1, 0x80, 2]);
        assert_eq!(header.as_bytes()[16..], (payload.len() as u32).to_be_bytes());
        assert_eq!(payload, b"\0\0\0\x05\0\x04dead\0\0\0\0\0\0\0\x07");
        let (_, payload) = reply_to(ReplyMode::Extended, true).error(BlockError::Io, &"é".repeat(4000), None);
        assert_eq!(payload.len(), 6 + 4096);
        let (header, payload) = reply_to(ReplyMode::Simple, true).error(BlockError::NoSpace, "x", None);
        assert_eq!((&header.as_bytes()[4..8], payload.len()), (&[0, 0, 0, 28][..], 0));
    }

    #[test]
    fn a_long_extent_is_cut_only_where_32_bits_end() {
        let extents = [
            Extent { length: 1 << 40, hole: true, zero: true },
            Extent { length: 1, hole: false, zero: false },
        ];
        let runs = || extents.iter().map(allocation_run);
        let mut payload = [0; status_length(2)];
        let (_, short) = reply_to(ReplyMode::Structured, true).status(5, runs(), true, &mut payload);
        assert_eq!(&payload[..short], b"\0\0\0\x05\xff\xff\xf0\0\0\0\0\x03");
        let (header, long) = reply_to(ReplyMode::Extended, true).status(5, runs(), true, &mut payload);
        assert_eq!(long, 8 + 32);
        assert_eq!(payload[..8], [0, 0, 0, 5, 0, 0, 0, 2]);
        assert_eq!(header.as_bytes()[24..], 40_u64.to_be_bytes());
    }
}
