//! What a server knows of its own speed: histograms and counters per shard, and their totals.
//!
//! A shard records into an [`Interval`] of its own, without locks. The control plane asks for it by message; the shard hands the interval
//! over and goes on with an empty one, so that asking costs the shard a pointer, however many histograms there are. [`Totals`] adds
//! the intervals of all shards up.
#![forbid(unsafe_code)]

mod heat;
mod history;
mod interval;
pub mod interval_log;
mod percentiles;
pub mod prometheus;
pub mod provenance;
mod totals;

pub use heat::{HEAT_ROWS, add_heat, heat_row_start_ns};
pub use history::{Class, ClassSummary, HISTORY_SECONDS, History, Summary};
pub use interval::{CommandInterval, ConnectionInfo, ExportInterval, Gauges, Interval, SlowRequest, Timing};
pub use percentiles::Percentiles;
pub use totals::{CommandTotals, ExportTotals, Totals};

/// What a request asked for, as statistics count it.
pub use crate::block::CommandKind as Operation;

use crate::block::BlockError;

/// A part of a request's way through the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// From the receive that brought it to its hand-over to the backend.
    Queue,
    /// From there until the backend was done.
    Backend,
    /// From the queued reply until the kernel had taken all of it.
    Send,
    /// All of it.
    Total,
}

impl Phase {
    /// All, in the order of a request's way.
    pub const ALL: [Self; 4] = [Self::Queue, Self::Backend, Self::Send, Self::Total];

    /// The label in metrics, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Backend => "backend",
            Self::Send => "send",
            Self::Total => "total",
        }
    }
}

/// The errors that a request can end with, in the order in which they are counted.
pub const ERRORS: [BlockError; 7] = [
    BlockError::NotPermitted,
    BlockError::Io,
    BlockError::Invalid,
    BlockError::NoSpace,
    BlockError::Overflow,
    BlockError::NotSupported,
    BlockError::Shutdown,
];

/// The name of an error's value on the wire.
pub const fn error_name(error: BlockError) -> &'static str {
    match error {
        BlockError::NotPermitted => "EPERM",
        BlockError::Io => "EIO",
        BlockError::Invalid => "EINVAL",
        BlockError::NoSpace => "ENOSPC",
        BlockError::Overflow => "EOVERFLOW",
        BlockError::NotSupported => "ENOTSUP",
        BlockError::Shutdown => "ESHUTDOWN",
    }
}

/// Where an error is counted.
pub(crate) const fn error_index(error: BlockError) -> usize {
    match error {
        BlockError::NotPermitted => 0,
        BlockError::Io => 1,
        BlockError::Invalid => 2,
        BlockError::NoSpace => 3,
        BlockError::Overflow => 4,
        BlockError::NotSupported => 5,
        BlockError::Shutdown => 6,
    }
}
