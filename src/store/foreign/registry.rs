//! The packs of other stores that a store knows, and what their caches take.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use uuid::Uuid;

use super::fetching::{TierCounts, TierFetching, TierLimits};
use super::ledger::CacheLedger;
use super::partial::{PartialPack, PartialShape, punch_chunks};
use super::source::{RangeSource, SourcePack};
use crate::mutex::lock;
use crate::store::catalog::{CatalogView, ForeignRow, PackOrigin};

#[derive(Debug, Default)]
struct KnownPacks {
    rows: BTreeMap<u64, (ForeignRow, u64)>,
    numbers: BTreeMap<PackOrigin, u64>,
    open: BTreeMap<u64, Weak<PartialPack>>,
}

/// What a store has had of its tiers, as [`TierCounts`] counts it, and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TierFigures {
    pub(crate) fetches: u64,
    pub(crate) fetched_bytes: u64,
    pub(crate) failed: u64,
    pub(crate) gave_up: u64,
    pub(crate) wrong: u64,
    pub(crate) waits: u64,
    pub(crate) waited_ns: u64,
    pub(crate) evicted_bytes: u64,
    pub(crate) cached_bytes: u64,
}

/// See the module. One for each open store.
#[derive(Debug)]
pub(crate) struct ForeignPacks {
    known: Mutex<KnownPacks>,
    fetching: Arc<TierFetching>,
    ledger: Arc<CacheLedger>,
}

impl Default for ForeignPacks {
    fn default() -> Self {
        let fetching = Arc::new(TierFetching::new());
        let ledger = Arc::new(CacheLedger::new(fetching.limits().cache_bytes));
        Self { known: Mutex::default(), fetching, ledger }
    }
}

impl ForeignPacks {
    /// Bytes come from here.
    pub(crate) fn set_source(&self, source: Arc<dyn RangeSource>) {
        self.fetching.set_source(source);
    }

    pub(crate) fn has_source(&self) -> bool {
        self.fetching.has_source()
    }

    /// Asks the tiers whether they are there, and makes ready what a confined process cannot.
    pub(crate) fn look(&self) {
        self.fetching.look();
    }

    pub(crate) fn set_limits(&self, limits: TierLimits) {
        self.fetching.set_limits(limits);
        self.ledger.set_cap(limits.cache_bytes);
    }

    #[cfg(test)]
    pub(in crate::store) fn clock(&self) -> &super::clock::FetchClock {
        self.fetching.clock()
    }

    /// What was done so far.
    pub(crate) fn figures(&self) -> TierFigures {
        let counts = &self.fetching.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TierFigures {
            fetches: of(&counts.fetches),
            fetched_bytes: of(&counts.fetched_bytes),
            failed: of(&counts.failed),
            gave_up: of(&counts.gave_up),
            wrong: of(&counts.wrong),
            waits: of(&counts.waits),
            waited_ns: of(&counts.waited_ns),
            evicted_bytes: of(&counts.evicted_bytes),
            cached_bytes: self.cached_bytes(),
        }
    }

    /// Bytes that caches take.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.ledger.total()
    }

    /// The packs are those of a catalogue from now on.
    pub(in crate::store) fn follow(&self, view: &CatalogView) {
        let sizes: BTreeMap<u64, u64> = view.packs().map(|row| (row.number, row.bytes)).collect();
        let mut known = KnownPacks::default();
        for row in view.foreign_packs() {
            known.numbers.extend(row.names().map(|name| (name, row.number)));
            let bytes = sizes.get(&row.number).copied().unwrap_or_default();
            known.rows.insert(row.number, (row.clone(), bytes));
        }
        let mut now = lock(&self.known);
        known.open = std::mem::take(&mut now.open);
        known.open.retain(|_, pack| pack.strong_count() > 0);
        *now = known;
    }

    /// The pack's name in its header, if another store wrote it.
    pub(in crate::store) fn origin(&self, number: u64) -> Option<PackOrigin> {
        lock(&self.known).rows.get(&number).map(|(row, _)| row.origin)
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.known).rows.is_empty()
    }

    /// All of them, the latest first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        lock(&self.known).rows.keys().rev().copied().collect()
    }

    /// What a number of another store means here.
    pub(crate) fn translate(&self, store: Uuid, number: u64) -> Option<u64> {
        lock(&self.known).numbers.get(&PackOrigin { store, number }).copied()
    }

    /// Opens the cache of a pack, or takes the one that is open. `file` opens the file of the cache of any
    /// pack, and may be asked for others: what is not open gives its bytes back here.
    pub(crate) fn open(
        &self,
        number: u64,
        file: &dyn Fn(u64) -> io::Result<File>,
    ) -> io::Result<Arc<PartialPack>> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (row, bytes) = lock(&self.known).rows.get(&number).cloned().ok_or_else(gone)?;
        let open = { lock(&self.known).open.get(&number).and_then(Weak::upgrade) };
        if let Some(open) = open {
            return Ok(open);
        }
        self.evict_closed(number, file);
        let PackOrigin { store, number: origin } = row.origin;
        let source = SourcePack { tier: row.tier, store, number: origin, upload: row.upload };
        let shape = PartialShape { number, source, bytes, footer_offset: row.footer_offset };
        let opened = PartialPack::new(shape, file(number)?, &self.fetching, &self.ledger)?;
        lock(&self.known).open.insert(number, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// A file of a cache was found that takes so many bytes.
    pub(crate) fn found(&self, number: u64, bytes: u64) {
        self.ledger.set(number, bytes);
    }

    fn evict_closed(&self, opening: u64, file: &dyn Fn(u64) -> io::Result<File>) {
        for (number, is_open) in self.ledger.going(opening) {
            if is_open || number == opening {
                continue;
            }
            let footer = lock(&self.known).rows.get(&number).map_or(0, |(row, _)| row.footer_offset);
            match file(number).and_then(|file| punch_chunks(&file, footer)) {
                Ok(()) => {
                    let before = self.ledger.set(number, 0);
                    TierCounts::add(&self.fetching.counts.evicted_bytes, before);
                }
                Err(error) => {
                    tracing::warn!(pack = number, %error, "a cache of a pack cannot be made smaller");
                }
            }
        }
    }

    /// A pack is gone.
    pub(crate) fn forget(&self, number: u64) {
        self.ledger.forget(number);
    }
}
