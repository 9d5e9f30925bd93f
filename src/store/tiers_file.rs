//! Where the tiers of a store are, and what they are granted: `tiers`, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::boot_trace::BootTrace;
use super::directory::{StoreDirectory, below};
use super::error::StoreError;
use super::foreign::TierLimits;

const NAME: &str = "tiers";
const MOST_BYTES: u64 = 4 << 20;
/// What is noted of boots: snapshots, and ranges of their packs in all.
const MOST_TRACES: usize = 16;
const MOST_RANGES: usize = 1 << 15;
/// A client has given up by then.
const LONGEST_WAIT_S: u64 = 86_400;

/// What the file has. Its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TiersFile {
    /// By the uuids that the tiers have given themselves.
    pub(super) tiers: BTreeMap<Uuid, String>,
    /// What the caches of all packs take at most.
    pub(super) cache_bytes: u64,
    /// How long a read waits for a tier that says nothing, and for one that asks for less.
    pub(super) wait_s: u64,
    #[serde(default = "refused_wait_s")]
    pub(super) refused_wait_s: u64,
    /// What boots have read of snapshots that images began as.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) boot_traces: Vec<BootTrace>,
}

fn refused_wait_s() -> u64 {
    TierLimits::default().refused_wait.as_secs()
}

impl Default for TiersFile {
    fn default() -> Self {
        let TierLimits { wait, cache_bytes, .. } = TierLimits::default();
        let (tiers, boot_traces) = Default::default();
        Self { tiers, cache_bytes, wait_s: wait.as_secs(), refused_wait_s: refused_wait_s(), boot_traces }
    }
}

impl TiersFile {
    /// Notes what boots have read of a snapshot; false if it is known. The oldest are forgotten.
    pub(super) fn note(&mut self, trace: &BootTrace) -> bool {
        if self.boot_traces.contains(trace) {
            return false;
        }
        self.boot_traces.retain(|known| known.snapshot != trace.snapshot);
        self.boot_traces.push(trace.clone());
        while self.boot_traces.len() > MOST_TRACES || self.has_many_ranges() {
            self.boot_traces.remove(0);
        }
        true
    }

    /// The file would be larger than one that is read.
    fn has_many_ranges(&self) -> bool {
        let packs = self.boot_traces.iter().flat_map(|trace| &trace.packs);
        packs.map(|pack| 4 + pack.ranges.len()).sum::<usize>() > MOST_RANGES
    }

    pub(super) fn limits(&self) -> TierLimits {
        TierLimits {
            wait: Duration::from_secs(self.wait_s.min(LONGEST_WAIT_S)),
            refused_wait: Duration::from_secs(self.refused_wait_s.min(LONGEST_WAIT_S)),
            cache_bytes: self.cache_bytes,
        }
    }
}

impl StoreDirectory {
    /// What is known of tiers.
    ///
    /// # Errors
    /// It cannot be read: nothing is made up for it, because a user may have written it.
    pub(super) fn tiers(&self) -> Result<TiersFile, StoreError> {
        let path = self.path().join(NAME);
        let mut bytes = Vec::new();
        match below(self.root(), NAME, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file)
                .take(MOST_BYTES)
                .read_to_end(&mut bytes)
                .map_err(StoreError::at("read", &path))?,
            Err(Errno::NOENT) => return Ok(TiersFile::default()),
            Err(error) => return Err(StoreError::at("read", &path)(error)),
        };
        let wrong = |error: serde_json::Error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        serde_json::from_slice(&bytes).map_err(wrong).map_err(StoreError::at("read", &path))
    }

    /// Replaces it, durably.
    pub(super) fn keep_tiers(&self, tiers: &TiersFile) -> Result<(), StoreError> {
        self.replace(NAME, &serde_json::to_vec_pretty(tiers).unwrap_or_default())
    }
}
