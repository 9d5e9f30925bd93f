//! The ring: operations, their table, buffer memory, and the kernel's io_uring below.
//!
//! Beside [`crate::sys`] the only `unsafe` of the crate. Above it everything is safe code over owned values:
//! an [`Operation`] goes in with all the memory it needs and comes back in a [`Completion`] when its owner
//! collects it.

mod batch;
mod buddy;
mod buffer;
mod engine;
mod entry;
mod mapped;
mod op;
mod operation;
mod receive;
#[cfg(feature = "sim")]
pub(crate) mod sim;
mod uring;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use batch::{Payload, SendBatch, Unsent};
pub(crate) use buffer::{BULK_THRESHOLD, Lease, SharedLease, UNIT, ZoneKind};
pub use buffer::{BufferPool, LARGEST_LEASE};
pub use mapped::FileMapping;
pub(crate) use mapped::{MOST_PAGES, MappedRange, PAGE, SharedMapping};
pub(crate) use op::{OpKey, Owner};
pub(crate) use operation::{AllocateMode, Completion, FileIndex, Operation, SendMode};
pub(crate) use receive::Received;
pub use uring::RingOptions;
pub(crate) use uring::{Event, RingError, Wait};

use engine::Engine;

/// A handle of one shard's ring; clones name the same ring.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<RingCore>,
}

struct RingCore {
    engine: RefCell<Engine>,
    /// The task that runs now: operations awaited by it are its own.
    current_task: Cell<u32>,
    files: u32,
}

impl Ring {
    /// Sets up a ring for the calling thread, which must be the only one to use it.
    ///
    /// # Errors
    /// [`RingError`]: a sentence with the cause and the remedy.
    pub fn new(options: &RingOptions) -> Result<(Self, BufferPool), RingError> {
        let (engine, pool) = Engine::new(options)?;
        let inner =
            RingCore { engine: RefCell::new(engine), current_task: Cell::new(0), files: options.files };
        Ok((Self { inner: Rc::new(inner) }, pool))
    }

    /// Queues an operation; its completion is reported to `owner`.
    pub fn push(&self, operation: Operation, owner: Owner) -> OpKey {
        self.inner.engine.borrow_mut().push(operation, owner)
    }

    /// Submits what is queued, waits as asked and records at most `limit` completions; nothing else runs
    /// here.
    pub fn submit_and_reap(&self, wait: Wait, limit: usize, events: &mut Vec<Event>) {
        self.inner.engine.borrow_mut().submit_and_reap(wait, limit, events);
    }

    /// The finished operation of which an event told.
    #[inline]
    pub fn collect(&self, event: Event) -> Completion {
        let Event { key, received, socket_nonempty, .. } = event;
        let finished = self.inner.engine.borrow_mut().table().collect(key);
        let (result, operation) = finished.expect("an event comes once, when it is finished");
        Completion { result, operation, received, socket_nonempty }
    }

    /// The time since the ring was set up. It is the only clock of the data plane, so that a simulation can
    /// set it.
    pub fn now(&self) -> Duration {
        self.inner.engine.borrow().now()
    }

    /// Whether completions could be had without waiting.
    pub fn has_work(&self) -> bool {
        self.inner.engine.borrow_mut().has_work()
    }

    /// Receive buffers that the kernel can take.
    pub fn available_receive_buffers(&self) -> u16 {
        self.inner.engine.borrow().available_receive_buffers()
    }

    /// Operations whose completion was not seen yet.
    pub fn operations_in_flight(&self) -> usize {
        self.inner.engine.borrow_mut().table().in_flight()
    }

    /// Makes a file or socket known to the ring, which then holds its own reference: the descriptor may be
    /// closed.
    ///
    /// # Errors
    /// `EMFILE` when the table is full.
    pub fn register_file(&self, file: BorrowedFd<'_>) -> io::Result<FileIndex> {
        self.inner.engine.borrow_mut().register_file(file)
    }

    /// Maps the first `length` bytes of a file, to send from its page cache; `None` where that cannot be
    /// done.
    pub fn map_file(&self, file: BorrowedFd<'_>, length: u64) -> Option<SharedMapping> {
        self.inner.engine.borrow().map_file(file, length).ok()
    }

    /// Forgets a file or socket; the last reference closes it. No operation on it may be in flight.
    pub fn release_file(&self, file: FileIndex) {
        self.inner.engine.borrow_mut().release_file(file);
    }

    /// How often the ring's thread, which must be the caller, has waited for a page to be read.
    pub fn major_faults(&self) -> u64 {
        self.inner.engine.borrow().major_faults()
    }

    /// Files and sockets registered now.
    pub fn registered_files(&self) -> u32 {
        self.inner.engine.borrow().registered_files(self.inner.files)
    }

    /// The allocation of a simulated file; `None` when the ring is the kernel's.
    #[cfg(feature = "sim")]
    pub fn simulated_extents(
        &self,
        file: BorrowedFd<'_>,
        range: crate::block::ByteRange,
        limit: usize,
    ) -> Option<Vec<crate::block::Extent>> {
        let Engine::Simulated(engine) = &*self.inner.engine.borrow() else { return None };
        Some(engine.world().extents(file, range, limit))
    }

    /// Called by the executor before it runs a task.
    pub fn set_current_task(&self, task: u32) {
        self.inner.current_task.set(task);
    }

    pub fn current_task(&self) -> u32 {
        self.inner.current_task.get()
    }

    /// Runs an operation for the current task.
    pub fn run(&self, operation: Operation) -> Running {
        Running { ring: self.clone(), state: RunningState::Fresh(Some(operation)) }
    }

    pub async fn sleep(&self, duration: Duration) {
        let _expired = self.run(Operation::sleep(duration)).await;
    }
}

/// An operation that a task awaits: `(result, operation)`, the result as bytes moved or a positive errno.
pub struct Running {
    ring: Ring,
    state: RunningState,
}

enum RunningState {
    Fresh(Option<Operation>),
    Submitted(OpKey),
    Finished,
}

impl Future for Running {
    type Output = (Result<u32, i32>, Operation);

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { ring, state } = &mut *self;
        match state {
            RunningState::Fresh(operation) => {
                let operation = operation.take().expect("an operation is submitted once");
                let key = ring.push(operation, Owner::Task(ring.current_task()));
                *state = RunningState::Submitted(key);
                Poll::Pending
            }
            RunningState::Submitted(key) => {
                let Some(finished) = ring.inner.engine.borrow_mut().table().collect(*key) else {
                    return Poll::Pending;
                };
                *state = RunningState::Finished;
                Poll::Ready(finished)
            }
            RunningState::Finished => panic!("polled after completion"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let RunningState::Submitted(key) = self.state {
            self.ring.inner.engine.borrow_mut().table().abandon(key);
        }
    }
}
