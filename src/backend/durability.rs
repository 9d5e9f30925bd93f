//! How writes of one file become durable, over all shards: [`Syncs`] for FLUSH, [`RangeSyncs`] for FUA.
//!
//! Linux tells each open file description once that data could not be written back, and marks the pages clean
//! all the same. Of two syncs of one description that run side by side, both of which lost data, only the
//! first to look is told, and the other one succeeds. A sync after them does so too. Therefore:
//!
//! * A FLUSH runs alone. Those that come meanwhile share the next one, which is also less work.
//! * After a sync that failed all others fail, until the export is opened again.
//! * FUA has a description of its own, so that it never takes away what a FLUSH should be told. Syncs of
//!   ranges do run side by side; one is believed when all that ran beside it have ended, and none that ended
//!   since its write began has failed.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::block::BlockError;
use crate::exec::{Milestones, Waiters, lock};

/// Whole syncs of a file, one at a time.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    state: Mutex<SyncState>,
    changed: Waiters,
}

#[derive(Debug, Default)]
struct SyncState {
    /// How many were started.
    started: u64,
    /// The last one that succeeded, counted so.
    succeeded: u64,
    running: bool,
    failed: bool,
}

/// What a FLUSH finds when it looks.
enum Found<'a> {
    /// A sync that began after it came has succeeded.
    Covered,
    /// What it should make durable may be lost.
    Failed,
    /// It is up to this one.
    Lead(Leading<'a>),
}

/// The sync that runs.
struct Leading<'a> {
    syncs: &'a Syncs,
    /// Its number.
    number: u64,
    /// Unless somebody says how it ended it is not known, and must be taken for failed.
    outcome: SyncOutcome,
}

#[derive(Debug, Clone, Copy)]
enum SyncOutcome {
    Succeeded,
    Failed,
    /// It never began.
    Canceled,
}

impl SyncOutcome {
    /// Of what the kernel said.
    fn of(result: Result<(), i32>) -> Self {
        match result {
            Ok(()) => Self::Succeeded,
            Err(libc::ECANCELED) => Self::Canceled,
            Err(_) => Self::Failed,
        }
    }
}

impl Syncs {
    /// Returns when a sync that began after this call has succeeded; `sync` runs one, and gives an errno.
    pub(super) async fn flush(&self, sync: impl AsyncFn() -> Result<(), i32>) -> Result<(), BlockError> {
        // One that runs already may have passed by what was written a moment ago.
        let wanted = lock(&self.state).started + 1;
        loop {
            let leading = match self.changed.until(|| self.look(wanted)).await {
                Found::Covered => return Ok(()),
                Found::Failed => return Err(BlockError::Io),
                Found::Lead(leading) => leading,
            };
            leading.end(sync().await)?;
        }
    }

    /// Runs a sync that does more than others, so none of theirs takes its place. Those that wait share it.
    pub(super) async fn lead(&self, sync: impl AsyncFnOnce() -> Result<(), i32>) -> Result<(), BlockError> {
        const NO_OTHER: u64 = u64::MAX;
        match self.changed.until(|| self.look(NO_OTHER)).await {
            Found::Covered => unreachable!("there are not so many"),
            Found::Failed => Err(BlockError::Io),
            Found::Lead(leading) => leading.end(sync().await),
        }
    }

    /// One has failed in the process that had the file before.
    pub(super) fn set_failed(&self) {
        lock(&self.state).failed = true;
    }

    /// Whether one has failed, so that data may be lost.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).failed
    }

    fn look(&self, wanted: u64) -> Option<Found<'_>> {
        let mut state = lock(&self.state);
        if state.failed && !canary!(FailedSyncForgotten) {
            return Some(Found::Failed);
        }
        if state.succeeded >= wanted {
            return Some(Found::Covered);
        }
        if state.running {
            return None;
        }
        state.running = true;
        state.started += 1;
        Some(Found::Lead(Leading { syncs: self, number: state.started, outcome: SyncOutcome::Failed }))
    }
}

impl Leading<'_> {
    /// The sync has ended so, which those are told that share it.
    fn end(mut self, result: Result<(), i32>) -> Result<(), BlockError> {
        self.outcome = SyncOutcome::of(result);
        if let (SyncOutcome::Failed, Err(errno)) = (self.outcome, result) {
            let what = "a sync failed, writes may be lost: FLUSH fails until the server is started again";
            tracing::error!(errno, "{what}");
        }
        result.map_err(BlockError::from_errno)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.syncs.state);
        state.running = false;
        match self.outcome {
            SyncOutcome::Succeeded => state.succeeded = self.number,
            SyncOutcome::Failed => state.failed = true,
            SyncOutcome::Canceled => {}
        }
        drop(state);
        self.syncs.changed.wake_all();
    }
}

/// Syncs of ranges, side by side.
#[derive(Debug, Default)]
pub(super) struct RangeSyncs {
    state: Mutex<RangeState>,
    /// The number up to which all syncs have ended; each write waits for one of its own.
    ended: Milestones,
}

#[derive(Debug, Default)]
struct RangeState {
    /// Writes that began.
    writes: u64,
    /// A sync that failed had not ended when this write and those before it began: what it was told may be
    /// their loss.
    suspect: u64,
    /// Syncs that began, and the numbers of those that have not ended.
    syncs: u64,
    under_way: BTreeSet<u64>,
}

/// A write with FUA, from before its first byte is written.
pub(super) struct DurableWrite<'a> {
    syncs: &'a RangeSyncs,
    number: u64,
}

/// A sync of a range under way.
struct UnderWay<'a> {
    syncs: &'a RangeSyncs,
    number: u64,
    outcome: SyncOutcome,
}

impl RangeSyncs {
    /// A write begins that is to be durable.
    pub(super) fn begin_write(&self) -> DurableWrite<'_> {
        let mut state = lock(&self.state);
        state.writes += 1;
        DurableWrite { syncs: self, number: state.writes }
    }

    fn begin_sync(&self) -> UnderWay<'_> {
        let mut state = lock(&self.state);
        state.syncs += 1;
        let number = state.syncs;
        state.under_way.insert(number);
        UnderWay { syncs: self, number, outcome: SyncOutcome::Failed }
    }
}

impl DurableWrite<'_> {
    /// What was written is durable when this returns; `sync` sees to it, and gives an errno.
    pub(super) async fn finish(self, sync: impl AsyncFn() -> Result<(), i32>) -> Result<(), BlockError> {
        let syncs = self.syncs;
        let mut under_way = syncs.begin_sync();
        let result = sync().await;
        under_way.outcome = SyncOutcome::of(result);
        drop(under_way);
        result.map_err(BlockError::from_errno)?;
        if canary!(SyncBesideIgnored) {
            return Ok(());
        }
        let last = lock(&syncs.state).syncs;
        syncs.ended.until(last).await;
        match self.number <= lock(&syncs.state).suspect {
            true => Err(BlockError::Io),
            false => Ok(()),
        }
    }
}

impl RangeState {
    /// The number up to which all syncs have ended.
    fn ended(&self) -> u64 {
        self.under_way.first().map_or(self.syncs, |first| first - 1)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.syncs.state);
        state.under_way.remove(&self.number);
        if matches!(self.outcome, SyncOutcome::Failed) {
            state.suspect = state.writes;
        }
        let ended = state.ended();
        drop(state);
        // After what is suspect is written down: whoever is woken looks there.
        self.syncs.ended.reach(ended);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::exec::{ReadyList, Tasks};
    use crate::ring::{Ring, RingOptions};

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Syncs that end when the test says so.
    #[derive(Default)]
    struct Kernel {
        started: Cell<usize>,
        result: Cell<Option<Result<(), i32>>>,
    }

    impl Kernel {
        async fn sync(&self) -> Result<(), i32> {
            self.started.set(self.started.get() + 1);
            std::future::poll_fn(|_| self.result.take().map_or(Poll::Pending, Poll::Ready)).await
        }

        fn ends(&self, result: Result<(), i32>) {
            self.result.set(Some(result));
        }
    }

    #[test]
    fn flushes_that_come_during_a_sync_share_the_next() {
        let (kernel, syncs) = (Kernel::default(), Syncs::default());
        let flush = || syncs.flush(async || kernel.sync().await);
        let (mut first, mut second, mut third) = (pin!(flush()), pin!(flush()), pin!(flush()));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
        assert_eq!(kernel.started.get(), 1, "one at a time");
        kernel.ends(Ok(()));
        assert_eq!(poll(&mut first), Poll::Ready(Ok(())));
        assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
        assert_eq!(kernel.started.get(), 2, "the first began before they came, and they share");
        kernel.ends(Ok(()));
        assert_eq!(poll(&mut second), Poll::Ready(Ok(())));
        assert_eq!(poll(&mut third), Poll::Ready(Ok(())));
        assert_eq!(kernel.started.get(), 2);
    }

    #[test]
    fn after_a_sync_that_failed_none_is_believed() {
        let (kernel, syncs) = (Kernel::default(), Syncs::default());
        let flush = || syncs.flush(async || kernel.sync().await);
        let (mut first, mut second, mut later) = (pin!(flush()), pin!(flush()), pin!(flush()));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        kernel.ends(Err(libc::ENOSPC));
        assert_eq!(poll(&mut first), Poll::Ready(Err(BlockError::NoSpace)));
        assert_eq!(poll(&mut second), Poll::Ready(Err(BlockError::Io)));
        assert_eq!(poll(&mut later), Poll::Ready(Err(BlockError::Io)));
        assert_eq!(kernel.started.get(), 1);
    }

    #[test]
    fn a_sync_that_never_began_concerns_only_its_flush() {
        let (kernel, syncs) = (Kernel::default(), Syncs::default());
        let flush = || syncs.flush(async || kernel.sync().await);
        let (mut first, mut second) = (pin!(flush()), pin!(flush()));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        kernel.ends(Err(libc::ECANCELED));
        assert!(matches!(poll(&mut first), Poll::Ready(Err(_))));
        assert!(poll(&mut second).is_pending());
        kernel.ends(Ok(()));
        assert_eq!(poll(&mut second), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_sync_of_which_nobody_knows_the_end_has_failed() {
        let (kernel, syncs) = (Kernel::default(), Syncs::default());
        let flush = || syncs.flush(async || kernel.sync().await);
        let mut second = pin!(flush());
        {
            let mut first = pin!(flush());
            assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        }
        assert_eq!(poll(&mut second), Poll::Ready(Err(BlockError::Io)));
    }

    #[test]
    fn range_syncs_side_by_side_answer_for_each_other() {
        let syncs = RangeSyncs::default();
        let kernels: [Kernel; 3] = Default::default();
        let write = |kernel: usize| {
            let (write, kernel) = (syncs.begin_write(), &kernels[kernel]);
            async move { write.finish(async || kernel.sync().await).await }
        };
        let (mut quick, mut failing, mut written) = (pin!(write(0)), pin!(write(1)), pin!(write(2)));
        assert!(poll(&mut quick).is_pending() && poll(&mut failing).is_pending());
        kernels[0].ends(Ok(()));
        assert!(poll(&mut quick).is_pending(), "the other one may be told of its loss");
        kernels[1].ends(Err(libc::EIO));
        assert_eq!(poll(&mut failing), Poll::Ready(Err(BlockError::Io)));
        assert_eq!(poll(&mut quick), Poll::Ready(Err(BlockError::Io)));
        assert!(poll(&mut written).is_pending());
        kernels[2].ends(Ok(()));
        assert_eq!(poll(&mut written), Poll::Ready(Err(BlockError::Io)), "it was written before that");
        let mut later = pin!(write(2));
        assert!(poll(&mut later).is_pending());
        kernels[2].ends(Ok(()));
        assert_eq!(poll(&mut later), Poll::Ready(Ok(())), "what was written later has an answer of its own");
    }

    #[test]
    fn a_write_that_is_withdrawn_holds_up_nobody_and_counts_as_failed() {
        let syncs = RangeSyncs::default();
        let kernels: [Kernel; 3] = Default::default();
        let write = |kernel: usize| {
            let (write, kernel) = (syncs.begin_write(), &kernels[kernel]);
            async move { write.finish(async || kernel.sync().await).await }
        };
        let mut waits = pin!(write(0));
        {
            let (mut waits_too, mut syncing) = (pin!(write(1)), pin!(write(2)));
            assert!(poll(&mut waits).is_pending());
            assert!(poll(&mut waits_too).is_pending() && poll(&mut syncing).is_pending());
            kernels[0].ends(Ok(()));
            kernels[1].ends(Ok(()));
            assert!(poll(&mut waits).is_pending() && poll(&mut waits_too).is_pending());
        }
        assert_eq!(
            poll(&mut waits),
            Poll::Ready(Err(BlockError::Io)),
            "nobody knows how the third sync ended"
        );
        let mut later = pin!(write(0));
        assert!(poll(&mut later).is_pending());
        kernels[0].ends(Ok(()));
        assert_eq!(poll(&mut later), Poll::Ready(Ok(())));
    }

    /// Polls a write do not grow with the writes beside it: one to start, one when its sync ends, one when
    /// the last of them has ended.
    #[test]
    fn many_writes_side_by_side_cost_each_the_same() {
        let polls = |count: u32, backwards: bool| {
            let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
            let ready = ReadyList::detached();
            let syncs = RangeSyncs::default();
            let kernels: Vec<Kernel> = (0..count).map(|_| Kernel::default()).collect();
            let mut tasks = Tasks::new(ring, ready.clone());
            for kernel in &kernels {
                let write = syncs.begin_write();
                tasks.spawn(async move {
                    assert_eq!(write.finish(async || kernel.sync().await).await, Ok(()));
                });
            }
            let mut polls = 0;
            let mut run = |tasks: &mut Tasks<_>| loop {
                ready.collect();
                if ready.is_empty() {
                    break;
                }
                polls += ready.length();
                tasks.run_ready();
            };
            run(&mut tasks);
            for step in 0..count {
                let which = if backwards { count - 1 - step } else { step } as usize;
                kernels[which].ends(Ok(()));
                // Each took the slot of its number.
                ready.wake(which as u32);
                run(&mut tasks);
            }
            assert_eq!(tasks.running(), 0, "some wait for ever");
            polls
        };
        for count in [16, 1024] {
            // The one whose sync ends last waits for nobody.
            let expected = 3 * count as usize - 1;
            assert_eq!((polls(count, false), polls(count, true)), (expected, expected), "{count} writes");
        }
    }
}
