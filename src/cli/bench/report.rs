//! The results for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::settings::RunSettings;
use crate::block::errno;
use crate::cli::text::{human, human_time, reply_mode_name, table};
use crate::client::load::results::empty_histogram;
use crate::client::load::{Load, LoadKind, Results};

/// What was run.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    uri: String,
    export_size: u64,
    replies: &'static str,
    rw: String,
    read_percent: u8,
    fsync: Option<u32>,
    block_size: u32,
    depth: usize,
    connections: usize,
    rate: Option<u64>,
    offset: u64,
    size: u64,
    seed: u64,
    verify: bool,
}

impl Description {
    pub(super) fn new(settings: &RunSettings, load: &Load) -> Self {
        let (options, area, transmission) = (&settings.load, load.area(), load.transmission());
        Self {
            uri: options.uri.to_string(),
            export_size: transmission.export.size,
            replies: reply_mode_name(transmission.dialect.reply_mode),
            rw: format!("{:?}", settings.rw).to_lowercase(),
            read_percent: options.pattern.read_percent,
            fsync: options.pattern.flush_after,
            block_size: options.block_size,
            depth: options.depth,
            connections: options.connections,
            rate: options.rate,
            offset: area.offset,
            size: area.blocks * u64::from(area.block_size),
            seed: options.seed,
            verify: options.verify,
        }
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { uri, rw, depth, connections, replies, .. } = self;
        write!(f, "{rw} {}, {connections} x {depth}, ", human(self.block_size.into()))?;
        match self.rate {
            Some(rate) => write!(f, "open loop, {rate} operations/s")?,
            None => f.write_str("closed loop")?,
        }
        write!(f, ", {replies} replies, {uri}")
    }
}

/// The JSON of a run; its keys are part of the interface.
#[derive(Debug, Serialize)]
pub(super) struct ResultsJson<'a> {
    #[serde(flatten)]
    description: &'a Description,
    elapsed: f64,
    interrupted: bool,
    failure: Option<String>,
    total: KindJson,
    read: KindJson,
    write: KindJson,
    trim: KindJson,
    flush: KindJson,
    errors: BTreeMap<String, u64>,
    unstarted: u64,
    per_connection: SpreadJson,
    client_cpu: CpuJson,
    verification: Option<VerificationJson>,
}

#[derive(Debug, Serialize)]
struct KindJson {
    operations: u64,
    errors: u64,
    bytes: u64,
    iops: f64,
    bytes_per_second: f64,
    latency: Option<LatencyJson>,
}

#[derive(Debug, Serialize)]
struct LatencyJson {
    min: u64,
    mean: f64,
    stddev: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    p99_99: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct SpreadJson {
    min: u64,
    mean: f64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct CpuJson {
    seconds: f64,
    cores: f64,
    us_per_operation: f64,
}

#[derive(Debug, Serialize)]
struct VerificationJson {
    checked: u64,
    read_back: u64,
    wrong: u64,
    mismatches: Vec<MismatchJson>,
}

#[derive(Debug, Serialize)]
struct MismatchJson {
    kind: &'static str,
    offset: u64,
    expected: String,
    found: String,
}

/// `part` of `whole`, where nothing of nothing is nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl KindJson {
    fn new(latency: &Histogram<u64>, errors: u64, block_size: u32, seconds: f64) -> Self {
        let operations = latency.len();
        let bytes = operations * u64::from(block_size);
        Self {
            operations,
            errors,
            bytes,
            iops: ratio(operations as f64, seconds),
            bytes_per_second: ratio(bytes as f64, seconds),
            latency: (operations > 0).then(|| LatencyJson::new(latency)),
        }
    }
}

impl LatencyJson {
    fn new(latency: &Histogram<u64>) -> Self {
        // The upper end of a bucket may lie above the greatest value.
        let at = |quantile| latency.value_at_quantile(quantile).min(latency.max());
        Self {
            min: latency.min(),
            mean: latency.mean(),
            stddev: latency.stdev(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: latency.max(),
        }
    }
}

impl<'a> ResultsJson<'a> {
    pub(super) fn new(description: &'a Description, results: &Results) -> Self {
        let seconds = results.elapsed.as_secs_f64();
        let mut all = empty_histogram();
        for kind in LoadKind::ALL.into_iter().filter(|kind| *kind != LoadKind::Flush) {
            all.add(&results.kinds[kind as usize].latency).expect("equal bounds");
        }
        let block_size = description.block_size;
        let kind = |kind: LoadKind| {
            let of = &results.kinds[kind as usize];
            let bytes = if kind == LoadKind::Flush { 0 } else { block_size };
            KindJson::new(&of.latency, of.errors, bytes, seconds)
        };
        let cpu = results.cpu.as_secs_f64();
        let counts = &results.connections;
        Self {
            description,
            elapsed: seconds,
            interrupted: results.interrupted,
            failure: results.failure.as_ref().map(ToString::to_string),
            total: KindJson::new(&all, results.error_count(), block_size, seconds),
            read: kind(LoadKind::Read),
            write: kind(LoadKind::Write),
            trim: kind(LoadKind::Trim),
            flush: kind(LoadKind::Flush),
            errors: results.errors.iter().map(|(error, count)| (error_name(*error), *count)).collect(),
            unstarted: results.unstarted,
            per_connection: SpreadJson {
                min: counts.iter().copied().min().unwrap_or(0),
                mean: ratio(counts.iter().sum::<u64>() as f64, counts.len() as f64),
                max: counts.iter().copied().max().unwrap_or(0),
            },
            client_cpu: CpuJson {
                seconds: cpu,
                cores: ratio(cpu, seconds),
                us_per_operation: ratio(cpu * 1e6, results.operations() as f64),
            },
            verification: results.verification.as_ref().map(|found| VerificationJson {
                checked: found.checked,
                read_back: found.read_back,
                wrong: found.wrong,
                mismatches: found.mismatches.iter().map(MismatchJson::new).collect(),
            }),
        }
    }
}

impl MismatchJson {
    fn new(mismatch: &crate::client::load::pattern::Mismatch) -> Self {
        let expected = mismatch.expected;
        Self {
            kind: mismatch.wrong.name(),
            offset: expected.offset,
            expected: format!("generation {} of seed {:#x}", expected.generation, expected.seed),
            found: mismatch.found.to_string(),
        }
    }
}

/// The name of an error value ("Error values").
fn error_name(error: u32) -> String {
    let name = i32::try_from(error).ok().and_then(errno::name_of);
    name.map_or_else(|| error.to_string(), str::to_owned)
}

/// The results as people read them.
pub(super) fn as_table(description: &Description, results: &Results) -> String {
    let json = ResultsJson::new(description, results);
    let mut text = String::new();
    let _ = writeln!(text, "{description}, {:.1} s\n", json.elapsed);
    let head = ["", "IOPS", "MB/s", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let both = json.read.operations > 0 && json.write.operations > 0;
    for (name, kind, shown) in [
        ("read", &json.read, json.read.operations > 0),
        ("write", &json.write, json.write.operations > 0),
        ("trim", &json.trim, json.trim.operations > 0),
        ("total", &json.total, both || json.total.operations == 0),
        ("flush", &json.flush, json.flush.operations > 0),
    ] {
        if shown {
            rows.push(row(name, kind));
        }
    }
    text.push_str(&table(&rows, &[false, true, true, true, true, true, true, true, true, true]));
    text.push('\n');
    notes(&mut text, &json);
    text
}

fn row(name: &str, kind: &KindJson) -> Vec<String> {
    let mut row =
        vec![name.into(), format!("{:.0}", kind.iops), format!("{:.1}", kind.bytes_per_second / 1e6)];
    match &kind.latency {
        Some(of) => {
            let values = [of.mean as u64, of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max];
            row.extend(values.map(human_time));
        }
        None => row.extend((0..7).map(|_| "-".to_owned())),
    }
    row
}

fn notes(text: &mut String, json: &ResultsJson<'_>) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    line("operations", json.total.operations.to_string());
    let SpreadJson { min, mean, max } = json.per_connection;
    if json.description.connections > 1 {
        line("per connection", format!("{min} min, {mean:.0} mean, {max} max"));
    }
    let CpuJson { cores, us_per_operation, .. } = json.client_cpu;
    line("client CPU", format!("{:.0} % of a core, {us_per_operation:.2} us per operation", cores * 100.0));
    if !json.errors.is_empty() {
        let counts: Vec<String> =
            json.errors.iter().map(|(name, count)| format!("{count} x {name}")).collect();
        line("errors", counts.join(", "));
    }
    if json.unstarted > 0 {
        line(
            "not started",
            format!("{} operations that were due: the server did not keep up", json.unstarted),
        );
    }
    if let Some(found) = &json.verification {
        let VerificationJson { checked, read_back, wrong, .. } = found;
        line("verified", format!("{checked} reads, {read_back} blocks read back, {wrong} wrong"));
        for MismatchJson { kind, offset, expected, found } in &found.mismatches {
            line("", format!("{kind} block at {offset}: expected {expected}, found {found}"));
        }
    }
    if json.interrupted {
        line("interrupted", "these are the results so far".into());
    }
}
