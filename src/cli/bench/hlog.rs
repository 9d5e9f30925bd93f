//! Latencies over time as a HdrHistogram V2 interval log, which other tools of that family read.

use std::fs::File;
use std::io::{self, LineWriter};
use std::path::Path;
use std::time::{Instant, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};

use crate::client::load::{LoadInterval, LoadKind};
use crate::stats::provenance;

/// The column "Interval_Max" is in milliseconds by convention; what is recorded are nanoseconds.
const NANOSECONDS_PER_UNIT_OF_MAX: f64 = 1e6;

/// The file that a log goes to.
pub(super) struct LogFile {
    file: LineWriter<File>,
    serializer: V2DeflateSerializer,
}

/// A log in the making.
pub(super) struct HistogramLog<'a> {
    writer: IntervalLogWriter<'a, 'a, LineWriter<File>, V2DeflateSerializer>,
    begin: Instant,
    kinds: Vec<LoadKind>,
    failure: Option<io::Error>,
}

impl LogFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: LineWriter::new(File::create(path)?), serializer: V2DeflateSerializer::new() })
    }

    /// Writes the head of the log; `kinds` are the operations that the load has.
    pub(super) fn begin(&mut self, kinds: Vec<LoadKind>, description: &str) -> io::Result<HistogramLog<'_>> {
        let (begin, now) = (Instant::now(), SystemTime::now());
        let mut builder = IntervalLogWriterBuilder::new();
        builder
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(description)
            .add_comment("latencies in nanoseconds")
            .with_start_time(now)
            .with_base_time(now)
            .with_max_value_divisor(NANOSECONDS_PER_UNIT_OF_MAX);
        for comment in provenance::comments() {
            builder.add_comment(&comment);
        }
        let writer = builder.begin_log_with(&mut self.file, &mut self.serializer)?;
        Ok(HistogramLog { writer, begin, kinds, failure: None })
    }
}

impl HistogramLog<'_> {
    /// Writes an interval that ends now; nothing of the warm-up.
    pub(super) fn interval(&mut self, interval: &LoadInterval<'_>) {
        if interval.is_warm_up || self.failure.is_some() {
            return;
        }
        let start = self.begin.elapsed().saturating_sub(interval.length);
        for kind in &self.kinds {
            let (latency, tag) = (interval.latency[*kind as usize], Tag::new(kind.name()));
            if let Err(error) = self.writer.write_histogram(latency, start, interval.length, tag) {
                self.failure = Some(io::Error::other(error.to_string()));
            }
        }
    }

    /// Whether all went well.
    pub(super) fn finish(self) -> io::Result<()> {
        self.failure.map_or(Ok(()), Err)
    }
}
