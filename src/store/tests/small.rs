//! Small steps and small packs, so that little data makes much of what is between them.

use std::cell::Cell;

use crate::store::step_sizes::StepSizes;

thread_local! {
    static SIZES: Cell<StepSizes> = const { Cell::new(StepSizes::ORDINARY) };
}

/// The sizes of this thread.
pub(in crate::store) fn step_sizes() -> StepSizes {
    SIZES.get()
}

/// Gives this thread other ones.
pub(super) fn set_step_sizes(sizes: StepSizes) {
    SIZES.set(sizes);
}
