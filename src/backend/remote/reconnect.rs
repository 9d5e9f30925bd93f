//! When to connect again, and what becomes of requests meanwhile.

use std::time::Duration;

use crate::pause::GrowingPause;

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// After attempts that failed.
pub(super) const PAUSES: GrowingPause = GrowingPause::new(Duration::from_secs(1), LONGEST_PAUSE);

/// What a new request has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemoteEntry {
    /// It is sent.
    Send,
    /// It waits for a connection.
    Wait,
    /// It fails at once.
    Refuse,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// An attempt to connect; the next one is due after [`Reconnect::attempt_failed`].
    Connect,
    /// All requests that are unanswered fail.
    FailWaiting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Connected {
        since: Duration,
    },
    Connecting,
    Paused {
        until: Duration,
    },
    /// The remote is another one than before.
    Dead,
}

/// The way from a lost connection to the next one.
///
/// The delay begins with the loss and ends with the first answer, not with the next connection. A remote that
/// accepts and hangs up, or that a request kills each time it is sent again, so holds no request for longer.
#[derive(Debug)]
pub(super) struct Reconnect {
    delay: Duration,
    course: Course,
    pause: GrowingPause,
    /// When the first connection was lost since the last answer.
    trouble_since: Option<Duration>,
    refuses: bool,
}

impl Reconnect {
    /// A device that has not connected yet, and does so at once. Its requests wait `delay` for a connection
    /// that is lost, or that cannot be had.
    pub(super) fn new(delay: Duration, now: Duration) -> Self {
        let course = Course::Paused { until: now };
        Self { delay, course, pause: PAUSES, trouble_since: None, refuses: false }
    }

    /// One that has just connected.
    #[cfg(test)]
    fn standing(delay: Duration, now: Duration) -> Self {
        Self { course: Course::Connected { since: now }, ..Self::new(delay, now) }
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, now: Duration) {
        let Course::Connected { since } = self.course else { return };
        self.trouble_since.get_or_insert(now);
        // One that lived longer than a pause was a good one.
        if now.saturating_sub(since) >= self.pause.upcoming() {
            self.pause.restart();
            self.course = Course::Paused { until: now };
        } else {
            self.rest(now);
        }
    }

    /// An attempt failed.
    pub(super) fn attempt_failed(&mut self, now: Duration) {
        if self.course == Course::Connecting {
            self.trouble_since.get_or_insert(now);
            self.rest(now);
        }
    }

    /// An attempt succeeded, and the remote is the one that it was.
    pub(super) fn connected(&mut self, now: Duration) {
        if self.course == Course::Connecting {
            self.course = Course::Connected { since: now };
            self.refuses = false;
        }
    }

    /// The remote answered a request.
    pub(super) fn answered(&mut self) {
        if matches!(self.course, Course::Connected { .. }) {
            self.trouble_since = None;
        }
    }

    /// The remote is another one: every request fails from now on.
    pub(super) fn give_up(&mut self) {
        self.course = Course::Dead;
    }

    /// What a new request has to do.
    pub(super) fn entry(&self) -> RemoteEntry {
        match self.course {
            Course::Dead => RemoteEntry::Refuse,
            Course::Connected { .. } => RemoteEntry::Send,
            _ if self.refuses => RemoteEntry::Refuse,
            _ => RemoteEntry::Wait,
        }
    }

    /// One thing that is due; to be called until it gives nothing.
    pub(super) fn due(&mut self, now: Duration) -> Option<Due> {
        if self.fails_at().is_some_and(|at| at <= now) {
            self.refuses = true;
            return Some(Due::FailWaiting);
        }
        match self.course {
            Course::Paused { until } if until <= now => {
                self.course = Course::Connecting;
                Some(Due::Connect)
            }
            _ => None,
        }
    }

    /// When something is due next.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let attempt = match self.course {
            Course::Paused { until } => Some(until),
            _ => None,
        };
        attempt.into_iter().chain(self.fails_at()).min()
    }

    /// When requests that wait fail.
    fn fails_at(&self) -> Option<Duration> {
        match self.course {
            Course::Connecting | Course::Paused { .. } if !self.refuses => {
                self.trouble_since.map(|since| since.saturating_add(self.delay))
            }
            _ => None,
        }
    }

    fn rest(&mut self, now: Duration) {
        self.course = Course::Paused { until: now.saturating_add(self.pause.take()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Attempts of a remote that is gone at second 100, as (second, attempt or failure).
    fn outage(delay: u64, end: u64) -> Vec<(u64, Due)> {
        let mut reconnect = Reconnect::standing(seconds(delay), seconds(0));
        reconnect.lost(seconds(100));
        let mut log = Vec::new();
        while let Some(now) = reconnect.wake_at().filter(|at| *at <= seconds(end)) {
            while let Some(due) = reconnect.due(now) {
                log.push((now.as_secs(), due));
                if due == Due::Connect {
                    reconnect.attempt_failed(now);
                }
            }
        }
        log
    }

    #[test]
    fn attempts_back_off_and_requests_fail_once_after_the_delay() {
        use Due::*;
        let attempts = [100, 101, 103, 107, 115, 131, 147].map(|at| (at, Connect));
        let mut expected = attempts.to_vec();
        expected.insert(5, (130, FailWaiting));
        assert_eq!(outage(30, 150), expected);
        assert_eq!(outage(0, 100), [(100, FailWaiting), (100, Connect)]);
    }

    #[test]
    fn the_first_connection_is_tried_at_once_and_its_failure_begins_the_delay() {
        let mut reconnect = Reconnect::new(seconds(5), seconds(100));
        assert_eq!((reconnect.entry(), reconnect.wake_at()), (RemoteEntry::Wait, Some(seconds(100))));
        assert_eq!(reconnect.due(seconds(100)), Some(Due::Connect));
        assert_eq!(reconnect.wake_at(), None, "as long as the first attempt takes");
        reconnect.attempt_failed(seconds(110));
        assert_eq!(reconnect.due(seconds(111)), Some(Due::Connect));
        reconnect.attempt_failed(seconds(112));
        assert_eq!(reconnect.due(seconds(115)), Some(Due::FailWaiting));
    }

    #[test]
    fn requests_wait_then_fail_then_are_sent_again() {
        let mut reconnect = Reconnect::standing(seconds(5), seconds(0));
        assert_eq!((reconnect.entry(), reconnect.wake_at()), (RemoteEntry::Send, None));
        reconnect.lost(seconds(50));
        assert_eq!(reconnect.entry(), RemoteEntry::Wait);
        assert_eq!(reconnect.due(seconds(50)), Some(Due::Connect));
        assert_eq!(reconnect.due(seconds(54)), None);
        assert_eq!(reconnect.due(seconds(55)), Some(Due::FailWaiting));
        assert_eq!((reconnect.entry(), reconnect.due(seconds(90))), (RemoteEntry::Refuse, None));
        reconnect.connected(seconds(90));
        assert_eq!(reconnect.entry(), RemoteEntry::Send);
        reconnect.answered();
        reconnect.lost(seconds(200));
        assert_eq!(reconnect.entry(), RemoteEntry::Wait, "the delay begins anew");
        reconnect.give_up();
        assert_eq!((reconnect.entry(), reconnect.wake_at()), (RemoteEntry::Refuse, None));
    }

    #[test]
    fn a_remote_that_accepts_and_hangs_up_is_no_remote() {
        let mut reconnect = Reconnect::standing(seconds(10), seconds(0));
        reconnect.lost(seconds(100));
        let (mut attempts, mut failures, mut now) = (Vec::new(), Vec::new(), seconds(100));
        while let Some(wake) = reconnect.wake_at().filter(|at| *at <= seconds(120)) {
            now = now.max(wake);
            match reconnect.due(now).expect("it woke for something") {
                Due::FailWaiting => failures.push(now.as_secs()),
                Due::Connect => {
                    attempts.push(now.as_secs());
                    reconnect.connected(now);
                    reconnect.lost(now);
                }
            }
        }
        assert_eq!(attempts, [100, 101, 103, 107, 115]);
        // Each connection lets requests in again, and each loss after the delay fails them at once.
        assert_eq!(failures, [110, 115]);
    }

    proptest! {
        /// A device that is not connected always wakes again, and no pause is longer than 16 s.
        #[test]
        fn a_device_never_sleeps_for_good(
            steps in prop::collection::vec((0_u64..40, 0_u8..4), 1..60), delay in 0_u64..60,
        ) {
            let mut reconnect = Reconnect::standing(seconds(delay), seconds(0));
            let (mut now, mut is_trying) = (seconds(0), false);
            for (pass, event) in steps {
                now += seconds(pass);
                match event {
                    0 => reconnect.lost(now),
                    1 if is_trying => { reconnect.attempt_failed(now); is_trying = false; }
                    2 if is_trying => { reconnect.connected(now); is_trying = false; }
                    _ => reconnect.answered(),
                }
                while let Some(due) = reconnect.due(now) {
                    prop_assert!(due == Due::FailWaiting || !is_trying, "one attempt at a time");
                    is_trying |= due == Due::Connect;
                }
                if reconnect.entry() != RemoteEntry::Send && !is_trying {
                    let wake = reconnect.wake_at().expect("an attempt is planned");
                    prop_assert!(wake > now && wake <= now + LONGEST_PAUSE);
                }
            }
        }
    }
}
