//! What a run measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::plan::Kind;

/// The longest latency that is told apart, in nanoseconds: an hour. Longer ones count as this.
const LONGEST: u64 = 3_600_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// An empty histogram of nanoseconds.
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are valid")
}

/// What came of one kind of operation.
#[derive(Debug, Clone)]
pub struct KindResults {
    /// Latencies of the operations that succeeded, in nanoseconds; in an open loop from the intended start.
    pub latency: Histogram<u64>,
    /// Operations that the server answered with an error.
    pub errors: u64,
}

impl KindResults {
    /// Operations that succeeded.
    pub fn operations(&self) -> u64 {
        self.latency.len()
    }
}

/// The outcome of a run. Operations count when they end after the warm-up and start before the end.
#[derive(Debug)]
pub struct Results {
    /// By the index of [`Kind`].
    pub kinds: [KindResults; Kind::COUNT],
    /// Answers with an error, by error value (`NBD_E*`).
    pub errors: BTreeMap<u32, u64>,
    /// Successful operations of each connection.
    pub connections: Vec<u64>,
    /// From the end of the warm-up to the last completion.
    pub elapsed: Duration,
    /// Processor time of this process in that time.
    pub cpu: Duration,
    /// Open loop: operations that were due and never started, because as many as allowed were in flight.
    pub unstarted: u64,
    /// What reading back found; `None` without verification.
    pub verification: Option<super::verify::Verification>,
    /// It was stopped before its end.
    pub interrupted: bool,
    /// Why it ended early.
    pub failure: Option<super::Failure>,
}

impl Results {
    /// Successful operations; a FLUSH is none, it comes beside them.
    pub fn operations(&self) -> u64 {
        let all: u64 = self.kinds.iter().map(KindResults::operations).sum();
        all - self.kinds[Kind::Flush as usize].operations()
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Counts while a run goes on: the present interval, and all before it.
#[derive(Debug)]
pub(super) struct Recorder {
    interval: [Histogram<u64>; Kind::COUNT],
    total: [KindResults; Kind::COUNT],
    errors: BTreeMap<u32, u64>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let empty = || KindResults { latency: empty_histogram(), errors: 0 };
        Self {
            interval: Kind::ALL.map(|_| empty_histogram()),
            total: Kind::ALL.map(|_| empty()),
            errors: BTreeMap::new(),
        }
    }

    #[inline]
    pub(super) fn success(&mut self, kind: Kind, nanoseconds: u64) {
        self.interval[kind as usize].saturating_record(nanoseconds);
    }

    pub(super) fn error(&mut self, kind: Kind, error: u32) {
        self.total[kind as usize].errors += 1;
        *self.errors.entry(error).or_default() += 1;
    }

    /// The present interval, by the index of [`Kind`].
    pub(super) fn interval(&self) -> [&Histogram<u64>; Kind::COUNT] {
        self.interval.each_ref()
    }

    pub(super) fn next_interval(&mut self) {
        for (interval, total) in self.interval.iter_mut().zip(&mut self.total) {
            if !interval.is_empty() {
                total.latency.add(&*interval).expect("equal bounds");
                interval.reset();
            }
        }
    }

    /// All intervals that were ended.
    pub(super) fn finish(self) -> ([KindResults; Kind::COUNT], BTreeMap<u32, u64>) {
        (self.total, self.errors)
    }
}
