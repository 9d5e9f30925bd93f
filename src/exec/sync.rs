//! Waiting for what a task of any shard does.
//!
//! What is waited for is state that shards share. Whoever changes it calls [`Waiters::wake_all`] afterwards;
//! whoever waits looks first, then registers its waker, and looks again, so that no change passes unseen. A
//! woken task looks once more: being woken means nothing but that. A waiter that is dropped withdraws its
//! waker. Wakers are called and dropped outside of the locks: what they do is not ours to know.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use crate::mutex::lock;

/// Tasks that wait for the same thing, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    /// By the number of each.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

/// One of them; it is forgotten when it is dropped.
struct Member<'a> {
    waiters: &'a Waiters,
    number: u64,
}

impl Waiters {
    /// Waits until `condition` gives something. It must depend on nothing but what is followed by
    /// [`Waiters::wake_all`] when it changes.
    pub(crate) async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        if let Some(found) = condition() {
            return found;
        }
        let member = self.join();
        std::future::poll_fn(|context| {
            let replaced = lock(&self.0).waiting.insert(member.number, context.waker().clone());
            drop(replaced);
            // It may have changed before anybody could see that we wait.
            condition().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn join(&self) -> Member<'_> {
        let mut crowd = lock(&self.0);
        crowd.next += 1;
        Member { waiters: self, number: crowd.next }
    }

    /// What they wait for may have changed.
    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut lock(&self.0).waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let withdrawn = lock(&self.waiters.0).waiting.remove(&self.number);
        drop(withdrawn);
    }
}

/// A count that only grows, and tasks that wait until it has reached a number of their own. Only those are
/// woken whose number it reaches: thousands may wait.
#[derive(Debug, Default)]
pub(crate) struct Milestones(Mutex<Reached>);

#[derive(Debug, Default)]
struct Reached {
    count: u64,
    /// By the number each waits for, and its place among those that wait for the same one.
    waiting: BTreeMap<(u64, u64), Waker>,
    next: u64,
}

/// One that waits; it is forgotten when it is dropped.
struct MilestoneWait<'a> {
    milestones: &'a Milestones,
    key: (u64, u64),
}

impl Milestones {
    /// Returns when the count has reached `number`.
    pub(crate) async fn until(&self, number: u64) {
        let waiting = {
            let mut reached = lock(&self.0);
            if reached.count >= number {
                return;
            }
            reached.next += 1;
            MilestoneWait { milestones: self, key: (number, reached.next) }
        };
        std::future::poll_fn(|context| {
            let waker = context.waker().clone();
            let mut reached = lock(&self.0);
            if reached.count >= number {
                return Poll::Ready(());
            }
            // Under the same lock as the growth of the count, so that this misses none.
            let replaced = reached.waiting.insert(waiting.key, waker);
            drop(reached);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }

    /// The count has grown to `count`. A smaller one than before changes nothing: shards may tell of their
    /// steps in any order.
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

impl Drop for MilestoneWait<'_> {
    fn drop(&mut self) {
        let withdrawn = lock(&self.milestones.0).waiting.remove(&self.key);
        drop(withdrawn);
    }
}

/// Tasks that take turns, in the order in which they came. The end of a turn wakes the next one alone.
#[derive(Debug, Default)]
pub(crate) struct TurnQueue(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Those in the line, by their numbers, and how to wake each.
    taken: BTreeMap<u64, Option<Waker>>,
    next: u64,
}

/// A place in a line: who is first has its turn until this is dropped. Who drops it earlier leaves the line.
#[derive(Debug)]
pub(crate) struct TurnPlace<'a> {
    line: &'a TurnQueue,
    number: u64,
}

impl TurnQueue {
    /// Queues at the end.
    pub(crate) fn join(&self) -> TurnPlace<'_> {
        let mut places = lock(&self.0);
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, None);
        TurnPlace { line: self, number }
    }
}

impl TurnPlace<'_> {
    /// Waits until it is first.
    pub(crate) async fn turn(&self) {
        std::future::poll_fn(|context| {
            let waker = context.waker().clone();
            let mut places = lock(&self.line.0);
            let mut first = places.taken.first_entry().expect("this one is there");
            if *first.key() == self.number {
                let replaced = first.insert(None);
                drop(places);
                drop(replaced);
                return Poll::Ready(());
            }
            // Under the same lock as the end of the turn before, so that this passes by nobody.
            let replaced = places.taken.insert(self.number, Some(waker));
            drop(places);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

impl Drop for TurnPlace<'_> {
    fn drop(&mut self) {
        let mut places = lock(&self.line.0);
        let was_first = places.taken.keys().next() == Some(&self.number);
        let withdrawn = places.taken.remove(&self.number);
        let next = match was_first {
            true => places.taken.first_entry().and_then(|mut first| first.get_mut().take()),
            false => None,
        };
        drop(places);
        drop(withdrawn);
        if let Some(next) = next {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A place that is given up before its turn, or on its turn, hands the turn on.
    #[test]
    fn who_leaves_a_line_hands_its_turn_on() {
        let line = TurnQueue::default();
        let counts: [Arc<Count>; 3] = Default::default();
        let wakers = counts.clone().map(Waker::from);
        let places = [line.join(), line.join(), line.join()];
        let is_first = |index: usize| {
            let turn = pin!(places[index].turn());
            turn.poll(&mut Context::from_waker(&wakers[index])).is_ready()
        };
        assert_eq!([0, 1, 2].map(is_first), [true, false, false]);
        let [first, second, third] = places;
        drop(first);
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [0, 1, 0]);
        // It was woken and does not look any more.
        drop(second);
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [0, 1, 1]);
        assert!(pin!(third.turn()).poll(&mut Context::from_waker(&wakers[2])).is_ready());
    }

    #[test]
    fn who_waits_no_more_is_not_woken() {
        let (waiters, milestones) = (Waiters::default(), Milestones::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        {
            let (mut until, mut reached) = (pin!(waiters.until(|| None::<()>)), pin!(milestones.until(5)));
            for _ in 0..3 {
                assert!(until.as_mut().poll(&mut context).is_pending());
                assert!(reached.as_mut().poll(&mut context).is_pending());
            }
            waiters.wake_all();
            assert_eq!(count.0.load(Ordering::Relaxed), 1, "once, however often it was polled");
            assert!(until.as_mut().poll(&mut context).is_pending());
        }
        waiters.wake_all();
        milestones.reach(9);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        // The test itself and the waker: nothing is kept.
        assert_eq!(Arc::strong_count(&count), 2);
    }
}
