//! What the caches of all packs take, and who gives bytes back when that is too much.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// A cache that is open.
pub(super) trait EvictableCache: Send + Sync {
    /// Whether it was used without [`CacheLedger::used`] since this was asked last.
    fn was_used(&self) -> bool;

    /// Gives back what it can.
    fn evict(&self) -> io::Result<()>;
}

/// What the cache of one pack takes.
#[derive(Debug, Default, Clone, Copy)]
struct CachedPack {
    bytes: u64,
    /// The larger, the later.
    used: u64,
}

#[derive(Default)]
struct LedgerState {
    packs: BTreeMap<u64, CachedPack>,
    open: BTreeMap<u64, Weak<dyn EvictableCache>>,
    total: u64,
    uses: u64,
    cap: u64,
}

impl LedgerState {
    fn used(&mut self, number: u64) {
        self.uses += 1;
        self.packs.entry(number).or_default().used = self.uses;
    }

    /// Those that were used without a word were used now.
    fn note_uses(&mut self) {
        let open = self.open.iter();
        let used = open.filter(|(_, cache)| cache.upgrade().is_some_and(|cache| cache.was_used()));
        for number in used.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.used(number);
        }
    }
}

/// See the module.
pub(super) struct CacheLedger {
    state: Mutex<LedgerState>,
}

impl std::fmt::Debug for CacheLedger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CacheLedger").field("total", &self.total()).finish_non_exhaustive()
    }
}

impl CacheLedger {
    pub(super) fn new(cap: u64) -> Self {
        Self { state: Mutex::new(LedgerState { cap, ..LedgerState::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_cap(&self, cap: u64) {
        self.state().cap = cap;
    }

    pub(super) fn total(&self) -> u64 {
        self.state().total
    }

    /// The cache of a pack takes so much; what it took before.
    pub(super) fn set(&self, number: u64, bytes: u64) -> u64 {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.packs.entry(number).or_default().bytes, bytes);
        state.total = state.total - before + bytes;
        before
    }

    pub(super) fn used(&self, number: u64) {
        self.state().used(number);
    }

    pub(super) fn opened(&self, number: u64, cache: Weak<dyn EvictableCache>) {
        self.state().open.insert(number, cache);
    }

    /// A pack is gone.
    pub(super) fn forget(&self, number: u64) {
        self.set(number, 0);
        let mut state = self.state();
        state.packs.remove(&number);
        state.open.remove(&number);
    }

    /// Packs whose caches give bytes back until there is room, those that were used longest ago first; `last`
    /// is the last of them. And whether each is open.
    pub(super) fn going(&self, last: u64) -> Vec<(u64, bool)> {
        let mut state = self.state();
        if state.total <= state.cap {
            return Vec::new();
        }
        state.note_uses();
        let packs = state.packs.iter().filter(|(_, pack)| pack.bytes > 0);
        let mut packs: Vec<_> =
            packs.map(|(number, pack)| (*number == last, pack.used, *number, pack.bytes)).collect();
        packs.sort_unstable();
        // Not one pack for each chunk that comes.
        let (mut over, mut going) = (state.total - state.cap + state.cap / 16, Vec::new());
        for (_, _, number, bytes) in packs {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(bytes);
            going.push((number, state.open.get(&number).is_some_and(|cache| cache.strong_count() > 0)));
        }
        going
    }

    /// Open caches give bytes back if all together have too many.
    pub(super) fn make_room(&self, last: u64) {
        for (number, _) in self.going(last) {
            let open = { self.state().open.get(&number).and_then(Weak::upgrade) };
            if let Some(Err(error)) = open.map(|cache| cache.evict()) {
                tracing::warn!(pack = number, %error, "the cache of a pack cannot be made smaller");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct ReadByItself(AtomicBool);

    impl EvictableCache for ReadByItself {
        fn was_used(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }

        fn evict(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_read_without_a_word_was_used_too() {
        let ledger = CacheLedger::new(100);
        let cache = Arc::new(ReadByItself(AtomicBool::new(true)));
        let read: Arc<dyn EvictableCache> = Arc::<ReadByItself>::clone(&cache);
        ledger.opened(1, Arc::downgrade(&read));
        for number in 1..=3 {
            ledger.set(number, 35);
            ledger.used(number);
        }
        let going = || ledger.going(9).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(going(), [2]);
        ledger.used(2);
        ledger.used(3);
        assert_eq!(going(), [1], "nobody has read it since");
        cache.0.store(true, Ordering::Relaxed);
        assert_eq!(going(), [2]);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_in_use_last() {
        let ledger = CacheLedger::new(100);
        for number in 1..=4 {
            ledger.set(number, 30);
            ledger.used(number);
        }
        ledger.used(1);
        let going = |last| ledger.going(last).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!((ledger.total(), going(2)), (120, vec![3]));
        ledger.set(4, 90);
        assert_eq!((going(3), going(9)), (vec![2, 4], vec![2, 3, 4]));
        ledger.forget(4);
        assert_eq!((ledger.total(), going(1)), (90, vec![]));
        ledger.set_cap(10);
        assert_eq!(going(1), [2, 3, 1], "even the last one");
    }
}
