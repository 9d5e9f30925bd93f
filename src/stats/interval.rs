//! What one shard recorded since it was last asked.

use std::num::NonZeroU64;

use hdrhistogram::{Counter, Histogram};

use super::{ErrorCounts, Phase, TlsCounts};
use crate::block::{BlockError, CommandKind};
use crate::identity::PeerIdentity;

/// The shortest time that is told apart from nothing, in nanoseconds.
pub(super) const SHORTEST_NS: u64 = 64;
/// The longest time that is recorded as it is; longer ones count as this. In nanoseconds: 1,000 s.
pub(super) const LONGEST_NS: u64 = 1_000_000_000_000;
/// Significant decimal digits of every histogram.
pub(super) const DIGITS: u8 = 3;
/// The longest time that a new histogram has room for, in nanoseconds. It grows when longer ones come: most
/// never see a second, and a server of many exports has many histograms.
const ROOM_AT_FIRST_NS: u64 = 2_000_000;

/// An empty histogram that grows.
pub(super) fn empty<T: Counter>() -> Histogram<T> {
    let mut histogram =
        Histogram::new_with_bounds(SHORTEST_NS, ROOM_AT_FIRST_NS, DIGITS).expect("bounds are constant");
    histogram.auto(true);
    histogram
}

/// The same for values that few exports have.
pub(super) fn empty_and_small<T: Counter>() -> Histogram<T> {
    let mut histogram =
        Histogram::new_with_bounds(SHORTEST_NS, 2 * SHORTEST_NS, DIGITS).expect("bounds are constant");
    histogram.auto(true);
    histogram
}

/// Records a value `count` times.
pub(super) fn record<T: Counter>(histogram: &mut Histogram<T>, nanoseconds: u64, count: T) {
    histogram.record_n(nanoseconds.min(LONGEST_NS), count).expect("it grows to the longest");
}

/// A command, and how long a rate had held its request back. One number, so that a request which nothing
/// holds back pays nothing for the second where it is stored, moved or compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimedCommand(NonZeroU64);

/// Marks the number, which so is never 0. The kind is below it, and nanoseconds from bit [`HELD_BITS`] on.
const MARK: u64 = 0x80;
const HELD_BITS: u32 = 8;

impl TimedCommand {
    /// `held_ns`: how long a rate had held it back, in nanoseconds; more than two years count as two years.
    #[inline(always)]
    pub const fn new(kind: CommandKind, held_ns: u64) -> Self {
        const MOST: u64 = u64::MAX >> HELD_BITS;
        let held_ns = if held_ns > MOST { MOST } else { held_ns };
        Self(NonZeroU64::new(held_ns << HELD_BITS | MARK | kind as u64).expect("it is marked"))
    }

    #[inline(always)]
    fn kind(self) -> CommandKind {
        match (self.0.get() as u8) & !(MARK as u8) {
            0 => CommandKind::Read,
            1 => CommandKind::Write,
            2 => CommandKind::Flush,
            3 => CommandKind::Trim,
            4 => CommandKind::Cache,
            5 => CommandKind::WriteZeroes,
            _ => CommandKind::BlockStatus,
        }
    }

    #[inline(always)]
    fn is(self, kind: CommandKind) -> bool {
        self.0.get() as u8 == MARK as u8 | kind as u8
    }

    fn held_ns(self) -> u64 {
        self.0.get() >> HELD_BITS
    }
}

impl std::fmt::Debug for TimedCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TimedCommand").field(&self.kind()).field(&self.held_ns()).finish()
    }
}

impl From<CommandKind> for TimedCommand {
    /// One that nothing held back.
    #[inline(always)]
    fn from(kind: CommandKind) -> Self {
        Self::new(kind, 0)
    }
}

/// The moments of a request, in nanoseconds of its shard's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub command: TimedCommand,
    /// Its last byte was received, and no rate held it back any more.
    pub arrived: u64,
    /// It was handed to the backend.
    pub submitted: u64,
    /// The backend was done, the reply was queued.
    pub completed: u64,
    /// Where, in bytes; for the log of slow requests.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u64,
}

impl Timing {
    /// True if both are the same command with the same moments, and were held back for as long.
    pub fn is_alike(&self, other: &Self) -> bool {
        let key = |timing: &Self| (timing.command, timing.arrived, timing.submitted, timing.completed);
        key(self) == key(other)
    }

    /// The command.
    #[inline(always)]
    pub fn operation(&self) -> CommandKind {
        self.command.kind()
    }

    /// Whether it is this command.
    #[inline(always)]
    pub fn is(&self, operation: CommandKind) -> bool {
        self.command.is(operation)
    }

    /// How long a rate had held it back, in nanoseconds.
    pub fn throttled(&self) -> u64 {
        self.command.held_ns()
    }
}

/// A request that took longer than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowRequest {
    /// Index of its export.
    pub export: usize,
    pub peer: PeerIdentity,
    /// Its moments but the last.
    pub timing: Timing,
    /// Its reply was out.
    pub sent: u64,
}

/// Everything of one shard since it was last asked.
#[derive(Debug, Default)]
pub struct Interval {
    /// One for each export of the server, in its order.
    pub exports: Vec<ExportInterval>,
    /// The gauges at the end.
    pub gauges: Gauges,
    /// The same by export; empty where nothing is known.
    pub export_gauges: Vec<ExportGauges>,
    /// The connections at the end, when they were asked for.
    pub connections: Vec<ConnectionInfo>,
    /// The first slow requests.
    pub slow: Vec<SlowRequest>,
    /// Slow requests for which there was no room.
    pub more_slow: u64,
    pub tls: TlsCounts,
    /// Its end, in nanoseconds of the shard's clock.
    pub end: u64,
}

/// One export on one shard.
#[derive(Debug, Default)]
pub struct ExportInterval {
    /// By [`CommandKind`]; `None` where none came.
    pub commands: [Option<Box<CommandInterval>>; CommandKind::ALL.len()],
    pub errors: ErrorCounts,
    /// Requests that were refused before they reached the backend; `errors` counts them too.
    pub refused: u64,
    /// Bytes of payload of refused requests that were skipped.
    pub discarded_bytes: u64,
    /// Reads that were answered from the page cache when they were parsed.
    pub page_cache_reads: u64,
}

/// One command of one export on one shard.
#[derive(Debug)]
pub struct CommandInterval {
    /// Requests whose reply is out.
    pub requests: u64,
    /// Bytes that the requests named.
    pub bytes: u64,
    /// Nanoseconds, by [`Phase`].
    pub phases: [Histogram<u32>; Phase::ALL.len()],
}

/// The state of a shard at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    pub connections: u64,
    /// Requests that a backend works on.
    pub in_flight: u64,
    /// Requests without an answer or whose reply is not sent, including those in flight.
    pub unsent: u64,
    /// Bytes of buffer memory that are lent.
    pub memory_used: u64,
    /// Bytes of buffer memory.
    pub memory_total: u64,
    /// Receive buffers that the kernel can take.
    pub receive_buffers: u64,
    /// Ring operations in flight.
    pub operations: u64,
}

/// The state of an export on a shard at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportGauges {
    pub connections: u64,
    /// Requests that a backend works on.
    pub in_flight: u64,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub peer: PeerIdentity,
    /// Index of its export.
    pub export: usize,
    /// When the shard took it, in nanoseconds of its clock; no two connections of a shard have the same at
    /// once.
    pub since_ns: u64,
    /// Nanoseconds since then.
    pub age_ns: u64,
    /// Requests without an answer or whose reply is not sent.
    pub in_flight: u64,
    /// Requests since it came whose reply is out.
    pub requests: u64,
    /// Bytes that they named.
    pub bytes: u64,
}

impl Interval {
    /// An empty one for so many exports.
    pub fn new(exports: usize) -> Self {
        Self { exports: (0..exports).map(|_| ExportInterval::default()).collect(), ..Self::default() }
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.slow.clear();
        self.more_slow = 0;
        self.tls = TlsCounts::default();
        for export in &mut self.exports {
            let commands = std::mem::take(&mut export.commands);
            *export = ExportInterval { commands, ..ExportInterval::default() };
            for command in export.commands.iter_mut().flatten() {
                (command.requests, command.bytes) = (0, 0);
                command.phases.iter_mut().filter(|phase| !phase.is_empty()).for_each(Histogram::reset);
            }
        }
    }
}

impl ExportInterval {
    pub(crate) fn command(&mut self, operation: CommandKind) -> &mut CommandInterval {
        self.commands[operation as usize].get_or_insert_with(Box::default)
    }

    /// Counts a request whose reply is out.
    pub fn count_request(&mut self, operation: CommandKind) {
        self.command(operation).requests += 1;
    }

    /// Counts `requests` requests with the same moments whose replies were sent at `sent`.
    pub fn record(&mut self, timing: &Timing, sent: u64, requests: u32) {
        let Timing { arrived, submitted, completed, .. } = *timing;
        let command = self.command(timing.operation());
        command.requests += u64::from(requests);
        let held_back = timing.throttled();
        let came = arrived.saturating_sub(held_back);
        let spans = [(arrived, submitted), (submitted, completed), (completed, sent), (came, sent)];
        let [throttled, others @ ..] = &mut command.phases;
        for (phase, (start, end)) in others.iter_mut().zip(spans) {
            record(phase, end.saturating_sub(start), requests);
        }
        if held_back > 0 {
            record(throttled, held_back, requests);
        }
    }

    /// Counts the bytes that a request named.
    #[inline]
    pub fn count_bytes(&mut self, operation: CommandKind, bytes: u64) {
        self.command(operation).bytes += bytes;
    }

    /// Counts an error reply; `None`: to a command that does not exist.
    pub fn count_error(&mut self, command: Option<CommandKind>, error: BlockError) {
        self.errors.count(command, error);
    }
}

impl Default for CommandInterval {
    fn default() -> Self {
        Self { requests: 0, bytes: 0, phases: [empty_and_small(), empty(), empty(), empty(), empty()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_and_how_long_it_was_held_back_are_one_number() {
        let longest = u64::MAX >> HELD_BITS;
        for kind in CommandKind::ALL {
            for held_ns in [0, 1, 999, 10_000_000_000, longest, u64::MAX] {
                let command = TimedCommand::new(kind, held_ns);
                assert_eq!((command.kind(), command.held_ns()), (kind, held_ns.min(longest)));
                assert!(CommandKind::ALL.into_iter().all(|other| command.is(other) == (other == kind)));
            }
        }
        // No other field, and none for its absence: it is moved with each request.
        assert_eq!([size_of::<Timing>(), size_of::<Option<Timing>>()], [48, 48]);
    }

    #[test]
    fn who_was_held_back_is_not_like_who_was_not() {
        let timing = |held_ns| Timing {
            command: TimedCommand::new(CommandKind::Read, held_ns),
            arrived: 1,
            submitted: 2,
            completed: 3,
            offset: 0,
            length: 512,
        };
        assert!(timing(0).is_alike(&Timing { offset: 512, ..timing(0) }));
        assert!(!timing(0).is_alike(&timing(1)) && timing(7).is_alike(&timing(7)));
        assert!(!timing(0).is_alike(&Timing { command: CommandKind::Write.into(), ..timing(0) }));
    }
}
