//! Waiting for what a task of any shard does.
//!
//! What is waited for is state that shards share. Whoever changes it calls [`Waiters::wake_all`] afterwards; whoever waits looks first,
//! then leaves word where to be found, and looks again, so that no change passes unseen. A woken task looks once more: being
//! woken means nothing but that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::task::ReadyList;
use crate::ring::Ring;
use crate::sys::Doorbell;

/// The way by which tasks of one shard are woken from outside of it: by other shards, or by itself.
pub(crate) struct Wakeups {
    sender: Sender<u32>,
    /// Tasks that were woken. Not more than wait: each leaves word once for each time it is woken.
    woken: Receiver<u32>,
    doorbell: Arc<Doorbell>,
    ready: ReadyList,
    ring: Ring,
}

/// Wakes one task.
#[derive(Debug)]
struct TaskWaker {
    task: u32,
    sender: Sender<u32>,
    doorbell: Arc<Doorbell>,
}

impl Wakeups {
    /// For the shard with this doorbell, ready list and ring.
    pub(crate) fn new(doorbell: &Arc<Doorbell>, ready: ReadyList, ring: Ring) -> Self {
        let (sender, woken) = unbounded();
        Self { sender, woken, doorbell: Arc::clone(doorbell), ready, ring }
    }

    /// The doorbell rang: tasks that were woken go on.
    pub(crate) fn collect(&self) {
        for task in self.woken.try_iter() {
            self.ready.wake(task);
        }
    }

    /// For the task that runs now.
    fn waker(&self) -> TaskWaker {
        let (sender, doorbell) = (self.sender.clone(), Arc::clone(&self.doorbell));
        TaskWaker { task: self.ring.current_task(), sender, doorbell }
    }
}

impl TaskWaker {
    fn wake(self) {
        // A shard that is gone has no task to wake.
        if self.sender.send(self.task).is_ok() {
            self.doorbell.ring();
            #[cfg(feature = "sim")]
            if let Some(world) = crate::ring::sim::World::current() {
                world.rang();
            }
        }
    }
}

/// Tasks that wait for the same thing, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Vec<TaskWaker>>);

impl Waiters {
    /// Waits until `condition` gives something. It must depend on nothing but what is followed by [`Waiters::wake_all`] when it changes.
    pub(crate) async fn until<T>(&self, wakeups: &Wakeups, mut condition: impl FnMut() -> Option<T>) -> T {
        std::future::poll_fn(|_context| {
            if let Some(found) = condition() {
                return Poll::Ready(found);
            }
            lock(&self.0).push(wakeups.waker());
            // It may have changed before anybody could see that we wait.
            condition().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// What they wait for may have changed.
    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut *lock(&self.0));
        for waker in waiting {
            waker.wake();
        }
    }
}

/// A count that only grows, and tasks that wait until it has reached a number of their own. Only those are woken whose number it reaches:
/// thousands may wait.
#[derive(Debug, Default)]
pub(crate) struct Milestones(Mutex<Reached>);

#[derive(Debug, Default)]
struct Reached {
    count: u64,
    /// By the number each waits for, and its place among those that wait for the same one.
    waiting: BTreeMap<(u64, u64), TaskWaker>,
    next: u64,
}

/// One that waits; it is forgotten when it is dropped.
struct Waiting<'a> {
    milestones: &'a Milestones,
    key: (u64, u64),
}

impl Milestones {
    /// Returns when the count has reached `number`.
    pub(crate) async fn until(&self, number: u64, wakeups: &Wakeups) {
        let waiting = {
            let mut reached = lock(&self.0);
            if reached.count >= number {
                return;
            }
            reached.next += 1;
            Waiting { milestones: self, key: (number, reached.next) }
        };
        std::future::poll_fn(|_context| {
            let mut reached = lock(&self.0);
            if reached.count >= number {
                return Poll::Ready(());
            }
            // Under the same lock as the growth of the count, so that this misses none.
            reached.waiting.insert(waiting.key, wakeups.waker());
            Poll::Pending
        })
        .await;
    }

    /// The count has grown to `count`. A smaller one than before changes nothing: shards may tell of their steps in any order.
    pub(crate) fn reach(&self, count: u64) {
        let mut reached = lock(&self.0);
        if count <= reached.count {
            return;
        }
        reached.count = count;
        let later = reached.waiting.split_off(&(count.saturating_add(1), 0));
        let done = std::mem::replace(&mut reached.waiting, later);
        drop(reached);
        for waker in done.into_values() {
            waker.wake();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.milestones.0).waiting.remove(&self.key);
    }
}

/// Tasks that take turns, in the order in which they came. The end of a turn wakes the next one alone.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Those in the line, by their numbers, and how to wake each.
    taken: BTreeMap<u64, Option<TaskWaker>>,
    next: u64,
}

/// A place in a line: who is first has its turn until this is dropped. Who drops it earlier leaves the line.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    line: &'a Line,
    number: u64,
}

impl Line {
    /// Queues at the end.
    pub(crate) fn join(&self) -> Place<'_> {
        let mut places = lock(&self.0);
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, None);
        Place { line: self, number }
    }
}

impl Place<'_> {
    /// Waits until it is first.
    pub(crate) async fn turn(&self, wakeups: &Wakeups) {
        std::future::poll_fn(|_context| {
            let mut places = lock(&self.line.0);
            let mut first = places.taken.first_entry().expect("this one is there");
            if *first.key() == self.number {
                first.insert(None);
                return Poll::Ready(());
            }
            // Under the same lock as the end of the turn before, so that this passes by nobody.
            places.taken.insert(self.number, Some(wakeups.waker()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = lock(&self.line.0);
        let was_first = places.taken.keys().next() == Some(&self.number);
        places.taken.remove(&self.number);
        let next = match was_first {
            true => places.taken.first_entry().and_then(|mut first| first.get_mut().take()),
            false => None,
        };
        drop(places);
        if let Some(next) = next {
            next.wake();
        }
    }
}

/// Locks what is changed in single steps only, so that it is whole even if somebody panicked beside it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
