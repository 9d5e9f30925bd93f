//! What a collection of packs came to and what comes into packs, in the form that programs are given it.

use std::path::PathBuf;

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

/// What comes into packs of a store without being asked for. Its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestState {
    pub store: PathBuf,
    /// For how long a layer has been sealed then; none if nothing comes without being asked for.
    pub after_seconds: Option<u64>,
    pub paused: bool,
    /// Layers that wait, as they were counted last.
    pub queue: u64,
    /// Since the server's start, also of what was asked for: layers, bytes of their chunks, chunks by what
    /// became of them, and bytes of packs.
    pub layers: u64,
    pub bytes: u64,
    pub chunks_zero: u64,
    pub chunks_known: u64,
    pub chunks_written: u64,
    pub bytes_written: u64,
}

/// What `gc` did. Its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedLost {
    pub store: PathBuf,
    /// Otherwise the work goes on, and the same request tells how far it is.
    #[serde(default = "yes")]
    pub finished: bool,
    pub removed: usize,
    pub lost: usize,
    #[serde(flatten)]
    pub packs: CollectedPacks,
    /// Bytes of packs that were looked at or copied, of all that are to be.
    #[serde(default)]
    pub done: u64,
    #[serde(default)]
    pub total: u64,
}

/// Earlier servers answer when all is done.
const fn yes() -> bool {
    true
}
