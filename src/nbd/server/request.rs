//! A request header, parsed and checked: the one validation, in the spec's order.
//!
//! Source: "Request message", "Error values", "Request types", and the extended headers branch. Three outcomes: a [`Request`] that
//! may reach a backend; a [`Refusal`], which is answered with an error after its payload was skipped; a [`Violation`], after which
//! the stream cannot be trusted and the connection ends.

use alloc::vec::Vec;
use zerocopy::FromBytes;

use crate::headers::{CompactRequest, ExtendedRequest};
use crate::names;
use crate::session::{ReplyMode, Session};
use crate::vocabulary::{BlockError, ByteRange, CommandKind, IoFlags};
use crate::wire::*;

/// The client's name of a request: opaque, echoed, never a key, since a client may repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub u64);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read; the flag forbids fragments (`NBD_CMD_FLAG_DF`).
    Read {
        /// One content chunk only.
        dont_fragment: bool,
    },
    /// Write the payload.
    Write,
    /// End the session.
    Disconnect,
    /// Make durable what was answered.
    Flush,
    /// Discard.
    Trim,
    /// Prefetch.
    Cache,
    /// Zero.
    WriteZeroes,
    /// Tell the status of extents.
    BlockStatus {
        /// One extent only (`NBD_CMD_FLAG_REQ_ONE`).
        one: bool,
        /// A payload of so many bytes names the contexts wanted (`NBD_CMD_FLAG_PAYLOAD_LEN`).
        filter: Option<u32>,
    },
}

/// A request that keeps every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Echoed.
    pub cookie: Cookie,
    /// What to do.
    pub command: Command,
    /// Where; within the export, except for FLUSH and DISC, where it has no meaning.
    pub range: ByteRange,
    /// The offset field as it came: extended replies echo it.
    pub offset: u64,
    /// How.
    pub flags: IoFlags,
}

impl Request {
    /// Bytes that follow the header.
    #[inline]
    pub fn payload_length(&self) -> u32 {
        match self.command {
            Command::Write => self.range.length() as u32,
            Command::BlockStatus { filter, .. } => filter.unwrap_or(0),
            _ => 0,
        }
    }
}

/// A request that is answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Echoed.
    pub cookie: Cookie,
    /// Echoed in extended replies.
    pub offset: u64,
    /// What it asked for; `None` when no such command exists.
    pub command: Option<CommandKind>,
    /// Why.
    pub error: BlockError,
    /// For people; goes into structured error chunks.
    pub reason: &'static str,
    /// The reply must be of the structured form even in structured mode: it answers READ or BLOCK_STATUS.
    pub chunked: bool,
    /// Bytes of payload to skip before the next header.
    pub discard: u64,
}

/// The client broke the framing; nothing after it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not a request ("the server MUST close the connection").
    #[error("bad request magic {0:#010x}")]
    Magic(u32),
    /// A payload longer than any request may carry.
    #[error("an extended request announces a payload of {0} bytes")]
    Payload(u64),
}

/// Why there is no [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Answer with an error.
    Refusal(Refusal),
    /// Disconnect.
    Violation(Violation),
}

/// The longest filter of a BLOCK_STATUS payload: 64-bit length and the ids.
const LONGEST_FILTER: u32 = 8 + 4 * 1024;

/// The fields of either header.
struct Header {
    flags: u16,
    command: u16,
    cookie: Cookie,
    offset: u64,
    length: u64,
}

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
        let header = Header::parse(bytes, session.reply_mode).map_err(Rejected::Violation)?;
        let payload = header.payload(session.reply_mode);
        // "A server SHOULD initiate hard disconnect if a client sets the NBD_CMD_FLAG_PAYLOAD_LEN flag and uses a length larger than a
        // server's [...] maximum payload length." A compact request is skipped instead, whatever 32-bit length it names.
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

impl Header {
    fn parse(bytes: &[u8], mode: ReplyMode) -> Result<Self, Violation> {
        if mode == ReplyMode::Extended {
            let header = ExtendedRequest::ref_from_bytes(bytes).expect("the caller gives one header");
            if header.magic.get() != NBD_EXTENDED_REQUEST_MAGIC {
                return Err(Violation::Magic(header.magic.get()));
            }
            return Ok(Self {
                flags: header.flags.get(),
                command: header.command.get(),
                cookie: Cookie(header.cookie.get()),
                offset: header.offset.get(),
                length: header.length.get(),
            });
        }
        let header = CompactRequest::ref_from_bytes(bytes).expect("the caller gives one header");
        if header.magic.get() != NBD_REQUEST_MAGIC {
            return Err(Violation::Magic(header.magic.get()));
        }
        Ok(Self {
            flags: header.flags.get(),
            command: header.command.get(),
            cookie: Cookie(header.cookie.get()),
            offset: header.offset.get(),
            length: u64::from(header.length.get()),
        })
    }

    /// Bytes that follow the header whether or not the request is valid.
    ///
    /// Compact: only WRITE has a payload. Extended: PAYLOAD_LEN announces one on any command. A WRITE has one even without that flag,
    /// which "the command `NBD_CMD_WRITE` MUST use": the client of QEMU 10 leaves it out and sends the payload all the same, and
    /// whoever did not mean to send one would have nothing to write.
    fn payload(&self, mode: ReplyMode) -> u64 {
        let announced = mode == ReplyMode::Extended && self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0;
        if announced || self.command == NBD_CMD_WRITE { self.length } else { 0 }
    }

    /// Everything that can be wrong with a well-framed request.
    fn check(&self, session: &Session, shutting_down: bool) -> Result<Request, (BlockError, &'static str)> {
        use BlockError::{Invalid, NotPermitted, Shutdown};
        let nothing = ByteRange::new(0, 0).expect("nothing fits");
        if self.command == NBD_CMD_DISC {
            // Nothing can be answered to it, so nothing about it can be wrong.
            let flags = IoFlags::default();
            return Ok(Request {
                cookie: self.cookie,
                command: Command::Disconnect,
                range: nothing,
                offset: 0,
                flags,
            });
        }
        if shutting_down {
            return Err((Shutdown, "the server is shutting down"));
        }
        let command = self.command(session)?;
        let allowed = allowed_flags(self.command, session);
        if self.flags & !allowed != 0 {
            return Err((Invalid, "a flag that this command does not have"));
        }
        let request = |range| Request {
            cookie: self.cookie,
            command,
            range,
            offset: self.offset,
            flags: IoFlags {
                fua: self.flags & NBD_CMD_FLAG_FUA != 0,
                no_hole: self.flags & NBD_CMD_FLAG_NO_HOLE != 0,
                fast_zero: self.flags & NBD_CMD_FLAG_FAST_ZERO != 0,
            },
        };
        match command {
            Command::Flush => return Ok(request(nothing)),
            // The effect length stands in the payload; it is checked when that is there.
            Command::BlockStatus { filter: Some(length), .. } => {
                if !(8..=LONGEST_FILTER).contains(&length) || length % 4 != 0 {
                    return Err((Invalid, "a filter of an impossible length"));
                }
                let start = ByteRange::new(self.offset, 0).expect("an empty range fits");
                return Ok(request(start));
            }
            _ => {}
        }
        if matches!(command, Command::BlockStatus { .. }) && self.length == 0 {
            return Err((Invalid, "a status of nothing"));
        }
        if session.is_read_only() && matches!(command, Command::Write | Command::Trim | Command::WriteZeroes)
        {
            return Err((NotPermitted, "the export is read-only"));
        }
        let range = self.range(command, session)?;
        let carries = matches!(command, Command::Write | Command::Read { .. });
        if carries && range.length() > u64::from(session.block_sizes.maximum) {
            return Err((Invalid, "longer than the maximum block size"));
        }
        if session.enforce_alignment && !range.is_aligned(session.block_sizes.minimum) {
            return Err((Invalid, "not aligned to the minimum block size"));
        }
        Ok(request(range))
    }

    fn command(&self, session: &Session) -> Result<Command, (BlockError, &'static str)> {
        let filter = self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0;
        Ok(match self.command {
            NBD_CMD_READ => Command::Read { dont_fragment: self.flags & NBD_CMD_FLAG_DF != 0 },
            NBD_CMD_WRITE => Command::Write,
            NBD_CMD_FLUSH => Command::Flush,
            NBD_CMD_TRIM => Command::Trim,
            NBD_CMD_CACHE => Command::Cache,
            NBD_CMD_WRITE_ZEROES => Command::WriteZeroes,
            NBD_CMD_BLOCK_STATUS if session.contexts.is_empty() => {
                return Err((BlockError::Invalid, "no meta context was negotiated"));
            }
            NBD_CMD_BLOCK_STATUS => Command::BlockStatus {
                one: self.flags & NBD_CMD_FLAG_REQ_ONE != 0,
                filter: filter.then_some(u32::try_from(self.length).unwrap_or(u32::MAX)),
            },
            _ => return Err((BlockError::Invalid, "an unknown command")),
        })
    }

    /// The range, within the export: past its end a write has no space, the rest is invalid.
    fn range(&self, command: Command, session: &Session) -> Result<ByteRange, (BlockError, &'static str)> {
        let error = match command {
            Command::Write | Command::WriteZeroes => BlockError::NoSpace,
            _ => BlockError::Invalid,
        };
        ByteRange::new(self.offset, self.length)
            .filter(|range| range.is_within(session.size))
            .ok_or((error, "beyond the end of the export"))
    }
}

/// The flags that a command may carry in this session ("Command flags"): FUA anywhere, the others where the spec names them.
fn allowed_flags(command: u16, session: &Session) -> u16 {
    let extended = session.reply_mode == ReplyMode::Extended;
    let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
    let offered = |bit: u16| session.transmission_flags & bit != 0;
    NBD_CMD_FLAG_FUA
        | match command {
            NBD_CMD_READ => when(offered(NBD_FLAG_SEND_DF), NBD_CMD_FLAG_DF),
            NBD_CMD_WRITE => when(extended, NBD_CMD_FLAG_PAYLOAD_LEN),
            NBD_CMD_WRITE_ZEROES => {
                NBD_CMD_FLAG_NO_HOLE | when(offered(NBD_FLAG_SEND_FAST_ZERO), NBD_CMD_FLAG_FAST_ZERO)
            }
            NBD_CMD_BLOCK_STATUS => NBD_CMD_FLAG_REQ_ONE | when(extended, NBD_CMD_FLAG_PAYLOAD_LEN),
            _ => 0,
        }
}

/// The contexts and the length that the payload of a BLOCK_STATUS names: "64 bits, effect length; n * 32 bits, list of metacontext ids".
///
/// # Errors
/// `Invalid` for an unknown or repeated id, or a range beyond the export.
pub fn parse_filter(
    payload: &[u8],
    offset: u64,
    session: &Session,
) -> Result<(ByteRange, Vec<u32>), BlockError> {
    let (length, ids) = payload.split_first_chunk::<8>().ok_or(BlockError::Invalid)?;
    let length = u64::from_be_bytes(*length);
    let ids: Vec<u32> = ids.as_chunks::<4>().0.iter().map(|id| u32::from_be_bytes(*id)).collect();
    let known = |id: &u32| session.contexts.iter().any(|context| context.id == *id);
    let repeated = |index: usize| ids[..index].contains(&ids[index]);
    if ids.is_empty() || !ids.iter().all(known) || (0..ids.len()).any(repeated) {
        return Err(BlockError::Invalid);
    }
    let range =
        ByteRange::new(offset, length).filter(|range| range.is_within(session.size) && !range.is_empty());
    let aligned =
        |range: &ByteRange| !session.enforce_alignment || range.is_aligned(session.block_sizes.minimum);
    Ok((range.filter(aligned).ok_or(BlockError::Invalid)?, ids))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::vocabulary::BlockSizes;

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
        /// Of every range, next to the end of the export more often than by chance, exactly those within it are let through.
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
