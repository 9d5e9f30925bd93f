//! What disks have in packs and what that takes, to be looked at without the store.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PackedGauges {
    data: AtomicU64,
    needed: AtomicU64,
}

impl PackedGauges {
    pub(super) fn tell(&self, data: u64, needed: u64) {
        self.data.store(data, Ordering::Relaxed);
        self.needed.store(needed, Ordering::Relaxed);
    }

    /// Bytes that disks have in packs, and what that takes of packs.
    pub(crate) fn look(&self) -> (u64, u64) {
        (self.data.load(Ordering::Relaxed), self.needed.load(Ordering::Relaxed))
    }
}
