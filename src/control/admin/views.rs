//! The JSON of the API. Its keys are part of the interface: `snake_case`, with their unit.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::Admin;
use crate::block::{BlockError, CommandKind};
use crate::config::{ExportRates, Weight};
use crate::control::catalogue::{Catalogue, Entry};
use crate::control::observe::collector::CollectorState;
use crate::stats::RemoteExportFacts;
use crate::stats::prometheus::ImageFacts;
use crate::stats::{
    Class, ClassSummary, ErrorCounts, HEAT_ROWS, Percentiles, Phase, Summary, heat_row_start_ns,
};
use crate::sys::UnixCredentials;

/// `/api/v1/server`.
#[derive(Debug, Serialize)]
pub(super) struct ServerView {
    version: &'static str,
    start_unix_seconds: f64,
    uptime_seconds: f64,
    stopping: bool,
    histograms: bool,
    shards: Vec<ShardView>,
}

#[derive(Debug, Serialize)]
struct ShardView {
    shard: usize,
    responsive: bool,
    failed: bool,
    connections: u64,
    in_flight: u64,
    unsent: u64,
    buffer_memory_used_bytes: u64,
    buffer_memory_bytes: u64,
    receive_buffers_available: u64,
    ring_operations: u64,
}

/// `/api/v1/exports`.
#[derive(Debug, Serialize)]
pub(super) struct ExportsView {
    exports: Vec<ExportView>,
}

#[derive(Debug, Serialize)]
struct ExportView {
    export: String,
    description: String,
    source: String,
    size_bytes: u64,
    read_only: bool,
    rotational: bool,
    minimum_block_bytes: u32,
    preferred_block_bytes: u32,
    maximum_payload_bytes: u32,
    commands: BTreeMap<&'static str, CommandView>,
    errors: BTreeMap<&'static str, u64>,
    /// Only what is not 0.
    errors_by_command: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    refused_requests: u64,
    discarded_bytes: u64,
    page_cache_reads: u64,
    mapped_bytes: u64,
    /// Rates: what is not there is not limited.
    limit: serde_json::Value,
    tenant: Option<String>,
    /// What it gets of a device beside others; null is 1.
    weight: Option<Weight>,
    /// Null for what is none.
    image: Option<ImageFacts>,
    /// Null for what does not stand on another server.
    remote: Option<RemoteExportFacts>,
}

#[derive(Debug, Serialize)]
struct CommandView {
    requests: u64,
    bytes: u64,
}

/// What is told of an export that is an image.
pub(super) fn image_facts(entry: &Entry) -> Option<ImageFacts> {
    let image = entry.export()?.image_status()?;
    Some(ImageFacts {
        layers: image.layers,
        used_bytes: image.used_bytes,
        below_bytes: image.below_bytes,
        first_writes: image.first_writes,
        journal_bytes: image.journal_bytes,
    })
}

/// What is told of an export that stands on another server.
pub(super) fn remote_facts(entry: &Entry) -> Option<RemoteExportFacts> {
    let remote = entry.export()?.remote_status()?;
    Some(RemoteExportFacts {
        connections: remote.connections,
        connects: remote.connects,
        losses: remote.losses,
        sent_again: remote.sent_again,
        failed_flushes: remote.failed_flushes,
    })
}

/// `/api/v1/connections`.
#[derive(Debug, Serialize)]
pub(in crate::control) struct ConnectionsView {
    /// All, whatever the limit of the list.
    count: usize,
    connections: Vec<ConnectionView>,
}

#[derive(Debug, Serialize)]
pub(in crate::control) struct ConnectionView {
    id: String,
    peer: String,
    /// Of a unix socket.
    unix: Option<UnixView>,
    export: String,
    shard: usize,
    age_seconds: f64,
    in_flight: u64,
    requests: u64,
    bytes: u64,
}

/// The process that connected.
#[derive(Debug, Serialize)]
struct UnixView {
    /// Null for one that this process cannot see.
    pid: Option<i32>,
    uid: u32,
    gid: u32,
}

impl From<UnixCredentials> for UnixView {
    fn from(UnixCredentials { pid, uid, gid }: UnixCredentials) -> Self {
        Self { pid, uid, gid }
    }
}

/// `/api/v1/latency`.
#[derive(Debug, Serialize)]
pub(super) struct LatencyView {
    latency: Vec<PhaseView>,
}

#[derive(Debug, Serialize)]
struct PhaseView {
    export: String,
    command: &'static str,
    phase: &'static str,
    #[serde(flatten)]
    percentiles: Percentiles,
}

/// `/api/v1/history`.
#[derive(Debug, Serialize)]
pub(super) struct HistoryView {
    /// Where the rows of `heat` begin.
    heat_row_start_ns: Vec<f64>,
    seconds: Vec<SecondView>,
}

#[derive(Debug, Serialize)]
struct SecondView {
    end_unix_ms: u64,
    length_ms: u64,
    classes: BTreeMap<&'static str, ClassView>,
    latency: Option<PointsView>,
    throttled_mean_ns: f64,
    queue_mean_ns: f64,
    backend_mean_ns: f64,
    send_mean_ns: f64,
    errors: u64,
    /// Only what is not 0.
    errors_by_kind: BTreeMap<&'static str, u64>,
    connections: u64,
    in_flight: u64,
    /// From the first row with requests; `heat_first_row` says which that is.
    heat: Vec<u64>,
    heat_first_row: usize,
}

#[derive(Debug, Serialize)]
struct ClassView {
    requests: u64,
    bytes: u64,
    latency: Option<PointsView>,
}

#[derive(Debug, Serialize)]
struct PointsView {
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p99_9_ns: u64,
    max_ns: u64,
}

impl From<Percentiles> for PointsView {
    fn from(of: Percentiles) -> Self {
        let Percentiles { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. } = of;
        Self { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns }
    }
}

impl From<&ClassSummary> for ClassView {
    fn from(of: &ClassSummary) -> Self {
        Self { requests: of.requests, bytes: of.bytes, latency: of.latency.map(Into::into) }
    }
}

impl SecondView {
    fn new(second: &Summary, export: Option<usize>) -> Self {
        let (of, gauges) = second.of(export);
        let [throttled_mean_ns, queue_mean_ns, backend_mean_ns, send_mean_ns] = of.phase_mean_ns;
        let classes = Class::ALL.iter().zip(&of.classes);
        Self {
            end_unix_ms: second.end_unix_ms,
            length_ms: second.length_ms,
            classes: classes.map(|(class, of)| (class.name(), of.into())).collect(),
            latency: of.latency.map(Into::into),
            throttled_mean_ns,
            queue_mean_ns,
            backend_mean_ns,
            send_mean_ns,
            errors: of.errors.iter().sum(),
            errors_by_kind: by_name(&of.errors).filter(|(_, count)| *count > 0).collect(),
            connections: gauges.connections,
            in_flight: gauges.in_flight,
            heat: of.heat.clone(),
            heat_first_row: of.heat_first_row,
        }
    }
}

/// Errors with their names.
fn by_name(counts: &[u64; BlockError::ALL.len()]) -> impl Iterator<Item = (&'static str, u64)> {
    BlockError::ALL.into_iter().map(BlockError::name).zip(*counts)
}

fn errors_by_command(errors: &ErrorCounts) -> BTreeMap<&'static str, BTreeMap<&'static str, u64>> {
    let happened = |(_, count): &(&str, u64)| *count > 0;
    let commands = errors.by_command();
    let commands = commands.map(|(name, counts)| (name, by_name(counts).filter(happened).collect()));
    commands.filter(|(_, counts): &(_, BTreeMap<_, _>)| !counts.is_empty()).collect()
}

/// Of one export, or of the whole server: the busiest and then the oldest connections first.
pub(in crate::control) fn connections(
    state: &CollectorState,
    catalogue: &Catalogue,
    export: Option<usize>,
    limit: Option<u64>,
) -> ConnectionsView {
    let of_shards = state
        .shards
        .iter()
        .enumerate()
        .flat_map(|(shard, of)| of.connections.iter().map(move |connection| (shard, connection)));
    let mut all: Vec<_> =
        of_shards.filter(|(_, of)| export.is_none_or(|export| of.export == export)).collect();
    all.sort_by_key(|(_, of)| std::cmp::Reverse((of.in_flight, of.age_ns)));
    let count = all.len();
    all.truncate(limit.map_or(count, |limit| limit as usize));
    let name = |index: usize| catalogue.at(index).map(|entry| entry.info.name.clone()).unwrap_or_default();
    let connections = all.into_iter().map(|(shard, of)| ConnectionView {
        id: format!("{shard}.{}", of.since_ns),
        peer: of.peer.to_string(),
        unix: of.peer.unix.map(Into::into),
        export: name(of.export),
        shard,
        age_seconds: of.age_ns as f64 / 1e9,
        in_flight: of.in_flight,
        requests: of.requests,
        bytes: of.bytes,
    });
    ConnectionsView { count, connections: connections.collect() }
}

impl ConnectionsView {
    /// The connection of an id.
    pub(in crate::control) fn one(self, id: &str) -> Option<ConnectionView> {
        self.connections.into_iter().find(|connection| connection.id == id)
    }
}

impl Admin {
    pub(super) fn start_unix_seconds(&self) -> f64 {
        self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    pub(super) fn server(&self) -> ServerView {
        let state = self.collector.state();
        let pairs = state.shards.iter().zip(&state.totals.gauges).enumerate();
        ServerView {
            version: env!("CARGO_PKG_VERSION"),
            start_unix_seconds: self.start_unix_seconds(),
            uptime_seconds: self.started.elapsed().unwrap_or_default().as_secs_f64(),
            stopping: self.plane.is_stopping(),
            histograms: self.histograms,
            shards: pairs
                .map(|(shard, (state, of))| ShardView {
                    shard,
                    responsive: state.is_responsive(),
                    failed: state.failed,
                    connections: of.connections,
                    in_flight: of.in_flight,
                    unsent: of.unsent,
                    buffer_memory_used_bytes: of.memory_used,
                    buffer_memory_bytes: of.memory_total,
                    receive_buffers_available: of.receive_buffers,
                    ring_operations: of.operations,
                })
                .collect(),
        }
    }

    pub(super) fn exports(&self) -> ExportsView {
        let state = self.collector.state();
        let catalogue = self.plane.catalogue();
        let exports = catalogue.iter().map(|entry| {
            let (info, totals) = (&entry.info, &state.totals.exports[entry.index()]);
            let commands = CommandKind::ALL.iter().zip(&totals.commands);
            let view =
                |of: &crate::stats::CommandTotals| CommandView { requests: of.requests, bytes: of.bytes };
            let (facts, sizes) = (&info.facts, &info.facts.block_sizes);
            let ExportRates { limits, tenant, weight } = entry.rates();
            ExportView {
                export: info.name.clone(),
                description: info.description.clone(),
                source: entry.source.clone(),
                size_bytes: entry.size(),
                read_only: facts.read_only,
                rotational: facts.rotational,
                minimum_block_bytes: sizes.minimum,
                preferred_block_bytes: sizes.preferred,
                maximum_payload_bytes: sizes.maximum,
                commands: commands
                    .filter_map(|(command, of)| Some((command.name(), view(of.as_ref()?))))
                    .collect(),
                errors: by_name(&totals.errors.by_error()).collect(),
                errors_by_command: errors_by_command(&totals.errors),
                refused_requests: totals.refused,
                discarded_bytes: totals.discarded_bytes,
                page_cache_reads: totals.page_cache_reads,
                mapped_bytes: entry.export().map_or(0, |export| export.mapped_bytes()),
                limit: limits.to_json(),
                tenant,
                weight,
                image: image_facts(entry),
                remote: remote_facts(entry),
            }
        });
        ExportsView { exports: exports.collect() }
    }

    pub(super) fn latency(&self) -> LatencyView {
        let state = self.collector.state();
        let mut latency = Vec::new();
        for entry in self.plane.catalogue().iter() {
            let totals = &state.totals.exports[entry.index()];
            for (operation, command) in CommandKind::ALL.iter().zip(&totals.commands) {
                let phases = command.iter().flat_map(|command| Phase::ALL.iter().zip(&command.phases));
                for (phase, histogram) in phases {
                    let Some(percentiles) = Percentiles::of(histogram) else { continue };
                    let (command, phase) = (operation.name(), phase.name());
                    let export = entry.info.name.clone();
                    latency.push(PhaseView { export, command, phase, percentiles });
                }
            }
        }
        LatencyView { latency }
    }

    /// The number of the export with a name.
    pub(super) fn export_index(&self, name: &str) -> Option<usize> {
        self.plane.find(name).map(|entry| entry.index())
    }

    /// Of one export, or of the whole server.
    pub(super) fn history(&self, since_unix_ms: u64, export: Option<usize>) -> HistoryView {
        let state = self.collector.state();
        let seconds = state.history.since(since_unix_ms);
        HistoryView {
            heat_row_start_ns: (0..HEAT_ROWS).map(heat_row_start_ns).collect(),
            seconds: seconds.map(|second| SecondView::new(second, export)).collect(),
        }
    }
}
