//! What a remote device did, counted on its shard and read by anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted since the export was opened, but for the connections.
#[derive(Debug, Default)]
pub(super) struct RemoteCounts {
    connections: AtomicU64,
    connects: AtomicU64,
    losses: AtomicU64,
    sent_again: AtomicU64,
    failed_flushes: AtomicU64,
}

/// What is told of a device that stands on another server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RemoteStatus {
    /// Connections now.
    pub connections: u64,
    /// How often there came to be connections: all of the device at once, or some in place of lost ones.
    pub connects: u64,
    /// Connections that were lost.
    pub losses: u64,
    /// Requests that were under way on them, and were sent once more.
    pub sent_again: u64,
    /// Flushes that failed because a loss may have cost changes that were answered.
    pub failed_flushes: u64,
}

impl RemoteCounts {
    pub(super) fn connected(&self, connections: usize) {
        self.connections.fetch_add(connections as u64, Relaxed);
        self.connects.fetch_add(1, Relaxed);
    }

    /// One of them. Gives how many were lost by now.
    pub(super) fn lost(&self, sent_again: usize) -> u64 {
        // A device that is gone has none, though it may lose one that it was about to end.
        let fewer = |connections: u64| Some(connections.saturating_sub(1));
        let _always_changed = self.connections.fetch_update(Relaxed, Relaxed, fewer);
        self.sent_again.fetch_add(sent_again as u64, Relaxed);
        self.losses.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn flush_failed(&self) {
        self.failed_flushes.fetch_add(1, Relaxed);
    }

    /// The device is gone, and its connections with it.
    pub(super) fn closed(&self) {
        self.connections.store(0, Relaxed);
    }

    pub(super) fn status(&self) -> RemoteStatus {
        RemoteStatus {
            connections: self.connections.load(Relaxed),
            connects: self.connects.load(Relaxed),
            losses: self.losses.load(Relaxed),
            sent_again: self.sent_again.load(Relaxed),
            failed_flushes: self.failed_flushes.load(Relaxed),
        }
    }
}
