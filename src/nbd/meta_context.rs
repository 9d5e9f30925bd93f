//! The registry of meta contexts ("Metadata querying"): a further context is one further entry.

/// A meta context that an export may offer.
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
}
