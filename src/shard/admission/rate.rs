//! Rates that all shards keep together: how many requests, or bytes, an export may have a second.
//!
//! It is virtual scheduling (GCRA). A [`SharedBucket`] has the moment at which all that was begun would have
//! ended, had it come at exactly the rate. A request may begin when that moment is not further ahead than the
//! burst lasts, whatever it costs itself: a large one overdraws, and the next ones wait for it.
//!
//! A shard takes from the bucket for a millisecond at once, and uses that up without looking at what others
//! share: a [`RateAdvance`]. What it has not used by then is lost. An advance is the shard's part of the
//! rate, so what is lost makes no load wait for long that is within it.
#![cfg_attr(not(test), expect(dead_code, reason = "no request is held back by a rate yet"))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Parts of a nanosecond in which moments are counted, so that the rounding of a request's cost is no part of
/// its rate worth mentioning.
const TICKS: u128 = 16;
const SECOND: u128 = 1_000_000_000;
/// What an advance is good for, in nanoseconds.
const ADVANCE: u64 = 1_000_000;

/// How much, and how much at once after a rest. In requests or in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At least one.
    pub(crate) per_second: u64,
    pub(crate) burst: u64,
}

impl Rate {
    /// How long so much takes at this rate, in ticks.
    fn ticks(self, units: u64) -> u64 {
        let ticks = u128::from(units) * SECOND * TICKS / u128::from(self.per_second.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// What one of so many shards takes at once.
    fn advance(self, shards: u64) -> u64 {
        let advance = u128::from(self.per_second) * u128::from(ADVANCE) / SECOND;
        u64::try_from(advance).unwrap_or(u64::MAX) / shards.max(1)
    }
}

/// What shards share of a rate.
#[derive(Debug, Default)]
pub(crate) struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes so much at `now`, in nanoseconds of a clock that all shards share.
    ///
    /// # Errors
    /// The moment at which it can be had, if nobody else takes anything until then.
    pub(crate) fn take(&self, rate: Rate, units: u64, now: u64) -> Result<(), u64> {
        let now_ticks = u64::try_from(u128::from(now) * TICKS).unwrap_or(u64::MAX);
        let (cost, burst) = (rate.ticks(units), rate.ticks(rate.burst));
        let mut ahead = self.0.load(Relaxed);
        loop {
            if ahead > now_ticks.saturating_add(burst) {
                let ticks = u128::from(ahead - burst);
                return Err(u64::try_from(ticks.div_ceil(TICKS)).unwrap_or(u64::MAX));
            }
            let next = ahead.max(now_ticks).saturating_add(cost);
            match self.0.compare_exchange_weak(ahead, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => ahead = other,
            }
        }
    }
}

/// What a shard has taken of a bucket, and not used yet.
#[derive(Debug, Default)]
pub(crate) struct RateAdvance {
    left: u64,
    /// When it is lost.
    until: u64,
}

impl RateAdvance {
    /// Lets a request of so many units begin.
    ///
    /// # Errors
    /// The moment at which to try again.
    pub(crate) fn use_up(
        &mut self,
        (bucket, rate, shards): (&SharedBucket, Rate, u64),
        units: u64,
        now: u64,
    ) -> Result<(), u64> {
        if now >= self.until {
            self.left = 0;
        }
        if self.left < units {
            let taken = (units - self.left).max(rate.advance(shards));
            bucket.take(rate, taken, now)?;
            self.left = self.left.saturating_add(taken);
            self.until = now.saturating_add(ADVANCE);
        }
        self.left -= units;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Units that begin on shards that always want more, each request as soon as it may, in so many
    /// nanoseconds after the burst is used up.
    fn begun(rate: Rate, shards: u64, units: u64, nanoseconds: u64) -> u64 {
        let bucket = SharedBucket::default();
        let mut advances: Vec<_> = (0..shards).map(|_| (RateAdvance::default(), 0)).collect();
        let (mut sum, start) = (0, 1_000_000_000);
        loop {
            // The shard whose moment comes first.
            let (advance, moment) = advances.iter_mut().min_by_key(|(_, moment)| *moment).unwrap();
            let now = *moment;
            if now >= start + nanoseconds {
                return sum;
            }
            match advance.use_up((&bucket, rate, shards), units, now) {
                Ok(()) => {
                    sum += if now >= start { units } else { 0 };
                }
                Err(later) => {
                    assert!(later > now, "trying again at once would be in vain");
                    *moment = later;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Where it is at least 100 of the largest requests a second.
        #[test]
        fn a_rate_holds_within_two_percent(
            units in 1_u64..100_000,
            requests in 100_u64..200_000,
            more in 0_u64..1000,
            shards in 1_u64..9,
            burst in 0.0..0.5,
        ) {
            let per_second = units * requests + more;
            let rate = Rate { per_second, burst: (per_second as f64 * burst) as u64 };
            let sum = begun(rate, shards, units, 1_000_000_000);
            let off = sum.abs_diff(per_second);
            prop_assert!(off * 50 <= per_second, "{sum} of {per_second}");
        }

        /// What other shards have taken ahead is all that a load within the rate may have to wait for.
        #[test]
        fn a_load_within_the_rate_waits_for_two_advances_at_most(gaps in prop::collection::vec(0_u64..3_000_000, 1..200), shards in 1_u64..5) {
            let rate = Rate { per_second: 10_000, burst: 0 };
            let bucket = SharedBucket::default();
            let mut advances: Vec<_> = (0..shards).map(|_| RateAdvance::default()).collect();
            let mut now = vec![0; shards as usize];
            for (at, gap) in gaps.iter().enumerate() {
                let shard = at % shards as usize;
                // Each shard has its part of the rate, evenly.
                now[shard] += (100_000 * shards).max(*gap);
                let latest = *now.iter().max().unwrap();
                now[shard] = now[shard].max(latest.saturating_sub(100_000 * shards));
                let used = advances[shard].use_up((&bucket, rate, shards), 1, now[shard]);
                if let Err(later) = used {
                    prop_assert!(later - now[shard] <= 2 * ADVANCE, "{later} {}", now[shard]);
                }
            }
        }
    }

    #[test]
    fn a_burst_begins_at_once_and_one_request_may_overdraw() {
        let rate = Rate { per_second: 1000, burst: 10 };
        let bucket = SharedBucket::default();
        let second = 1_000_000_000;
        let at_once = (0..100).take_while(|_| bucket.take(rate, 1, second).is_ok()).count();
        assert_eq!(at_once, 11, "the burst, and one that overdraws");
        let later = bucket.take(rate, 1, second).unwrap_err();
        assert_eq!(later, second + 1_000_000);
        assert_eq!(bucket.take(rate, 500, later), Ok(()), "a large one is not split");
        let after = bucket.take(rate, 1, later).unwrap_err();
        assert_eq!(after - later, 500_000_000, "those behind it wait for it");
        assert_eq!(bucket.take(rate, 1, after), Ok(()), "nothing starves");
    }

    #[test]
    fn extremes_neither_overflow_nor_divide_by_zero() {
        for per_second in [0, 1, u64::MAX] {
            for (units, now) in [(0, 0), (u64::MAX, 0), (1, u64::MAX), (u64::MAX, u64::MAX)] {
                let rate = Rate { per_second, burst: u64::MAX };
                let (bucket, mut advance) = (SharedBucket::default(), RateAdvance::default());
                for _ in 0..3 {
                    let _either = advance.use_up((&bucket, rate, 0), units, now);
                }
            }
        }
    }

    #[test]
    fn shards_that_take_at_the_same_time_take_no_more_than_there_is() {
        let bucket = SharedBucket::default();
        let rate = Rate { per_second: 1000, burst: 1000 };
        let taken = std::thread::scope(|scope| {
            let take = || (0..2000).filter(|_| bucket.take(rate, 1, 0).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(taken, 1001);
    }
}
