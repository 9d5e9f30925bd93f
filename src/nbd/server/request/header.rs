//! The fields of a header, and everything that can be wrong with them.

use zerocopy::FromBytes;

use super::filter::LONGEST_FILTER;
use super::message::{Command, Cookie, Request, Violation};
use crate::headers::{CompactRequest, ExtendedRequest};
use crate::session::{ReplyMode, Session};
use crate::vocabulary::{BlockError, ByteRange, IoFlags};
use crate::wire::*;

/// The fields of either header.
pub(super) struct RequestHeader {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: Cookie,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl RequestHeader {
    pub(super) fn parse(bytes: &[u8], mode: ReplyMode) -> Result<Self, Violation> {
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
    /// Compact: only WRITE has a payload. Extended: PAYLOAD_LEN announces one on any command. A WRITE has one
    /// even without that flag, which "the command `NBD_CMD_WRITE` MUST use": the client of QEMU 10 leaves it
    /// out and sends the payload all the same, and a client that did not mean to send one would have nothing
    /// to write.
    pub(super) fn payload(&self, mode: ReplyMode) -> u64 {
        let announced = mode == ReplyMode::Extended && self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0;
        if announced || self.command == NBD_CMD_WRITE { self.length } else { 0 }
    }

    /// Everything that can be wrong with a well-framed request.
    pub(super) fn check(
        &self,
        session: &Session,
        shutting_down: bool,
    ) -> Result<Request, (BlockError, &'static str)> {
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

/// The flags that a command may carry in this session ("Command flags"): FUA anywhere, the others where the
/// spec names them.
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
