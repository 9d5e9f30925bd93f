//! What a run measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::plan::LoadKind;

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
    /// By the index of [`LoadKind`].
    pub kinds: [KindResults; LoadKind::COUNT],
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
    pub failure: Option<super::LoadFailure>,
}

impl Results {
    /// Successful operations; a FLUSH is none, it comes beside them.
    pub fn operations(&self) -> u64 {
        let all: u64 = self.kinds.iter().map(KindResults::operations).sum();
        all - self.kinds[LoadKind::Flush as usize].operations()
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Counts while a run goes on: the present interval, and all before it.
#[derive(Debug)]
pub(super) struct LoadRecorder {
    interval: [Histogram<u64>; LoadKind::COUNT],
    total: [KindResults; LoadKind::COUNT],
    errors: BTreeMap<u32, u64>,
}

impl LoadRecorder {
    pub(super) fn new() -> Self {
        let empty = || KindResults { latency: empty_histogram(), errors: 0 };
        Self {
            interval: LoadKind::ALL.map(|_| empty_histogram()),
            total: LoadKind::ALL.map(|_| empty()),
            errors: BTreeMap::new(),
        }
    }

    #[inline]
    pub(super) fn success(&mut self, kind: LoadKind, nanoseconds: u64) {
        self.interval[kind as usize].saturating_record(nanoseconds);
    }

    pub(super) fn error(&mut self, kind: LoadKind, error: u32) {
        self.total[kind as usize].errors += 1;
        *self.errors.entry(error).or_default() += 1;
    }

    /// The present interval, by the index of [`LoadKind`].
    pub(super) fn interval(&self) -> [&Histogram<u64>; LoadKind::COUNT] {
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
    pub(super) fn finish(self) -> ([KindResults; LoadKind::COUNT], BTreeMap<u32, u64>) {
        (self.total, self.errors)
    }
}
