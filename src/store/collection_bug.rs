//! Planted bugs of what removes files: ingest, collections and merges, which their tests must find.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CollectionBug {
    /// A pack goes although an ingest has found chunks in it since the collection began.
    GcIgnoresPins,
    /// A chunk counts as stored that is in a pack which the catalogue does not list.
    DedupAgainstDeadPack,
    /// Packs go before the pack is listed that has what is needed of them.
    CatalogBeforePack,
    /// The files of a layer, or its data, go before the catalogue says that nothing needs them.
    LayerDeletedEarly,
    /// A pack is listed before it is durable.
    PackNotSynced,
    /// A pack is listed before its name is durable.
    PackNameNotSynced,
}

/// Whether a bug is switched on: never outside of tests.
#[cfg(not(test))]
pub(super) const fn is_planted(_bug: CollectionBug) -> bool {
    false
}

#[cfg(test)]
pub(super) use switch::{is_planted, plant};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::CollectionBug;

    thread_local! {
        static PLANTED: Cell<Option<CollectionBug>> = const { Cell::new(None) };
    }

    /// Switches one on, or all off, for this thread.
    pub(in crate::store) fn plant(bug: Option<CollectionBug>) {
        PLANTED.set(bug);
    }

    pub(in crate::store) fn is_planted(bug: CollectionBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
