//! What a run counts, and from when to when.

use std::time::Duration;

use super::results::{LoadRecorder, Results};
use super::run::{Measured, Run, RunPhase, TICK, nanoseconds};
use super::{LoadFailure, LoadInterval};

/// What is shorter and has no operations is not reported.
const SHORTEST: u64 = TICK / 10;

impl Run<'_> {
    /// From `start` on results count.
    pub(super) fn begin_measuring(&mut self, start: u64) {
        if start > 0 {
            self.end_interval(start);
            self.recorder = LoadRecorder::new();
            self.load.connections.iter_mut().for_each(|connection| connection.completed = 0);
        }
        self.phase = RunPhase::Measure;
        self.measure_start = start;
        self.last_completion = start;
        self.next_tick = start + TICK;
        self.cpu_start = cpu_time();
        let options = &self.load.options;
        let end = options.duration.map_or(u64::MAX, |duration| start.saturating_add(nanoseconds(duration)));
        if !self.is_interrupted {
            self.load.plan.limit(options.operations.unwrap_or(u64::MAX), end);
        }
    }

    /// Tells the observer of the present interval and begins the next one.
    pub(super) fn end_interval(&mut self, now: u64) {
        let is_warm_up = matches!(self.phase, RunPhase::WarmUp(_));
        let since = if is_warm_up { 0 } else { self.measure_start };
        let length = now - self.interval_start;
        // A moment without operations, such as that after the last one, is no interval.
        let counts = length >= SHORTEST || self.recorder.interval().iter().any(|latency| !latency.is_empty());
        if counts && !matches!(self.phase, RunPhase::ReadBack(_)) {
            self.observer.interval(&LoadInterval {
                start: Duration::from_nanos(self.interval_start - since),
                length: Duration::from_nanos(length),
                is_warm_up,
                latency: self.recorder.interval(),
            });
        }
        self.recorder.next_interval();
        self.interval_start = now;
    }

    /// After a run with verification: reads back what was written. Whether there is anything to read.
    pub(super) fn begin_read_back(&mut self) -> bool {
        if self.phase != RunPhase::Measure || self.is_interrupted {
            return false;
        }
        let now = self.now();
        let Some(verifier) = &mut self.load.verifier else { return false };
        verifier.is_reading_back = true;
        self.end_interval(now);
        self.finish_measuring(now);
        self.phase = RunPhase::ReadBack(0);
        self.exhausted = None;
        self.observer.reading_back();
        for key in 0..self.load.connections.len() {
            self.load.connections[key].is_listed = false;
            self.list(key as u32);
        }
        true
    }

    /// What is over when the last operation that counts has ended.
    fn finish_measuring(&mut self, now: u64) {
        if self.measured.is_none() {
            let unstarted = self.load.plan.overdue(now);
            let cpu = cpu_time().saturating_sub(self.cpu_start);
            let connections = self.load.connections.iter().map(|connection| connection.completed).collect();
            self.measured = Some(Measured { cpu, connections, unstarted });
        }
    }

    pub(super) fn finish(mut self, failure: Option<LoadFailure>) -> Results {
        let now = self.now();
        self.end_interval(now);
        self.finish_measuring(now);
        let Measured { cpu, connections, unstarted } = self.measured.expect("just set");
        let (kinds, errors) = self.recorder.finish();
        let in_warm_up = matches!(self.phase, RunPhase::WarmUp(_));
        let elapsed = if in_warm_up { 0 } else { self.last_completion - self.measure_start };
        Results {
            kinds,
            errors,
            connections,
            elapsed: Duration::from_nanos(elapsed),
            cpu: if in_warm_up { Duration::ZERO } else { cpu },
            unstarted: if failure.is_none() && !self.is_interrupted { unstarted } else { 0 },
            verification: self.load.verifier.as_mut().map(|verifier| std::mem::take(&mut verifier.found)),
            interrupted: self.is_interrupted,
            failure,
        }
    }
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
