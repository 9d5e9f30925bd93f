//! How long reads wait for a tier that does not answer. Nothing here waits: the time is the caller's.

use std::time::{Duration, Instant};

use crate::pause::GrowingPause;

/// Between attempts.
const PAUSES: GrowingPause = GrowingPause::new(Duration::from_millis(50), Duration::from_secs(2));

/// How long a read is waited for.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct ReadDeadline {
    /// If the tier says nothing.
    pub(in crate::store) silent: Instant,
    /// If the tier asks for less: it answers, and has its hands full.
    pub(in crate::store) refused: Instant,
}

/// Since when nothing has been answered to anybody, if the last attempt was not.
#[derive(Debug, Default)]
pub(in crate::store) struct TierOutage {
    since: Option<Instant>,
    /// When somebody was refused last.
    refused: Option<Instant>,
}

impl TierOutage {
    /// Somebody was answered.
    pub(in crate::store) const fn end(&mut self) {
        self.since = None;
    }

    /// Until when a read waits. A refusal, of anybody, is no silence.
    pub(super) fn read_until(&self, deadline: ReadDeadline, limit: Duration) -> Instant {
        let heard_until = self.refused.map_or(deadline.silent, |refused| refused + limit);
        deadline.silent.max(heard_until).min(deadline.refused)
    }

    /// How long an attempt is waited for, of a read with this deadline. When nothing has been answered for as
    /// long as the limit, that is a tenth of it.
    pub(super) fn attempt_until(&self, deadline: ReadDeadline, now: Instant, limit: Duration) -> Instant {
        let until = self.read_until(deadline, limit);
        self.since.map_or(until, |since| until.min((since + limit).max(now + limit / 10)))
    }
}

/// The attempts of one read.
#[derive(Debug)]
pub(in crate::store) struct FetchAttempts {
    deadline: Option<ReadDeadline>,
    pause: GrowingPause,
}

impl FetchAttempts {
    /// As many as fit before `deadline`, one at least; one if nobody waits.
    pub(in crate::store) const fn until(deadline: Option<ReadDeadline>) -> Self {
        Self { deadline, pause: PAUSES }
    }

    /// One was not answered. The pause before the next one; none if the read fails.
    pub(in crate::store) fn after_failure(
        &mut self,
        outage: &mut TierOutage,
        now: Instant,
        limit: Duration,
    ) -> Option<Duration> {
        let out_until = *outage.since.get_or_insert(now) + limit;
        let until = outage.read_until(self.deadline?, limit).min(out_until);
        self.pause_before(until, now)
    }

    /// One was answered: the tier asks for less. The same.
    pub(in crate::store) fn after_refusal(
        &mut self,
        outage: &mut TierOutage,
        now: Instant,
    ) -> Option<Duration> {
        *outage = TierOutage { since: None, refused: Some(now) };
        self.pause_before(self.deadline?.refused, now)
    }

    fn pause_before(&mut self, until: Instant, now: Instant) -> Option<Duration> {
        (now + self.pause.upcoming() < until).then(|| self.pause.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const REFUSED: Duration = Duration::from_secs(300);

    fn deadline(now: Instant) -> ReadDeadline {
        ReadDeadline { silent: now + LIMIT, refused: now + REFUSED }
    }

    /// How long it goes on from a moment on, when each attempt ends at once.
    fn goes_on(
        attempts: &mut FetchAttempts,
        outage: &mut TierOutage,
        from: Instant,
        is_refused: impl Fn(Duration) -> bool,
    ) -> Duration {
        let mut now = from;
        loop {
            let pause = match is_refused(now - from) {
                true => attempts.after_refusal(outage, now),
                false => attempts.after_failure(outage, now, LIMIT),
            };
            let Some(pause) = pause else { return now - from };
            now += pause;
        }
    }

    #[test]
    fn a_refusal_is_no_silence() {
        let (from, close) = (Instant::now(), Duration::from_secs(3));
        let is_about = |waited: Duration, limit: Duration| limit - close < waited && waited < limit;
        let read = |outage: &mut TierOutage, is_refused: &dyn Fn(Duration) -> bool| {
            goes_on(&mut FetchAttempts::until(Some(deadline(from))), outage, from, is_refused)
        };
        assert!(is_about(read(&mut TierOutage::default(), &|_| false), LIMIT));
        let mut outage = TierOutage::default();
        assert!(is_about(read(&mut outage, &|_| true), REFUSED));
        // It falls silent after a while, or has been and refuses now.
        let until = Duration::from_secs(100);
        let waited = read(&mut TierOutage::default(), &|waited| waited < until);
        assert!(is_about(waited, until + LIMIT), "{waited:?}");
        let mut out = TierOutage { since: Some(from - 2 * LIMIT), refused: None };
        assert_eq!(read(&mut out, &|_| false), Duration::ZERO, "nobody has heard of it for long");
        assert!(is_about(read(&mut out, &|_| true), REFUSED));
        // Others that wait for an answer know that somebody was refused.
        let later = from + REFUSED;
        assert!(outage.attempt_until(deadline(from), later, LIMIT) <= later);
        let at = outage.refused.unwrap();
        assert_eq!(outage.read_until(deadline(at - LIMIT), LIMIT), at + LIMIT);
        assert_eq!(FetchAttempts::until(None).after_refusal(&mut outage, from), None);
    }
}
