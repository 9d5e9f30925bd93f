//! The server's own interval log: one interval a second, of every phase of every command of every export that
//! had any.
//!
//! An existing log is appended to, with a head of its own. One that was emptied is begun anew within a
//! second: that is how to rotate it, without a signal. While it cannot be written, its intervals are lost,
//! and one line of the server's log says so.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::block::CommandKind;
use crate::stats::interval_log::{IntervalLogWriter, is_log, tag};
use crate::stats::{Interval, Phase, Totals, provenance};
use crate::sys::confine;

/// A line is shorter, so that the end of the last whole one is within it.
const LONGEST_LINE: u64 = 4 << 20;

/// See the module.
pub(super) struct LatencyLog {
    path: PathBuf,
    file: File,
    /// Its bytes up to the end of the last interval that was written whole.
    length: u64,
    /// What goes to the file next.
    writer: IntervalLogWriter<Vec<u8>>,
    /// It begins with a head that is not in the file yet.
    owes_head: bool,
    /// What the starts of intervals count from.
    begin: Instant,
    /// The last second could not be written.
    fails: bool,
    /// Of the present interval.
    totals: Totals,
    names: Vec<String>,
}

impl LatencyLog {
    /// Opens or creates the file, and writes the head.
    ///
    /// # Errors
    /// The system's; or the file is something else than a log.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let (file, length) = open(&path)?;
        let (totals, names) = (Totals::new(0, 0), Vec::new());
        let (writer, begin) = (head()?, Instant::now());
        let (owes_head, fails) = (true, false);
        let mut log = Self { path, file, length, writer, owes_head, begin, fails, totals, names };
        log.write()?;
        Ok(log)
    }

    /// An index belongs to an export of this name from now on.
    pub(super) fn name(&mut self, index: usize, name: &str) {
        if self.names.len() <= index {
            self.names.resize_with(index + 1, String::new);
            self.totals.grow(index + 1);
        }
        name.clone_into(&mut self.names[index]);
    }

    /// An export is gone, and what the present interval has of it.
    pub(super) fn forget_export(&mut self, index: usize) {
        self.totals.forget_export(index);
    }

    /// Adds what a shard recorded to the present interval.
    pub(super) fn add(&mut self, interval: &Interval) {
        self.totals.add_exports(interval);
    }

    /// Writes the present interval, which was so long, and begins the next.
    pub(super) fn end_interval(&mut self, length: Duration) {
        let result = self.try_end_interval(length);
        self.totals.clear();
        let path = self.path.display();
        match (&result, self.fails) {
            (Err(error), false) => {
                let reason = format!("{error}{}", confine::hint(error));
                tracing::warn!(%path, reason, "cannot write the latency log; what cannot be written is lost");
            }
            (Ok(()), true) => tracing::info!(%path, "the latency log can be written again"),
            _ => {}
        }
        self.fails = result.is_err();
    }

    fn try_end_interval(&mut self, length: Duration) -> io::Result<()> {
        self.follow()?;
        let start = self.begin.elapsed().saturating_sub(length);
        for (name, export) in self.names.iter().zip(&self.totals.exports) {
            for (kind, command) in CommandKind::ALL.into_iter().zip(&export.commands) {
                let Some(command) = command else { continue };
                for (phase, histogram) in Phase::ALL.into_iter().zip(&command.phases) {
                    if !histogram.is_empty() {
                        self.writer.interval(&tag(name, kind, phase), start, length, histogram)?;
                    }
                }
            }
        }
        self.write()
    }

    /// Begins anew when the file was emptied. Only the descriptor is looked at: a server in its sandbox can
    /// open nothing.
    fn follow(&mut self) -> io::Result<()> {
        let file = self.file.metadata()?;
        if !file.is_file() {
            return Ok(());
        }
        if file.nlink() == 0 {
            return Err(io::Error::other("it was removed; to begin a new one, empty it instead"));
        }
        if file.len() < self.length {
            self.length = file.len();
            self.begin_anew()?;
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        (self.writer, self.owes_head, self.begin) = (head()?, true, Instant::now());
        Ok(())
    }

    /// Hands everything to the system, or nothing of it.
    fn write(&mut self) -> io::Result<()> {
        let bytes = self.writer.get_mut();
        let (written, length) = (self.file.write_all(bytes), bytes.len() as u64);
        bytes.clear();
        match written {
            Ok(()) => {
                self.length += length;
                self.owes_head = false;
            }
            Err(_) => {
                // Half a line would spoil the next one. What is no file cannot be cut.
                let _cut = self.file.set_len(self.length);
                if self.owes_head {
                    self.begin_anew()?;
                }
            }
        }
        written
    }
}

fn head() -> io::Result<IntervalLogWriter<Vec<u8>>> {
    IntervalLogWriter::begin(Vec::new(), &provenance::comments(), SystemTime::now())
}

/// Opens a log to append to it: the file, and its length without a line that a crash cut off.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Opening a pipe must not wait for its other end.
    let file =
        OpenOptions::new().create(true).append(true).read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok((file, 0));
    }
    let mut start = vec![0; 64.min(metadata.len() as usize)];
    file.read_exact_at(&mut start, 0)?;
    if !is_log(&start) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it holds something else than a latency log",
        ));
    }
    let from = metadata.len().saturating_sub(LONGEST_LINE);
    let mut tail = vec![0; (metadata.len() - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| from + at as u64 + 1);
    if end < metadata.len() {
        file.set_len(end)?;
    }
    Ok((file, end))
}
