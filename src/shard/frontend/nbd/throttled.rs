//! A request that waits for a rate of its export, or for its turn at the device: it was parsed, and has not
//! begun.

use crate::nbd::server::request::{Command, Request};
use crate::shard::admission::cost::RequestCost;
use crate::shard::admission::gate::{Gate, GatePlace};
use crate::shard::admission::share::{self, SharePlace};
use crate::stats::Operation;

/// See the module.
#[derive(Debug)]
pub(crate) struct Throttled {
    pub(crate) request: Request,
    pub(crate) since: u64,
    pub(crate) cost: RequestCost,
    pub(crate) place: HeldAt,
}

/// Where it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldAt {
    /// Before a rate: as long as that says.
    Rate(GatePlace),
    /// For its turn.
    Device(SharePlace),
}

impl HeldAt {
    /// It waits there no more.
    pub(crate) fn leave(self, gate: &mut Gate) {
        match self {
            Self::Rate(place) => gate.leave(place),
            Self::Device(place) => gate.leave_line(place),
        }
    }
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

/// What a request that has begun counts at its device.
pub(crate) fn load(operation: Operation, length: u64, longest: u32) -> u16 {
    match operation {
        Operation::Read | Operation::Write | Operation::WriteZeroes | Operation::Cache => {
            share::load(length.min(longest.into()))
        }
        Operation::Trim | Operation::Flush | Operation::BlockStatus => share::load(0),
    }
}
