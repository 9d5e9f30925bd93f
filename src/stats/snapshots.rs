//! Snapshots of the images of a store since the start.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::interval::{empty, record};

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotOutcome {
    Taken,
    /// It was asked for in vain, as one whose name is taken.
    Refused,
    /// It could not be taken.
    Failed,
}

impl SnapshotOutcome {
    pub(crate) const ALL: [Self; 3] = [Self::Taken, Self::Refused, Self::Failed];

    /// The label in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counts of one store.
#[derive(Debug)]
pub(crate) struct SnapshotStats {
    outcomes: [u64; SnapshotOutcome::ALL.len()],
    /// For how many nanoseconds changes of an image waited, for each image that was open.
    pauses: Histogram<u64>,
}

impl SnapshotStats {
    /// So many snapshots had one outcome.
    pub(crate) fn count(&mut self, outcome: SnapshotOutcome, snapshots: u64) {
        self.outcomes[outcome as usize] += snapshots;
    }

    /// Images were snapshotted whose changes waited for so long.
    pub(crate) fn add_pauses(&mut self, pauses: &[Duration]) {
        for pause in pauses {
            record(&mut self.pauses, u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX), 1);
        }
    }

    pub(super) fn of(&self, outcome: SnapshotOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    pub(super) const fn pauses(&self) -> &Histogram<u64> {
        &self.pauses
    }
}

impl Default for SnapshotStats {
    fn default() -> Self {
        Self { outcomes: Default::default(), pauses: empty() }
    }
}
