//! When to connect once more for a connection that was lost while others stand.

use std::time::Duration;

use super::reconnect::PAUSES;
use crate::pause::GrowingPause;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// There are as many connections as there should be.
    NotNeeded,
    At(Duration),
    UnderWay,
}

/// Keeps the number of connections what it was when all of them were made.
#[derive(Debug)]
pub(super) struct Refill {
    wanted: usize,
    attempt: Attempt,
    pause: GrowingPause,
    /// When a connection came to be for the last time.
    since: Duration,
}

impl Default for Refill {
    fn default() -> Self {
        Self { wanted: 0, attempt: Attempt::NotNeeded, pause: PAUSES, since: Duration::ZERO }
    }
}

impl Refill {
    /// All connections were made at once: as many as the remote allows.
    pub(super) fn connected(&mut self, connections: usize, now: Duration) {
        *self = Self { wanted: connections, since: now, ..Self::default() };
    }

    /// A connection was lost, and others stand.
    pub(super) fn lost(&mut self, now: Duration) {
        if self.attempt != Attempt::NotNeeded {
            return;
        }
        // Those that lived longer than a pause were good ones.
        if now.saturating_sub(self.since) >= self.pause.upcoming() {
            self.pause.restart();
            self.attempt = Attempt::At(now);
        } else {
            self.rest(now);
        }
    }

    /// No connection stands any more: all are made anew, elsewhere. What is under way is not needed.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    /// How many connections an attempt is to make now, if `connections` are there. The next one is due after
    /// [`Refill::attempt_failed`] or a further loss.
    pub(super) fn due(&mut self, connections: usize, now: Duration) -> Option<usize> {
        match self.attempt {
            Attempt::At(at) if at <= now => {}
            _ => return None,
        }
        let missing = self.wanted.checked_sub(connections).filter(|missing| *missing > 0);
        self.attempt = if missing.is_some() { Attempt::UnderWay } else { Attempt::NotNeeded };
        missing
    }

    /// The attempt made a connection. There may be too few still.
    pub(super) fn attempt_succeeded(&mut self, now: Duration) {
        if self.attempt == Attempt::UnderWay {
            self.since = now;
            self.attempt = Attempt::At(now.saturating_add(self.pause.upcoming()));
        }
    }

    pub(super) fn attempt_failed(&mut self, now: Duration) {
        if self.attempt == Attempt::UnderWay {
            self.rest(now);
        }
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        match self.attempt {
            Attempt::At(at) => Some(at),
            Attempt::NotNeeded | Attempt::UnderWay => None,
        }
    }

    fn rest(&mut self, now: Duration) {
        self.attempt = Attempt::At(now.saturating_add(self.pause.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_good_connection_is_replaced_at_once_and_a_bad_one_after_pauses() {
        let mut refill = Refill::default();
        refill.connected(3, seconds(0));
        assert_eq!((refill.due(2, seconds(9)), refill.wake_at()), (None, None), "nothing was lost");
        refill.lost(seconds(10));
        assert_eq!(refill.due(2, seconds(10)), Some(1));
        assert_eq!((refill.due(2, seconds(10)), refill.wake_at()), (None, None), "one attempt at a time");
        let mut pauses = Vec::new();
        let mut now = seconds(10);
        for _ in 0..6 {
            refill.attempt_failed(now);
            pauses.push((refill.wake_at().unwrap() - now).as_secs());
            now = refill.wake_at().unwrap();
            assert_eq!(refill.due(1, now), Some(2));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16]);
        refill.attempt_succeeded(now);
        // It is looked whether that was enough.
        now = refill.wake_at().unwrap();
        assert_eq!((refill.due(3, now), refill.wake_at()), (None, None));
        refill.lost(now);
        assert!(refill.wake_at().unwrap() >= now, "it did not live for long");
    }

    #[test]
    fn when_none_is_left_nothing_is_tried() {
        let mut refill = Refill::default();
        refill.connected(2, seconds(0));
        refill.lost(seconds(5));
        assert_eq!(refill.due(1, seconds(5)), Some(1));
        refill.stop();
        refill.attempt_succeeded(seconds(6));
        refill.attempt_failed(seconds(6));
        assert_eq!((refill.due(1, seconds(60)), refill.wake_at()), (None, None));
    }
}
