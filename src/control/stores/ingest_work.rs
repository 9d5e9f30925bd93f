//! An ingest, as those see it who ask how far it is.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::store::error::StoreError;
use crate::store::layer_copy::CopyProgress;

/// A snapshot that is coming into packs.
#[derive(Debug, Default)]
pub(super) struct IngestWork {
    pub(super) progress: Cell<CopyProgress>,
    /// What came of it, until somebody has asked.
    pub(super) result: RefCell<Option<Result<(), StoreError>>>,
    pub(super) ended: Notify,
}
