//! The server's own interval log: one interval a second, of every phase of every command of every export that had any.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::block::CommandKind;
use crate::stats::interval_log::{IntervalLogWriter, tag};
use crate::stats::{Interval, Phase, Totals, provenance};

/// See the module.
pub(super) struct LatencyLog {
    path: PathBuf,
    writer: IntervalLogWriter<BufWriter<File>>,
    begin: Instant,
    /// Of the present interval.
    totals: Totals,
    names: Vec<String>,
}

impl LatencyLog {
    /// Creates the file, or empties it, and writes the head.
    pub(super) fn create(path: PathBuf, names: Vec<String>) -> io::Result<Self> {
        let file = BufWriter::new(File::create(&path)?);
        let writer = IntervalLogWriter::begin(file, &provenance::comments(), SystemTime::now())?;
        let totals = Totals::new(names.len(), 0);
        Ok(Self { path, writer, begin: Instant::now(), totals, names })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what a shard recorded to the present interval.
    pub(super) fn add(&mut self, interval: &Interval) {
        self.totals.add_exports(interval);
    }

    /// Writes the present interval, which was so long, and begins the next.
    pub(super) fn end_interval(&mut self, length: Duration) -> io::Result<()> {
        let start = self.begin.elapsed().saturating_sub(length);
        for (name, export) in self.names.iter().zip(&self.totals.exports) {
            for (operation, command) in CommandKind::ALL.into_iter().zip(&export.commands) {
                let Some(command) = command else { continue };
                for (phase, histogram) in Phase::ALL.into_iter().zip(&command.phases) {
                    if !histogram.is_empty() {
                        self.writer.interval(&tag(name, operation, phase), start, length, histogram)?;
                    }
                }
            }
        }
        self.totals.clear();
        self.writer.flush()
    }
}
