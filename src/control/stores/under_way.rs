//! How far work is that somebody asks about again and again.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::store::error::StoreError;
use crate::store::layer_copy::CopyProgress;

/// An image that is being flattened, or was.
pub(super) struct Flattening {
    pub(super) progress: Cell<CopyProgress>,
    pub(super) is_stopped: Cell<bool>,
    /// Whether there was anything to do; none while it goes on.
    pub(super) outcome: RefCell<Option<Result<bool, StoreError>>>,
    pub(super) ended: Notify,
}

impl Flattening {
    pub(super) fn new() -> Self {
        let progress = Cell::new(CopyProgress { done: 0, total: 0 });
        let (is_stopped, outcome, ended) = (Cell::new(false), RefCell::new(None), Notify::new());
        Self { progress, is_stopped, outcome, ended }
    }
}
