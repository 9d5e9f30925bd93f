//! The zones of the arena, and the sizes that decide between them.

/// Leases above this size come from the zone for long ones only. Those between have a zone of their own,
/// which long ones cannot use up.
const LONG_THRESHOLD: usize = 4 << 20;

/// A zone of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZoneKind {
    Small,
    /// Leases of more than 1 MiB.
    Middle,
    Long,
    /// For what must neither use up nor break up the other zones.
    Apart,
    /// For devices.
    Reserve,
}

impl ZoneKind {
    pub(super) fn of(length: usize) -> Self {
        match length {
            0..=BULK_THRESHOLD => Self::Small,
            _ if length <= LONG_THRESHOLD => Self::Middle,
            _ => Self::Long,
        }
    }
}

/// The order of the block that so many bytes need.
#[inline]
pub(super) fn order_of(length: usize) -> u8 {
    // What most requests need.
    if length <= UNIT {
        return 0;
    }
    length.div_ceil(UNIT).max(1).next_power_of_two().trailing_zeros() as u8
}

/// Bytes of one unit of the arena: a page, the strictest alignment that O_DIRECT asks for in practice.
pub(crate) const UNIT: usize = 4096;
/// Leases above this size do not come from the zone for small ones, so that these never break up large
/// blocks.
pub(crate) const BULK_THRESHOLD: usize = 1 << 20;
