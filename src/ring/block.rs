//! The blocks of the arena that are lent.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use super::zone::ZoneKind;

/// A block of a pool `P`.
pub(super) struct Block<P> {
    /// While it is lent, what it is part of; so a lease needs to know its block only.
    pub(super) pool: Cell<Option<Rc<P>>>,
    /// Where it starts, inside the mapping, and as a unit of it.
    pub(super) address: *mut u8,
    pub(super) unit: u32,
    /// Leases of it, or of parts of it.
    pub(super) holders: Cell<u16>,
    pub(super) order: Cell<u8>,
    pub(super) kind: Cell<ZoneKind>,
}

impl<P> Block<P> {
    pub(super) fn new(address: *mut u8, unit: u32) -> Self {
        let (pool, holders, order) = (Cell::new(None), Cell::new(0), Cell::new(0));
        Self { pool, address, unit, holders, order, kind: Cell::new(ZoneKind::Small) }
    }
}

impl<P> fmt::Debug for Block<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Block({}, {} leases)", self.unit, self.holders.get())
    }
}
