//! A request that waits for a rate of its export: it was parsed, and has not begun.

use crate::nbd::server::request::{Command, Request};
use crate::shard::admission::gate::{GatePlace, RequestCost};

/// See the module.
#[derive(Debug)]
pub(crate) struct Throttled {
    pub(crate) request: Request,
    pub(crate) since: u64,
    pub(crate) place: GatePlace,
}

/// What a request costs. TRIM moves no bytes, and a WRITE_ZEROES or CACHE of any length counts as the longest
/// request at most.
pub(crate) fn cost(request: &Request, longest: u32) -> RequestCost {
    let length = request.range.length().min(longest.into());
    let (reads, bytes) = match request.command {
        Command::Read { .. } | Command::Cache => (true, length),
        Command::BlockStatus { .. } => (true, 0),
        Command::Write | Command::WriteZeroes => (false, length),
        Command::Trim | Command::Flush | Command::Disconnect => (false, 0),
    };
    RequestCost { reads, bytes }
}
