//! The last quarter of an hour in one summary a second, in bounded memory whatever the number of exports.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::Phase;
use super::heat::{HEAT_ROWS, add_heat};
use super::interval::{DIGITS, Interval, LONGEST_NS, SHORTEST_NS};
use super::percentiles::Percentiles;
use crate::block::CommandKind;

/// Summaries that are kept: one a second, 15 minutes.
pub const HISTORY_SECONDS: usize = 900;

/// Commands as the history tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// All others.
    Other,
}

impl Class {
    /// All, in the order in which they are kept.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// The name in the admin server's JSON.
    pub const fn name(self) -> &'static str {
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
pub struct ClassSummary {
    /// Requests whose reply went out.
    pub requests: u64,
    /// Bytes that the requests named.
    pub bytes: u64,
    /// Of the whole way through the server; `None` where nothing was recorded.
    pub latency: Option<Percentiles>,
}

/// One second of the whole server.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its end, in milliseconds since 1970.
    pub end_unix_ms: u64,
    /// Its length in milliseconds: 1,000, or more when the control plane was late.
    pub length_ms: u64,
    /// By [`Class`].
    pub classes: [ClassSummary; Class::ALL.len()],
    /// Latency of all commands.
    pub latency: Option<Percentiles>,
    /// Mean nanoseconds that a request spent in each phase but the last, which is their sum; by [`Phase`].
    pub phase_mean_ns: [f64; Phase::Total as usize],
    /// Error replies.
    pub errors: u64,
    /// Connections at the end.
    pub connections: u64,
    /// Requests that a backend worked on at the end.
    pub in_flight: u64,
    /// Requests of all commands by their latency; see [`heat_row_start_ns`](super::heat_row_start_ns).
    pub heat: [u64; HEAT_ROWS],
}

/// The present second, and those before it.
#[derive(Debug)]
pub struct History {
    summaries: VecDeque<Summary>,
    present: Present,
}

/// What came in the present second.
#[derive(Debug)]
struct Present {
    requests: [u64; Class::ALL.len()],
    bytes: [u64; Class::ALL.len()],
    latency: [Histogram<u64>; Class::ALL.len()],
    /// Nanoseconds of all requests, and their number, by phase.
    phases: [(f64, u64); Phase::Total as usize],
    errors: u64,
}

impl History {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { summaries: VecDeque::with_capacity(HISTORY_SECONDS), present: Present::new() }
    }

    /// Adds what a shard recorded to the present second.
    pub fn add(&mut self, interval: &Interval) {
        let present = &mut self.present;
        for export in &interval.exports {
            present.errors += export.errors.total();
            for (operation, command) in CommandKind::ALL.iter().zip(&export.commands) {
                let Some(command) = command else { continue };
                let class = Class::of(*operation) as usize;
                present.requests[class] += command.requests;
                present.bytes[class] += command.bytes;
                for bucket in command.phases[Phase::Total as usize].iter_recorded() {
                    let count = u64::from(bucket.count_at_value());
                    present.latency[class].saturating_record_n(bucket.value_iterated_to(), count);
                }
                for ((sum, count), phase) in present.phases.iter_mut().zip(&command.phases) {
                    *sum += phase.mean() * phase.len() as f64;
                    *count += phase.len();
                }
            }
        }
    }

    /// Ends the present second.
    pub fn finish_second(&mut self, end_unix_ms: u64, length_ms: u64, connections: u64, in_flight: u64) {
        let present = &mut self.present;
        let mut all = empty();
        let mut heat = [0; HEAT_ROWS];
        for latency in present.latency.iter().filter(|latency| !latency.is_empty()) {
            all.add(latency).expect("equal bounds");
            add_heat(&mut heat, latency);
        }
        let class = |class: Class| ClassSummary {
            requests: present.requests[class as usize],
            bytes: present.bytes[class as usize],
            latency: Percentiles::of(&present.latency[class as usize]),
        };
        let mean = |(sum, count): (f64, u64)| if count == 0 { 0.0 } else { sum / count as f64 };
        let summary = Summary {
            end_unix_ms,
            length_ms,
            classes: Class::ALL.map(class),
            latency: Percentiles::of(&all),
            phase_mean_ns: present.phases.map(mean),
            errors: present.errors,
            connections,
            in_flight,
            heat,
        };
        present.clear();
        if self.summaries.len() == HISTORY_SECONDS {
            self.summaries.pop_front();
        }
        self.summaries.push_back(summary);
    }

    /// The seconds that ended after a moment, in milliseconds since 1970; oldest first.
    pub fn since(&self, unix_ms: u64) -> impl Iterator<Item = &Summary> {
        self.summaries.iter().filter(move |summary| summary.end_unix_ms > unix_ms)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, DIGITS).expect("bounds are constant")
}

impl Present {
    fn new() -> Self {
        Self {
            requests: Default::default(),
            bytes: Default::default(),
            latency: [empty(), empty(), empty()],
            phases: Default::default(),
            errors: 0,
        }
    }

    fn clear(&mut self) {
        self.requests = Default::default();
        self.bytes = Default::default();
        self.phases = Default::default();
        self.errors = 0;
        self.latency.iter_mut().filter(|latency| !latency.is_empty()).for_each(Histogram::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timing;
    use super::*;

    fn interval(operation: CommandKind, requests: u64, backend_ns: u64) -> Interval {
        let mut interval = Interval::new(1);
        for arrived in 0..requests {
            let timing = Timing {
                operation,
                arrived,
                submitted: arrived + 1_000,
                completed: arrived + 1_000 + backend_ns,
                offset: 0,
                length: 4096,
            };
            interval.exports[0].record(&timing, timing.completed + 2_000, 1);
            interval.exports[0].count_bytes(operation, 4096);
        }
        interval
    }

    #[test]
    fn a_second_sums_up_what_all_shards_recorded_in_it() {
        let mut history = History::new();
        history.add(&interval(CommandKind::Read, 90, 50_000));
        history.add(&interval(CommandKind::Write, 9, 5_000_000));
        history.add(&interval(CommandKind::Trim, 1, 5_000_000));
        history.finish_second(1_000, 1_000, 7, 3);
        history.finish_second(2_000, 1_000, 7, 0);
        let seconds: Vec<_> = history.since(0).collect();
        let [read, write, other] = seconds[0].classes;
        assert_eq!([read.requests, write.requests, other.requests], [90, 9, 1]);
        assert_eq!(read.bytes, 90 * 4096);
        let close = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(close(read.latency.unwrap().max_ns, 53_000), "{read:?}");
        assert!(close(write.latency.unwrap().p50_ns, 5_003_000), "{write:?}");
        let all = seconds[0].latency.unwrap();
        assert!(close(all.p90_ns, 53_000) && close(all.p99_ns, 5_003_000), "{all:?}");
        let [queue, backend, send] = seconds[0].phase_mean_ns;
        assert!((queue - 1_000.0).abs() < 100.0 && (send - 2_000.0).abs() < 100.0, "{queue} {send}");
        assert!((backend / 545_000.0 - 1.0).abs() < 0.01, "{backend}");
        assert_eq!(seconds[0].heat.iter().sum::<u64>(), 100);
        assert_eq!((seconds[0].connections, seconds[0].in_flight), (7, 3));
        let empty = seconds[1];
        assert_eq!(
            (empty.latency, empty.classes[0], empty.phase_mean_ns),
            (None, ClassSummary::default(), [0.0; 3])
        );
        assert_eq!(history.since(1_000).count(), 1);
    }

    #[test]
    fn it_does_not_grow() {
        let mut history = History::new();
        for second in 1..=HISTORY_SECONDS as u64 + 10 {
            history.finish_second(1_000 * second, 1_000, 0, 0);
        }
        assert_eq!(history.since(0).count(), HISTORY_SECONDS);
        assert_eq!(history.since(0).next().unwrap().end_unix_ms, 11_000);
    }
}
