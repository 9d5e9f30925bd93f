//! The worker threads of a ring, which run every operation that blocks, and the lock that an allocation
//! holds.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::mapped::MajorFaults;
use super::world::{Completed, Event, SimWork, WorldState};
use super::{FileId, World};
use crate::block::ByteRange;
use crate::ring::receive::ReceiveRing;

pub(super) struct RingState {
    pub(super) receive: ReceiveRing,
    pub(super) completions: VecDeque<Completed>,
    /// Threads, what they work on, and what waits for one in order.
    workers: usize,
    working: BTreeSet<u64>,
    waiting: VecDeque<u64>,
    /// The thread of the shard sleeps in the kernel until then.
    pub(super) asleep_until: u64,
    pub(super) faults: MajorFaults,
}

impl RingState {
    pub(super) fn new(receive: ReceiveRing, workers: usize) -> Self {
        let workers = workers.max(1);
        let (completions, working, waiting, faults) = Default::default();
        Self { receive, completions, workers, working, waiting, asleep_until: 0, faults }
    }

    /// Nothing is in flight any more.
    pub(super) fn clear(&mut self) {
        self.completions.clear();
        self.working.clear();
        self.waiting.clear();
    }
}

impl World {
    /// The disk of a file hangs: syncs that begin from now on take at least this long.
    pub fn hang(&self, file: FileId, time: Duration) {
        let mut state = self.state();
        let end = state.now + time.as_nanos() as u64;
        state.hung.insert(file.0, end);
    }
}

/// Bytes for which an allocation or a prefetch takes a latency of its own.
const BYTES_PER_LATENCY: u64 = 32 << 10;

impl WorldState {
    /// An operation that blocks was submitted.
    pub(super) fn queue_for_worker(&mut self, ring: usize, serial: u64) {
        self.rings[ring].waiting.push_back(serial);
        self.start_workers(ring);
    }

    /// An operation has ended; its thread takes the next one.
    pub(super) fn leave_worker(&mut self, ring: usize, serial: u64) {
        let state = &mut self.rings[ring];
        if state.working.remove(&serial) {
            self.start_workers(ring);
        } else if !state.waiting.is_empty() {
            state.waiting.retain(|waits| *waits != serial);
        }
    }

    fn start_workers(&mut self, ring: usize) {
        while self.rings[ring].working.len() < self.rings[ring].workers {
            let Some(serial) = self.rings[ring].waiting.pop_front() else { return };
            self.rings[ring].working.insert(serial);
            let mut moment = self.now + self.latency();
            let time = |range: ByteRange, latency: u64| range.length() / BYTES_PER_LATENCY * latency;
            match self.operations[&serial].work {
                SimWork::Prefetch { range } => moment += time(range, self.faults.latency_ns),
                SimWork::Allocate { file, range, .. } => {
                    moment = self.unlocked(file, moment) + time(range, self.faults.latency_ns);
                    self.locked.insert(file, moment);
                }
                SimWork::Sync { file, .. } => {
                    moment = self.hung.get(&file).map_or(moment, |end| moment.max(*end))
                }
                _ => {}
            }
            self.at(moment, serial, Event::Try);
        }
    }

    /// The first moment from `moment` at which a file is not locked by an allocation that is known now.
    pub(super) fn unlocked(&self, file: usize, moment: u64) -> u64 {
        self.locked.get(&file).map_or(moment, |until| moment.max(*until))
    }

    /// A read through the page cache was tried in the shard: it sleeps for as long as its file is locked.
    pub(super) fn sleep_for(&mut self, ring: usize, file: usize) {
        let until = self.unlocked(file, self.now);
        if until > self.now {
            self.sleeps += 1;
            self.rings[ring].asleep_until = until;
        }
    }
}
