//! One prefetch at a time on an export and a shard; see [`cache`](super::cache).

use std::cell::Cell;

/// Whether a prefetch runs.
#[derive(Debug, Default)]
pub(super) struct Prefetching(Cell<bool>);

/// The prefetch that runs.
pub(super) struct PrefetchGuard<'a>(&'a Cell<bool>);

impl Prefetching {
    /// Begins one, unless one runs.
    pub(super) fn begin(&self) -> Option<PrefetchGuard<'_>> {
        (!self.0.replace(true) || canary!(PrefetchUnbounded)).then_some(PrefetchGuard(&self.0))
    }
}

impl Drop for PrefetchGuard<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefetch_runs_at_a_time() {
        let prefetching = Prefetching::default();
        let running = prefetching.begin().unwrap();
        assert!(prefetching.begin().is_none());
        drop(running);
        assert!(prefetching.begin().is_some());
    }
}
