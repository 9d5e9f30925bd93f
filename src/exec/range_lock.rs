//! Locks of byte ranges, for tasks of any shard: one that changes what a range means keeps out those that use
//! it.
//!
//! A device has one for all its shards, because two clients of it may be on two of them. A request of the
//! same range is rare, so the mutex inside is almost never waited for.
//!
//! Whoever comes waits for all before it that it conflicts with, those that wait included. So nobody is
//! overtaken by what it conflicts with: a long range is not starved by short ones. What conflicts with nobody
//! waits for nobody.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use crate::block::ByteRange;
use crate::mutex::lock;

/// How a range is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeMode {
    /// Beside others that do the same.
    Shared,
    /// Alone.
    Exclusive,
}

/// Locks of ranges of one device.
#[derive(Debug, Default)]
pub(crate) struct RangeLock(Mutex<Claims>);

#[derive(Debug, Default)]
struct Claims {
    /// By the numbers of those who came, held and waiting.
    claims: BTreeMap<u64, RangeClaim>,
    next: u64,
}

#[derive(Debug)]
struct RangeClaim {
    range: ByteRange,
    mode: RangeMode,
    /// Earlier ones that it conflicts with. Without any it is held.
    before: usize,
    waker: Option<Waker>,
}

impl RangeClaim {
    fn conflicts(&self, range: ByteRange, mode: RangeMode) -> bool {
        self.range.overlaps(range) && (self.mode == RangeMode::Exclusive || mode == RangeMode::Exclusive)
    }
}

/// A range that is locked, or in line for it; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct LockedRange<'a> {
    lock: &'a RangeLock,
    number: u64,
}

impl RangeLock {
    /// Waits until the range is locked.
    pub(crate) async fn lock(&self, range: ByteRange, mode: RangeMode) -> LockedRange<'_> {
        let claim = self.claim(range, mode);
        claim.held().await;
        claim
    }

    /// Gets in line.
    fn claim(&self, range: ByteRange, mode: RangeMode) -> LockedRange<'_> {
        let mut state = lock(&self.0);
        let before = state.claims.values().filter(|claim| claim.conflicts(range, mode)).count();
        let number = state.next;
        state.next += 1;
        state.claims.insert(number, RangeClaim { range, mode, before, waker: None });
        LockedRange { lock: self, number }
    }
}

impl LockedRange<'_> {
    async fn held(&self) {
        std::future::poll_fn(|context| {
            let waker = context.waker().clone();
            let mut state = lock(&self.lock.0);
            let claim = state.claims.get_mut(&self.number).expect("it is there until this is dropped");
            if claim.before == 0 {
                return Poll::Ready(());
            }
            let replaced = claim.waker.replace(waker);
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

impl Drop for LockedRange<'_> {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        let mut state = lock(&self.lock.0);
        let gone = state.claims.remove(&self.number).expect("it is there until now");
        let later = state.claims.range_mut((Bound::Excluded(self.number), Bound::Unbounded));
        for (_, claim) in later.filter(|(_, claim)| claim.conflicts(gone.range, gone.mode)) {
            claim.before -= 1;
            if claim.before == 0 {
                woken.extend(claim.waker.take());
            }
        }
        drop(state);
        drop(gone);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// One who came, and what it knows.
    struct Comer<'a> {
        range: ByteRange,
        mode: RangeMode,
        claim: LockedRange<'a>,
        woken: Arc<Woken>,
        holds: bool,
    }

    impl Comer<'_> {
        fn looks(&mut self) {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.holds = pin!(self.claim.held()).poll(&mut Context::from_waker(&waker)).is_ready();
        }
    }

    proptest! {
        /// Oracle: those who came, in a list; one holds its range when nobody before it conflicts with it.
        /// Each looks when it comes and when it is woken, and at no other time.
        #[test]
        fn whoever_may_have_its_range_has_it(
            steps in prop::collection::vec((0u64..40, 1u64..20, any::<bool>(), any::<prop::sample::Index>(), 0u8..3), 1..120)
        ) {
            let lock = RangeLock::default();
            let mut comers: Vec<Comer<'_>> = Vec::new();
            for (offset, length, exclusive, index, what) in steps {
                if what == 0 && !comers.is_empty() {
                    // Whether it holds its range or waits for it.
                    comers.remove(index.index(comers.len()));
                } else {
                    let range = ByteRange::new(offset, length).unwrap();
                    let mode = if exclusive { RangeMode::Exclusive } else { RangeMode::Shared };
                    let claim = lock.claim(range, mode);
                    comers.push(Comer { range, mode, claim, woken: Arc::default(), holds: false });
                    comers.last_mut().unwrap().looks();
                }
                for comer in &mut comers {
                    if comer.woken.0.swap(false, Ordering::Relaxed) {
                        prop_assert!(!comer.holds, "woken for nothing");
                        comer.looks();
                        prop_assert!(comer.holds, "woken for nothing");
                    }
                }
                for (place, comer) in comers.iter().enumerate() {
                    let conflicts = |other: &Comer<'_>| {
                        let meet = other.range.offset() < comer.range.end() && comer.range.offset() < other.range.end();
                        meet && (other.mode, comer.mode) != (RangeMode::Shared, RangeMode::Shared)
                    };
                    prop_assert_eq!(comer.holds, !comers[..place].iter().any(conflicts));
                }
            }
            drop(comers);
            prop_assert!(lock.0.lock().unwrap().claims.is_empty());
        }
    }

    #[test]
    fn a_lock_is_awaited_and_given_back() {
        let lock = RangeLock::default();
        let range = |offset, length| ByteRange::new(offset, length).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |range, mode| pin!(lock.lock(range, mode)).poll(&mut context).is_ready();
        let held = lock.claim(range(0, 100), RangeMode::Shared);
        assert!(poll(range(50, 100), RangeMode::Shared) && poll(range(100, 1), RangeMode::Exclusive));
        assert!(!poll(range(99, 1), RangeMode::Exclusive));
        drop(held);
        assert!(poll(range(99, 1), RangeMode::Exclusive));
    }
}
