//! Rates that all shards keep together: how many requests, or bytes, an export may have a second.
//!
//! It is virtual scheduling (GCRA). A [`RateBucket`] has the moment at which all that was begun will have
//! ended, if it comes at exactly the rate. Whoever wants more moves that moment on by what it costs, and may
//! begin when the old one is not further ahead than the burst lasts. So one request may overdraw, and the
//! next ones wait for it; those that wait have their moments in the order in which they came, whatever shard
//! they came to, and none starves.
//!
//! A shard takes for a millisecond at once, and uses that up without looking at what others share: a
//! [`RateAccount`]. What it does not use stays there for what comes next, so no part of a rate is lost. The
//! more accounts a bucket has, the less each takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::Rate;

/// Parts of a nanosecond in which moments are counted, so that the rounding of a request's cost is no part of
/// its rate worth mentioning.
const TICKS: u64 = 16;
const SECOND: u128 = 1_000_000_000;
/// What all accounts of a bucket together take at once, in nanoseconds of its rate.
const ADVANCE: u128 = 1_000_000;

/// Whether rates and weights are asked about. `perf/instructions --rates` builds a shard without them, to
/// count what they cost where there are none.
pub(crate) const RATES: bool = !(cfg!(feature = "bench") && option_env!("RINGNBD_WITHOUT_RATES").is_some());

/// What shards share of a rate.
#[derive(Debug)]
pub(crate) struct RateBucket {
    rate: Rate,
    /// In ticks.
    ahead: AtomicU64,
    accounts: AtomicU64,
}

impl RateBucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, ahead: AtomicU64::new(0), accounts: AtomicU64::new(0) }
    }

    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// How long so much takes at this rate, in ticks.
    fn ticks(&self, units: u64) -> u64 {
        let ticks = u128::from(units) * SECOND * u128::from(TICKS) / u128::from(self.rate.per_second.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// What one account takes at once.
    fn advance(&self) -> u64 {
        let advance = u128::from(self.rate.per_second) * ADVANCE / SECOND;
        u64::try_from(advance).unwrap_or(u64::MAX) / self.accounts.load(Relaxed).max(1)
    }

    /// Takes so much, at `now`, in nanoseconds of the clock that all shards share. Gives the moment from
    /// which it may be used.
    fn take(&self, units: u64, now: u64) -> u64 {
        let now_ticks = now.saturating_mul(TICKS);
        let cost = self.ticks(units);
        let next = |ahead: u64| Some(ahead.max(now_ticks).saturating_add(cost));
        let ahead = self.ahead.fetch_update(Relaxed, Relaxed, next).expect("there is always a next one");
        let moment = ahead.saturating_sub(self.ticks(self.rate.burst)).div_ceil(TICKS);
        moment.max(now)
    }

    /// Gives back what was taken and will not be used. Who waits behind it does not hear of that.
    fn give_back(&self, units: u64) {
        let cost = self.ticks(units);
        let less = |ahead: u64| Some(ahead.saturating_sub(cost));
        let _before = self.ahead.fetch_update(Relaxed, Relaxed, less);
    }
}

/// What was taken of a bucket, and not used yet.
#[derive(Debug)]
pub(crate) struct RateAccount {
    bucket: Arc<RateBucket>,
    left: u64,
    /// From when on it may be used.
    ready: u64,
}

impl RateAccount {
    pub(crate) fn new(bucket: &Arc<RateBucket>) -> Self {
        bucket.accounts.fetch_add(1, Relaxed);
        Self { bucket: Arc::clone(bucket), left: 0, ready: 0 }
    }

    /// Sees to it that there is so much, and gives the moment from which it may be used.
    pub(crate) fn secure(&mut self, units: u64, now: u64) -> u64 {
        if self.left < units {
            let taken = (units - self.left).max(self.bucket.advance());
            self.ready = self.ready.max(self.bucket.take(taken, now));
            self.left = self.left.saturating_add(taken);
        }
        self.ready
    }

    /// Uses what was [secured](Self::secure).
    pub(crate) fn spend(&mut self, units: u64) {
        self.left -= units;
    }

    /// Nobody wants what is left now.
    pub(crate) fn give_back(&mut self) {
        self.bucket.give_back(std::mem::take(&mut self.left));
        self.ready = 0;
    }
}

impl Drop for RateAccount {
    fn drop(&mut self) {
        self.give_back();
        self.bucket.accounts.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_000_000_000;

    fn bucket(per_second: u64, burst: u64) -> Arc<RateBucket> {
        Arc::new(RateBucket::new(Rate { per_second, burst }))
    }

    /// Units that begin on shards that always want more, each request `late` after it may, in so many
    /// nanoseconds after the burst is used up; by shard.
    fn begun(rate: Rate, shards: usize, units: u64, nanoseconds: u64, late: u64) -> Vec<u64> {
        let bucket = Arc::new(RateBucket::new(rate));
        let mut accounts: Vec<_> = (0..shards).map(|_| (RateAccount::new(&bucket), START / 2)).collect();
        let mut sums = vec![0; shards];
        loop {
            // The shard whose moment comes first.
            let next = (0..shards).min_by_key(|shard| accounts[*shard].1).unwrap();
            let (account, moment) = &mut accounts[next];
            let now = *moment;
            if now >= START + nanoseconds {
                return sums;
            }
            let ready = account.secure(units, now);
            if ready <= now {
                account.spend(units);
                sums[next] += if now >= START { units } else { 0 };
            } else {
                *moment = ready + late;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Where it is at least 100 of the largest requests a second; on shards that wake up late too.
        #[test]
        fn a_rate_holds_within_two_percent_and_shards_get_the_same(
            units in 1_u64..100_000,
            requests in 100_u64..200_000,
            more in 0_u64..1000,
            shards in 1_usize..9,
            burst in 0.0..0.4,
            late in 0_u64..100_000,
        ) {
            let per_second = units * requests + more;
            let rate = Rate { per_second, burst: (per_second as f64 * burst) as u64 };
            let sums = begun(rate, shards, units, 1_000_000_000, late);
            let sum: u64 = sums.iter().sum();
            prop_assert!(sum.abs_diff(per_second) * 50 <= per_second, "{sum} of {per_second}");
            let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
            let share = per_second / shards as u64;
            prop_assert!(most - least <= share / 10 + 3 * units, "{sums:?}");
        }
    }

    #[test]
    fn a_burst_begins_at_once_and_one_request_may_overdraw() {
        let bucket = bucket(100, 10);
        let mut account = RateAccount::new(&bucket);
        let mut begin = |units: u64, now: u64| {
            let ready = account.secure(units, now);
            if ready <= now {
                account.spend(units);
            }
            ready
        };
        let at_once = (0..100).take_while(|_| begin(1, START) <= START).count();
        assert_eq!(at_once, 11, "the burst, and one that overdraws");
        assert_eq!(begin(1, START), START + 10_000_000);
        let now = START + 10_000_000;
        assert_eq!(begin(1, now), now, "what it waited for");
        assert_eq!(begin(500, now), now + 10_000_000, "a large one is not split");
        let now = now + 10_000_000;
        assert_eq!(begin(500, now), now);
        assert_eq!(begin(1, now), now + 5_000_000_000, "those behind it wait for it");
    }

    #[test]
    fn what_is_not_used_goes_back() {
        let bucket = bucket(1000, 0);
        let mut first = RateAccount::new(&bucket);
        assert_eq!(first.secure(1000, START), START);
        let mut second = RateAccount::new(&bucket);
        drop(first);
        assert_eq!(second.secure(1, START), START, "as if nothing had been taken");
        second.spend(1);
        assert_eq!(second.secure(1, START), START + 1_000_000);
        second.give_back();
        assert_eq!(second.secure(1, START), START + 1_000_000, "what was used stays used");
    }

    #[test]
    fn extremes_neither_overflow_nor_divide_by_zero() {
        for per_second in [0, 1, u64::MAX] {
            for (units, now) in [(0, 0), (u64::MAX, 0), (1, u64::MAX), (u64::MAX, u64::MAX)] {
                let mut account = RateAccount::new(&bucket(per_second, u64::MAX));
                for _ in 0..3 {
                    if account.secure(units, now) <= now {
                        account.spend(units);
                    }
                }
            }
        }
    }

    #[test]
    fn shards_that_take_at_the_same_time_take_each_part_once() {
        let bucket = bucket(1000, 0);
        let moments = std::thread::scope(|scope| {
            let take = || (0..2000).map(|_| bucket.take(1, START)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            all.sort_unstable();
            all
        });
        assert!(moments.iter().enumerate().all(|(at, moment)| *moment == START + at as u64 * 1_000_000));
    }
}
