//! Panics of what is not ours.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// It panicked. What it said went to the panic hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it panicked")]
pub(crate) struct Panicked;

/// Runs something that may panic. Whoever calls this sees to it that nothing half-changed is used afterwards.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        // Dropping what it threw could panic as well.
        std::mem::forget(panic);
        Panicked
    })
}
