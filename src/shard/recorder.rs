//! A shard's clock and what it records: the moments of requests, by turns of the loop.
//!
//! The clock is read a few times a turn, not a request: right after completions were reaped, before the ring is entered, and once
//! when tasks have finished. All requests of a turn share these moments, which are those at which anything could have happened.

use std::time::Duration;

use crate::nbd::request::{Command, Request};
use crate::ring::Ring;
use crate::stats::{ExportInterval, Interval, Operation, SlowRequest, Timing};

/// Slow requests that are told apart between two questions of the control plane, which logs them; more are only counted, so that a
/// disk that stalls fills no disk.
const SLOW_AT_ONCE: usize = 64;

/// See the module.
pub(super) struct Recorder {
    ring: Ring,
    /// The moment of this turn: when its completions were reaped.
    now: u64,
    interval: Box<Interval>,
    exports: usize,
    on: bool,
    slow: Option<u64>,
}

impl Recorder {
    /// Records for so many exports; when off, it keeps counters but no times.
    pub(super) fn new(ring: Ring, exports: usize, on: bool, slow: Option<Duration>) -> Self {
        let interval = Box::new(Interval::new(exports));
        let slow = slow.map(|slow| slow.as_nanos() as u64);
        Self { ring, now: 0, interval, exports, on, slow }
    }

    /// Reads the clock: nanoseconds since the shard began.
    pub(super) fn clock(&self) -> u64 {
        if self.on { self.ring.now().as_nanos() as u64 } else { 0 }
    }

    /// Reads the clock for what is not recorded by request.
    pub(super) fn elapsed(&self) -> u64 {
        self.ring.now().as_nanos() as u64
    }

    /// A new turn begins: completions were reaped.
    pub(super) fn turn(&mut self) {
        self.now = self.elapsed();
    }

    /// The moment of this turn.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// What is counted for an export.
    pub(super) fn export(&mut self, export: usize) -> &mut ExportInterval {
        &mut self.interval.exports[export]
    }

    /// A request goes to its task.
    pub(super) fn admitted(&mut self, export: usize, request: &Request, arrived: u64) -> Timing {
        let operation = operation(request.command);
        let (offset, length) = (request.range.offset(), request.range.length());
        self.interval.exports[export].count_bytes(operation, length);
        Timing { operation, arrived, submitted: 0, completed: 0, offset, length }
    }

    /// A task has ended, in the turn at whose end the clock showed `after_run`.
    ///
    /// One that waited for the ring was done when its completion was reaped; one that ended in its first turn needed no ring.
    pub(super) fn completed(&self, timing: &mut Timing, after_run: u64) {
        if timing.submitted == 0 {
            timing.submitted = self.now;
            timing.completed = after_run;
        } else {
            timing.completed = self.now;
        }
    }

    /// A reply is out.
    pub(super) fn sent(&mut self, export: usize, timing: &Timing, peer: &str) {
        if !self.on {
            self.interval.exports[export].count_request(timing.operation);
            return;
        }
        self.interval.exports[export].record(timing, self.now);
        if self.slow.is_some_and(|slow| self.now.saturating_sub(timing.arrived) >= slow) {
            self.note_slow(export, timing, peer);
        }
    }

    /// Notes a slow request for the control plane: writing a log line may wait, and a shard must not.
    #[cold]
    fn note_slow(&mut self, export: usize, timing: &Timing, peer: &str) {
        if self.interval.slow.len() == SLOW_AT_ONCE {
            self.interval.more_slow += 1;
        } else {
            let (peer, timing) = (peer.to_owned(), *timing);
            self.interval.slow.push(SlowRequest { export, peer, timing, sent: self.now });
        }
    }

    /// What was recorded since the last time; recording goes on in `spare`.
    pub(super) fn take(&mut self, spare: Option<Box<Interval>>) -> Box<Interval> {
        let mut fresh = spare.unwrap_or_default();
        fresh.clear();
        fresh.exports.resize_with(self.exports, ExportInterval::default);
        std::mem::replace(&mut self.interval, fresh)
    }
}

fn operation(command: Command) -> Operation {
    match command {
        Command::Read { .. } => Operation::Read,
        Command::Write => Operation::Write,
        Command::Flush => Operation::Flush,
        Command::Trim => Operation::Trim,
        Command::Cache => Operation::Cache,
        Command::WriteZeroes => Operation::WriteZeroes,
        Command::BlockStatus { .. } => Operation::BlockStatus,
        Command::Disconnect => unreachable!("it is no request to a backend"),
    }
}
