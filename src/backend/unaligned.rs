//! Keeps unaligned writes of a direct export apart from its direct writes, across all shards and all exports
//! of one file.
//!
//! An unaligned request cannot go through O_DIRECT; it goes through the page cache of a second descriptor,
//! where the kernel does the read-modify-write. A page that is dirtied while a direct write to its other
//! sectors is under way could write them back old. So direct writes and unaligned writes of one file exclude
//! each other; reads need nothing, the kernel keeps them coherent.
//!
//! The usual case, direct writes only, touches one cache line of the shard's own and reads one that nobody
//! writes.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::config::limits::MAXIMUM_SHARDS;
use crate::exec::{TurnPlace, TurnQueue, Waiters};

#[derive(Debug, Default)]
#[repr(align(128))]
struct OwnLine(AtomicU32);

/// See the module.
#[derive(Debug)]
pub(super) struct UnalignedGate {
    /// Direct writes under way, by shard.
    direct: Box<[OwnLine]>,
    /// Unaligned writes that wait or work; while there are any, no direct write starts.
    unaligned: OwnLine,
    /// Unaligned writes work one at a time, and each wakes the next: thousands may queue.
    line: TurnQueue,
    /// Direct writes that were held up; while there are any, no further unaligned write queues, so that
    /// neither kind starves.
    held_up: AtomicU32,
    /// Of direct writes for the last unaligned one; of unaligned ones for the last that is held up; of the
    /// first unaligned one for the last direct one.
    no_unaligned: Waiters,
    none_held_up: Waiters,
    no_direct: Waiters,
}

impl Default for UnalignedGate {
    fn default() -> Self {
        Self {
            direct: (0..MAXIMUM_SHARDS).map(|_| OwnLine::default()).collect(),
            unaligned: OwnLine::default(),
            line: TurnQueue::default(),
            held_up: AtomicU32::new(0),
            no_unaligned: Waiters::default(),
            none_held_up: Waiters::default(),
            no_direct: Waiters::default(),
        }
    }
}

/// A direct write under way.
pub(super) struct DirectWrite<'a> {
    gate: &'a UnalignedGate,
    shard: usize,
}

/// A direct write that waits. It counts for as long as it lives: a shard that panics drops its tasks, and the
/// others must not wait for them.
struct HeldUp<'a>(&'a UnalignedGate);

/// An unaligned write that waits, or the only write under way; counted likewise.
pub(super) struct UnalignedWrite<'a> {
    gate: &'a UnalignedGate,
    place: TurnPlace<'a>,
}

impl UnalignedGate {
    fn queued(&self) -> UnalignedWrite<'_> {
        self.unaligned.0.fetch_add(1, SeqCst);
        UnalignedWrite { gate: self, place: self.line.join() }
    }

    fn held_up(&self) -> HeldUp<'_> {
        self.held_up.fetch_add(1, SeqCst);
        HeldUp(self)
    }

    /// Starts a direct write on a shard.
    pub(super) async fn direct(&self, shard: usize) -> DirectWrite<'_> {
        if let Some(started) = self.try_direct(shard) {
            return started;
        }
        let _held_up = self.held_up();
        self.no_unaligned.until(|| self.try_direct(shard)).await
    }

    fn try_direct(&self, shard: usize) -> Option<DirectWrite<'_>> {
        if self.unaligned.0.load(SeqCst) > 0 {
            return None;
        }
        self.direct[shard].0.fetch_add(1, SeqCst);
        // When it must not start after all, its end tells those who saw the counter meanwhile.
        let write = DirectWrite { gate: self, shard };
        (self.unaligned.0.load(SeqCst) == 0).then_some(write)
    }

    /// Starts an unaligned write; it works alone.
    pub(super) async fn unaligned(&self) -> UnalignedWrite<'_> {
        let none_held_up = || (self.held_up.load(SeqCst) == 0).then_some(());
        self.none_held_up.until(none_held_up).await;
        let write = self.queued();
        write.place.turn().await;
        let no_direct = || self.direct.iter().all(|line| line.0.load(SeqCst) == 0).then_some(());
        self.no_direct.until(no_direct).await;
        write
    }
}

impl Drop for DirectWrite<'_> {
    fn drop(&mut self) {
        self.gate.direct[self.shard].0.fetch_sub(1, SeqCst);
        if self.gate.unaligned.0.load(SeqCst) > 0 {
            self.gate.no_direct.wake_all();
        }
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        if self.0.held_up.fetch_sub(1, SeqCst) == 1 {
            self.0.none_held_up.wake_all();
        }
    }
}

impl Drop for UnalignedWrite<'_> {
    fn drop(&mut self) {
        if self.gate.unaligned.0.fetch_sub(1, SeqCst) == 1 {
            self.gate.no_unaligned.wake_all();
        }
        // The next one has its turn when `place` is gone.
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::exec::{ReadyList, Tasks};
    use crate::ring::{Ring, RingOptions};

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// As when a shard panics: its tasks are dropped, wherever they stand.
    #[test]
    fn whoever_is_dropped_while_waiting_holds_up_nobody() {
        let gate = UnalignedGate::default();
        let Poll::Ready(direct) = poll(gate.direct(0)) else { panic!("nobody is there") };
        assert!(
            poll(gate.unaligned()).is_pending(),
            "a direct write works; this one is dropped while it waits"
        );
        drop(direct);
        let Poll::Ready(unaligned) = poll(gate.unaligned()) else { panic!("nobody works") };
        assert!(poll(gate.direct(1)).is_pending(), "an unaligned write works");
        assert!(poll(gate.unaligned()).is_pending(), "one at a time");
        drop(unaligned);
        assert!(poll(gate.direct(1)).is_ready());
        assert!(poll(gate.unaligned()).is_ready());
    }

    /// Tasks of one shard that write through a gate, each for as many turns as it is told, and what was seen.
    struct Shard {
        gate: Rc<UnalignedGate>,
        ready: ReadyList,
        ring: Ring,
        /// Direct and unaligned writes under way.
        under_way: Rc<Cell<(u32, u32)>>,
        /// Which unaligned ones worked, in order.
        order: Rc<RefCell<Vec<u32>>>,
    }

    impl Shard {
        fn new() -> Self {
            let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
            let ready = ReadyList::detached();
            let gate = Rc::new(UnalignedGate::default());
            Self { gate, ready, ring, under_way: Rc::default(), order: Rc::default() }
        }

        /// A write that gives way so often while it works. With a patience it is withdrawn when it has been
        /// polled so often.
        async fn write(self: Rc<Self>, name: u32, direct: bool, turns: u32, patience: Option<u32>) {
            let work = async {
                if direct {
                    let _write = self.gate.direct(0).await;
                    let (direct_writes, unaligned) = self.under_way.get();
                    assert_eq!(unaligned, 0, "a direct write beside an unaligned one");
                    self.under_way.set((direct_writes + 1, 0));
                    let _ended = Ended(&self.under_way, (1, 0));
                    self.work(turns).await;
                } else {
                    let _write = self.gate.unaligned().await;
                    assert_eq!(self.under_way.get(), (0, 0), "an unaligned write is alone");
                    self.under_way.set((0, 1));
                    let _ended = Ended(&self.under_way, (0, 1));
                    self.order.borrow_mut().push(name);
                    self.work(turns).await;
                }
            };
            let mut work = Box::pin(work);
            let mut polls = 0;
            std::future::poll_fn(|context| {
                polls += 1;
                if patience.is_some_and(|patience| polls > patience) {
                    return Poll::Ready(());
                }
                if patience.is_some() {
                    context.waker().wake_by_ref();
                }
                work.as_mut().poll(context)
            })
            .await;
        }

        async fn work(&self, turns: u32) {
            for _ in 0..turns {
                self.ready.give_way(&self.ring).await;
            }
        }
    }

    struct Ended<'a>(&'a Cell<(u32, u32)>, (u32, u32));

    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            let (direct, unaligned) = self.0.get();
            self.0.set((direct - self.1.0, unaligned - self.1.1));
        }
    }

    /// Runs until nobody is woken any more; gives how many tasks were polled.
    fn run<F: Future<Output = ()>>(shard: &Shard, tasks: &mut Tasks<F>) -> usize {
        let mut polls = 0;
        loop {
            shard.ready.collect();
            if shard.ready.is_empty() {
                return polls;
            }
            polls += shard.ready.length();
            tasks.run_ready();
        }
    }

    proptest! {
        #[test]
        fn nobody_is_forgotten_and_unaligned_writes_are_alone(
            writes in proptest::collection::vec(
                (any::<bool>(), 0u32..4, proptest::option::weighted(0.2, 0u32..6)), 1..60),
        ) {
            let shard = Rc::new(Shard::new());
            let mut tasks = Tasks::new(shard.ring.clone(), shard.ready.clone());
            for (name, (direct, turns, patience)) in (0..).zip(&writes) {
                tasks.spawn(Rc::clone(&shard).write(name, *direct, *turns, *patience));
            }
            run(&shard, &mut tasks);
            prop_assert_eq!(tasks.running(), 0, "some wait for ever");
            prop_assert_eq!(shard.under_way.get(), (0, 0));
        }
    }

    /// Wake-ups a write do not grow with the queue, and whoever came first works first.
    #[test]
    fn a_long_queue_costs_each_the_same() {
        let polls = |count: u32| {
            let shard = Rc::new(Shard::new());
            let mut tasks = Tasks::new(shard.ring.clone(), shard.ready.clone());
            for name in 0..count {
                tasks.spawn(Rc::clone(&shard).write(name, false, 1, None));
            }
            let polls = run(&shard, &mut tasks);
            assert_eq!(tasks.running(), 0);
            assert!(shard.order.borrow().iter().copied().eq(0..count), "first come, first served");
            polls as u32 / count
        };
        assert_eq!((polls(16), polls(1024)), (2, 2));
    }
}
