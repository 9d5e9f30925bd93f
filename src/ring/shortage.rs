//! Kinds of leases, and what is missing for one that was not lent.

/// Bytes of one unit of the arena: a page, the strictest alignment that O_DIRECT asks for in practice.
pub(crate) const UNIT: usize = 4096;
/// Leases above this size do not come from the zone for small ones, so that these never break up large blocks.
pub(crate) const BULK_THRESHOLD: usize = 1 << 20;
/// Leases above this size come from the zone for long ones only. Those between have a zone of their own, which long ones cannot use up.
const LONG_THRESHOLD: usize = 4 << 20;

/// Which zone a lease is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneKind {
    Small,
    /// Leases of more than 1 MiB; when their zone is used up they come from that of the long ones.
    Middle,
    Long,
    /// For those who wait: what they keep can neither use up nor break up what they wait for.
    Apart,
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
pub(super) fn order_of(length: usize) -> u8 {
    length.div_ceil(UNIT).max(1).next_power_of_two().trailing_zeros() as u8
}

/// What must be free for a lease that was not lent: so many bytes of a zone, and a block of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub(super) kind: ZoneKind,
    pub(super) free: usize,
    pub(super) order: u8,
}

impl Shortage {
    /// Whether it is one of leases of more than [`BULK_THRESHOLD`].
    pub fn is_bulk(self) -> bool {
        matches!(self.kind, ZoneKind::Middle | ZoneKind::Long)
    }

    /// Whether it is one of the longest leases.
    pub fn is_long(self) -> bool {
        matches!(self.kind, ZoneKind::Long)
    }

    /// Bytes of the lease.
    pub fn bytes(self) -> usize {
        UNIT << self.order
    }

    /// What must be there for either of two of the same zone.
    pub fn least(self, other: Self) -> Self {
        Self { free: self.free.min(other.free), order: self.order.min(other.order), ..self }
    }
}
