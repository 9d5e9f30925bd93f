//! Whether reads may be answered from mapped files: not for a while after the shard has waited for a page of
//! one.
//!
//! A page that was seen in the page cache can be gone when the kernel sends it. Then the whole shard sleeps
//! until it is read, and with it all connections. Where memory is short that happens again and again, and a
//! read through the ring, for which the shard does not sleep, is faster. How many pages can be gone in one
//! turn, before anything is known of it, is bounded by [`Trust`].

use crate::backend::Trust;
use crate::ring::SendMode;

/// Between two looks, in nanoseconds: each look is a system call.
const LOOK_EVERY: u64 = 100_000;
/// What a look has shown is no proof any more after so long.
const PROOF_LASTS: u64 = 10_000_000;
/// How long nothing is mapped after the first fault, and at the most.
const SHORTEST_PAUSE: u64 = 100_000_000;
const LONGEST_PAUSE: u64 = 60_000_000_000;
/// After so long without a fault the next pause is the shortest again.
const CALM: u64 = 10_000_000_000;

/// What the looks have shown.
#[derive(Debug)]
pub(super) struct FaultWatch {
    /// When something mapped was sent last, since the last look.
    sent: Option<u64>,
    /// When something mapped was sent last without a fault.
    proven: u64,
    looked: u64,
    /// Faults of the thread at the last look.
    faults: u64,
    /// Nothing is mapped before.
    resumes: u64,
    pause: u64,
    trust: Trust,
}

impl FaultWatch {
    /// A watch of a thread that has had so many faults.
    pub(super) fn new(faults: u64) -> Self {
        Self {
            sent: None,
            proven: 0,
            looked: 0,
            faults,
            resumes: 0,
            pause: SHORTEST_PAUSE,
            trust: Trust::default(),
        }
    }

    /// Which pages may be sent from mapped files that were seen some time ago; `None`: nothing may be sent
    /// from there.
    pub(super) fn trust(&mut self, now: u64) -> Option<&mut Trust> {
        (now >= self.resumes).then_some(&mut self.trust)
    }

    /// A turn begins.
    pub(super) fn turn(&mut self, now: u64) {
        if now > self.proven + PROOF_LASTS {
            self.trust.shake();
        }
        self.trust.renew();
    }

    /// A send starts.
    pub(super) fn sends(&mut self, mode: SendMode, now: u64) {
        if mode == SendMode::Now {
            self.sent = Some(now);
        }
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        self.sent.is_some() && (now >= self.looked + LOOK_EVERY || self.trust.could_grow())
    }

    /// Takes in how many faults the thread has had; true when there were some, and a pause begins.
    pub(super) fn look(&mut self, faults: u64, now: u64) -> bool {
        let sent = self.sent.take();
        self.looked = now;
        if std::mem::replace(&mut self.faults, faults) == faults {
            self.proven = sent.unwrap_or(self.proven);
            self.trust.confirm();
            return false;
        }
        self.trust.shake();
        let was_calm = now >= self.resumes + CALM;
        self.pause = if was_calm { SHORTEST_PAUSE } else { (2 * self.pause).min(LONGEST_PAUSE) };
        self.resumes = now + self.pause;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_faults_go_on_and_a_calm_ends_that() {
        let mut watch = FaultWatch::new(7);
        assert!(watch.trust(CALM).is_some() && !watch.is_due(CALM));
        watch.sends(SendMode::Some, CALM);
        assert!(!watch.is_due(CALM), "nothing was mapped");
        watch.sends(SendMode::Now, CALM);
        assert!(watch.is_due(CALM));
        assert!(!watch.look(7, CALM) && watch.trust(CALM).is_some());
        let (mut now, mut pauses, mut faults) = (2 * CALM, Vec::new(), 7);
        for _ in 0..12 {
            faults += 3;
            assert!(watch.look(faults, now) && watch.trust(now).is_none());
            let resumes = watch.resumes;
            assert!(watch.trust(resumes - 1).is_none() && watch.trust(resumes).is_some());
            pauses.push((resumes - now) / 1_000_000);
            now = resumes + CALM / 2;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert!(watch.look(faults + 1, watch.resumes + CALM));
        assert_eq!(watch.pause, SHORTEST_PAUSE);
    }

    /// The look comes after the wait for the next event, which may be long.
    #[test]
    fn a_proof_is_as_old_as_the_send_that_it_is_about() {
        let mut watch = FaultWatch::new(0);
        let spend = |watch: &mut FaultWatch, now| while watch.trust(now).unwrap().take(1) {};
        let mut turn = |now, next| {
            watch.turn(now);
            spend(&mut watch, now);
            watch.sends(SendMode::Now, now);
            watch.look(0, next);
            watch.turn(next);
            (0..1000).take_while(|_| watch.trust(next).unwrap().take(1)).count()
        };
        assert_eq!(turn(CALM, CALM + 1), 16);
        assert_eq!(turn(CALM + 1, CALM + PROOF_LASTS + 1), 32);
        assert_eq!(turn(CALM + PROOF_LASTS + 1, CALM + 3 * PROOF_LASTS), 8);
    }

    #[test]
    fn looks_are_rare() {
        let mut watch = FaultWatch::new(0);
        watch.sends(SendMode::Now, CALM);
        watch.look(0, 1_000_000);
        watch.sends(SendMode::Now, CALM);
        assert!(!watch.is_due(1_000_000 + LOOK_EVERY - 1) && watch.is_due(1_000_000 + LOOK_EVERY));
        while watch.trust(1_000_000).unwrap().take(1) {}
        assert!(watch.is_due(1_000_000), "but for those that let trust grow");
    }
}
