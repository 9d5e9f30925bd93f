//! The shard's executor: fixed slots, a ready list, one kind of future. All safe code.
//!
//! What a task waits for on its own shard, ring operations above all, puts the task's index on the ready
//! list. Everything else wakes it by its [waker](super::waker), so it may await any future. Slots are pinned
//! boxes that are reused, and so are their wakers: a task costs no allocation once its slot exists.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::waker::{SlotWaker, Waiter, Woken};
use crate::ring::Ring;
use crate::sys::Doorbell;

/// Tasks that can go on; shared by all who may wake one on their own shard.
#[derive(Debug, Clone)]
pub struct ReadyList {
    shared: Rc<ReadyState>,
}

#[derive(Debug)]
struct ReadyState {
    ready: RefCell<Vec<u32>>,
    woken: Woken,
}

impl ReadyList {
    /// An empty one of the shard with this doorbell.
    pub(crate) fn new(doorbell: &Arc<Doorbell>) -> Self {
        let (ready, woken) = (RefCell::default(), Woken::new(doorbell));
        Self { shared: Rc::new(ReadyState { ready, woken }) }
    }

    /// An empty one without a shard, for tests and benchmarks.
    pub fn detached() -> Self {
        Self::new(&Arc::new(Doorbell::new().expect("there is room for one more descriptor")))
    }

    /// Lets a task run in this turn or the next.
    pub fn wake(&self, task: u32) {
        self.shared.ready.borrow_mut().push(task);
    }

    /// The doorbell rang: tasks that were woken by their wakers can go on.
    pub(crate) fn collect(&self) {
        for task in self.shared.woken.collect() {
            self.wake(task);
        }
    }

    /// Lets whoever waited go on.
    pub(crate) fn notify(&self, waiter: Waiter) {
        match waiter {
            Waiter::Task(task) => self.wake(task),
            Waiter::Within(waker) => waker.wake(),
        }
    }

    /// Whether no task can go on.
    pub fn is_empty(&self) -> bool {
        self.shared.ready.borrow().is_empty()
    }

    /// Tasks that can go on; one that was woken twice counts twice.
    #[cfg(test)]
    pub(crate) fn length(&self) -> usize {
        self.shared.ready.borrow().len()
    }

    /// Gives way once: the current task goes on after the others that are ready.
    pub async fn give_way(&self, ring: &Ring) {
        let mut woken = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(());
            }
            match ring.task_of(context) {
                Some(task) => self.wake(task),
                None => context.waker().wake_by_ref(),
            }
            Poll::Pending
        })
        .await;
    }
}

/// Runs futures side by side within the current task, at most `most` at once; what they gave, in their order.
///
/// Whatever wakes the task, each of them looks whether it was meant.
pub(crate) async fn side_by_side<F: Future>(futures: impl Iterator<Item = F>, most: usize) -> Vec<F::Output> {
    let mut fresh = futures.enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut outputs: Vec<Option<F::Output>> = Vec::new();
    std::future::poll_fn(|context| {
        loop {
            let room = most.max(1) - running.len();
            running.extend(fresh.by_ref().take(room).map(|(index, future)| (index, Box::pin(future))));
            let before = running.len();
            running.retain_mut(|(index, future)| {
                let Poll::Ready(output) = future.as_mut().poll(context) else { return true };
                outputs.resize_with(outputs.len().max(*index + 1), || None);
                outputs[*index] = Some(output);
                false
            });
            match running.len() {
                0 if before == 0 => return Poll::Ready(()),
                left if left == before => return Poll::Pending,
                // Others may take their places.
                _ => {}
            }
        }
    })
    .await;
    outputs.into_iter().map(|output| output.expect("all have ended")).collect()
}

/// A place for a task.
struct TaskSlot<F> {
    future: Pin<Box<Option<F>>>,
    waker: SlotWaker,
}

/// The tasks of one shard, all of one future type.
pub struct Tasks<F> {
    slots: Vec<TaskSlot<F>>,
    /// Slots without a task; the last one is the next to be taken, since its memory was used last.
    free: Vec<u32>,
    ready: ReadyList,
    /// The list being worked on; kept for its memory.
    turn: Vec<u32>,
    ring: Ring,
}

impl<F: Future<Output = ()>> Tasks<F> {
    /// An executor without tasks.
    pub fn new(ring: Ring, ready: ReadyList) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready, turn: Vec::new(), ring }
    }

    /// Puts a task into a free slot and makes it ready.
    pub fn spawn(&mut self, future: F) {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.slots.len() as u32;
            let waker = self.ready.shared.woken.slot(index);
            self.slots.push(TaskSlot { future: Box::pin(None), waker });
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.waker.renew(&self.ready.shared.woken);
        slot.future.set(Some(future));
        self.ready.wake(index);
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Runs each ready task once; what becomes ready meanwhile waits for the next call.
    pub fn run_ready(&mut self) {
        let mut turn = std::mem::take(&mut self.turn);
        std::mem::swap(&mut turn, &mut self.ready.shared.ready.borrow_mut());
        for index in turn.drain(..) {
            let slot = &mut self.slots[index as usize];
            // A task that was woken twice may have ended in between.
            let Some(future) = slot.future.as_mut().as_pin_mut() else { continue };
            let waker = &slot.waker.waker;
            self.ring.set_current_task(index, waker);
            if future.poll(&mut Context::from_waker(waker)).is_ready() {
                slot.future.set(None);
                self.free.push(index);
            }
        }
        self.turn = turn;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[test]
    fn futures_run_side_by_side_up_to_a_bound_and_keep_their_order() {
        let started = Cell::new(0);
        let ended: [Cell<bool>; 5] = Default::default();
        let futures = (0..5).map(|index| {
            let (started, ended) = (&started, &ended);
            async move {
                started.set(started.get() + 1);
                let end =
                    |_: &mut Context<'_>| if ended[index].get() { Poll::Ready(()) } else { Poll::Pending };
                std::future::poll_fn(end).await;
                index
            }
        });
        let mut all = pin!(side_by_side(futures, 2));
        let mut poll = || all.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending() && started.get() == 2);
        ended[1].set(true);
        assert!(poll().is_pending() && started.get() == 3);
        assert!(poll().is_pending() && started.get() == 3);
        ended.iter().for_each(|end| end.set(true));
        assert_eq!(poll(), Poll::Ready(vec![0, 1, 2, 3, 4]));
        assert_eq!(
            pin!(side_by_side(std::iter::empty::<std::future::Ready<()>>(), 2))
                .poll(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(vec![])
        );
    }

    type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

    fn executor<'a>() -> (Ring, ReadyList, Tasks<Boxed<'a>>) {
        let (ring, _pool) = Ring::new(&crate::ring::RingOptions::small()).unwrap();
        let ready = ReadyList::detached();
        (ring.clone(), ready.clone(), Tasks::new(ring, ready))
    }

    /// A task that counts its polls and leaves its waker.
    fn leaves_waker<'a>(polls: &'a Cell<u32>, left: &'a RefCell<Option<Waker>>) -> Boxed<'a> {
        Box::pin(std::future::poll_fn(move |context| {
            polls.set(polls.get() + 1);
            *left.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        }))
    }

    #[test]
    fn many_wakes_are_one_poll() {
        let (polls, left) = Default::default();
        let (_ring, ready, mut tasks) = executor();
        tasks.spawn(leaves_waker(&polls, &left));
        tasks.run_ready();
        for round in 2..5 {
            (0..100).for_each(|_| left.borrow().as_ref().unwrap().wake_by_ref());
            ready.collect();
            tasks.run_ready();
            assert_eq!((polls.get(), ready.length()), (round, 0));
        }
    }

    #[test]
    fn a_waker_that_outlives_its_task_wakes_no_other() {
        let (polls, left) = Default::default();
        let first: RefCell<Option<Waker>> = RefCell::default();
        let (_ring, ready, mut tasks) = executor();
        tasks.spawn(Box::pin(std::future::poll_fn(|context| {
            *first.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        })));
        tasks.run_ready();
        assert_eq!(tasks.running(), 0);
        // On its way already when its slot gets another task.
        first.borrow().as_ref().unwrap().wake_by_ref();
        tasks.spawn(leaves_waker(&polls, &left));
        tasks.run_ready();
        ready.collect();
        first.take().unwrap().wake();
        ready.collect();
        tasks.run_ready();
        assert_eq!(polls.get(), 1);
        left.take().unwrap().wake();
        ready.collect();
        tasks.run_ready();
        assert_eq!(polls.get(), 2, "its own waker does");
    }

    #[test]
    fn wakes_of_many_threads_reach_a_shard_that_sleeps() {
        use std::os::fd::{AsFd, AsRawFd};
        use std::sync::atomic::{AtomicU64, Ordering};

        use crate::ring::{Operation, Owner, Wait};
        const THREADS: u64 = 8;
        const WAKES: u64 = 2000;
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let (ring, _pool) = Ring::new(&crate::ring::RingOptions::small()).unwrap();
        let ready = ReadyList::new(&doorbell);
        let mut tasks: Tasks<Boxed<'_>> = Tasks::new(ring.clone(), ready.clone());
        // Each thread is told by its task that it may wake it again, and would wait for ever after a wake
        // that was lost.
        let counts: Vec<Arc<AtomicU64>> = (0..THREADS).map(|_| Arc::default()).collect();
        let mut threads = Vec::new();
        for count in &counts {
            let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
            let count = Arc::clone(count);
            let woken = Arc::clone(&count);
            threads.push(std::thread::spawn(move || {
                for waker in receiver {
                    woken.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                }
            }));
            let mut seen = 0;
            tasks.spawn(Box::pin(std::future::poll_fn(move |context| {
                let now = count.load(Ordering::Relaxed);
                if now == WAKES {
                    return Poll::Ready(());
                }
                if now > seen || now == 0 {
                    seen = now;
                    sender.send(context.waker().clone()).unwrap();
                }
                Poll::Pending
            })));
        }
        let (mut rang, mut events) = (true, Vec::new());
        while tasks.running() > 0 {
            if std::mem::take(&mut rang) {
                doorbell.listen();
                let eventfd = doorbell.as_fd().as_raw_fd();
                ring.push(Operation::Watch { eventfd, counter: Box::new(0) }, Owner::Shard);
                ready.collect();
            }
            tasks.run_ready();
            let wait = if ready.is_empty() && tasks.running() > 0 { Wait::Forever } else { Wait::No };
            ring.submit_and_reap(wait, 64, &mut events);
            for event in events.drain(..) {
                rang |= matches!(ring.collect(event).operation, Operation::Watch { .. });
            }
        }
        drop(tasks);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Children with wakers of their own, each polled only when that was called, as in collections of
    /// futures.
    async fn each_by_its_own_waker<'a>(mut children: Vec<Boxed<'a>>) -> usize {
        struct Child {
            woken: std::sync::atomic::AtomicBool,
            parent: std::sync::Mutex<Option<Waker>>,
        }
        impl std::task::Wake for Child {
            fn wake(self: Arc<Self>) {
                self.woken.store(true, std::sync::atomic::Ordering::Release);
                if let Some(parent) = crate::mutex::lock(&self.parent).take() {
                    parent.wake();
                }
            }
        }
        let wakers: Vec<Arc<Child>> =
            children.iter().map(|_| Arc::new(Child { woken: true.into(), parent: None.into() })).collect();
        let (mut polls, mut ended) = (0, vec![false; children.len()]);
        std::future::poll_fn(|context| {
            for (index, child) in children.iter_mut().enumerate() {
                *crate::mutex::lock(&wakers[index].parent) = Some(context.waker().clone());
                let woken = wakers[index].woken.swap(false, std::sync::atomic::Ordering::AcqRel);
                if !ended[index] && woken {
                    polls += 1;
                    let waker = Waker::from(Arc::clone(&wakers[index]));
                    ended[index] = child.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
                }
            }
            if ended.iter().all(|ended| *ended) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        polls
    }

    #[test]
    fn futures_within_a_task_are_woken_by_their_own_wakers() {
        use std::time::Duration;

        use crate::ring::{Owner, Wait};
        let (polls, slept) = (Cell::new(0), Cell::new(0));
        let (ring, ready) = (Ring::new(&crate::ring::RingOptions::small()).unwrap().0, ReadyList::detached());
        let mut tasks: Tasks<Boxed<'_>> = Tasks::new(ring.clone(), ready.clone());
        tasks.spawn(Box::pin(async {
            // The first is polled by the task itself at first, and by another waker later.
            let mut first = ring.run(crate::ring::Operation::sleep(Duration::from_millis(3)));
            std::future::poll_fn(|context| {
                assert!(Pin::new(&mut first).poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            let mut children: Vec<Boxed<'_>> = vec![Box::pin(async {
                let _expired = first.await;
                slept.set(slept.get() + 1);
            })];
            for milliseconds in [2, 1, 2] {
                let (ring, slept) = (&ring, &slept);
                children.push(Box::pin(async move {
                    ring.sleep(Duration::from_millis(milliseconds)).await;
                    ring.sleep(Duration::from_millis(milliseconds)).await;
                    slept.set(slept.get() + 1);
                }));
            }
            // One that is dropped while it is in flight.
            let (ready, ring) = (&ready, &ring);
            children.push(Box::pin(async move {
                let mut long = ring.run(crate::ring::Operation::sleep(Duration::from_secs(3600)));
                std::future::poll_fn(|context| {
                    assert!(Pin::new(&mut long).poll(context).is_pending());
                    Poll::Ready(())
                })
                .await;
                drop(long);
                ready.give_way(ring).await;
            }));
            polls.set(each_by_its_own_waker(children).await);
        }));
        let mut events = Vec::new();
        while tasks.running() > 0 {
            ready.collect();
            tasks.run_ready();
            let wait = if ready.is_empty() { Wait::AtMost(Duration::from_millis(1)) } else { Wait::No };
            ring.submit_and_reap(wait, 64, &mut events);
            for event in events.drain(..) {
                match event.owner {
                    Owner::Task(task) => ready.wake(task),
                    Owner::Within(_) => ring.wake_within(event.key),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(slept.get(), 4);
        assert_eq!(polls.get(), 2 + 3 * 3 + 2, "no child is polled for another's sake");
    }
}
