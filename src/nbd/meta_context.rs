//! The registry of meta contexts ("Metadata querying"): a further context is one further variant and its
//! name.

use alloc::borrow::Cow;
use alloc::format;
use alloc::sync::Arc;

/// What the name of a [`MetaContext::DirtyBitmap`] begins with.
const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
/// The name of [`MetaContext::Instance`].
pub const INSTANCE: &str = "ringnbd:instance";

/// A meta context that an export may offer.
///
/// Names are `namespace:leaf`. The two rules for queries, [`is_listed_by`](Self::is_listed_by) and
/// [`is_selected_by`](Self::is_selected_by), hold for every namespace that registered them with the spec
/// (`base:`, `qemu:`), and are used for all others too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MetaContext {
    /// `base:allocation`: holes and zeroes.
    BaseAllocation,
    /// `qemu:allocation-depth`: 1 where the topmost layer of a chain has the bytes, 2 and up for those below
    /// it, 0 where none has.
    AllocationDepth,
    /// `qemu:dirty-bitmap:` and a name: 1 where bytes have changed since what is called so.
    DirtyBitmap(Arc<str>),
    /// One of another server, by its full name: what its status means is known there.
    Passed(Arc<str>),
    /// `ringnbd:instance`: one number for the whole export, which changes when what was written and not
    /// flushed may have been lost. For clients that connect again. Only who asks for its name is told of it.
    Instance,
}

impl MetaContext {
    /// The most contexts that one connection can select.
    pub const MOST_SELECTED: usize = 64;

    /// Its full name, `namespace:leaf`.
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Self::BaseAllocation => Cow::Borrowed("base:allocation"),
            Self::AllocationDepth => Cow::Borrowed("qemu:allocation-depth"),
            Self::DirtyBitmap(of) => Cow::Owned(format!("{DIRTY_BITMAP}{of}")),
            Self::Passed(name) => Cow::Owned(name.as_ref().into()),
            Self::Instance => Cow::Borrowed(INSTANCE),
        }
    }

    /// Bytes of its name.
    pub fn name_length(&self) -> usize {
        match self {
            Self::DirtyBitmap(of) => DIRTY_BITMAP.len() + of.len(),
            Self::Passed(name) => name.len(),
            Self::BaseAllocation | Self::AllocationDepth | Self::Instance => self.name().len(),
        }
    }

    /// Whether its status needs more than 32 bits, so that only a client with extended headers can select it.
    ///
    /// Of one of another server nobody knows: it may be selected, and a status that does not fit fails.
    pub const fn needs_extended_headers(&self) -> bool {
        match self {
            Self::BaseAllocation | Self::AllocationDepth | Self::DirtyBitmap(_) => false,
            Self::Passed(_) | Self::Instance => false,
        }
    }

    /// Whether LIST_META_CONTEXT without a query tells of it.
    pub const fn is_listed_unasked(&self) -> bool {
        !matches!(self, Self::Instance)
    }

    /// Whether a query of LIST_META_CONTEXT finds it: its name, or a beginning of it that is a namespace or
    /// a prefix of names (`base:`, `qemu:`, `qemu:dirty-bitmap:`).
    pub fn is_listed_by(&self, query: &str) -> bool {
        match self {
            Self::BaseAllocation if query == "base:" => true,
            Self::AllocationDepth if query == "qemu:" => true,
            Self::DirtyBitmap(_) if query == "qemu:" || query == DIRTY_BITMAP => true,
            Self::Passed(name) if query.ends_with(':') => name.starts_with(query),
            _ => self.is_selected_by(query),
        }
    }

    /// Whether a query of SET_META_CONTEXT selects it: only its name, since the empty leaf "SHOULD NOT select
    /// any contexts".
    pub fn is_selected_by(&self, query: &str) -> bool {
        match self {
            Self::DirtyBitmap(of) => query.strip_prefix(DIRTY_BITMAP) == Some(&**of),
            Self::Passed(name) => **name == *query,
            Self::BaseAllocation | Self::AllocationDepth | Self::Instance => self.name() == query,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MetaContext::{AllocationDepth, BaseAllocation, DirtyBitmap, Instance, Passed};

    #[test]
    fn wildcards_list_and_do_not_select() {
        for (query, listed, selected) in [
            ("base:allocation", true, true),
            ("base:", true, false),
            ("base:alloc", false, false),
            ("base:allocation2", false, false),
            ("x-base:allocation", false, false),
            ("qemu:", false, false),
            (":", false, false),
            ("", false, false),
        ] {
            assert_eq!(BaseAllocation.is_listed_by(query), listed, "{query}");
            assert_eq!(BaseAllocation.is_selected_by(query), selected, "{query}");
        }
    }

    #[test]
    fn contexts_of_others_are_found_by_any_beginning_that_ends_in_a_colon() {
        let passed = Passed("x:map:a".into());
        assert_eq!((passed.name().as_ref(), passed.name_length()), ("x:map:a", 7));
        for (query, listed, selected) in [
            ("x:map:a", true, true),
            ("x:map:", true, false),
            ("x:", true, false),
            ("x:map", false, false),
            ("x:map:a:", false, false),
            ("y:", false, false),
            ("", false, false),
        ] {
            assert_eq!(passed.is_listed_by(query), listed, "{query}");
            assert_eq!(passed.is_selected_by(query), selected, "{query}");
        }
    }

    #[test]
    fn the_instance_is_found_by_its_name_alone() {
        assert_eq!(Instance.name_length(), Instance.name().len());
        for query in ["ringnbd:", "ringnbd", ":", ""] {
            assert!(!Instance.is_listed_by(query) && !Instance.is_selected_by(query), "{query}");
        }
        assert!(Instance.is_listed_by("ringnbd:instance") && Instance.is_selected_by("ringnbd:instance"));
        assert!(!Instance.is_listed_unasked() && BaseAllocation.is_listed_unasked());
    }

    #[test]
    fn names_of_bitmaps_are_taken_whole() {
        let bitmap = DirtyBitmap("a.b".into());
        assert_eq!(bitmap.name(), "qemu:dirty-bitmap:a.b");
        assert_eq!(bitmap.name_length(), bitmap.name().len());
        for (query, depth, dirty, selected) in [
            ("qemu:", true, true, None),
            ("qemu:dirty-bitmap:", false, true, None),
            ("qemu:dirty-bitmap:a.b", false, true, Some(&bitmap)),
            ("qemu:allocation-depth", true, false, Some(&AllocationDepth)),
            ("qemu:dirty-bitmap", false, false, None),
            ("qemu:dirty-bitmap:a", false, false, None),
            ("qemu:dirty-bitmap:a.b:", false, false, None),
            ("qemu:allocation-depth:", false, false, None),
            ("base:", false, false, None),
        ] {
            assert_eq!(AllocationDepth.is_listed_by(query), depth, "{query}");
            assert_eq!(bitmap.is_listed_by(query), dirty, "{query}");
            for context in [&AllocationDepth, &bitmap] {
                assert_eq!(context.is_selected_by(query), selected == Some(context), "{query}");
            }
        }
    }
}
