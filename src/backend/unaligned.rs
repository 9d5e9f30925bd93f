//! Keeps unaligned writes of a direct export apart from its direct writes, across all shards and all exports of one file.
//!
//! An unaligned request cannot go through O_DIRECT; it goes through the page cache of a second descriptor, where the kernel does the
//! read-modify-write. A page that is dirtied while a direct write to its other sectors is under way could write them back old.
//! So direct writes and unaligned writes of one file exclude each other; reads need nothing, the kernel keeps them coherent.
//!
//! The usual case, direct writes only, touches one cache line of the shard's own and reads one that nobody writes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use crate::config::limits::MAXIMUM_SHARDS;
use crate::sync::{Waiters, Wakeups};

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
    /// One unaligned write works.
    working: AtomicBool,
    /// Direct writes that were held up; while there are any, no further unaligned write queues, so that neither kind starves.
    held_up: AtomicU32,
    changed: Waiters,
}

impl Default for UnalignedGate {
    fn default() -> Self {
        Self {
            direct: (0..MAXIMUM_SHARDS).map(|_| OwnLine::default()).collect(),
            unaligned: OwnLine::default(),
            working: AtomicBool::new(false),
            held_up: AtomicU32::new(0),
            changed: Waiters::default(),
        }
    }
}

/// A direct write under way.
pub(super) struct DirectWrite<'a> {
    gate: &'a UnalignedGate,
    shard: usize,
}

/// The only write under way.
pub(super) struct UnalignedWrite<'a>(Queued<'a>);

/// An unaligned write that waits or works. It counts for as long as it lives: a shard that panics drops its tasks, and the others must
/// not wait for them.
struct Queued<'a>(&'a UnalignedGate);

/// A direct write that waits; counted likewise.
struct HeldUp<'a>(&'a UnalignedGate);

impl UnalignedGate {
    fn queued(&self) -> Queued<'_> {
        self.unaligned.0.fetch_add(1, SeqCst);
        Queued(self)
    }

    fn held_up(&self) -> HeldUp<'_> {
        self.held_up.fetch_add(1, SeqCst);
        HeldUp(self)
    }

    /// Starts a direct write on a shard.
    pub(super) async fn direct(&self, shard: usize, wakeups: &Wakeups) -> DirectWrite<'_> {
        if let Some(started) = self.try_direct(shard) {
            return started;
        }
        let _held_up = self.held_up();
        self.changed.until(wakeups, || self.try_direct(shard)).await
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
    pub(super) async fn unaligned(&self, wakeups: &Wakeups) -> UnalignedWrite<'_> {
        let none_held_up = || (self.held_up.load(SeqCst) == 0).then_some(());
        self.changed.until(wakeups, none_held_up).await;
        let queued = self.queued();
        let own_turn = || (!self.working.swap(true, SeqCst)).then_some(());
        self.changed.until(wakeups, own_turn).await;
        let write = UnalignedWrite(queued);
        let none_direct = || self.direct.iter().all(|line| line.0.load(SeqCst) == 0).then_some(());
        self.changed.until(wakeups, none_direct).await;
        write
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.unaligned.0.fetch_sub(1, SeqCst);
        self.0.changed.wake_all();
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.held_up.fetch_sub(1, SeqCst);
        self.0.changed.wake_all();
    }
}

impl Drop for DirectWrite<'_> {
    fn drop(&mut self) {
        self.gate.direct[self.shard].0.fetch_sub(1, SeqCst);
        if self.gate.unaligned.0.load(SeqCst) > 0 {
            self.gate.changed.wake_all();
        }
    }
}

impl Drop for UnalignedWrite<'_> {
    fn drop(&mut self) {
        // Then its count goes, and tells the others.
        self.0.0.working.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ring::{Ring, RingOptions};
    use crate::sys::Doorbell;
    use crate::task::ReadyList;

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// As when a shard panics: its tasks are dropped, wherever they stand.
    #[test]
    fn whoever_is_dropped_while_waiting_holds_up_nobody() {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let wakeups = Wakeups::new(&Arc::new(Doorbell::new().unwrap()), ReadyList::default(), ring);
        let gate = UnalignedGate::default();
        let Poll::Ready(direct) = poll(gate.direct(0, &wakeups)) else { panic!("nobody is there") };
        assert!(
            poll(gate.unaligned(&wakeups)).is_pending(),
            "a direct write works; this one is dropped while it waits"
        );
        drop(direct);
        let Poll::Ready(unaligned) = poll(gate.unaligned(&wakeups)) else { panic!("nobody works") };
        assert!(poll(gate.direct(1, &wakeups)).is_pending(), "an unaligned write works");
        assert!(poll(gate.unaligned(&wakeups)).is_pending(), "one at a time");
        drop(unaligned);
        assert!(poll(gate.direct(1, &wakeups)).is_ready());
        assert!(poll(gate.unaligned(&wakeups)).is_ready());
    }
}
