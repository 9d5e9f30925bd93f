//! Metrics in the text formats of Prometheus (0.0.4) and OpenMetrics (1.0).

use serde::Serialize;

pub(crate) use super::clients::ClientCounts;
pub(crate) use super::page::Format;
use super::page::Page;
use super::remote::{RemoteExportFacts, remotes};
use super::tiers::tiers;
use super::tls::{TLS_CIPHERS, TLS_VERSIONS, TlsClients, TlsFailure};
use super::totals::{CommandTotals, ExportTotals, Totals};
use super::uploads::uploads;
use super::{Gauges, PackStats, Phase, SnapshotOutcome, SnapshotStats, TierStats, UploadStats};
use crate::block::{BlockError, CommandKind};

/// What is told of an export beside its statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExportFacts {
    /// By which it is counted.
    pub index: usize,
    /// Its [label](export_label).
    pub label: String,
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Bytes of address space in which its file is mapped.
    pub mapped_bytes: u64,
    /// What it gets of a device beside others.
    pub weight: u16,
    /// Of an image only.
    pub image: Option<ImageFacts>,
    /// Of an export that stands on another server only.
    pub remote: Option<RemoteExportFacts>,
}

/// What is told of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ImageFacts {
    /// Layers, the head among them.
    pub layers: u64,
    /// Bytes that the head takes on the disk.
    pub used_bytes: u64,
    /// Bytes that the layers below it take.
    pub below_bytes: u64,
    /// Blocks of writes of which the head did not have all before.
    pub first_writes: u64,
    /// Bytes of records of its journal.
    pub journal_bytes: u64,
}

/// What is told of a store.
#[derive(Debug)]
pub(crate) struct StoreFacts<'a> {
    /// Where it is.
    pub label: String,
    pub snapshots: &'a SnapshotStats,
    /// Reads of packs that failed.
    pub failed_reads: u64,
    pub packs: PackStats,
    /// Of a store that has packs on tiers.
    pub tier: Option<TierStats>,
    /// Of a store that brings snapshots to its tier by itself.
    pub uploads: Option<UploadStats>,
}

/// Everything that metrics are made of.
#[derive(Debug)]
pub(crate) struct Metrics<'a> {
    /// In the server's order.
    pub exports: &'a [ExportFacts],
    /// Those that are open.
    pub stores: &'a [StoreFacts<'a>],
    /// Since the start.
    pub totals: &'a Totals,
    /// By shard: it answered the last question.
    pub responsive: &'a [bool],
    /// Of the whole server.
    pub clients: ClientCounts,
    /// Shards that panicked.
    pub shards_failed: usize,
    /// Log lines that nobody read in time.
    pub log_lines_dropped: u64,
    /// When the server started, in seconds since 1970.
    pub start_unix_seconds: f64,
    /// What the kernel knows of it.
    pub process: ProcessFacts,
}

/// What the kernel knows of the process; `None` is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessFacts {
    /// Processor time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// When it started, in seconds since 1970.
    pub start_unix_seconds: Option<f64>,
    /// Bytes of memory that it has.
    pub resident_bytes: Option<u64>,
    /// Bytes of its address space.
    pub virtual_bytes: Option<u64>,
    /// Threads, those of the kernel that work for its rings among them.
    pub threads: Option<u64>,
    /// File descriptors that are open; sockets that only a ring knows have none.
    pub open_descriptors: Option<u64>,
    /// The most that may be; `None`: no limit.
    pub most_descriptors: Option<u64>,
}

/// The value of the label `export`: the export's name, and `(default)` for the default export, whose name is
/// empty: to Prometheus an empty label is no label. An export named `(default)` is shown as `((default))`,
/// and so on, so that two exports never have the same label.
pub(crate) fn export_label(name: &str) -> String {
    const DEFAULT: &str = "(default)";
    let mut core = name;
    while let Some(inner) = core.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        if core == DEFAULT {
            return format!("({name})");
        }
        core = inner;
    }
    if name.is_empty() { DEFAULT.to_owned() } else { name.to_owned() }
}

/// The text of all metrics.
pub(crate) fn render(metrics: &Metrics<'_>, format: Format) -> String {
    let mut page = Page { text: String::with_capacity(16 << 10), format };
    let Metrics {
        exports,
        stores,
        totals,
        responsive,
        clients,
        shards_failed,
        log_lines_dropped,
        start_unix_seconds,
        process,
    } = *metrics;
    page.family("ringnbd_up", "gauge", "The server runs.");
    page.sample("ringnbd_up", &[], 1);
    page.family("ringnbd_build_info", "gauge", "The version that runs.");
    page.sample("ringnbd_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("ringnbd_start_time_seconds", "gauge", "When the server started, since 1970.");
    page.sample("ringnbd_start_time_seconds", &[], format_args!("{start_unix_seconds:.3}"));
    basics(&mut page, exports);
    weights(&mut page, exports);
    images(&mut page, exports);
    let of_remotes = exports.iter().filter_map(|export| Some((export.label.as_str(), export.remote?)));
    remotes(&mut page, &of_remotes.collect::<Vec<_>>());
    snapshots(&mut page, stores);
    packs(&mut page, stores);
    commands(&mut page, exports, totals);
    errors(&mut page, exports, totals);
    page.family("ringnbd_handshakes_total", "counter", "Clients that came, whatever became of them.");
    page.sample("ringnbd_handshakes_total", &[], clients.handshakes);
    page.family("ringnbd_attachments_total", "counter", "Clients that chose an export.");
    page.sample("ringnbd_attachments_total", &[], clients.attachments);
    let help = "Questions for exports that the client may not use.";
    page.family("ringnbd_rights_refused_total", "counter", help);
    page.sample("ringnbd_rights_refused_total", &[], clients.refusals);
    let help = "Decisions about rights without a line in the log: there were too many of one client.";
    page.family("ringnbd_audit_lines_dropped_total", "counter", help);
    page.sample("ringnbd_audit_lines_dropped_total", &[], clients.audit_lines_dropped);
    ended_sessions(&mut page, &clients);
    tls(&mut page, &clients.tls, totals);
    page.family("ringnbd_shards_failed", "gauge", "Shards that panicked: the others serve all exports.");
    page.sample("ringnbd_shards_failed", &[], shards_failed);
    page.family("ringnbd_log_lines_dropped_total", "counter", "Log lines that nobody read in time.");
    page.sample("ringnbd_log_lines_dropped_total", &[], log_lines_dropped);
    gauges(&mut page, totals, responsive);
    self::process(&mut page, &process);
    if format == Format::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn basics(page: &mut Page, exports: &[ExportFacts]) {
    page.family("ringnbd_export_size_bytes", "gauge", "Size of the export.");
    for export in exports {
        page.sample("ringnbd_export_size_bytes", &[("export", &export.label)], export.size);
    }
    page.family("ringnbd_export_read_only", "gauge", "1 where writes are refused.");
    for export in exports {
        page.sample("ringnbd_export_read_only", &[("export", &export.label)], u8::from(export.read_only));
    }
    let help = "Address space in which the export maps its file, once for all shards; 0 where it does not.";
    page.family("ringnbd_export_mapped_bytes", "gauge", help);
    for export in exports {
        page.sample("ringnbd_export_mapped_bytes", &[("export", &export.label)], export.mapped_bytes);
    }
}

fn ended_sessions(page: &mut Page, clients: &ClientCounts) {
    page.family("ringnbd_sessions_ended_total", "counter", "Sessions that the server ended, by why.");
    let ended = [
        ("max_session", clients.old_sessions),
        ("rights", clients.unwelcome_sessions),
        ("resized", clients.grown_sessions),
    ];
    for (reason, sessions) in ended {
        page.sample("ringnbd_sessions_ended_total", &[("reason", reason)], sessions);
    }
}

fn tls(page: &mut Page, clients: &TlsClients, totals: &Totals) {
    page.family("ringnbd_tls_sessions_total", "counter", "Handshakes of TLS that ended well.");
    for (version, sessions) in TLS_VERSIONS.iter().zip(clients.sessions) {
        for (cipher, sessions) in TLS_CIPHERS.iter().zip(sessions) {
            page.sample("ringnbd_tls_sessions_total", &[("version", version), ("cipher", cipher)], sessions);
        }
    }
    page.family("ringnbd_tls_failures_total", "counter", "Handshakes of TLS that failed.");
    for ((_, reason), failures) in TlsFailure::ALL.iter().zip(clients.failures) {
        page.sample("ringnbd_tls_failures_total", &[("reason", reason)], failures);
    }
    page.family("ringnbd_tls_key_updates_total", "counter", "Keys that were renewed, by whose they were.");
    for (by, updates) in [("server", totals.tls.key_updates), ("client", totals.tls.key_updates_by_clients)] {
        page.sample("ringnbd_tls_key_updates_total", &[("by", by)], updates);
    }
    let help = "Connections that ended because of wrong records.";
    page.family("ringnbd_tls_record_errors_total", "counter", help);
    page.sample("ringnbd_tls_record_errors_total", &[], totals.tls.record_errors);
}

fn weights(page: &mut Page, exports: &[ExportFacts]) {
    let help = "Its own part of a device, beside the weights of others; 1 where nothing is said.";
    page.family("ringnbd_export_weight", "gauge", help);
    for export in exports {
        page.sample("ringnbd_export_weight", &[("export", &export.label)], export.weight);
    }
}

fn images(page: &mut Page, exports: &[ExportFacts]) {
    let images: Vec<_> =
        exports.iter().filter_map(|export| Some((export.label.as_str(), export.image?))).collect();
    if images.is_empty() {
        return;
    }
    let mut family = |name, kind, help, of: fn(&ImageFacts) -> u64| {
        page.values(name, kind, help, "export", images.iter().map(|(label, image)| (*label, of(image))));
    };
    family("ringnbd_image_layers", "gauge", "Layers of the image, its head among them.", |image| {
        image.layers
    });
    let help = "What the image's head takes on the disk.";
    family("ringnbd_image_used_bytes", "gauge", help, |image| image.used_bytes);
    let help = "What the layers below the head take; other images may stand on them too.";
    family("ringnbd_image_below_bytes", "gauge", help, |image| image.below_bytes);
    let help = "Blocks of writes of which the head did not have all before.";
    family("ringnbd_image_first_writes_total", "counter", help, |image| image.first_writes);
    let help = "Bytes of records of the image's journal.";
    family("ringnbd_image_journal_bytes_total", "counter", help, |image| image.journal_bytes);
}

fn snapshots(page: &mut Page, stores: &[StoreFacts<'_>]) {
    if stores.is_empty() {
        return;
    }
    page.family("ringnbd_image_snapshots_total", "counter", "Snapshots that were asked for.");
    for store in stores {
        for outcome in SnapshotOutcome::ALL {
            let labels = [("store", store.label.as_str()), ("outcome", outcome.name())];
            page.sample("ringnbd_image_snapshots_total", &labels, store.snapshots.of(outcome));
        }
    }
    let help = "How long changes of an image waited while it was snapshotted.";
    page.family("ringnbd_image_snapshot_pause_seconds", "histogram", help);
    for store in stores {
        let labels = [("store", store.label.as_str())];
        page.histogram("ringnbd_image_snapshot_pause_seconds", &labels, store.snapshots.pauses());
    }
    let help = "Reads of packs that failed, because a chunk or a pack is damaged or missing.";
    let values = stores.iter().map(|store| (store.label.as_str(), store.failed_reads));
    page.values("ringnbd_store_failed_reads_total", "counter", help, "store", values);
    let with_tiers = stores.iter().filter_map(|store| Some((store.label.as_str(), store.tier?)));
    tiers(page, &with_tiers.collect::<Vec<_>>());
    let pushing = stores.iter().filter_map(|store| Some((store.label.as_str(), store.uploads.as_ref()?)));
    uploads(page, &pushing.collect::<Vec<_>>());
}

fn packs(page: &mut Page, stores: &[StoreFacts<'_>]) {
    if stores.is_empty() {
        return;
    }
    let mut family = |name: &str, kind: &'static str, help: &str, value: fn(&PackStats) -> u64| {
        let values = stores.iter().map(|store| (store.label.as_str(), value(&store.packs)));
        page.values(name, kind, help, "store", values);
    };
    let help = "Layers that came into packs.";
    family("ringnbd_store_ingested_layers_total", "counter", help, |packs| packs.layers);
    let help = "Layers that were to come into packs and did not.";
    family("ringnbd_store_ingest_failures_total", "counter", help, |packs| packs.failures);
    let help = "Bytes of chunks that were read and named.";
    family("ringnbd_store_ingested_bytes_total", "counter", help, |packs| packs.bytes);
    let help = "Bytes of packs that were written, after they were compressed.";
    family("ringnbd_store_pack_written_bytes_total", "counter", help, |packs| packs.written_bytes);
    let help = "Layers that have been sealed for long enough to come into packs.";
    family("ringnbd_store_ingest_queue_layers", "gauge", help, |packs| packs.queue);
    let help = "1 while no layer comes into packs without being asked for.";
    family("ringnbd_store_ingest_paused", "gauge", help, |packs| u64::from(packs.is_paused));
    let help = "Packs that were removed by a collection.";
    family("ringnbd_store_removed_packs_total", "counter", help, |packs| packs.removed_packs);
    let help = "Bytes of packs that were removed by a collection.";
    family("ringnbd_store_removed_pack_bytes_total", "counter", help, |packs| packs.removed_bytes);
    let help = "Bytes that images and snapshots have in packs; contents of several of them count once.";
    family("ringnbd_store_packed_bytes", "gauge", help, |packs| packs.packed_bytes);
    let help = "Bytes of packs that something needs: exact after a collection.";
    family("ringnbd_store_needed_pack_bytes", "gauge", help, |packs| packs.needed_bytes);
    let name = "ringnbd_store_ingested_chunks_total";
    page.family(name, "counter", "Chunks that were named, by what became of them.");
    for store in stores {
        let PackStats { zeroes, known, written, .. } = store.packs;
        for (outcome, count) in [("zero", zeroes), ("known", known), ("written", written)] {
            page.sample(name, &[("store", store.label.as_str()), ("outcome", outcome)], count);
        }
    }
}

fn with_totals<'a>(
    exports: &'a [ExportFacts],
    totals: &'a Totals,
) -> impl Iterator<Item = (&'a ExportFacts, &'a ExportTotals)> {
    exports.iter().map(|facts| (facts, &totals.exports[facts.index]))
}

fn each_command<'a>(
    exports: &'a [ExportFacts],
    totals: &'a Totals,
) -> impl Iterator<Item = (&'a str, &'static str, &'a CommandTotals)> {
    with_totals(exports, totals).flat_map(|(facts, export)| {
        let commands = CommandKind::ALL.iter().zip(&export.commands);
        commands.filter_map(|(operation, command)| {
            command.as_ref().map(|command| (facts.label.as_str(), operation.name(), &**command))
        })
    })
}

fn commands(page: &mut Page, exports: &[ExportFacts], totals: &Totals) {
    page.family("ringnbd_requests_total", "counter", "Requests whose reply is out.");
    for (export, command, of) in each_command(exports, totals) {
        page.sample("ringnbd_requests_total", &[("export", export), ("command", command)], of.requests);
    }
    page.family("ringnbd_request_bytes_total", "counter", "Bytes that requests named.");
    for (export, command, of) in each_command(exports, totals) {
        page.sample("ringnbd_request_bytes_total", &[("export", export), ("command", command)], of.bytes);
    }
    // The whole and its parts are two metrics: in one, a sum over all labels would count every request twice.
    let help = "Time of a request, from its arrival until its reply was out.";
    page.family("ringnbd_request_duration_seconds", "histogram", help);
    for (export, command, of) in each_command(exports, totals) {
        let labels = [("export", export), ("command", command)];
        page.histogram("ringnbd_request_duration_seconds", &labels, &of.phases[Phase::Total as usize]);
    }
    let help = "Time of a request by phase: throttled (held back by a rate or a weight), queue (arrived to submitted), backend (to completed), send (to sent).";
    page.family("ringnbd_request_phase_seconds", "histogram", help);
    for (export, command, of) in each_command(exports, totals) {
        for (phase, histogram) in Phase::PARTS.iter().zip(&of.phases) {
            let labels = [("export", export), ("command", command), ("phase", phase.name())];
            page.histogram("ringnbd_request_phase_seconds", &labels, histogram);
        }
    }
}

fn errors(page: &mut Page, exports: &[ExportFacts], totals: &Totals) {
    let pairs = || with_totals(exports, totals);
    // All series exist from the start: to Prometheus a series that appears with its first error shows no
    // increase.
    page.family("ringnbd_errors_total", "counter", "Error replies.");
    for (facts, export) in pairs() {
        for (command, counts) in export.errors.by_command() {
            for (error, count) in BlockError::ALL.into_iter().zip(counts) {
                let labels =
                    [("export", facts.label.as_str()), ("command", command), ("error", error.name())];
                page.sample("ringnbd_errors_total", &labels, count);
            }
        }
    }
    let help = "Requests that were refused before they reached the backend; they are among the errors too.";
    page.family("ringnbd_refused_requests_total", "counter", help);
    for (facts, export) in pairs() {
        page.sample("ringnbd_refused_requests_total", &[("export", &facts.label)], export.refused);
    }
    page.family("ringnbd_discarded_bytes_total", "counter", "Payload of refused requests that was skipped.");
    for (facts, export) in pairs() {
        page.sample("ringnbd_discarded_bytes_total", &[("export", &facts.label)], export.discarded_bytes);
    }
    let help = "Reads that were sent straight from the page cache; the others went to the backend.";
    page.family("ringnbd_page_cache_reads_total", "counter", help);
    for (facts, export) in pairs() {
        page.sample("ringnbd_page_cache_reads_total", &[("export", &facts.label)], export.page_cache_reads);
    }
}

/// A gauge of a shard: name, help, value.
type ShardGauge = (&'static str, &'static str, fn(&Gauges) -> u64);

fn gauges(page: &mut Page, totals: &Totals, responsive: &[bool]) {
    let families: [ShardGauge; 7] = [
        ("ringnbd_connections", "Connections.", |of| of.connections),
        ("ringnbd_requests_in_flight", "Requests that a backend works on.", |of| of.in_flight),
        ("ringnbd_requests_unsent", "Requests whose reply is not out, those in flight among them.", |of| {
            of.unsent
        }),
        ("ringnbd_buffer_memory_used_bytes", "Buffer memory that is lent.", |of| of.memory_used),
        ("ringnbd_buffer_memory_bytes", "Buffer memory.", |of| of.memory_total),
        ("ringnbd_receive_buffers_available", "Receive buffers that the kernel can take.", |of| {
            of.receive_buffers
        }),
        ("ringnbd_ring_operations", "Ring operations in flight.", |of| of.operations),
    ];
    let shards: Vec<String> = (0..totals.gauges.len()).map(|shard| shard.to_string()).collect();
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for (shard, gauges) in shards.iter().zip(&totals.gauges) {
            page.sample(name, &[("shard", shard)], value(gauges));
        }
    }
    page.family("ringnbd_shard_responsive", "gauge", "1 where the shard answered the last question in time.");
    for (shard, responsive) in shards.iter().zip(responsive) {
        page.sample("ringnbd_shard_responsive", &[("shard", shard)], u8::from(*responsive));
    }
}

/// What every exporter tells of its process, under the names that all use.
fn process(page: &mut Page, of: &ProcessFacts) {
    page.family("process_cpu_seconds_total", "counter", "Processor time of all threads.");
    page.sample("process_cpu_seconds_total", &[], format_args!("{:.6}", of.cpu_seconds));
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.family(name, "gauge", help);
            page.sample(name, &[], value);
        }
    };
    let count = |count: Option<u64>| count.map(|count| count as f64);
    gauge("process_start_time_seconds", "When the process started, since 1970.", of.start_unix_seconds);
    gauge("process_resident_memory_bytes", "Memory of the process.", count(of.resident_bytes));
    gauge("process_virtual_memory_bytes", "Address space of the process.", count(of.virtual_bytes));
    gauge("process_threads", "Threads, workers of its rings among them.", count(of.threads));
    gauge("process_open_fds", "Open file descriptors.", count(of.open_descriptors));
    gauge("process_max_fds", "The most file descriptors that may be open.", count(of.most_descriptors));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{ImageLagStats, Interval, Timing};
    use super::*;

    const IMAGE: ImageFacts =
        ImageFacts { layers: 3, used_bytes: 4096, below_bytes: 8192, first_writes: 5, journal_bytes: 512 };

    const REMOTE: RemoteExportFacts =
        RemoteExportFacts { connections: 2, connects: 4, losses: 3, sent_again: 17, failed_flushes: 1 };

    fn page(format: Format) -> String {
        page_of(format, true)
    }

    fn page_of(format: Format, with_store: bool) -> String {
        let name = "a \"quoted\\\n name".to_owned();
        let exports = [ExportFacts {
            index: 0,
            label: name,
            size: 1 << 30,
            read_only: true,
            mapped_bytes: 0,
            weight: 3,
            image: Some(IMAGE),
            remote: with_store.then_some(REMOTE),
        }];
        let mut totals = Totals::new(1, 1);
        let mut interval = Interval::new(1);
        for latency in [4_000, 40_000, 400_000, 20_000_000_000_u64] {
            let timing = Timing {
                command: CommandKind::WriteZeroes.into(),
                arrived: 0,
                submitted: 0,
                completed: latency,
                offset: 0,
                length: 0,
            };
            interval.exports[0].record(&timing, latency, 1);
        }
        totals.add(0, &interval);
        let mut snapshots = SnapshotStats::default();
        snapshots.count(SnapshotOutcome::Taken, 2);
        snapshots.add_pauses(&[Duration::from_micros(30), Duration::from_millis(7)]);
        snapshots.count(SnapshotOutcome::Failed, 1);
        let packs =
            PackStats { known: 3, queue: 7, packed_bytes: 99, is_paused: true, ..PackStats::default() };
        let stores = [StoreFacts {
            label: "/srv/\"s\"".to_owned(),
            snapshots: &snapshots,
            packs,
            failed_reads: 3,
            tier: None,
            uploads: Some(UploadStats {
                pushed: 4,
                requests: vec![("put", "throttled", 6)],
                lag_s: 11,
                images: vec![ImageLagStats { image: "vm1".to_owned(), bytes: 12, seconds: 13 }],
                ..UploadStats::default()
            }),
        }];
        let metrics = Metrics {
            exports: &exports,
            stores: &stores[..usize::from(with_store)],
            totals: &totals,
            responsive: &[false],
            clients: ClientCounts::default(),
            shards_failed: 1,
            log_lines_dropped: 0,
            start_unix_seconds: 1.5,
            process: ProcessFacts { open_descriptors: Some(7), ..ProcessFacts::default() },
        };
        render(&metrics, format)
    }

    #[test]
    fn buckets_are_cumulative_and_names_are_escaped() {
        let text = page(Format::Prometheus);
        let labels = r#"export="a \"quoted\\\n name",command="write_zeroes""#;
        for (end, count) in [("5e-06", 1), ("2.5e-05", 1), ("5e-05", 2), ("0.5", 3), ("10.0", 3), ("+Inf", 4)]
        {
            let line = format!("ringnbd_request_duration_seconds_bucket{{{labels},le=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains(&format!("ringnbd_request_duration_seconds_count{{{labels}}} 4\n")));
        let sum = format!("ringnbd_request_duration_seconds_sum{{{labels}}} ");
        let sum: f64 = text.split(&sum).nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        assert!((sum / 20.000_444 - 1.0).abs() < 0.002, "{sum}");
        assert!(text.contains("ringnbd_shard_responsive{shard=\"0\"} 0\n"));
    }

    /// Every request once in each metric: a sum over all labels of one must not count it twice.
    #[test]
    fn the_whole_is_not_beside_its_parts() {
        let text = page(Format::Prometheus);
        let sum = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        assert_eq!(sum("ringnbd_request_duration_seconds_count"), sum("ringnbd_requests_total"));
        let (whole, parts) =
            (sum("ringnbd_request_duration_seconds_sum"), sum("ringnbd_request_phase_seconds_sum"));
        assert!((parts / whole - 1.0).abs() < 0.002, "{parts} of {whole}");
        assert!(!text.contains("phase=\"total\""), "{text}");
    }

    #[test]
    fn snapshots_and_their_pauses_are_told_by_store() {
        let text = page(Format::Prometheus);
        let store = r#"store="/srv/\"s\"""#;
        for (outcome, count) in [("taken", 2), ("refused", 0), ("failed", 1)] {
            let line = format!("ringnbd_image_snapshots_total{{{store},outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        for (end, count) in [("2.5e-05", 0), ("5e-05", 1), ("0.005", 1), ("0.01", 2), ("+Inf", 2)] {
            let line =
                format!("ringnbd_image_snapshot_pause_seconds_bucket{{{store},le=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains(&format!("ringnbd_image_snapshot_pause_seconds_count{{{store}}} 2\n")));
        assert!(page(Format::OpenMetrics).contains("# TYPE ringnbd_image_snapshots counter\n"));
        assert!(page(Format::Prometheus).contains("_failed_reads_total{store=\"/srv/\\\"s\\\"\"} 3\n"));
        assert!(!page_of(Format::Prometheus, false).contains("_snapshot"), "a server without stores");
    }

    #[test]
    fn exports_of_other_servers_tell_their_losses() {
        let text = page(Format::Prometheus);
        let label = r#"export="a \"quoted\\\n name""#;
        for (name, value) in [
            ("connections", 2),
            ("connects_total", 4),
            ("losses_total", 3),
            ("requests_sent_again_total", 17),
            ("failed_flushes_total", 1),
        ] {
            assert!(text.contains(&format!("ringnbd_remote_{name}{{{label}}} {value}\n")), "{name}: {text}");
        }
        assert!(!page_of(Format::Prometheus, false).contains("_remote_"), "a server without such exports");
    }

    #[test]
    fn what_comes_into_packs_is_told_by_store() {
        let text = page(Format::Prometheus);
        let store = r#"store="/srv/\"s\"""#;
        for line in [
            format!("ringnbd_store_ingested_chunks_total{{{store},outcome=\"known\"}} 3\n"),
            format!("ringnbd_store_ingested_chunks_total{{{store},outcome=\"zero\"}} 0\n"),
            format!("ringnbd_store_ingest_queue_layers{{{store}}} 7\n"),
            format!("ringnbd_store_ingest_paused{{{store}}} 1\n"),
            format!("ringnbd_store_packed_bytes{{{store}}} 99\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(!page_of(Format::Prometheus, false).contains("_store_"), "a server without stores");
    }

    #[test]
    fn what_comes_to_a_tier_is_told_by_store() {
        let text = page(Format::Prometheus);
        let store = r#"store="/srv/\"s\"""#;
        for line in [
            format!("ringnbd_tier_pushes_total{{{store},outcome=\"pushed\"}} 4\n"),
            format!("ringnbd_tier_requests_total{{{store},kind=\"put\",outcome=\"throttled\"}} 6\n"),
            format!("ringnbd_tier_lag_seconds{{{store}}} 11\n"),
            format!("ringnbd_tier_image_lag_bytes{{{store},image=\"vm1\"}} 12\n"),
            format!("ringnbd_tier_image_lag_seconds{{{store},image=\"vm1\"}} 13\n"),
            format!("ringnbd_tier_push_lost_images{{{store}}} 0\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(!text.contains("ringnbd_tier_fetches"), "it has nothing of a tier");
    }

    #[test]
    fn errors_have_their_command_from_the_start() {
        let text = page(Format::Prometheus);
        for command in ["read", "write_zeroes", "block_status", "unknown"] {
            let line = format!(",command=\"{command}\",error=\"EIO\"}} 0\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_left_out() {
        let text = page(Format::Prometheus);
        assert!(text.contains("\nprocess_open_fds 7\n") && text.contains("\nprocess_cpu_seconds_total 0"));
        assert!(!text.contains("process_resident_memory_bytes"));
    }

    #[test]
    fn labels_of_exports_are_never_the_same_and_never_empty() {
        let names =
            ["", "(default)", "((default))", "(((default)))", "default", "()", "(", "(a)", "(default"];
        let labels: std::collections::BTreeSet<_> = names.iter().map(|name| export_label(name)).collect();
        assert_eq!(labels.len(), names.len(), "{labels:?}");
        assert!(!labels.contains(""));
        assert_eq!(export_label(""), "(default)");
        assert_eq!(export_label("(default)"), "((default))");
        for name in ["disk", "default", "()", "(a)", "((a))", "(default"] {
            assert_eq!(export_label(name), name);
        }
    }

    #[test]
    fn openmetrics_ends_and_names_counters_without_their_suffix() {
        let text = page(Format::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));
        assert!(text.contains("# TYPE ringnbd_requests counter\n"));
        assert!(text.contains("\nringnbd_requests_total{"));
        assert!(!page(Format::Prometheus).contains("# EOF"));
    }

    #[test]
    fn the_format_follows_what_is_accepted() {
        let asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Format::accepted(asked), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
