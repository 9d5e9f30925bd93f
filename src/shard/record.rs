//! A shard's clock and what it records: the moments of requests, by turns of the loop.
//!
//! The clock is read a few times a turn, not a request: right after completions were reaped, before the ring
//! is entered, and once when tasks have finished. All requests of a turn share these moments, which are those
//! at which anything could have happened.

use std::time::Duration;

use crate::identity::PeerIdentity;
use crate::ring::Ring;
use crate::stats::{
    ExportGauges, ExportInterval, Interval, Operation, SlowRequest, TimedCommand, Timing, TlsCounts,
};

/// Slow requests that are told apart between two questions of the control plane, which logs them; more are
/// only counted, so that a disk that stalls fills no disk.
const SLOW_AT_ONCE: usize = 64;

/// See the module.
pub(super) struct Recorder {
    ring: Ring,
    /// The moment of this turn: when its completions were reaped.
    now: u64,
    interval: Box<Interval>,
    /// Requests of this turn that are not recorded yet: of which export, their moments, and how many. Those
    /// of one receive have all moments in common, and are recorded at once.
    pending_batch: Option<(usize, Timing, u32)>,
    /// By export; they go on when an interval ends.
    gauges: Vec<ExportGauges>,
    on: bool,
    slow: Option<u64>,
}

impl Recorder {
    /// Records for the exports that get connections; when off, it keeps counters but no times.
    pub(super) fn new(ring: Ring, on: bool, slow: Option<Duration>) -> Self {
        let interval = Box::default();
        let slow = slow.map(|slow| slow.as_nanos() as u64);
        let now = ring.now().as_nanos() as u64;
        Self { ring, now, interval, pending_batch: None, gauges: Vec::new(), on, slow }
    }

    /// Reads the clock: nanoseconds since the first ring was set up. When nothing is recorded the moment
    /// of this turn will do.
    pub(super) fn clock(&self) -> u64 {
        if self.on { self.elapsed() } else { self.now }
    }

    /// Reads the clock for what is not recorded by request.
    pub(super) fn elapsed(&self) -> u64 {
        self.ring.now().as_nanos() as u64
    }

    /// A new turn begins: completions were reaped.
    pub(super) fn turn(&mut self) {
        self.record_batch();
        // Each turn has a moment of its own.
        self.now = self.elapsed().max(self.now + 1);
    }

    /// The moment of this turn.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// What is counted for an export.
    pub(super) fn export(&mut self, export: usize) -> &mut ExportInterval {
        &mut self.interval.exports[export]
    }

    /// What is counted of TLS.
    pub(super) fn tls(&mut self) -> &mut TlsCounts {
        &mut self.interval.tls
    }

    /// A request for `length` bytes at `offset` goes to its device; a rate had held it back for so long.
    #[inline(always)]
    pub(super) fn admitted(
        &mut self,
        export: usize,
        operation: Operation,
        (offset, length): (u64, u64),
        (arrived, held_ns): (u64, u64),
    ) -> Timing {
        self.interval.exports[export].count_bytes(operation, length);
        self.gauges[export].in_flight += 1;
        let command = TimedCommand::new(operation, held_ns);
        Timing { command, arrived, submitted: 0, completed: 0, offset, length }
    }

    /// A request that was to be answered without its backend, and is counted, goes there after all.
    pub(super) fn admitted_again(&mut self, export: usize, timing: Timing) -> Timing {
        self.gauges[export].in_flight += 1;
        Timing { submitted: 0, completed: 0, ..timing }
    }

    /// A device is done, in the turn at whose end the clock showed `after_run`.
    ///
    /// What waited for the ring was done when its completion was reaped; what ended in its first turn needed
    /// no ring.
    pub(super) fn completed(&mut self, export: usize, timing: &mut Timing, after_run: u64) {
        self.gauges[export].in_flight -= 1;
        if timing.submitted == 0 {
            timing.submitted = self.now;
            timing.completed = after_run;
        } else {
            timing.completed = self.now;
        }
    }

    /// A connection came.
    pub(super) fn connected(&mut self, export: usize) {
        if self.gauges.len() <= export {
            self.gauges.resize_with(export + 1, ExportGauges::default);
            self.interval.exports.resize_with(export + 1, ExportInterval::default);
        }
        self.gauges[export].connections += 1;
    }

    /// A connection is gone.
    pub(super) fn disconnected(&mut self, export: usize) {
        self.gauges[export].connections -= 1;
    }

    /// An export is gone, and what was recorded of it since the control plane last asked.
    pub(super) fn forget(&mut self, export: usize) {
        self.record_batch();
        if let Some(recorded) = self.interval.exports.get_mut(export) {
            *recorded = ExportInterval::default();
        }
        self.interval.slow.retain(|slow| slow.export != export);
    }

    /// A reply is out.
    pub(super) fn sent(&mut self, export: usize, timing: &Timing, peer: &PeerIdentity) {
        if !self.on {
            self.interval.exports[export].count_request(timing.operation());
            return;
        }
        match &mut self.pending_batch {
            Some((of, first, count)) if *of == export && first.is_alike(timing) => *count += 1,
            _ => {
                self.record_batch();
                self.pending_batch = Some((export, *timing, 1));
            }
        }
        if self.slow.is_some_and(|slow| self.now.saturating_sub(timing.arrived) + timing.throttled() >= slow)
        {
            self.note_slow(export, timing, peer);
        }
        #[cfg(feature = "trace")]
        self.trace(export, timing, peer);
    }

    /// Tells whoever subscribes to events of a request whose reply is out. The shard waits for what the
    /// subscriber does with it.
    #[cfg(feature = "trace")]
    fn trace(&self, export: usize, timing: &Timing, peer: &PeerIdentity) {
        tracing::trace!(
            target: "ringnbd::request",
            %peer,
            export,
            command = timing.operation().name(),
            offset = timing.offset,
            length = timing.length,
            throttled_ns = timing.throttled(),
            queue_ns = timing.submitted.saturating_sub(timing.arrived),
            backend_ns = timing.completed.saturating_sub(timing.submitted),
            send_ns = self.now.saturating_sub(timing.completed),
            "request"
        );
    }

    /// Records the requests that have everything in common.
    fn record_batch(&mut self) {
        if let Some((export, timing, count)) = self.pending_batch.take() {
            self.interval.exports[export].record(&timing, self.now, count);
        }
    }

    /// Notes a slow request for the control plane: writing a log line may wait, and a shard must not.
    #[cold]
    fn note_slow(&mut self, export: usize, timing: &Timing, peer: &PeerIdentity) {
        if self.interval.slow.len() == SLOW_AT_ONCE {
            self.interval.more_slow += 1;
        } else {
            let (peer, timing) = (peer.clone(), *timing);
            self.interval.slow.push(SlowRequest { export, peer, timing, sent: self.now });
        }
    }

    /// What was recorded since the last time; recording goes on in `spare`.
    pub(super) fn take(&mut self, spare: Option<Box<Interval>>) -> Box<Interval> {
        self.record_batch();
        let mut fresh = spare.unwrap_or_default();
        fresh.clear();
        fresh.exports.resize_with(self.gauges.len(), ExportInterval::default);
        let mut recorded = std::mem::replace(&mut self.interval, fresh);
        recorded.export_gauges.clone_from(&self.gauges);
        recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::RingOptions;

    #[test]
    fn what_is_alike_is_recorded_together_and_counted_one_by_one() {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let mut recorder = Recorder::new(ring, true, None);
        recorder.connected(1);
        let timing = |operation: Operation, arrived| Timing {
            command: operation.into(),
            arrived,
            submitted: arrived + 10,
            completed: arrived + 30,
            offset: 0,
            length: 512,
        };
        let (early, late) = (timing(Operation::Read, 1000), timing(Operation::Read, 2000));
        let write = timing(Operation::Write, 2000);
        recorder.now = 10_000;
        for (export, timing) in
            [(0, early), (0, early), (0, late), (0, write), (1, write), (0, early), (0, early)]
        {
            recorder.sent(export, &Timing { offset: 4096, ..timing }, &PeerIdentity::default());
        }
        recorder.turn();
        recorder.now = 20_000;
        recorder.sent(0, &early, &PeerIdentity::default());
        let mut interval = recorder.take(None);
        let mut check = |export: usize, operation, expected: &[(u64, u32)]| {
            let command = interval.exports[export].command(operation);
            let total = &command.phases[command.phases.len() - 1];
            let counts: Vec<_> = expected.iter().map(|(value, _)| (*value, total.count_at(*value))).collect();
            assert_eq!(counts, expected);
            assert_eq!(command.requests, total.len());
            assert_eq!(total.len(), expected.iter().map(|(_, count)| u64::from(*count)).sum::<u64>());
        };
        check(0, Operation::Read, &[(8000, 1), (9000, 4), (19_000, 1)]);
        check(0, Operation::Write, &[(8000, 1)]);
        check(1, Operation::Write, &[(8000, 1)]);
    }

    /// A subscriber that keeps the fields of events.
    #[cfg(feature = "trace")]
    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

    #[cfg(feature = "trace")]
    impl tracing::Subscriber for Kept {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "ringnbd::request"
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            unreachable!("there are no spans")
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            struct Fields(String);
            impl tracing::field::Visit for Fields {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                    self.0 += &format!("{field}={value:?} ");
                }
            }
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    #[cfg(feature = "trace")]
    fn each_request_is_an_event_of_its_own() {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let mut recorder = Recorder::new(ring, true, None);
        recorder.connected(0);
        recorder.now = 10_000;
        let (command, submitted) = (TimedCommand::new(Operation::Write, 7000), 1200);
        let timing = Timing { command, arrived: 1000, submitted, completed: 1500, offset: 4096, length: 512 };
        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || {
            // Both are recorded at once, and told one by one.
            recorder.sent(0, &timing, &PeerIdentity::default());
            recorder.sent(0, &timing, &PeerIdentity::default());
        });
        let events = kept.0.lock().unwrap();
        assert_eq!(events.len(), 2);
        for field in [
            "export=0",
            "command=\"write\"",
            "offset=4096",
            "length=512",
            "throttled_ns=7000",
            "queue_ns=200",
            "backend_ns=300",
            "send_ns=8500",
        ] {
            assert!(events[1].contains(field), "{field}: {}", events[1]);
        }
    }
}
