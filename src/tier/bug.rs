//! Planted bugs of a tier, which the simulation must find.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TierBug {
    /// A snapshot is acknowledged before its packs are there.
    RecordBeforePacks,
    /// A collector deletes what it has marked without looking at the records again.
    NoSecondLook,
    /// A push does not look at the marks of its packs.
    MarksIgnored,
    /// A push looks at the marks before its record is there.
    MarksBeforeRecord,
    /// A push is committed without a look at who has the name.
    FenceIgnored,
    /// A PUT that was not answered counts as one that did not take place.
    LostAnswerIsFailure,
    /// A pack that was deleted comes again under its old name.
    NameUsedAgain,
    /// A record that was given up may still be committed.
    ExpiredRecordCommitted,
    /// What an image was cloned from is not looked at again once its packs are held.
    HoldNotLookedAt,
    /// What a store keeps for its images ends though one of them reads it.
    ReadHoldReleased,
    /// The object store takes each PUT, whatever its condition.
    #[cfg(test)]
    ConditionsIgnored,
}

/// Whether a bug is switched on: never outside of tests.
#[cfg(not(test))]
pub(super) const fn is_planted(_bug: TierBug) -> bool {
    false
}

#[cfg(test)]
pub(super) use switch::{is_planted, plant};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::TierBug;

    thread_local! {
        static PLANTED: Cell<Option<TierBug>> = const { Cell::new(None) };
    }

    /// Switches one on, or all off, for this thread.
    pub(in crate::tier) fn plant(bug: Option<TierBug>) {
        PLANTED.set(bug);
    }

    pub(in crate::tier) fn is_planted(bug: TierBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
