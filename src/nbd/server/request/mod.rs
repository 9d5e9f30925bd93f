//! A request header, parsed and checked: the one validation, in the spec's order.
//!
//! Source: "Request message", "Error values", "Request types", and the extended headers branch. Three
//! outcomes: a [`Request`] that may reach a backend; a [`Refusal`], which is answered with an error after its
//! payload was skipped; a [`Violation`], after which the stream cannot be trusted and the connection ends.

mod encode;
mod filter;
mod header;
mod message;

pub use filter::parse_filter;
pub use message::{Command, Cookie, Refusal, Rejected, Request, Violation};

use crate::headers::{CompactRequest, ExtendedRequest};
use crate::names;
use crate::session::{ReplyMode, Session};
use crate::wire::*;
use header::RequestHeader;

/// Bytes of a request header in a reply mode.
#[inline]
pub const fn header_length(mode: ReplyMode) -> usize {
    match mode {
        ReplyMode::Extended => size_of::<ExtendedRequest>(),
        _ => size_of::<CompactRequest>(),
    }
}

impl Request {
    /// Parses the bytes of one header, [`header_length`] of them, and checks them against the session.
    ///
    /// # Errors
    /// [`Rejected`], which says whether the connection goes on.
    pub fn parse(bytes: &[u8], session: &Session, shutting_down: bool) -> Result<Self, Rejected> {
        let header = RequestHeader::parse(bytes, session.reply_mode).map_err(Rejected::Violation)?;
        let payload = header.payload(session.reply_mode);
        // "A server SHOULD initiate hard disconnect if a client sets the NBD_CMD_FLAG_PAYLOAD_LEN flag and
        // uses a length larger than a server's [...] maximum payload length." A compact request is skipped
        // instead, whatever 32-bit length it names.
        if session.reply_mode == ReplyMode::Extended && payload > u64::from(session.block_sizes.maximum) {
            return Err(Rejected::Violation(Violation::Payload(payload)));
        }
        header.check(session, shutting_down).map_err(|(error, reason)| {
            Rejected::Refusal(Refusal {
                cookie: header.cookie,
                offset: header.offset,
                command: names::command_kind(header.command),
                error,
                reason,
                chunked: matches!(header.command, NBD_CMD_READ | NBD_CMD_BLOCK_STATUS),
                discard: payload,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::vocabulary::{BlockError, BlockSizes};

    fn session(reply_mode: ReplyMode, size: u64) -> Session {
        Session {
            reply_mode,
            transmission_flags: NBD_FLAG_HAS_FLAGS
                | NBD_FLAG_SEND_TRIM
                | NBD_FLAG_SEND_WRITE_ZEROES
                | NBD_FLAG_SEND_CACHE,
            size,
            block_sizes: BlockSizes::default(),
            enforce_alignment: false,
            contexts: vec![],
        }
    }

    /// A compact header, byte by byte.
    fn compact(command: u16, offset: u64, length: u32) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&[0x25, 0x60, 0x95, 0x13]);
        bytes[6..8].copy_from_slice(&command.to_be_bytes());
        bytes[8..16].copy_from_slice(&7_u64.to_be_bytes());
        bytes[16..24].copy_from_slice(&offset.to_be_bytes());
        bytes[24..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    proptest! {
        /// Of every range, next to the end of the export more often than by chance, exactly those within it
        /// are let through.
        #[test]
        fn a_range_is_let_through_when_it_is_within_the_export(
            size in prop_oneof![0_u64..100_000, Just(u64::MAX)],
            back in prop_oneof![0_u64..3, 0_u64..100_000],
            length in prop_oneof![1_u32..4, 1_u32..100_000],
            command in prop_oneof![Just(NBD_CMD_READ), Just(NBD_CMD_WRITE), Just(NBD_CMD_TRIM), Just(NBD_CMD_WRITE_ZEROES), Just(NBD_CMD_CACHE)],
            beyond in any::<bool>(),
        ) {
            let near = size.saturating_sub(length.into());
            let offset = if beyond { near.saturating_add(back) } else { near.saturating_sub(back) };
            let within = u128::from(offset) + u128::from(length) <= u128::from(size);
            match Request::parse(&compact(command, offset, length), &session(ReplyMode::Structured, size), false) {
                Ok(request) => {
                    prop_assert!(within);
                    prop_assert_eq!((request.range.offset(), request.range.length()), (offset, length.into()));
                }
                Err(Rejected::Refusal(refusal)) => {
                    prop_assert!(!within);
                    let writes = matches!(command, NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES);
                    prop_assert_eq!(refusal.error, if writes { BlockError::NoSpace } else { BlockError::Invalid });
                    prop_assert_eq!(refusal.discard, if command == NBD_CMD_WRITE { length.into() } else { 0 });
                }
                Err(violation) => prop_assert!(false, "{:?}", violation),
            }
        }
    }

    #[test]
    fn the_last_byte_of_an_export_can_be_read() {
        let last = Request::parse(&compact(NBD_CMD_READ, 4095, 1), &session(ReplyMode::Simple, 4096), false);
        assert_eq!(last.map(|request| request.range.end()), Ok(4096));
    }
}
