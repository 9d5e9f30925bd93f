//! A collection of packs, as those see it who ask how far it is.

use std::cell::{Cell, RefCell};

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
}
