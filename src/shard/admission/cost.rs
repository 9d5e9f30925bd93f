//! What a request costs those that hold it back.

use crate::config::RateUnit;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestCost {
    pub(crate) reads: bool,
    pub(crate) bytes: u64,
}

impl RequestCost {
    /// What a rate counts of it.
    pub(super) fn of(self, unit: RateUnit) -> u64 {
        match unit {
            RateUnit::Requests => 1,
            RateUnit::Bytes => self.bytes,
        }
    }
}
