//! What a server knows of its own speed: histograms and counters per shard, and their totals.
//!
//! A shard records into an [`Interval`] of its own, without locks. The control plane asks for it by message.
//! The shard hands the interval over and continues with an empty one, so an exchange costs the shard one
//! pointer, however many histograms there are. [`Totals`] adds up the intervals of all shards.
#![forbid(unsafe_code)]

mod clients;
mod errors;
mod heat;
mod history;
mod ingested;
mod interval;
pub(crate) mod interval_log;
mod page;
mod percentiles;
pub(crate) mod prometheus;
pub(crate) mod provenance;
mod remote;
mod snapshots;
mod tiers;
mod tls;
mod totals;
mod uploads;

pub(crate) use errors::ErrorCounts;
pub use heat::{HEAT_ROWS, add_heat, heat_row_start_ns};
pub(crate) use history::{Class, ClassSummary, History, Summary};
pub(crate) use ingested::PackStats;
pub(crate) use interval::TimedCommand;
pub(crate) use interval::{ConnectionInfo, ExportGauges, Gauges, Interval, SlowRequest};
pub use interval::{ExportInterval, Timing};
pub use percentiles::Percentiles;
pub(crate) use remote::RemoteExportFacts;
pub(crate) use snapshots::{SnapshotOutcome, SnapshotStats};
pub(crate) use tiers::TierStats;
pub(crate) use tls::TlsCounts;
pub(crate) use tls::TlsFailure;
pub(crate) use uploads::{ImageLagStats, UploadStats};

pub(crate) use totals::{CommandTotals, Totals};

/// What a request asked for, as statistics count it.
pub use crate::block::CommandKind as Operation;

/// A part of a request's way through the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// How long it was held back by a rate, before all that follows.
    Throttled,
    /// From the receive of its last byte to its hand-over to the backend.
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
    pub const ALL: [Self; 5] = [Self::Throttled, Self::Queue, Self::Backend, Self::Send, Self::Total];

    /// Those that together are the whole.
    pub const PARTS: [Self; 4] = [Self::Throttled, Self::Queue, Self::Backend, Self::Send];

    /// The label in metrics, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Queue => "queue",
            Self::Backend => "backend",
            Self::Send => "send",
            Self::Total => "total",
        }
    }
}
