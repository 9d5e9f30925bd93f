//! Requests in the protocol's form.

use super::unanswered::RemoteRequest;
use crate::block::{CommandKind, Extent, IoFlags};
use crate::nbd::client::request::ClientRequest;
use crate::nbd::wire::*;

/// The longest TRIM, WRITE_ZEROES, CACHE or BLOCK_STATUS that the remote is asked for at once: it fits into a
/// compact request.
pub(super) const LONGEST_CHANGE: u64 = 1 << 30;
/// The longest READ or WRITE, whatever more the remote would take.
pub(super) const LONGEST_PAYLOAD: u32 = 32 << 20;

/// A request as it is sent.
pub(super) fn client_request(cookie: u64, request: &RemoteRequest) -> ClientRequest {
    let command = match request.command {
        CommandKind::Read => NBD_CMD_READ,
        CommandKind::Write => NBD_CMD_WRITE,
        CommandKind::Flush => NBD_CMD_FLUSH,
        CommandKind::Trim => NBD_CMD_TRIM,
        CommandKind::Cache => NBD_CMD_CACHE,
        CommandKind::WriteZeroes => NBD_CMD_WRITE_ZEROES,
        CommandKind::BlockStatus => NBD_CMD_BLOCK_STATUS,
    };
    let (offset, length) = (request.range.offset(), request.range.length());
    ClientRequest { command, flags: command_flags(request.flags), cookie, offset, length }
}

fn command_flags(flags: IoFlags) -> u16 {
    let mut bits = 0;
    if flags.fua {
        bits |= NBD_CMD_FLAG_FUA;
    }
    if flags.no_hole {
        bits |= NBD_CMD_FLAG_NO_HOLE;
    }
    if flags.fast_zero {
        bits |= NBD_CMD_FLAG_FAST_ZERO;
    }
    bits
}

/// An extent of `base:allocation`. "clients MUST ignore unknown flags"
pub(super) fn extent(length: u64, flags: u64) -> Extent {
    let has = |flag: u32| flags & u64::from(flag) != 0;
    Extent { length, hole: has(NBD_STATE_HOLE), zero: has(NBD_STATE_ZERO) }
}

/// Whether it changes something that a crash of the remote could lose after it was answered.
pub(super) fn is_volatile_change(request: &RemoteRequest) -> bool {
    let changes =
        matches!(request.command, CommandKind::Write | CommandKind::Trim | CommandKind::WriteZeroes);
    changes && !request.flags.fua
}
