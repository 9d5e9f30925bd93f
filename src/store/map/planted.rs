//! Planted bugs of the map, which its tests must find.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MapBug {
    /// Leaves are written with the current states, pending ones included.
    PageFromRam,
    /// An older superblock is accepted though records since its position are gone.
    SlotFallback,
    /// A second record may be under way, and durable before the first.
    RecordsOvertake,
    /// Journal space is given up before the superblock that does not need it is durable.
    SpaceGivenUpEarly,
    /// A checkpoint writes over the slots that are live.
    LiveSlotOverwritten,
    /// Changes that were made while a record was under way count as journaled.
    ChangeBesideRecordLost,
    /// A superblock does not say up to where records were durable.
    DurableEndForgotten,
    /// The journal grows while records that are needed are at another place in the larger one.
    GrowthInAnyLap,
    /// While the journal grows, records go on being written where the next lap of the smaller one begins.
    LapBesideGrowth,
    /// Beside a superblock that is damaged, only the journal that the older one knows is looked at.
    RoomNotLookedAt,
}

/// Whether a bug is switched on: never outside of tests.
#[cfg(not(test))]
pub(super) const fn is_planted(_bug: MapBug) -> bool {
    false
}

#[cfg(test)]
pub(super) use switch::{is_planted, plant};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::MapBug;

    thread_local! {
        static PLANTED: Cell<Option<MapBug>> = const { Cell::new(None) };
    }

    /// Switches one on, or all off, for this thread.
    pub(in crate::store::map) fn plant(bug: Option<MapBug>) {
        PLANTED.set(bug);
    }

    pub(in crate::store::map) fn is_planted(bug: MapBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
