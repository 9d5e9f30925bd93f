//! Where tests end a process that changes a store: beside the catalogue's transaction.

/// Before or behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitCut {
    /// The catalogue is never told.
    BeforeCatalog,
    /// It is, and no file was removed.
    BehindCatalog,
}

/// Whether the process ends here: never outside of tests.
#[cfg(not(test))]
pub(super) const fn is_cut(_at: CommitCut) -> bool {
    false
}

#[cfg(test)]
pub(super) use switch::{cut_commits, is_cut};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::CommitCut;

    thread_local! {
        static CUT: Cell<Option<CommitCut>> = const { Cell::new(None) };
    }

    /// Changes of stores end there from now on, on this thread.
    pub(in crate::store) fn cut_commits(at: Option<CommitCut>) {
        CUT.set(at);
    }

    pub(in crate::store) fn is_cut(at: CommitCut) -> bool {
        CUT.get() == Some(at)
    }
}
