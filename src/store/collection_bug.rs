//! Planted bugs of packs and of what removes files: ingest, collections and merges. Their tests must find
//! them.

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
    /// The file of a pack goes before the catalogue says that nothing needs it.
    PackDeletedEarly,
    /// A pack gets the number of one that is gone.
    PackNumberUsedAgain,
    /// A collection does not mark contents that are read though they have no row any more.
    HeldContentsForgotten,
    /// Who finds a chunk no more where a hint tells does not look elsewhere.
    MovedChunksLost,
    /// What was cut off a disk is in its contents again when it has grown.
    CutContentsReappear,
    /// A record of changes counts before it is durable.
    ChangesNotSynced,
    /// Two layers become one, and what told a snapshot that keeps changes only from what came after it is
    /// forgotten.
    MarkForgotten,
    /// A chunk that does not verify reads as zeroes.
    DamageReadsAsZeroes,
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
