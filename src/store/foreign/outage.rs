//! How long reads wait for a tier that does not answer. Nothing here waits: the time is the caller's.

use std::time::{Duration, Instant};

use crate::pause::GrowingPause;

/// Between attempts.
const PAUSES: GrowingPause = GrowingPause::new(Duration::from_millis(50), Duration::from_secs(2));

/// Since when nothing has been answered to anybody, if the last attempt was not.
#[derive(Debug, Default)]
pub(in crate::store) struct TierOutage(Option<Instant>);

impl TierOutage {
    /// Somebody was answered.
    pub(in crate::store) const fn end(&mut self) {
        self.0 = None;
    }

    /// How long an attempt is waited for, of a read that waits until `deadline`. When nothing has been
    /// answered for as long as the limit, that is a tenth of it.
    pub(super) fn attempt_until(&self, deadline: Instant, now: Instant, limit: Duration) -> Instant {
        self.0.map_or(deadline, |since| deadline.min((since + limit).max(now + limit / 10)))
    }
}

/// The attempts of one read.
#[derive(Debug)]
pub(in crate::store) struct FetchAttempts {
    deadline: Option<Instant>,
    pause: GrowingPause,
}

impl FetchAttempts {
    /// As many as fit before `deadline`, one at least; one if nobody waits.
    pub(in crate::store) const fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, pause: PAUSES }
    }

    /// One was not answered. The pause before the next one; none if the read fails.
    pub(in crate::store) fn after_failure(
        &mut self,
        outage: &mut TierOutage,
        now: Instant,
        limit: Duration,
    ) -> Option<Duration> {
        let out_until = *outage.0.get_or_insert(now) + limit;
        let until = self.deadline?.min(out_until);
        (now + self.pause.upcoming() < until).then(|| self.pause.take())
    }
}
