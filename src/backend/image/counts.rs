//! What an image did, counted on its shard and read by anybody.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::layer_files::LayerFiles;

/// Counted since it was opened.
#[derive(Debug, Default)]
pub(super) struct ImageCounts {
    first_writes: AtomicU64,
    journal_bytes: AtomicU64,
}

/// What is told of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ImageStatus {
    /// Blocks of writes of which the head did not have all before.
    pub first_writes: u64,
    /// Bytes of records.
    pub journal_bytes: u64,
    /// Layers, the head among them.
    pub layers: u64,
    /// Bytes that the head's data takes on the disk.
    pub used_bytes: u64,
    /// Bytes that the data of the layers below takes, which other images may stand on too.
    pub below_bytes: u64,
}

impl ImageCounts {
    pub(super) fn first_writes(&self, blocks: u64) {
        self.first_writes.fetch_add(blocks, Relaxed);
    }

    pub(super) fn record(&self, bytes: usize) {
        self.journal_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// What is told of an image with these layers.
pub(super) fn status(layers: &[Arc<LayerFiles>], counts: &ImageCounts) -> ImageStatus {
    // A file that cannot be looked at takes nothing that is known.
    let used = |layer: &Arc<LayerFiles>| layer.data.buffered.metadata().map_or(0, |data| data.blocks() * 512);
    ImageStatus {
        first_writes: counts.first_writes.load(Relaxed),
        journal_bytes: counts.journal_bytes.load(Relaxed),
        layers: layers.len() as u64,
        used_bytes: layers.first().map_or(0, used),
        below_bytes: layers.iter().skip(1).map(used).sum(),
    }
}
