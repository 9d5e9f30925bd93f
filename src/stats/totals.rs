//! The sum of all intervals of all shards since the start.

use hdrhistogram::Histogram;

use super::interval::{
    CommandInterval, ExportGauges, ExportInterval, Gauges, Interval, empty, empty_and_small, record,
};
use super::{ErrorCounts, Phase, TlsCounts};
use crate::block::CommandKind;

/// Everything since the start, or since [`Totals::clear`].
#[derive(Debug, Clone)]
pub(crate) struct Totals {
    /// By export, in the server's order.
    pub exports: Vec<ExportTotals>,
    /// By shard: its gauges when it was last asked.
    pub gauges: Vec<Gauges>,
    /// The same by shard and export.
    export_gauges: Vec<Vec<ExportGauges>>,
    pub tls: TlsCounts,
}

/// One export.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExportTotals {
    /// By [`CommandKind`]; `None` where none came.
    pub commands: [Option<Box<CommandTotals>>; CommandKind::ALL.len()],
    pub errors: ErrorCounts,
    /// Requests that were refused before they reached the backend.
    pub refused: u64,
    /// Bytes of payload of refused requests that were skipped.
    pub discarded_bytes: u64,
    /// Reads that were answered from the page cache when they were parsed.
    pub page_cache_reads: u64,
}

/// One command of one export.
#[derive(Debug, Clone)]
pub(crate) struct CommandTotals {
    /// Requests whose reply is out.
    pub requests: u64,
    /// Bytes that the requests named.
    pub bytes: u64,
    /// Nanoseconds, by [`Phase`].
    pub phases: [Histogram<u64>; Phase::ALL.len()],
}

impl Totals {
    /// Nothing yet, for so many exports and shards.
    pub(crate) fn new(exports: usize, shards: usize) -> Self {
        Self {
            exports: vec![ExportTotals::default(); exports],
            gauges: vec![Gauges::default(); shards],
            export_gauges: vec![vec![ExportGauges::default(); exports]; shards],
            tls: TlsCounts::default(),
        }
    }

    /// Makes room for exports up to an index.
    pub(crate) fn grow(&mut self, exports: usize) {
        if self.exports.len() < exports {
            self.exports.resize_with(exports, ExportTotals::default);
        }
    }

    /// Forgets an export that is gone: another may get its index.
    pub(crate) fn forget_export(&mut self, export: usize) {
        self.exports[export] = ExportTotals::default();
    }

    /// Adds what a shard recorded.
    pub(crate) fn add(&mut self, shard: usize, interval: &Interval) {
        self.gauges[shard] = interval.gauges;
        self.export_gauges[shard].clone_from(&interval.export_gauges);
        self.add_exports(interval);
    }

    /// Forgets the gauges of a shard that is gone.
    pub(crate) fn forget_gauges(&mut self, shard: usize) {
        self.gauges[shard] = Gauges::default();
        self.export_gauges[shard].clear();
    }

    /// The gauges of an export, added up over all shards.
    pub(crate) fn export_gauges(&self, export: usize) -> ExportGauges {
        let mut sum = ExportGauges::default();
        for of in self.export_gauges.iter().filter_map(|shard| shard.get(export)) {
            sum.connections += of.connections;
            sum.in_flight += of.in_flight;
        }
        sum
    }

    /// Adds what a shard recorded, without its gauges.
    pub(crate) fn add_exports(&mut self, interval: &Interval) {
        self.tls.add(&interval.tls);
        for (total, export) in self.exports.iter_mut().zip(&interval.exports) {
            total.add(export);
        }
    }

    /// Forgets everything but the gauges; for totals of one interval of time.
    pub(crate) fn clear(&mut self) {
        self.tls = TlsCounts::default();
        for export in &mut self.exports {
            let mut commands = std::mem::take(&mut export.commands);
            for command in commands.iter_mut().flatten() {
                (command.requests, command.bytes) = (0, 0);
                command.phases.iter_mut().filter(|phase| !phase.is_empty()).for_each(Histogram::reset);
            }
            *export = ExportTotals { commands, ..ExportTotals::default() };
        }
    }
}

impl ExportTotals {
    fn add(&mut self, export: &ExportInterval) {
        for (total, command) in self.commands.iter_mut().zip(&export.commands) {
            if let Some(command) = command {
                total.get_or_insert_with(Box::default).add(command);
            }
        }
        self.errors.add(&export.errors);
        self.refused += export.refused;
        self.discarded_bytes += export.discarded_bytes;
        self.page_cache_reads += export.page_cache_reads;
    }
}

impl CommandTotals {
    fn add(&mut self, command: &CommandInterval) {
        self.requests += command.requests;
        self.bytes += command.bytes;
        for (total, phase) in self.phases.iter_mut().zip(&command.phases) {
            for bucket in phase.iter_recorded() {
                record(total, bucket.value_iterated_to(), u64::from(bucket.count_at_value()));
            }
        }
    }
}

impl Default for CommandTotals {
    fn default() -> Self {
        Self { requests: 0, bytes: 0, phases: [empty_and_small(), empty(), empty(), empty(), empty()] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timing;
    use super::*;
    use crate::block::BlockError;

    #[test]
    fn histograms_grow_with_what_they_see() {
        let mut interval = Interval::new(1);
        let bytes = |interval: &Interval| {
            let command = interval.exports[0].commands[0].as_ref().unwrap();
            command.phases.iter().map(Histogram::distinct_values).sum::<usize>() * size_of::<u32>()
        };
        let mut record = |latency: u64| {
            let timing = Timing {
                command: CommandKind::Read.into(),
                arrived: 0,
                submitted: 0,
                completed: latency,
                offset: 0,
                length: 0,
            };
            interval.exports[0].record(&timing, latency, 1);
            bytes(&interval)
        };
        assert!(record(1_000_000) < 110_000, "a server of a hundred exports has a thousand of these");
        assert!(
            record(u64::MAX) < 500_000,
            "what lasts forever is as bad as what lasts a quarter of an hour"
        );
        let mut totals = Totals::new(1, 1);
        totals.add(0, &interval);
        let total = &totals.exports[0].commands[0].as_ref().unwrap().phases[Phase::Total as usize];
        assert_eq!((total.len(), total.max() >= 999_000_000_000), (2, true), "{}", total.max());
    }

    #[test]
    fn intervals_of_all_shards_add_up_and_can_be_used_again() {
        let mut totals = Totals::new(2, 2);
        let mut interval = Interval::new(2);
        for round in 1..=3_u64 {
            interval.clear();
            for request in 0..100 {
                let arrived = request * 1000;
                let (submitted, completed) = (arrived + 1_000, arrived + 5_001_000);
                let timing = Timing {
                    command: CommandKind::Read.into(),
                    arrived,
                    submitted,
                    completed,
                    offset: 0,
                    length: 4096,
                };
                interval.exports[1].record(&timing, arrived + 5_002_000, 1);
            }
            interval.exports[1].count_bytes(CommandKind::Read, 409_600);
            interval.exports[1].count_error(Some(CommandKind::Read), BlockError::Io);
            interval.gauges.connections = round;
            totals.add((round % 2) as usize, &interval);
        }
        assert!(totals.exports[0].commands.iter().all(Option::is_none));
        let read = totals.exports[1].commands[CommandKind::Read as usize].as_ref().unwrap();
        assert_eq!((read.requests, read.bytes), (300, 3 * 409_600));
        let backend = read.phases[Phase::Backend as usize].value_at_quantile(0.5);
        assert!(backend.abs_diff(5_000_000) <= 5_000, "{backend}");
        assert!(read.phases[Phase::Queue as usize].max() < 1_100);
        assert_eq!(totals.exports[1].errors.by_error()[1], 3);
        assert_eq!([totals.gauges[0].connections, totals.gauges[1].connections], [2, 3]);
        totals.clear();
        assert_eq!(totals.exports[1].commands[0].as_ref().unwrap().requests, 0);
    }
}
