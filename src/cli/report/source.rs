//! Latencies by export and command, over time, and by phase: of one file, or of several that are added up.

use std::cmp::Ordering;

use hdrhistogram::Histogram;

use crate::cli::natural::natural;
use crate::stats::{HEAT_ROWS, Percentiles, Phase};

/// The longest latency, in nanoseconds: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Everything of one file, or of several.
#[derive(Debug, Default)]
pub(super) struct ReportSource {
    pub(super) label: String,
    /// What made it, as far as that is known: names and texts.
    pub(super) facts: Vec<(&'static str, String)>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
    /// Its beginning in seconds since 1970; 0 when that is not known.
    pub(super) begin_unix_seconds: f64,
    /// From its beginning to its end.
    pub(super) seconds: f64,
    /// By export and command.
    pub(super) rows: Vec<Row>,
}

/// One command of one export.
#[derive(Debug)]
pub(super) struct Row {
    /// `""` for the default export and where nothing is said of exports.
    pub(super) export: String,
    pub(super) command: String,
    /// Nanoseconds, from arrival to the end.
    pub(super) total: Histogram<u64>,
    /// Nanoseconds of the phases before the total; none where they are not known.
    pub(super) phases: Option<Box<[Histogram<u64>; Phase::PARTS.len()]>>,
    /// In the order of time; none where nothing is said of time.
    pub(super) columns: Vec<Column>,
}

/// A piece of time.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Since the beginning of the source.
    pub(super) start_seconds: f64,
    pub(super) length_seconds: f64,
    pub(super) latency: Percentiles,
    pub(super) heat: [u64; HEAT_ROWS],
}

/// An empty histogram of nanoseconds.
pub(super) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid")
}

/// Adds a histogram of other bounds and another unit.
pub(super) fn add(to: &mut Histogram<u64>, from: &Histogram<u64>, unit: u64) {
    for bucket in from.iter_recorded() {
        let value = bucket.value_iterated_to();
        // The end of the first bucket stands for what took no time that could be told.
        let value = if from.lowest_equivalent(value) == 0 { 0 } else { value };
        to.saturating_record_n(value.saturating_mul(unit), bucket.count_at_value());
    }
}

impl Row {
    pub(super) fn new(export: &str, command: &str) -> Self {
        let (export, command) = (export.to_owned(), command.to_owned());
        Self { export, command, total: empty(), phases: None, columns: Vec::new() }
    }

    /// By export, `vm2` before `vm10`, and then by command.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        natural(&self.export, &other.export).then_with(|| self.command.cmp(&other.command))
    }

    /// For people: the export, where it has a name, and the command.
    pub(super) fn name(&self) -> String {
        match self.export.as_str() {
            "" => self.command.clone(),
            export => format!("{export} {}", self.command),
        }
    }
}
