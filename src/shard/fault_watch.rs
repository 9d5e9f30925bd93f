//! Whether reads may be answered from mapped files: not for a while after the shard has waited for a page of one.
//!
//! A page that was seen in the page cache can be gone when the kernel sends it. Then the whole shard sleeps until it is read, and with it
//! all connections. Where memory is short that happens again and again, and a read through the ring, for which nobody sleeps, is faster.

use super::worker::Shard;
use crate::ring::SendMode;

/// Between two looks, in nanoseconds: each look is a system call.
const LOOK_EVERY: u64 = 100_000;
/// How long nothing is mapped after the first fault, and at the most.
const SHORTEST_PAUSE: u64 = 100_000_000;
const LONGEST_PAUSE: u64 = 60_000_000_000;
/// After so long without a fault the next pause is the shortest again.
const CALM: u64 = 10_000_000_000;

/// What the looks have shown.
#[derive(Debug)]
pub(super) struct FaultWatch {
    /// Something mapped was sent since the last look.
    sent: bool,
    looked: u64,
    /// Faults of the thread at the last look.
    faults: u64,
    /// Nothing is mapped before.
    resumes: u64,
    pause: u64,
}

impl FaultWatch {
    /// A watch of a thread that has had so many faults.
    pub(super) fn new(faults: u64) -> Self {
        Self { sent: false, looked: 0, faults, resumes: 0, pause: SHORTEST_PAUSE }
    }

    /// Whether reads may be answered from mapped files.
    pub(super) fn may_map(&self, now: u64) -> bool {
        now >= self.resumes
    }

    /// A send starts.
    pub(super) fn sends(&mut self, mode: SendMode) {
        self.sent |= mode == SendMode::Now;
    }

    fn is_due(&self, now: u64) -> bool {
        self.sent && now >= self.looked + LOOK_EVERY
    }

    /// Takes in how many faults the thread has had; true when there were some, and a pause begins.
    fn look(&mut self, faults: u64, now: u64) -> bool {
        (self.sent, self.looked) = (false, now);
        if std::mem::replace(&mut self.faults, faults) == faults {
            return false;
        }
        let was_calm = now >= self.resumes + CALM;
        self.pause = if was_calm { SHORTEST_PAUSE } else { (2 * self.pause).min(LONGEST_PAUSE) };
        self.resumes = now + self.pause;
        true
    }
}

impl Shard {
    /// Looks whether the last turns have waited for pages.
    pub(super) fn watch_faults(&mut self) {
        let now = self.recorder.now();
        if !self.fault_watch.is_due(now) || canary!(FaultsIgnored) {
            return;
        }
        if self.fault_watch.look(self.ring.major_faults(), now) {
            self.devices.iter().for_each(|device| device.distrust_page_cache());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_faults_go_on_and_a_calm_ends_that() {
        let mut watch = FaultWatch::new(7);
        assert!(watch.may_map(CALM) && !watch.is_due(CALM));
        watch.sends(SendMode::Some);
        assert!(!watch.is_due(CALM), "nothing was mapped");
        watch.sends(SendMode::Now);
        assert!(watch.is_due(CALM));
        assert!(!watch.look(7, CALM) && watch.may_map(CALM));
        let (mut now, mut pauses, mut faults) = (2 * CALM, Vec::new(), 7);
        for _ in 0..12 {
            faults += 3;
            assert!(watch.look(faults, now) && !watch.may_map(now));
            let resumes = watch.resumes;
            assert!(!watch.may_map(resumes - 1) && watch.may_map(resumes));
            pauses.push((resumes - now) / 1_000_000);
            now = resumes + CALM / 2;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert!(watch.look(faults + 1, watch.resumes + CALM));
        assert_eq!(watch.pause, SHORTEST_PAUSE);
    }

    #[test]
    fn looks_are_rare() {
        let mut watch = FaultWatch::new(0);
        watch.sends(SendMode::Now);
        watch.look(0, 1_000_000);
        watch.sends(SendMode::Now);
        assert!(!watch.is_due(1_000_000 + LOOK_EVERY - 1) && watch.is_due(1_000_000 + LOOK_EVERY));
    }
}
