//! The ring: operations, their table, buffer memory, and the kernel's io_uring below.
//!
//! Beside [`crate::sys`] the only `unsafe` of the crate. Above it everything is safe code over owned values:
//! an [`Operation`] goes in with all the memory it needs and comes back in a [`Completion`] when its owner
//! collects it.

mod batch;
mod block;
mod buddy;
mod buffer;
mod directory;
mod engine;
mod entry;
mod key;
mod loan;
mod mapped;
mod names;
mod op;
mod operation;
mod receive;
// For stores, which are to come.
#[cfg_attr(not(test), allow(dead_code))]
mod reserve;
mod reserve_line;
mod running;
#[cfg(feature = "sim")]
pub(crate) mod sim;
#[cfg(test)]
mod testing;
mod uring;
mod zone;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

pub(crate) use batch::{Payload, SendBatch, Unsent};
pub use buffer::{BufferPool, LARGEST_LEASE};
pub(crate) use buffer::{Lease, SharedLease};
pub(crate) use key::{OpKey, Owner};
pub(crate) use loan::Loan;
pub use mapped::FileMapping;
pub(crate) use mapped::{MOST_PAGES, MappedRange, PAGE, SharedMapping};
pub use names::{Directory, FileName, FileNameError, OpenAs, Removed};
pub(crate) use operation::{AllocateMode, Completion, FileIndex, Operation, SendMode};
pub(crate) use receive::Received;
pub use uring::RingOptions;
pub(crate) use uring::{Event, RingError, Wait};
pub(crate) use zone::{BULK_THRESHOLD, UNIT, ZoneKind};

use engine::Engine;
use op::OpTable;

/// A handle of one shard's ring; clones name the same ring.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<RingCore>,
}

struct RingCore {
    engine: RefCell<Engine>,
    /// The task that runs now, and the address of its waker: operations that are polled with it are the
    /// task's own.
    current_task: Cell<u32>,
    current_waker: Cell<*const ()>,
    files: u32,
    /// Files that go when no operation names them any more.
    leaving: RefCell<Vec<FileIndex>>,
}

impl Ring {
    /// Sets up a ring for the calling thread, which must be the only one to use it.
    ///
    /// # Errors
    /// [`RingError`]: a sentence with the cause and the remedy.
    pub fn new(options: &RingOptions) -> Result<(Self, BufferPool), RingError> {
        let (engine, pool) = Engine::new(options)?;
        let (current_task, current_waker) = (Cell::new(0), Cell::new(Waker::noop().data()));
        let (engine, leaving) = (RefCell::new(engine), RefCell::default());
        let inner = RingCore { engine, current_task, current_waker, files: options.files, leaving };
        Ok((Self { inner: Rc::new(inner) }, pool))
    }

    /// Queues an operation; its completion is reported to `owner`.
    pub fn push(&self, operation: Operation, owner: Owner) -> OpKey {
        self.inner.engine.borrow_mut().push(operation, owner)
    }

    /// Submits what is queued, waits as asked and records at most `limit` completions; nothing else runs
    /// here.
    pub fn submit_and_reap(&self, wait: Wait, limit: usize, events: &mut Vec<Event>) {
        if !self.inner.leaving.borrow().is_empty() {
            self.release_idle_files();
        }
        self.inner.engine.borrow_mut().submit_and_reap(wait, limit, events);
    }

    /// The finished operation of which an event told.
    #[inline]
    pub fn collect(&self, event: Event) -> Completion {
        let Event { key, received, socket_nonempty, .. } = event;
        let finished = self.table(|table| table.collect(key));
        let (result, operation) = finished.expect("an event comes once, when it is finished");
        Completion { result, operation, received, socket_nonempty }
    }

    /// Since the process set up its first ring. It is the only clock of the data plane, so that a
    /// simulation can set it.
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

    /// Whether a socket can be given a descriptor once more, with [`Operation::Install`].
    pub fn can_install(&self) -> bool {
        self.inner.engine.borrow().installs()
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

    /// The same as soon as no operation that was queued names it: until then its place is given to no other.
    pub fn release_file_when_idle(&self, file: FileIndex) {
        if self.table(|table| table.names(file)) {
            self.inner.leaving.borrow_mut().push(file);
        } else {
            self.release_file(file);
        }
    }

    #[cold]
    fn release_idle_files(&self) {
        let leaving = std::mem::take(&mut *self.inner.leaving.borrow_mut());
        leaving.into_iter().for_each(|file| self.release_file_when_idle(file));
    }

    /// How often the ring's thread, which must be the caller, has waited for a page to be read.
    pub fn major_faults(&self) -> u64 {
        self.inner.engine.borrow().major_faults()
    }

    /// Files and sockets registered now.
    pub fn registered_files(&self) -> u32 {
        self.inner.engine.borrow().registered_files(self.inner.files)
    }

    /// Whether it is one of a simulated world.
    pub fn is_simulated(&self) -> bool {
        self.inner.engine.borrow().is_simulated()
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

    /// The executor says which task it is about to run, and with which waker.
    pub fn set_current_task(&self, task: u32, waker: &Waker) {
        self.inner.current_task.set(task);
        self.inner.current_waker.set(waker.data());
    }

    /// The task that runs now, if the future is polled by the task itself: not by something within it that
    /// gives out wakers of its own.
    #[inline]
    pub fn task_of(&self, context: &Context<'_>) -> Option<u32> {
        let is_own = std::ptr::eq(context.waker().data(), self.inner.current_waker.get());
        is_own.then(|| self.inner.current_task.get())
    }

    /// Wakes the future of a finished operation whose owner is [`Owner::Within`].
    #[cold]
    pub fn wake_within(&self, key: OpKey) {
        let waker = self.table(|table| table.waker_of_finished(key));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn table<T>(&self, with: impl FnOnce(&mut OpTable) -> T) -> T {
        with(self.inner.engine.borrow_mut().table())
    }
}
