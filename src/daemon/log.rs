//! A log that never makes the server wait for a reader that is slow or stuck.
//!
//! Until [`Log::detach`] a line is written by the thread that logs it, so that start-up errors come out in
//! order and at once. From then on lines are appended to a bounded buffer, which one thread writes. A line
//! that does not fit is dropped and counted. As soon as lines get through again, a line of its own says how
//! many were dropped.
//!
//! Not `tracing-appender`. Its queue is bounded by lines instead of bytes, and it does not say in the log
//! that lines are missing. Its thread starts when it is made (here it must start in the sandbox). When it is
//! dropped while stuck, it prints to the standard output, which may be stuck too.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of lines that wait to be written.
const ROOM: usize = 256 << 10;

/// The log: the standard error.
pub(crate) static LOG: Log = Log::new(Target::StandardError);
/// What `serve` tells people: the standard output.
pub(crate) static OUTPUT: Log = Log::new(Target::StandardOutput);

/// Starts the threads that write [`LOG`] and [`OUTPUT`] from now on.
///
/// # Errors
/// No thread.
pub(super) fn detach() -> io::Result<()> {
    const WHAT: &str = "log lines were dropped, because they were not read in time";
    LOG.detach(|lines| tracing::warn!(lines, "{WHAT}"))?;
    OUTPUT.detach(|_| {})
}

/// Waits until what was logged so far is written, unless its reader is stuck. A program that hears that the
/// server is ready then finds the addresses in the log.
pub(super) fn settle() {
    const PATIENCE: Duration = Duration::from_millis(200);
    [&LOG, &OUTPUT].iter().for_each(|log| log.flush(PATIENCE));
}

thread_local! {
    /// This thread tells how many lines were dropped: that line may exceed the room.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
enum Target {
    StandardError,
    StandardOutput,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests watch the other end"))]
    File(OwnedFd),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    target: Target,
    state: Mutex<LogState>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct LogState {
    /// A thread writes what is pending.
    detached: bool,
    writing: bool,
    pending: Vec<u8>,
    /// Lines dropped since the pending ones were taken last. None is appended behind them.
    missing: u64,
}

impl Log {
    const fn new(target: Target) -> Self {
        let state = LogState { detached: false, writing: false, pending: Vec::new(), missing: 0 };
        let dropped = AtomicU64::new(0);
        Self { target, state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new(), dropped }
    }

    /// Lines that were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes lines, or keeps them to be written; never waits once the log is detached.
    pub(crate) fn write(&self, lines: &[u8]) {
        let mut state = self.state();
        if !state.detached {
            self.count(write_all(self.fd(), lines).err().map_or(0, |_| 1));
            return;
        }
        let fits = state.missing == 0 && state.pending.len() + lines.len() <= ROOM;
        if fits || WRITES.get() {
            state.pending.extend_from_slice(lines);
            self.filled.notify_one();
        } else {
            state.missing += 1;
            self.count(1);
        }
    }

    /// Starts the thread that writes from now on. `tell` says, in a line of this log, how many lines were
    /// dropped.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn detach(&'static self, tell: impl Fn(u64) + Send + 'static) -> io::Result<()> {
        if std::mem::replace(&mut self.state().detached, true) {
            return Ok(());
        }
        let started = std::thread::Builder::new().name("log".into()).spawn(move || self.run(tell));
        self.state().detached = started.is_ok();
        started.map(drop)
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let unfinished =
            |state: &mut LogState| state.writing || !state.pending.is_empty() || state.missing > 0;
        let state = self.state();
        if state.detached {
            let waited = self.emptied.wait_timeout_while(state, patience, unfinished);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn run(&self, tell: impl Fn(u64)) {
        WRITES.set(true);
        let (mut batch, mut untold) = (Vec::new(), 0);
        loop {
            let mut state = self.state();
            while state.pending.is_empty() && state.missing == 0 {
                state.writing = false;
                self.emptied.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            std::mem::swap(&mut batch, &mut state.pending);
            untold += std::mem::take(&mut state.missing);
            drop(state);
            match write_all(self.fd(), &batch) {
                Ok(()) if untold > 0 => tell(std::mem::take(&mut untold)),
                Ok(()) => {}
                Err(unwritten) => {
                    // Told when lines get through again: where nothing can be written, neither can this.
                    let lines = batch[batch.len() - unwritten..].split(|&byte| byte == b'\n');
                    let lost = lines.filter(|line| !line.is_empty()).count() as u64;
                    self.count(lost);
                    untold += lost;
                }
            }
            batch.clear();
        }
    }

    fn count(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not through the standard library's handles: a thread that is stuck in one of them holds its lock.
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.target {
            Target::StandardError => rustix::stdio::stderr(),
            Target::StandardOutput => rustix::stdio::stdout(),
            Target::File(file) => file.as_fd(),
        }
    }
}

impl io::Write for &Log {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        Log::write(self, lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all bytes, even if another process made the file non-blocking. Otherwise gives how many are left.
fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), usize> {
    use rustix::io::Errno;
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(bytes.len()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _interrupted = poll(&mut [PollFd::new(&file, PollFlags::OUT)], None);
            }
            Err(_) => return Err(bytes.len()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// A log whose reader is the test.
    fn log() -> (&'static Log, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let log: &'static Log = Box::leak(Box::new(Log::new(Target::File(writer.into()))));
        log.detach(|lines| log.write(format!("{lines} lines were dropped\n").as_bytes())).unwrap();
        (log, reader)
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (log, reader) = log();
        let total: u64 = 10_000;
        for line in 0..total {
            log.write(format!("{line:>79}\n").as_bytes());
        }
        let dropped = log.dropped();
        assert!(dropped > 0, "800 kB fit into no pipe and no buffer");
        log.flush(Duration::from_millis(1));
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        // The scheduler decides when the thread takes what is pending, so lines can be missing in several
        // places.
        let (mut next, mut seen, mut told) = (0, 0, 0);
        while seen + told < total {
            let line = lines.next().unwrap();
            if let Some(missing) = line.strip_suffix(" lines were dropped") {
                told += missing.parse::<u64>().unwrap();
            } else {
                let number: u64 = line.trim().parse().unwrap();
                assert!(number >= next, "{number} came after {next}");
                (next, seen) = (number + 1, seen + 1);
            }
        }
        assert_eq!(told, dropped, "each line that is missing was told of");
        log.write(b"again\n");
        assert_eq!(lines.next().unwrap(), "again");
        assert_eq!(log.dropped(), dropped);
    }

    #[test]
    fn everything_is_there_after_a_flush() {
        let (log, reader) = log();
        for line in 0..100 {
            log.write(format!("{line}\n").as_bytes());
        }
        log.flush(Duration::from_secs(60));
        let mut lines = BufReader::new(reader).lines();
        assert_eq!(lines.by_ref().take(100).last().unwrap().unwrap(), "99");
    }

    #[test]
    fn a_reader_that_is_gone_is_counted_and_told_to_nobody() {
        let (log, reader) = log();
        drop(reader);
        log.write(b"one\ntwo\n");
        log.flush(Duration::from_secs(60));
        log.write(b"three\n");
        log.flush(Duration::from_secs(60));
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn a_file_that_does_not_block_loses_nothing() {
        let (log, reader) = log();
        rustix::fs::fcntl_setfl(log.fd(), rustix::fs::OFlags::NONBLOCK).unwrap();
        // More than the pipe holds, less than the buffer.
        for line in 0..2_000 {
            log.write(format!("{line:>99}\n").as_bytes());
        }
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        assert!(lines.take(2_000).map(|line| line.trim().parse::<u32>().unwrap()).eq(0..2_000));
        assert_eq!(log.dropped(), 0);
    }
}
