//! What a collection of packs came to, in the form that programs are given it.

use serde::{Deserialize, Serialize};

/// What a collection has done. Its keys are part of the interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectedPacks {
    pub packs_removed: u64,
    pub packs_written: u64,
    /// Bytes of the files that were removed.
    pub bytes_removed: u64,
    /// Bytes that were copied out of them.
    pub bytes_copied: u64,
    /// Bytes of chunks that something needs, of which each counts once.
    pub bytes_needed: u64,
    /// Bytes of chunks that nothing needs, in packs that stay.
    pub bytes_garbage: u64,
    /// Chunks that something needs, nodes of manifests among them.
    pub chunks_needed: u64,
    /// Packs that stay because they cannot be read.
    pub packs_unreadable: u64,
}
