//! The registry of meta contexts ("Metadata querying"): a further context is one further variant and its
//! name.

/// A meta context that an export may offer.
///
/// Names are `namespace:leaf`. The two rules for queries, [`is_listed_by`](Self::is_listed_by) and
/// [`is_selected_by`](Self::is_selected_by), hold for every namespace that registered them with the spec
/// (`base:`, `qemu:`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaContext {
    /// `base:allocation`: holes and zeroes.
    BaseAllocation,
}

impl MetaContext {
    /// Its full name, `namespace:leaf`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
        }
    }

    /// Whether its status needs more than 32 bits, so that only a client with extended headers can select it.
    pub const fn needs_extended_headers(self) -> bool {
        match self {
            Self::BaseAllocation => false,
        }
    }

    /// Whether a query of LIST_META_CONTEXT finds it: its name, or a beginning of it that ends in a colon
    /// (`base:`, and so later `qemu:` and `qemu:dirty-bitmap:`).
    pub fn is_listed_by(self, query: &str) -> bool {
        self.is_selected_by(query) || (query.ends_with(':') && self.name().starts_with(query))
    }

    /// Whether a query of SET_META_CONTEXT selects it: only its name, since the empty leaf "SHOULD NOT select
    /// any contexts".
    pub fn is_selected_by(self, query: &str) -> bool {
        self.name() == query
    }
}

#[cfg(test)]
mod tests {
    use super::MetaContext::BaseAllocation;

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
}
