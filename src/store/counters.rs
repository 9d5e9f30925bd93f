//! What others know of an open store, and what stays of that when it is opened again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::collection_pins::CollectionPins;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

/// See above.
#[derive(Debug)]
pub(crate) struct StoreCounters {
    changes: Arc<AtomicU64>,
    pins: Arc<CollectionPins>,
}

impl<M: LayerMaps> OpenStore<M> {
    /// What others know of it.
    pub(crate) fn counters(&self) -> StoreCounters {
        StoreCounters { changes: self.change_counter(), pins: self.collection_pins() }
    }

    /// Goes on with what others know of the same store, which was open before. Nothing of it is known to be
    /// as it was.
    pub(crate) fn with_counters(mut self, counters: StoreCounters) -> Self {
        let StoreCounters { changes, pins } = counters;
        changes.fetch_add(1, Ordering::Release);
        (self.changes, self.directory.pins) = (changes, pins);
        self
    }
}
