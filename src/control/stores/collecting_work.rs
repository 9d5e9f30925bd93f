//! A collection of packs, as those see it who ask how far it is.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::store::collected::CollectedPacks;
use crate::store::error::StoreError;
use crate::store::layer_copy::CopyProgress;

/// Packs that are being collected.
#[derive(Debug, Default)]
pub(super) struct GarbageWork {
    pub(super) progress: Cell<CopyProgress>,
    pub(super) found: Cell<CollectedPacks>,
    /// What came of it, until somebody has asked.
    pub(super) result: RefCell<Option<Result<(), StoreError>>>,
    pub(super) ended: Notify,
    pub(super) ended_at: Cell<Option<Instant>>,
}

/// Whoever has asked for it asks again within this time.
const PATIENCE: Duration = Duration::from_secs(5);

impl GarbageWork {
    /// It ended, and whoever had asked for it does not ask any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.ended_at.get().is_some_and(|at| at.elapsed() > PATIENCE)
    }
}
