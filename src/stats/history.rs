//! The last quarter of an hour in one summary a second, of the whole server and of each export that did
//! something in it: about half a kilobyte each.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use super::Phase;
use super::heat::{HEAT_ROWS, add_heat};
use super::interval::{ExportGauges, ExportInterval, Interval, empty, record};
use super::percentiles::Percentiles;
use crate::block::{BlockError, CommandKind};

/// Summaries that are kept: one a second, 15 minutes.
pub(crate) const HISTORY_SECONDS: usize = 900;

/// Commands as the history tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Write,
    /// All others.
    Other,
}

impl Class {
    /// All, in the order in which they are kept.
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// The name in the admin server's JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Other => "other",
        }
    }

    const fn of(operation: CommandKind) -> Self {
        match operation {
            CommandKind::Read => Self::Read,
            CommandKind::Write => Self::Write,
            _ => Self::Other,
        }
    }
}

/// One class in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ClassSummary {
    /// Requests whose reply went out.
    pub requests: u64,
    /// Bytes that the requests named.
    pub bytes: u64,
    /// Of the whole way through the server; `None` where nothing was recorded.
    pub latency: Option<Percentiles>,
}

/// What was done in one second: by the whole server, or by one export.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Activity {
    /// By [`Class`].
    pub classes: [ClassSummary; Class::ALL.len()],
    /// Latency of all commands.
    pub latency: Option<Percentiles>,
    /// Mean nanoseconds that a request spent in each phase but the last, which is their sum; by [`Phase`].
    pub phase_mean_ns: [f64; Phase::Total as usize],
    /// Error replies, by [`BlockError`].
    pub errors: [u64; BlockError::ALL.len()],
    /// Requests of all commands by their latency, from row `heat_first_row` to the last that has any; see
    /// [`heat_row_start_ns`](super::heat_row_start_ns).
    pub heat: Vec<u64>,
    /// See `heat`.
    pub heat_first_row: usize,
}

/// One second.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// Its end, in milliseconds since 1970.
    pub end_unix_ms: u64,
    /// Its length in milliseconds: 1,000, or more when the control plane was late.
    pub length_ms: u64,
    /// The gauges at the end, by export.
    pub gauges: Vec<ExportGauges>,
    /// Of the whole server.
    pub all: Activity,
    /// Of the exports that did something, by their index.
    pub exports: BTreeMap<usize, Activity>,
}

impl Summary {
    /// What an export did, or all of them, and its gauges.
    pub(crate) fn of(&self, export: Option<usize>) -> (Cow<'_, Activity>, ExportGauges) {
        match export {
            Some(export) => {
                let activity = self.exports.get(&export).map(Cow::Borrowed);
                (activity.unwrap_or_default(), self.gauges.get(export).copied().unwrap_or_default())
            }
            None => {
                let sum = |of: fn(&ExportGauges) -> u64| self.gauges.iter().map(of).sum();
                let gauges =
                    ExportGauges { connections: sum(|of| of.connections), in_flight: sum(|of| of.in_flight) };
                (Cow::Borrowed(&self.all), gauges)
            }
        }
    }
}

/// The present second, and those before it.
#[derive(Debug)]
pub(crate) struct History {
    summaries: VecDeque<Summary>,
    all: Present,
    /// By export; `None` for those that never did anything.
    exports: Vec<Option<Box<Present>>>,
}

/// What came in the present second.
#[derive(Debug)]
struct Present {
    /// Anything came.
    is_active: bool,
    requests: [u64; Class::ALL.len()],
    bytes: [u64; Class::ALL.len()],
    latency: [Histogram<u64>; Class::ALL.len()],
    /// Nanoseconds of all requests, and their number, by phase.
    phases: [(f64, u64); Phase::Total as usize],
    errors: [u64; BlockError::ALL.len()],
}

impl History {
    /// Nothing yet, of so many exports.
    pub(crate) fn new(exports: usize) -> Self {
        let summaries = VecDeque::with_capacity(HISTORY_SECONDS);
        Self { summaries, all: Present::new(), exports: (0..exports).map(|_| None).collect() }
    }

    /// Makes room for exports up to an index.
    pub(crate) fn grow(&mut self, exports: usize) {
        if self.exports.len() < exports {
            self.exports.resize_with(exports, || None);
        }
    }

    /// Forgets an export's past: another export may get its index.
    pub(crate) fn forget_export(&mut self, export: usize) {
        self.exports[export] = None;
        for second in &mut self.summaries {
            second.exports.remove(&export);
            if let Some(gauges) = second.gauges.get_mut(export) {
                *gauges = ExportGauges::default();
            }
        }
    }

    /// Adds what a shard recorded to the present second.
    pub(crate) fn add(&mut self, interval: &Interval) {
        for (present, export) in self.exports.iter_mut().zip(&interval.exports) {
            let is_active = export.errors.total() > 0
                || export.commands.iter().flatten().any(|command| command.requests + command.bytes > 0);
            if is_active {
                present.get_or_insert_with(|| Box::new(Present::new())).add(export);
                self.all.add(export);
            }
        }
    }

    pub(crate) fn finish_second(&mut self, end_unix_ms: u64, length_ms: u64, gauges: Vec<ExportGauges>) {
        let finish = |(export, present): (usize, &mut Option<Box<Present>>)| {
            let present = present.as_mut().filter(|present| present.is_active)?;
            Some((export, present.finish()))
        };
        let exports = self.exports.iter_mut().enumerate().filter_map(finish).collect();
        let summary = Summary { end_unix_ms, length_ms, gauges, all: self.all.finish(), exports };
        if self.summaries.len() == HISTORY_SECONDS {
            self.summaries.pop_front();
        }
        self.summaries.push_back(summary);
    }

    /// The seconds that ended after a moment, in milliseconds since 1970; oldest first.
    pub(crate) fn since(&self, unix_ms: u64) -> impl Iterator<Item = &Summary> {
        self.summaries.iter().filter(move |summary| summary.end_unix_ms > unix_ms)
    }
}

impl Present {
    fn new() -> Self {
        Self {
            is_active: false,
            requests: Default::default(),
            bytes: Default::default(),
            latency: [empty(), empty(), empty()],
            phases: Default::default(),
            errors: Default::default(),
        }
    }

    fn add(&mut self, export: &ExportInterval) {
        self.is_active = true;
        self.errors.iter_mut().zip(export.errors.by_error()).for_each(|(sum, count)| *sum += count);
        for (operation, command) in CommandKind::ALL.iter().zip(&export.commands) {
            let Some(command) = command else { continue };
            let class = Class::of(*operation) as usize;
            self.requests[class] += command.requests;
            self.bytes[class] += command.bytes;
            for bucket in command.phases[Phase::Total as usize].iter_recorded() {
                record(
                    &mut self.latency[class],
                    bucket.value_iterated_to(),
                    u64::from(bucket.count_at_value()),
                );
            }
            // Few requests are throttled, perhaps, and the mean is that of all.
            let requests = command.phases[Phase::Total as usize].len();
            for ((sum, count), phase) in self.phases.iter_mut().zip(&command.phases) {
                *sum += phase.mean() * phase.len() as f64;
                *count += requests;
            }
        }
    }

    /// Takes the summary of the second, and begins the next one.
    fn finish(&mut self) -> Activity {
        let mut all = empty();
        let mut heat = [0; HEAT_ROWS];
        for latency in self.latency.iter().filter(|latency| !latency.is_empty()) {
            all.add(latency).expect("it grows");
            add_heat(&mut heat, latency);
        }
        let class = |class: Class| ClassSummary {
            requests: self.requests[class as usize],
            bytes: self.bytes[class as usize],
            latency: Percentiles::of(&self.latency[class as usize]),
        };
        let mean = |(sum, count): (f64, u64)| if count == 0 { 0.0 } else { sum / count as f64 };
        let is_filled = |count: &u64| *count > 0;
        let first = heat.iter().position(is_filled).unwrap_or(0);
        let end = heat.iter().rposition(is_filled).map_or(first, |last| last + 1);
        let activity = Activity {
            classes: Class::ALL.map(class),
            latency: Percentiles::of(&all),
            phase_mean_ns: self.phases.map(mean),
            errors: self.errors,
            heat: heat[first..end].to_vec(),
            heat_first_row: first,
        };
        self.clear();
        activity
    }

    fn clear(&mut self) {
        self.is_active = false;
        self.requests = Default::default();
        self.bytes = Default::default();
        self.phases = Default::default();
        self.errors = Default::default();
        self.latency.iter_mut().filter(|latency| !latency.is_empty()).for_each(Histogram::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timing;
    use super::*;

    fn interval(export: usize, operation: CommandKind, requests: u64, backend_ns: u64) -> Interval {
        let mut interval = Interval::new(3);
        for arrived in 0..requests {
            let timing = Timing {
                command: operation.into(),
                arrived,
                submitted: arrived + 1_000,
                completed: arrived + 1_000 + backend_ns,
                offset: 0,
                length: 4096,
            };
            interval.exports[export].record(&timing, timing.completed + 2_000, 1);
            interval.exports[export].count_bytes(operation, 4096);
        }
        interval
    }

    #[test]
    fn a_second_sums_up_what_all_shards_recorded_in_it() {
        let mut history = History::new(3);
        history.add(&interval(0, CommandKind::Read, 90, 50_000));
        history.add(&interval(2, CommandKind::Write, 9, 5_000_000));
        history.add(&interval(2, CommandKind::Trim, 1, 5_000_000));
        let gauges = |in_flight| {
            let idle = ExportGauges { connections: 2, in_flight: 0 };
            vec![idle, idle, ExportGauges { connections: 3, in_flight }]
        };
        history.finish_second(1_000, 1_000, gauges(3));
        history.finish_second(2_000, 1_000, gauges(0));
        let seconds: Vec<_> = history.since(0).collect();
        let (whole, standing) = seconds[0].of(None);
        let [read, write, other] = whole.classes;
        assert_eq!([read.requests, write.requests, other.requests], [90, 9, 1]);
        assert_eq!(read.bytes, 90 * 4096);
        let close = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(close(read.latency.unwrap().max_ns, 53_000), "{read:?}");
        assert!(close(write.latency.unwrap().p50_ns, 5_003_000), "{write:?}");
        let all = whole.latency.unwrap();
        assert!(close(all.p90_ns, 53_000) && close(all.p99_ns, 5_003_000), "{all:?}");
        let [throttled, queue, backend, send] = whole.phase_mean_ns;
        assert_eq!(throttled, 0.0);
        assert!((queue - 1_000.0).abs() < 100.0 && (send - 2_000.0).abs() < 100.0, "{queue} {send}");
        assert!((backend / 545_000.0 - 1.0).abs() < 0.01, "{backend}");
        assert_eq!(whole.heat.iter().sum::<u64>(), 100);
        assert_eq!(standing, ExportGauges { connections: 7, in_flight: 3 });
        let (first, none, last) = (seconds[0].of(Some(0)), seconds[0].of(Some(1)), seconds[0].of(Some(2)));
        assert_eq!((first.0.classes[0], first.0.classes[1].requests), (read, 0));
        assert_eq!((last.0.classes[1], last.0.classes[2].requests, last.1.in_flight), (write, 1, 3));
        assert_eq!((none.0.into_owned(), none.1.connections), (Activity::default(), 2));
        let empty = &seconds[1].all;
        assert!(seconds[1].exports.is_empty());
        assert_eq!(
            (empty.latency, empty.classes[0], empty.phase_mean_ns),
            (None, ClassSummary::default(), [0.0; 4])
        );
        assert_eq!(history.since(1_000).count(), 1);
    }

    #[test]
    fn it_does_not_grow() {
        let mut history = History::new(3);
        for second in 1..=HISTORY_SECONDS as u64 + 10 {
            history.finish_second(1_000 * second, 1_000, Vec::new());
        }
        assert_eq!(history.since(0).count(), HISTORY_SECONDS);
        assert_eq!(history.since(0).next().unwrap().end_unix_ms, 11_000);
    }
}
