//! The worker threads of a ring, which run every operation that blocks, and the lock that an allocation
//! holds.

use std::time::Duration;

use super::handle::{FileId, World};
use super::work::{Event, SimWork};
use super::world::WorldState;
use crate::block::ByteRange;

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
