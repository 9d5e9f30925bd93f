//! Whether anybody still waits for the end of a request.

use std::cell::Cell;

use crate::block::BlockError;

/// Tells a device that nobody waits any more: what takes many steps stops before its next one.
#[derive(Debug, Default)]
pub(crate) struct Abandon(Cell<bool>);

impl Abandon {
    /// Nobody waits any more.
    pub(crate) fn abandon(&self) {
        self.0.set(true);
    }

    /// Whether that was said.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.get()
    }

    /// To be called before each step but the first.
    ///
    /// # Errors
    /// Nobody waits any more. There is no reply that could carry the error.
    pub(super) fn check(&self) -> Result<(), BlockError> {
        match self.is_abandoned() && !canary!(AbandonedZeroingGoesOn) {
            true => Err(BlockError::Io),
            false => Ok(()),
        }
    }
}
