//! What comes to the tier of a store without being asked for, in the form that programs are given it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Its keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushState {
    pub store: PathBuf,
    /// The age of snapshots that come to the tier; none if none does without being asked for.
    pub after_seconds: Option<u64>,
    pub paused: bool,
    /// Bytes a second.
    pub rate: u64,
    /// Snapshots that wait, as they were counted last, and the one that is on its way.
    pub queue: u64,
    pub pushing: Option<String>,
    /// Since the server's start: snapshots, packs and bytes that came to the tier; bytes that were sent, of
    /// uploads too that were cut; pushes that failed.
    pub snapshots: u64,
    pub packs: u64,
    pub bytes: u64,
    pub bytes_sent: u64,
    pub failures: u64,
    /// Why the last push failed, unless one has succeeded since.
    pub error: Option<String>,
    /// Images that another store has taken over: the first ones.
    pub lost: Vec<String>,
    /// When a push succeeded last, in seconds since 1970.
    pub last_success: Option<u64>,
    /// What the loss of the host would cost, as it was counted last.
    pub lag_bytes: u64,
    pub lag_seconds: u64,
}
