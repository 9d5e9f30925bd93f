//! How tasks are woken: by whom, and from where.
//!
//! Each slot of the executor has a [`SlotWaker`], which any thread can clone and call. A wake puts it into
//! the inbox of its shard and rings the shard's doorbell; further wakes do nothing until the shard has
//! looked. A waker that somebody still holds when its slot gets a new task is retired: its wakes are for the
//! task that is gone.
//!
//! A wait that begins and ends on the shard needs neither inbox nor doorbell: a [`Waiter`] names the task
//! itself by its slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::ring::Ring;
use crate::sys::Doorbell;

/// Rings a shard's doorbell; a simulated world looks at its doorbells when that was the first time since the
/// shard looked.
pub(crate) fn ring(doorbell: &Doorbell) {
    let _is_first = doorbell.ring();
    #[cfg(feature = "sim")]
    if _is_first && let Some(world) = crate::ring::sim::World::current() {
        world.rang();
    }
}

/// Where wakes of a shard's tasks arrive.
#[derive(Debug)]
struct Inbox {
    /// A waker is in it once, so it holds no more than there are wakers.
    sender: Sender<Arc<TaskWaker>>,
    doorbell: Arc<Doorbell>,
}

/// The shard's end of its inbox.
#[derive(Debug)]
pub(super) struct Woken {
    inbox: Arc<Inbox>,
    receiver: Receiver<Arc<TaskWaker>>,
}

impl Woken {
    pub(super) fn new(doorbell: &Arc<Doorbell>) -> Self {
        let (sender, receiver) = unbounded();
        Self { inbox: Arc::new(Inbox { sender, doorbell: Arc::clone(doorbell) }), receiver }
    }

    /// The tasks that were woken since the last call.
    pub(super) fn collect(&self) -> impl Iterator<Item = u32> {
        self.receiver.try_iter().filter_map(|waker| {
            // Before the task runs, so that a wake while it runs is a further one.
            waker.queued.swap(false, Ordering::AcqRel);
            (!waker.retired.load(Ordering::Relaxed)).then_some(waker.task)
        })
    }

    /// The waker of a new slot.
    pub(super) fn slot(&self, task: u32) -> SlotWaker {
        let (queued, retired) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(TaskWaker { task, queued, retired, inbox: Arc::clone(&self.inbox) });
        SlotWaker { waker: Waker::from(Arc::clone(&shared)), shared }
    }
}

/// Wakes one task, from any thread.
#[derive(Debug)]
struct TaskWaker {
    task: u32,
    /// It is in the inbox.
    queued: AtomicBool,
    /// Its task is gone. Only the shard's thread looks at it.
    retired: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        // A shard that is gone has no task to wake.
        if self.inbox.sender.send(Arc::clone(self)).is_ok() {
            ring(&self.inbox.doorbell);
        }
    }
}

/// The waker of a slot.
#[derive(Debug)]
pub(super) struct SlotWaker {
    pub(super) waker: Waker,
    shared: Arc<TaskWaker>,
}

impl SlotWaker {
    /// The slot gets a new task: whoever was to wake the one before does not wake it.
    #[inline]
    pub(super) fn renew(&mut self, woken: &Woken) {
        // This and the waker; nobody else can come by one.
        const OWN: usize = 2;
        if Arc::strong_count(&self.shared) > OWN {
            self.shared.retired.store(true, Ordering::Relaxed);
            *self = woken.slot(self.shared.task);
        }
    }
}

/// Whoever waits for something that happens on its own shard.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A task itself. Its slot may have another task when it is notified, which then looks in vain.
    Task(u32),
    /// A future that a task polls with a waker of its own.
    Within(Waker),
}

impl Waiter {
    /// Whoever polls now.
    pub(crate) fn new(ring: &Ring, context: &Context<'_>) -> Self {
        ring.task_of(context).map_or_else(|| Self::Within(context.waker().clone()), Self::Task)
    }
}
