//! Keeps unaligned writes of a direct export apart from its direct writes, across all shards.
//!
//! An unaligned request cannot go through O_DIRECT; it goes through the page cache of a second descriptor, where the kernel does the
//! read-modify-write. A page that is dirtied while a direct write to its other sectors is under way could write them back old.
//! So direct writes and unaligned writes of one export exclude each other; reads need nothing, the kernel keeps them coherent.
//!
//! The usual case, direct writes only, touches one cache line of the shard's own and reads one that nobody writes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use crate::config::limits::MAXIMUM_SHARDS;
use crate::ring::Ring;
use crate::task::ReadyList;

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
}

impl Default for UnalignedGate {
    fn default() -> Self {
        Self {
            direct: (0..MAXIMUM_SHARDS).map(|_| OwnLine::default()).collect(),
            unaligned: OwnLine::default(),
            working: AtomicBool::new(false),
            held_up: AtomicU32::new(0),
        }
    }
}

/// A direct write under way.
pub(super) struct DirectWrite<'a>(&'a AtomicU32);

/// The only write under way.
pub(super) struct UnalignedWrite<'a>(&'a UnalignedGate);

impl UnalignedGate {
    /// Starts a direct write on a shard.
    pub(super) async fn direct(&self, shard: usize, ready: &ReadyList, ring: &Ring) -> DirectWrite<'_> {
        let own = &self.direct[shard].0;
        let mut counted = false;
        loop {
            own.fetch_add(1, SeqCst);
            if self.unaligned.0.load(SeqCst) == 0 {
                if counted {
                    self.held_up.fetch_sub(1, SeqCst);
                }
                return DirectWrite(own);
            }
            own.fetch_sub(1, SeqCst);
            if !std::mem::replace(&mut counted, true) {
                self.held_up.fetch_add(1, SeqCst);
            }
            ready.give_way(ring).await;
        }
    }

    /// Starts an unaligned write; it works alone.
    pub(super) async fn unaligned(&self, ready: &ReadyList, ring: &Ring) -> UnalignedWrite<'_> {
        while self.held_up.load(SeqCst) > 0 {
            ready.give_way(ring).await;
        }
        self.unaligned.0.fetch_add(1, SeqCst);
        while self.working.swap(true, SeqCst) {
            ready.give_way(ring).await;
        }
        while self.direct.iter().any(|line| line.0.load(SeqCst) > 0) {
            ready.give_way(ring).await;
        }
        UnalignedWrite(self)
    }
}

impl Drop for DirectWrite<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Drop for UnalignedWrite<'_> {
    fn drop(&mut self) {
        self.0.working.store(false, SeqCst);
        self.0.unaligned.0.fetch_sub(1, SeqCst);
    }
}
