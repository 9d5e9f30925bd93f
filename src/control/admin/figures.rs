//! `/api/v1/figures`: what a terminal shows of a whole server each second, in one answer. An export that does
//! nothing takes its name and little else, so that a server of ten thousand can be asked often.

use serde::Serialize;

use crate::block::CommandKind;
use crate::control::catalogue::{Catalogue, Entry};
use crate::control::observe::collector::CollectorState;
use crate::stats::{Class, Percentiles, Summary};

/// See the module.
#[derive(Debug, Serialize)]
pub(in crate::control) struct FiguresView {
    version: &'static str,
    stopping: bool,
    shards: Vec<ShardFiguresView>,
    exports: Vec<ExportFiguresView>,
    seconds: Vec<SecondFiguresView>,
}

#[derive(Debug, Serialize)]
struct ShardFiguresView {
    responsive: bool,
    failed: bool,
    connections: u64,
    in_flight: u64,
    unsent: u64,
    buffer_memory_used_bytes: u64,
    buffer_memory_bytes: u64,
}

/// What is left out is 0 or false.
#[derive(Debug, Serialize)]
struct ExportFiguresView {
    export: String,
    #[serde(skip_serializing_if = "is_zero")]
    size_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    connections: u64,
    #[serde(skip_serializing_if = "is_zero")]
    in_flight: u64,
    #[serde(skip_serializing_if = "is_zero")]
    reads: u64,
    #[serde(skip_serializing_if = "is_zero")]
    read_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    writes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    written_bytes: u64,
    /// Requests of all other commands.
    #[serde(skip_serializing_if = "is_zero")]
    others: u64,
    #[serde(skip_serializing_if = "is_zero")]
    errors: u64,
    /// Of the last second in the history.
    #[serde(skip_serializing_if = "is_zero")]
    p50_ns: u64,
    #[serde(skip_serializing_if = "is_zero")]
    p99_ns: u64,
}

/// One second of the whole server.
#[derive(Debug, Serialize)]
struct SecondFiguresView {
    end_unix_ms: u64,
    length_ms: u64,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    others: u64,
    errors: u64,
    p50_ns: u64,
    p99_ns: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn points(latency: Option<Percentiles>) -> (u64, u64) {
    latency.map_or((0, 0), |of| (of.p50_ns, of.p99_ns))
}

/// Of the whole server; `seconds` that ended after a moment, in milliseconds since 1970.
pub(in crate::control) fn figures(
    state: &CollectorState,
    catalogue: &Catalogue,
    stopping: bool,
    since_unix_ms: u64,
) -> FiguresView {
    let last = state.history.since(0).last();
    let shards = state.shards.iter().zip(&state.totals.gauges).map(|(shard, of)| ShardFiguresView {
        responsive: shard.is_responsive(),
        failed: shard.failed,
        connections: of.connections,
        in_flight: of.in_flight,
        unsent: of.unsent,
        buffer_memory_used_bytes: of.memory_used,
        buffer_memory_bytes: of.memory_total,
    });
    FiguresView {
        version: env!("CARGO_PKG_VERSION"),
        stopping,
        shards: shards.collect(),
        exports: catalogue.iter().map(|entry| export(state, entry, last)).collect(),
        seconds: state.history.since(since_unix_ms).map(second).collect(),
    }
}

fn export(state: &CollectorState, entry: &Entry, last: Option<&Summary>) -> ExportFiguresView {
    let (totals, gauges) = (&state.totals.exports[entry.index()], state.totals.export_gauges(entry.index()));
    let mut sums = [(0, 0); 3];
    for (command, of) in CommandKind::ALL.iter().zip(&totals.commands) {
        let Some(of) = of else { continue };
        let sum = match command {
            CommandKind::Read => &mut sums[0],
            CommandKind::Write => &mut sums[1],
            _ => &mut sums[2],
        };
        *sum = (sum.0 + of.requests, sum.1 + of.bytes);
    }
    let latency = last.and_then(|last| last.exports.get(&entry.index())).and_then(|of| of.latency);
    let (p50_ns, p99_ns) = points(latency);
    ExportFiguresView {
        export: entry.info.name.clone(),
        size_bytes: entry.size(),
        read_only: entry.info.facts.read_only,
        connections: gauges.connections,
        in_flight: gauges.in_flight,
        reads: sums[0].0,
        read_bytes: sums[0].1,
        writes: sums[1].0,
        written_bytes: sums[1].1,
        others: sums[2].0,
        errors: totals.errors.total(),
        p50_ns,
        p99_ns,
    }
}

fn second(of: &Summary) -> SecondFiguresView {
    let all = &of.all;
    let class = |class: Class| {
        let found = Class::ALL.iter().zip(&all.classes).find(|(one, _)| **one == class);
        found.map_or((0, 0), |(_, of)| (of.requests, of.bytes))
    };
    let ((reads, read_bytes), (writes, written_bytes)) = (class(Class::Read), class(Class::Write));
    let (p50_ns, p99_ns) = points(all.latency);
    SecondFiguresView {
        end_unix_ms: of.end_unix_ms,
        length_ms: of.length_ms,
        reads,
        read_bytes,
        writes,
        written_bytes,
        others: class(Class::Other).0,
        errors: all.errors.iter().sum(),
        p50_ns,
        p99_ns,
    }
}
