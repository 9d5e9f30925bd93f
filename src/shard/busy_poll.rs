//! Spinning before sleeping (`--busy-poll`), as long as it has paid lately.
//!
//! A shard that finds work while it spins answers without a wake-up. One that finds none has wasted the time,
//! so it spins half as long before the next sleep, and when that goes on not at all; as soon as work comes so
//! early again that the longest spin would have met it, the spin doubles. An idle server therefore sleeps,
//! and what wakes it now and then costs it no spinning.

use std::time::Duration;

use crate::ring::{Ring, Wait};

/// The shortest spin: what is shorter is left out.
const SHORTEST: Duration = Duration::from_micros(2);

/// How long to spin before sleeping.
#[derive(Debug)]
pub(super) struct BusyPoll {
    longest: Duration,
    now: Duration,
}

impl BusyPoll {
    /// Spins at most so long; zero switches it off.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, now: longest }
    }

    /// Before sleeping: submits, and looks for work without sleeping. Gives when it began; `None` when it is
    /// switched off.
    /// `has_ended` tells of work that does not come from the ring.
    pub(super) fn spin(&self, ring: &Ring, has_ended: impl Fn() -> bool) -> Option<Duration> {
        if self.longest.is_zero() {
            return None;
        }
        let begin = ring.now();
        if !self.now.is_zero() {
            ring.submit_and_reap(Wait::No, 0, &mut Vec::new());
            let end = begin + self.now;
            while !ring.has_work() && !has_ended() && ring.now() < end {
                std::hint::spin_loop();
            }
        }
        Some(begin)
    }

    /// Work came so long after spinning began, whether it was met or had to wake the shard.
    pub(super) fn waited(&mut self, waited: Duration) {
        if waited <= self.now {
            return;
        }
        self.now = if waited <= self.longest {
            (self.now * 2).clamp(SHORTEST.min(self.longest), self.longest)
        } else if self.now / 2 < SHORTEST {
            Duration::ZERO
        } else {
            self.now / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(100);

    #[test]
    fn it_gives_up_when_work_is_rare_and_comes_back_when_it_is_not() {
        let mut poll = BusyPoll::new(LONGEST);
        for spins in [100, 50, 25] {
            assert_eq!(poll.now.as_micros(), spins);
            poll.waited(Duration::from_secs(1));
        }
        (0..10).for_each(|_| poll.waited(Duration::from_secs(1)));
        assert_eq!(poll.now, Duration::ZERO);
        poll.waited(LONGEST);
        assert_eq!(poll.now, SHORTEST);
        (0..10).for_each(|_| poll.waited(LONGEST));
        assert_eq!(poll.now, LONGEST);
    }

    #[test]
    fn what_is_met_changes_nothing() {
        let mut poll = BusyPoll::new(LONGEST);
        poll.waited(Duration::from_secs(1));
        (0..10).for_each(|_| poll.waited(Duration::from_micros(40)));
        assert_eq!(poll.now, LONGEST / 2);
    }

    #[test]
    fn a_limit_below_the_shortest_spin_is_kept() {
        let mut poll = BusyPoll::new(Duration::from_nanos(500));
        poll.waited(Duration::from_secs(1));
        poll.waited(Duration::from_nanos(400));
        assert_eq!(poll.now, Duration::from_nanos(500));
    }
}
