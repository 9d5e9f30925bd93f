//! Pieces of a file are written by a second thread, while the first one reads and names what comes next.
//!
//! Copying into the page cache takes about as long as all the rest. What is on its way is bounded, and
//! whoever syncs waits for all of it before: the order in which things become durable is the same.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::file::PackFile;

/// Pieces that are on their way at most: as much as a step of an ingest reads. More of them are more memory,
/// and no more speed.
pub(super) const MOST_PIECES: usize = 8;

/// Time of processors that such threads have taken, for those who compare it with that of others.
#[derive(Debug, Default)]
pub(crate) struct AsideTime(AtomicU64);

impl AsideTime {
    /// It is exact while nothing is on its way.
    pub(crate) fn told(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct FilePiece {
    pub(super) bytes: Vec<u8>,
    pub(super) offset: u64,
    /// What may go to the medium then.
    pub(super) begun: Option<Range<u64>>,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct AsideWriter {
    /// None while it ends.
    pieces: Option<SyncSender<FilePiece>>,
    written: Receiver<(Vec<u8>, io::Result<()>)>,
    on_their_way: usize,
    /// What failed first. What was handed over later may be missing too.
    failure: Option<io::Error>,
    /// Memory of pieces that were written.
    spare: Vec<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl AsideWriter {
    /// None if there is no thread to be had: then whoever asks writes.
    pub(super) fn start(file: File, time: Arc<AsideTime>) -> Option<Self> {
        let (pieces, queue) = sync_channel::<FilePiece>(MOST_PIECES);
        let (done, written) = sync_channel(MOST_PIECES);
        let work = move || {
            let mut noted = Duration::ZERO;
            for FilePiece { mut bytes, offset, begun } in queue {
                let result = PackFile::write(&file, &bytes, offset);
                if let (Ok(()), Some(range)) = (&result, begun) {
                    file.begin_writeback(range);
                }
                bytes.clear();
                let spent = clock_gettime(ClockId::ThreadCPUTime);
                let spent = Duration::new(spent.tv_sec.cast_unsigned(), spent.tv_nsec as u32);
                let new = spent - std::mem::replace(&mut noted, spent);
                time.0.fetch_add(new.as_nanos() as u64, Ordering::Release);
                if done.send((bytes, result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(work).ok()?;
        let (on_their_way, failure, spare) = Default::default();
        Some(Self { pieces: Some(pieces), written, on_their_way, failure, spare, thread: Some(thread) })
    }

    /// Hands a piece over, and waits if too many are on their way. Whether it is written is known later.
    pub(super) fn write(&mut self, piece: FilePiece) {
        while self.on_their_way >= MOST_PIECES {
            self.take_one();
        }
        self.on_their_way += 1;
        let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok());
        if !sent {
            self.has_ended();
        }
    }

    fn take_one(&mut self) {
        match self.written.recv() {
            Ok((bytes, result)) => {
                self.on_their_way -= 1;
                self.spare.push(bytes);
                if let Err(error) = result {
                    self.failure.get_or_insert(error);
                }
            }
            Err(_) => self.has_ended(),
        }
    }

    fn has_ended(&mut self) {
        self.on_their_way = 0;
        self.failure.get_or_insert_with(|| io::Error::other("the thread that writes has ended"));
    }

    /// Waits until nothing is on its way.
    pub(super) fn wait(&mut self) {
        while self.on_their_way > 0 {
            self.take_one();
        }
    }

    /// Whether all went well of what is known.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(error) => match error.raw_os_error() {
                Some(number) => Err(io::Error::from_raw_os_error(number)),
                None => Err(io::Error::new(error.kind(), error.to_string())),
            },
        }
    }

    /// Memory for the next piece.
    pub(super) fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}

impl Drop for AsideWriter {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
