//! What the ring can be asked to do. An operation owns its file index and every byte that the kernel may
//! touch.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::batch::SendBatch;
use super::buffer::{Lease, SharedLease};
use super::key::OpKey;
use super::mapped::MappedRange;
use super::names::NameWork;
use super::receive::Received;
use crate::block::ByteRange;

/// The place of a file or socket in the ring's table of registered files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(Default))]
pub struct FileIndex(pub(super) u32);

/// How `fallocate(2)` changes a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocateMode {
    /// Deallocate: the range reads as zeroes and takes no room.
    PunchHole,
    /// Reserve blocks and make the range read as zeroes.
    ZeroRange,
    /// Reserve blocks, and let the file end behind the range if it ends earlier. The other two never change
    /// its size.
    Grow,
}

/// When a send ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendMode {
    /// When all has left; less only at an error.
    Whole,
    /// When the socket takes no more. It waits for room for at least one byte, or ends with an error.
    Some,
    /// At once, with what the socket takes: `EAGAIN` when that is nothing.
    Now,
}

/// One request to the kernel.
#[derive(Debug)]
pub enum Operation {
    /// Read from a file at `offset` into `lease[start..start + length]`.
    Read {
        file: FileIndex,
        /// Bytes from the start of the file.
        offset: u64,
        lease: Lease,
        /// Bytes into the lease.
        start: u32,
        /// Bytes to read.
        length: u32,
        /// Go to a worker thread at once: even a read that must not wait sleeps while a hole is punched into
        /// its file.
        in_worker: bool,
    },
    /// Write `lease[start..start + length]` to a file at `offset`.
    Write {
        file: FileIndex,
        /// Bytes from the start of the file.
        offset: u64,
        lease: SharedLease,
        /// Bytes into the lease.
        start: u32,
        /// Bytes to write.
        length: u32,
        /// Complete only when the data is durable (`RWF_DSYNC`).
        durable: bool,
    },
    /// `fdatasync(2)`, of a range or of all.
    Sync {
        file: FileIndex,
        /// Not empty, and less than 4 GiB.
        range: Option<ByteRange>,
    },
    /// `fallocate(2)`.
    Allocate { file: FileIndex, mode: AllocateMode, range: ByteRange },
    /// `posix_fadvise(2)` with `POSIX_FADV_WILLNEED`.
    Prefetch { file: FileIndex, range: ByteRange },
    /// Open, make, rename or remove a name, or make names durable; see [`Ring::open_below`](super::Ring) and
    /// those beside it.
    Name(Box<NameWork>),
    /// Receive what has arrived into a shared receive buffer, which the kernel takes only when there is data.
    Receive {
        socket: FileIndex,
        /// Wait for the socket first: the last receive left it empty.
        poll_first: bool,
    },
    /// Receive at most `length` bytes into `lease[start..]`.
    ReceiveInto {
        socket: FileIndex,
        lease: Lease,
        /// Bytes into the lease.
        start: u32,
        /// Bytes to receive.
        length: u32,
        /// All of them; less only at the end of the stream. Otherwise it ends with what has arrived.
        whole: bool,
    },
    /// Send pieces of a batch.
    Send { socket: FileIndex, mode: SendMode, batch: Box<SendBatch> },
    /// Wait until the other end of a socket is gone for good (`POLLHUP`, `POLLERR`) or has ended its own
    /// stream (neither of them: the kernel always looks for that as well).
    AwaitHangUp { socket: FileIndex },
    /// Complete when a socket can take some bytes, or will never take any more.
    AwaitRoom { socket: FileIndex },
    /// Give a socket a descriptor once more, which has none beside its place among the ring's files: the
    /// number is the result. `EINVAL` before Linux 6.8.
    Install { socket: FileIndex },
    /// Bring part of a mapped file into the page cache, on a thread of the kernel; `EFAULT` if it is gone or
    /// cannot be read.
    Populate { mapped: MappedRange },
    /// Shut a socket down. `Both` ends everything that waits on it; `Write` tells the other end that no more
    /// will come.
    Shutdown {
        socket: FileIndex,
        /// `Both` or `Write`.
        how: std::net::Shutdown,
    },
    /// Watch an eventfd: completes when it was rung, and drains it.
    Watch {
        eventfd: RawFd,
        /// Receives the counter.
        counter: Box<u64>,
    },
    /// Complete after a time.
    Sleep { duration: Box<io_uring::types::Timespec> },
    /// Ask the kernel to end another operation early, which still completes on its own.
    Cancel { target: OpKey },
    /// Ask the kernel to end all other operations early.
    CancelAll,
}

impl Operation {
    /// An operation that completes after `duration`.
    pub fn sleep(duration: Duration) -> Self {
        Self::Sleep { duration: Box::new(duration.into()) }
    }

    /// Takes over the descriptor that came of it, if that is what its result is.
    pub(super) fn opened(&self, result: Result<u32, i32>) -> Option<OwnedFd> {
        match (self, result) {
            (Self::Name(work), result) => work.opened(result),
            // SAFETY: the kernel has made it for this operation, whose result is told once.
            (Self::Install { .. }, Ok(number)) => Some(unsafe { OwnedFd::from_raw_fd(number as RawFd) }),
            _ => None,
        }
    }

    /// The file whose bytes it reads, writes or makes durable.
    pub(super) const fn file(&self) -> Option<FileIndex> {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Sync { file, .. }
            | Self::Allocate { file, .. }
            | Self::Prefetch { file, .. } => Some(*file),
            _ => None,
        }
    }
}

/// A finished operation: what the kernel said, and the operation itself with all it owned.
#[derive(Debug)]
pub struct Completion {
    /// Bytes moved or 0, or a positive errno.
    pub result: Result<u32, i32>,
    pub operation: Operation,
    /// The receive buffer that [`Operation::Receive`] was given.
    pub received: Option<Received>,
    /// The socket had more data when the receive ended.
    pub socket_nonempty: bool,
}

impl Completion {
    /// The descriptor that [`Operation::Install`] has made. It is to be asked once.
    pub fn installed(self) -> Result<OwnedFd, i32> {
        let errno = self.result.err().unwrap_or(libc::EBADF);
        self.operation.opened(self.result).ok_or(errno)
    }
}
