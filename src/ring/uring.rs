//! The kernel's io_uring: set-up, submission, completion, tear-down.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, types};

use super::buffer::BufferPool;
use super::entry::build_entry;
use super::key::{OpKey, Owner};
use super::op::OpTable;
use super::operation::{FileIndex, Operation};
use super::receive::{GROUP, ReceiveRing, Received};

/// How a ring is laid out.
#[derive(Debug, Clone)]
pub struct RingOptions {
    /// Bytes of memory for leases.
    pub lease_memory: usize,
    /// Bytes of memory for devices, beside those: see [`BufferPool::reserve`].
    pub reserve: usize,
    /// Bytes of the longest lease.
    pub longest_lease: usize,
    /// Receive buffers; a power of two.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer: u32,
    /// Files and sockets that can be registered at once.
    pub files: u32,
    /// Register (and so pin) the lease memory.
    pub registered: bool,
    /// The most worker threads of the kernel for operations that block; never fewer than the kernel's own
    /// choice.
    pub workers: usize,
}

#[cfg(test)]
impl RingOptions {
    /// The smallest ring, for tests that need one besides their subject.
    pub(crate) fn small() -> Self {
        Self {
            lease_memory: 40 << 20,
            reserve: 0,
            longest_lease: 32 << 20,
            receive_buffers: 2,
            receive_buffer: 4096,
            files: 2,
            registered: false,
            workers: 0,
        }
    }
}

/// Why there is no ring: the cause, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("this kernel has no io_uring; ringnbd needs Linux 6.1 or newer")]
    Missing,
    #[error(
        "io_uring is switched off here; set the sysctl kernel.io_uring_disabled to 0, or allow io_uring_setup in the \
         container's seccomp profile"
    )]
    Forbidden,
    #[error("this kernel's io_uring is too old ({0} is missing); ringnbd needs Linux 6.1 or newer")]
    TooOld(&'static str),
    /// The locked memory limit is too low for the queues.
    #[error(
        "the locked memory limit is too low for io_uring itself; raise it to 8 MiB or more (ulimit -l, or LimitMEMLOCK= in systemd)"
    )]
    RingMemory,
    /// The locked memory limit is too low to pin the buffers.
    #[error(
        "cannot lock {0} MiB of buffer memory: the locked memory limit is too low; raise it (ulimit -l, or LimitMEMLOCK= in \
         systemd), give less --memory, or leave out --pinned on"
    )]
    LockedMemory(usize),
    #[error(
        "cannot register {0} connections: the open files limit is too low; raise it (ulimit -n, or LimitNOFILE= in systemd)"
    )]
    OpenFiles(u32),
    #[error("cannot map {0} MiB of buffer memory: {1}; give less --memory")]
    Memory(usize, io::Error),
    #[error("cannot set up io_uring ({0}): {1}")]
    Other(&'static str, io::Error),
}

/// What the loop learns of one completion. The operation and its result stay in the table until its owner
/// [collects](super::Ring::collect) them, so they are moved once.
#[derive(Debug)]
pub struct Event {
    /// Whose operation is finished.
    pub owner: Owner,
    pub key: OpKey,
    /// The receive buffer that [`Operation::Receive`] was given.
    pub received: Option<Received>,
    /// The socket had more data when the receive ended.
    pub socket_nonempty: bool,
}

/// How long to wait for completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is other work.
    No,
    /// Until there is one.
    Forever,
    AtMost(Duration),
}

pub(super) struct Uring {
    ring: IoUring,
    pub(super) table: OpTable,
    receive: ReceiveRing,
    free_files: Vec<u32>,
    registered: bool,
    /// The kernel has [`Operation::Install`].
    pub(super) installs: bool,
    /// Completions that were taken out while submitting, to be told first.
    early: Vec<Event>,
    /// Keeps the registered arena mapped as long as the ring.
    _pool: BufferPool,
}

/// How often memory for a ring is asked for again, and the time between two tries.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(50);

/// SQEs that can wait for one submission; more make an extra system call.
const SUBMISSION_ENTRIES: u32 = 4096;

impl Uring {
    pub(super) fn new(options: &RingOptions) -> Result<(Self, BufferPool), RingError> {
        let ring = build_ring()?;
        let installs = probe(&ring)?;
        let megabytes = options.lease_memory >> 20;
        let pool = BufferPool::with_reserve(options.lease_memory, options.longest_lease, options.reserve)
            .map_err(|error| RingError::Memory(megabytes, error))?;
        let receive = ReceiveRing::new(options.receive_buffers, options.receive_buffer)
            .map_err(|error| RingError::Memory(megabytes, error))?;
        if options.registered {
            register_arena(&ring, &pool, megabytes)?;
        }
        let (address, entries) = receive.registration();
        // SAFETY: the receive ring's memory lives in `Uring` beside the ring, which is dropped first (field
        // order).
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, GROUP, 0) }
            .map_err(|error| RingError::Other("provided buffers", error))?;
        ring.submitter().register_files_sparse(options.files).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EMFILE) => RingError::OpenFiles(options.files),
                _ => RingError::Other("registered files", error),
            }
        })?;
        limit_workers(&ring, options.workers)?;
        let uring = Self {
            ring,
            table: OpTable::with_capacity(1024),
            receive,
            free_files: (0..options.files).rev().collect(),
            registered: options.registered,
            installs,
            early: Vec::new(),
            _pool: pool.another_handle(),
        };
        Ok((uring, pool))
    }

    /// Takes an operation in and queues its SQE.
    pub(super) fn push(&mut self, operation: Operation, owner: Owner) -> OpKey {
        let key = self.table.insert(operation, owner);
        let entry = build_entry(self.table.operation_mut(key), self.registered).user_data(u64::from(key.0));
        loop {
            // SAFETY: everything the entry points to is owned by the table until the terminal CQE.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return key;
            }
            // The queue is full: submit it early. Completions are taken out meanwhile, because the kernel may
            // take no entries (EBUSY) while its completion queue is full; they are reported in the next turn.
            let mut early = std::mem::take(&mut self.early);
            self.reap(usize::MAX, &mut early);
            self.early = early;
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if retry(&error) => {}
                Err(error) => panic!("the ring refuses submissions: {error}"),
            }
        }
    }

    /// Submits what is queued, waits as asked, and collects completions, at most `limit`.
    pub(super) fn submit_and_reap(&mut self, wait: Wait, limit: usize, events: &mut Vec<Event>) {
        events.append(&mut self.early);
        let wait = if events.is_empty() && self.ring.completion().is_empty() { wait } else { Wait::No };
        let result = match wait {
            Wait::No => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::AtMost(duration) => {
                let timeout = types::Timespec::from(duration);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        match result {
            Ok(_) => {}
            Err(error) if retry(&error) || error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) => panic!("the ring refuses submissions: {error}"),
        }
        self.reap(limit, events);
    }

    fn reap(&mut self, limit: usize, events: &mut Vec<Event>) {
        for entry in self.ring.completion().take(limit) {
            let key = OpKey(entry.user_data() as u32);
            let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
            let flags = entry.flags();
            let received = io_uring::cqueue::buffer_select(flags)
                .map(|buffer| self.receive.take(buffer, result.unwrap_or(0)));
            let socket_nonempty = io_uring::cqueue::sock_nonempty(flags);
            events.extend(deliver(&mut self.table, key, result, received, socket_nonempty));
        }
    }

    /// True if a completion is there, or could be had without waiting; costs two loads.
    pub(super) fn has_work(&mut self) -> bool {
        !self.early.is_empty() || !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    pub(super) fn available_receive_buffers(&self) -> u16 {
        self.receive.available()
    }

    pub(super) fn register_file(&mut self, file: BorrowedFd<'_>) -> io::Result<FileIndex> {
        let index = self.free_files.pop().ok_or(io::Error::from_raw_os_error(libc::EMFILE))?;
        match self.ring.submitter().register_files_update(index, &[file.as_raw_fd()]) {
            Ok(_) => Ok(FileIndex(index)),
            Err(error) => {
                self.free_files.push(index);
                Err(error)
            }
        }
    }

    pub(super) fn release_file(&mut self, file: FileIndex) {
        let released = self.ring.submitter().register_files_update(file.0, &[-1]);
        assert!(released.is_ok(), "a registered file can always be released");
        self.free_files.push(file.0);
    }

    pub(super) fn registered_files(&self, total: u32) -> u32 {
        total - self.free_files.len() as u32
    }
}

impl Drop for Uring {
    /// Ends and waits for everything in flight: the kernel must not write into memory that is gone.
    fn drop(&mut self) {
        let mut events = Vec::new();
        for _ in 0..1000 {
            if self.table.in_flight() == 0 {
                return;
            }
            self.push(Operation::CancelAll, Owner::Nobody);
            self.submit_and_reap(Wait::AtMost(Duration::from_millis(10)), usize::MAX, &mut events);
            events.clear();
        }
        // The memory is leaked rather than freed under the kernel.
        tracing::error!(
            operations = self.table.in_flight(),
            "operations did not end; their memory is leaked"
        );
        std::mem::forget(std::mem::replace(&mut self.table, OpTable::with_capacity(0)));
        std::mem::forget(self.receive.clone());
        std::mem::forget(self._pool.another_handle());
    }
}

/// Records a terminal CQE in the table. Returns the event for its owner, if it has one.
#[inline]
pub(super) fn deliver(
    table: &mut OpTable,
    key: OpKey,
    result: Result<u32, i32>,
    received: Option<Received>,
    socket_nonempty: bool,
) -> Option<Event> {
    match table.finish(key, result) {
        Owner::Nobody => None,
        owner => Some(Event { owner, key, received, socket_nonempty }),
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// A ring, for whose memory it waits: that of a server that was killed comes back a while after its end, and
/// counts against the same limit until then.
fn build_ring() -> Result<IoUring, RingError> {
    for _ in 0..TRIES {
        match try_build() {
            Err(RingError::RingMemory) => std::thread::sleep(PAUSE),
            built => return built,
        }
    }
    try_build()
}

fn try_build() -> Result<IoUring, RingError> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(4 * SUBMISSION_ENTRIES)
        .build(SUBMISSION_ENTRIES)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSYS) => RingError::Missing,
            Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
            Some(libc::EINVAL) => RingError::TooOld("deferred task running"),
            Some(libc::ENOMEM) => RingError::RingMemory,
            _ => RingError::Other("set-up", error),
        })
}

/// Whether the kernel has all that is needed, and [`Operation::Install`].
fn probe(ring: &IoUring) -> Result<bool, RingError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| RingError::Other("probing", error))?;
    let needed = [
        (opcode::ReadFixed::CODE, "READ_FIXED"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
        (opcode::Fadvise::CODE, "FADVISE"),
        (opcode::OpenAt2::CODE, "OPENAT2"),
        (opcode::MkDirAt::CODE, "MKDIRAT"),
        (opcode::RenameAt::CODE, "RENAMEAT"),
        (opcode::UnlinkAt::CODE, "UNLINKAT"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Madvise::CODE, "MADVISE"),
        (opcode::Shutdown::CODE, "SHUTDOWN"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Timeout::CODE, "TIMEOUT"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ];
    for (code, name) in needed {
        if !probe.is_supported(code) {
            return Err(RingError::TooOld(name));
        }
    }
    let parameters = ring.params();
    if !parameters.is_feature_nodrop() || !parameters.is_feature_ext_arg() {
        return Err(RingError::TooOld("NODROP"));
    }
    Ok(probe.is_supported(opcode::FixedFdInstall::CODE))
}

/// Allows the ring more threads for operations that block on files; the number for sockets stays as it is.
fn limit_workers(ring: &IoUring, workers: usize) -> Result<(), RingError> {
    let change = |bounded: u32| {
        // Nothing changes where 0 is asked for, and what was there comes back.
        let mut limits = [bounded, 0];
        let changed = ring.submitter().register_iowq_max_workers(&mut limits);
        changed.map(|()| limits[0]).map_err(|error| RingError::Other("worker threads", error))
    };
    let wanted = u32::try_from(workers).unwrap_or(u32::MAX);
    if change(0)? < wanted {
        change(wanted)?;
    }
    Ok(())
}

/// Registers the arena as one fixed buffer, which pins it.
fn register_arena(ring: &IoUring, pool: &BufferPool, megabytes: usize) -> Result<(), RingError> {
    let (address, length) = pool.arena();
    let buffer = libc::iovec { iov_base: address.cast(), iov_len: length };
    // SAFETY: the arena lives in `Uring` beside the ring, which is dropped first (field order).
    unsafe { ring.submitter().register_buffers(&[buffer]) }.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM | libc::EPERM) => RingError::LockedMemory(megabytes),
        _ => RingError::Other("registered buffers", error),
    })
}
