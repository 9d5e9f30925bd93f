//! How much of the shard's buffer memory a connection may have.
//!
//! No connection may hold more than remains free. So a client that never reads its replies gets half of the
//! memory at the most, the next one a quarter. The last quarter of the small leases is reserved: every
//! connection is guaranteed an equal share of it.

use crate::ring::{BufferPool, Lease, UNIT, ZoneKind};

/// The most that one connection is guaranteed of the last quarter of the small leases: clients that take much
/// and give nothing back do not stop those that need little.
const LARGEST_SHARE: usize = 128 << 10;

/// The memory and its quotas.
#[derive(Debug)]
pub(crate) struct MemoryQuotas {
    pool: BufferPool,
    /// Bytes of the last quarter of the small leases that each connection may hold.
    share: usize,
    /// A connection waits for a long lease: no shorter ones are taken out of that zone.
    long_is_wanted: bool,
    /// A quota has changed in favour of connections that wait.
    relaxed: bool,
}

/// What must be free for a lease that was not lent: so many bytes of its zones, and a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    kind: ZoneKind,
    free: usize,
    block: usize,
}

impl Shortage {
    pub(crate) fn kind(self) -> ZoneKind {
        self.kind
    }

    /// Bytes of the lease.
    pub(crate) fn bytes(self) -> usize {
        self.block
    }

    /// What must be there for either of two of the same zone.
    pub(crate) fn least(self, other: Self) -> Self {
        Self { free: self.free.min(other.free), block: self.block.min(other.block), ..self }
    }
}

impl MemoryQuotas {
    pub(crate) fn new(pool: BufferPool) -> Self {
        Self { pool, share: LARGEST_SHARE, long_is_wanted: false, relaxed: false }
    }

    /// The memory itself.
    pub(crate) fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Lends at least `length` bytes to a connection that holds `held` bytes.
    ///
    /// `None` when there is no room, or when the rest must stay for others.
    #[inline]
    pub(crate) fn lend(&self, length: usize, held: usize) -> Option<Lease> {
        assert!(length <= self.pool.longest(), "a lease of {length} bytes is beyond every limit");
        let kind = self.pool.kind_of(length);
        let must_be_free = self.must_be_free(kind, length, held);
        if kind == ZoneKind::Small {
            return self.pool.take(kind, length, must_be_free);
        }
        if self.free_for(kind) < must_be_free {
            return None;
        }
        self.zones_for(kind).find_map(|kind| self.pool.take(kind, length, 0))
    }

    /// Whether a lease is part of the share that each connection is guaranteed.
    pub(crate) fn is_guaranteed(&self, length: usize, held: usize) -> bool {
        self.pool.kind_of(length) == ZoneKind::Small && held + length <= self.share
    }

    /// Bytes of the zones of a kind that must be free for [`MemoryQuotas::lend`].
    #[inline]
    fn must_be_free(&self, kind: ZoneKind, length: usize, held: usize) -> usize {
        let as_much_is_left = if held > 0 { held + 2 * length } else { 0 };
        let exceeds_share = kind == ZoneKind::Small && held + length > self.share;
        let last_quarter_is_left = if exceeds_share { length + self.pool.size(kind) / 4 } else { 0 };
        as_much_is_left.max(last_quarter_is_left)
    }

    /// What is missing when [`MemoryQuotas::lend`] has lent nothing. It stays true as long as `held` does and
    /// the shares do not grow.
    pub(crate) fn shortage(&self, length: usize, held: usize) -> Shortage {
        let kind = self.pool.kind_of(length);
        let free = self.must_be_free(kind, length, held);
        Shortage { kind, free, block: BufferPool::rounded(length) }
    }

    /// Whether what is free is enough.
    pub(crate) fn could_meet(&self, shortage: Shortage) -> bool {
        self.free_for(shortage.kind) >= shortage.free
            && self.zones_for(shortage.kind).any(|kind| self.pool.has(kind, shortage.block))
    }

    /// While a connection waits for a long lease, those of 1 to 4 MiB keep to their own zone, if there is
    /// one. Long leases never use that zone, so in return the others do not keep long ones waiting for ever.
    pub(crate) fn want_long(&mut self, wanted: bool) {
        let was_wanted = std::mem::replace(&mut self.long_is_wanted, wanted);
        // A connection that waits for one of those may have it now.
        self.relaxed |= was_wanted && !wanted;
    }

    /// The zones that leases of a kind may come from now, in order.
    fn zones_for(&self, kind: ZoneKind) -> impl Iterator<Item = ZoneKind> + use<> {
        let may_spill = !self.long_is_wanted;
        let second = (kind == ZoneKind::Middle && may_spill).then_some(ZoneKind::Long);
        std::iter::once(kind).chain(second)
    }

    /// Bytes of these zones that are not lent.
    fn free_for(&self, kind: ZoneKind) -> usize {
        self.zones_for(kind).map(|kind| self.pool.free(kind)).sum()
    }

    /// Lends at least `length` bytes of a zone of its own to a connection that waits, to keep there what it
    /// has received. Half of the zone is for those that keep no more than their share.
    pub(crate) fn lend_stash(&self, length: usize) -> Option<Lease> {
        let half = self.pool.size(ZoneKind::Apart) / 2;
        let must_be_free = if length > self.share { length + half } else { 0 };
        self.pool.take(ZoneKind::Apart, length, must_be_free)
    }

    /// So many connections share the memory. Each is guaranteed an equal part of the last quarter of the
    /// small leases, and as much for what it has received, as long as one page is enough for it. Whole pages,
    /// so that one more or less seldom changes it; true when it has grown.
    pub(crate) fn share_among(&mut self, connections: usize) -> bool {
        // Half of what is kept apart, which is less than that quarter.
        let shared = self.pool.size(ZoneKind::Apart) / 2;
        let share = (shared / connections.max(1) / UNIT * UNIT).clamp(UNIT, LARGEST_SHARE);
        std::mem::replace(&mut self.share, share) < share
    }

    /// Whether something may be lent now that could not since the last call of
    /// [`MemoryQuotas::take_returned`].
    pub(crate) fn has_returned(&self) -> bool {
        self.relaxed || self.pool.has_returned()
    }

    /// The same; the next answer is about what comes from now on.
    pub(crate) fn take_returned(&mut self) -> bool {
        let relaxed = std::mem::take(&mut self.relaxed);
        self.pool.take_returned() || relaxed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::BULK_THRESHOLD;

    const LONGEST: usize = 32 << 20;

    fn memory(bytes: usize, longest: usize) -> MemoryQuotas {
        MemoryQuotas::new(BufferPool::new(bytes, longest).unwrap())
    }

    #[test]
    fn the_last_quarter_is_shared_out() {
        let mut memory = memory(48 << 20, LONGEST);
        memory.share_among(200);
        let hoard = |length: usize| {
            let mut hoard = Vec::new();
            while let Some(lease) = memory.lend(length, hoard.len() * length) {
                hoard.push(lease);
            }
            hoard
        };
        let hoards: Vec<Vec<Lease>> = (0..199).map(|_| hoard(65_536)).collect();
        assert!(hoards[198].is_empty() && hoards[0].len() > 80);
        assert!(memory.lend(1 << 20, 0).is_none(), "it must leave the rest to the small ones");
        let small: Vec<Vec<Lease>> = (0..200).map(|_| hoard(4096)).collect();
        assert!(small.iter().all(|hoard| hoard.len() >= 2));
    }

    #[test]
    fn hoarders_leave_memory_and_small_leases_leave_the_bulk_zone() {
        let memory = memory(48 << 20, LONGEST);
        let mut hoards: Vec<Vec<Lease>> = Vec::new();
        for _ in 0..5 {
            let mut hoard = Vec::new();
            while let Some(lease) = memory.lend(65_536, hoard.len() * 65_536) {
                hoard.push(lease);
            }
            hoards.push(hoard);
        }
        assert!(hoards[..2].iter().all(|hoard| hoard.len() > 10));
        assert!(hoards.iter().all(|hoard| hoard.len() > 1));
        assert!(memory.lend(4096, 0).is_some(), "a newcomer finds room");
        assert!(memory.lend(LONGEST, 0).is_some(), "the largest request finds room");
    }

    #[test]
    fn a_shortage_says_what_must_come_back() {
        let memory = memory(48 << 20, LONGEST);
        let mut leases: Vec<Lease> = std::iter::from_fn(|| memory.lend(UNIT, 0)).collect();
        assert!(memory.lend(5000, 0).is_none());
        let missing = memory.shortage(5000, 0);
        assert!(
            missing.kind() == ZoneKind::Small
                && memory.shortage(BULK_THRESHOLD + 1, 0).kind() != ZoneKind::Small
        );
        assert!(!memory.could_meet(missing));
        // Which of them are neighbours depends on the order in which they were lent.
        while !memory.could_meet(missing) {
            assert!(memory.lend(5000, 0).is_none());
            leases.swap_remove(leases.len() / 2);
        }
        assert!(memory.lend(5000, 0).is_some());
        // One that holds some must leave as much.
        let more = memory.shortage(5000, memory.pool().free_bytes());
        assert!(!memory.could_meet(more) && memory.could_meet(missing.least(more)));
    }

    #[test]
    fn what_those_who_wait_keep_is_not_what_they_wait_for() {
        let mut memory = memory(48 << 20, LONGEST);
        memory.share_among(200);
        let all = || std::iter::from_fn(|| memory.lend(BULK_THRESHOLD, 0)).collect::<Vec<_>>().len();
        let before = all();
        let kept: Vec<Lease> = std::iter::from_fn(|| memory.lend_stash(100_000)).collect();
        assert!(kept.len() >= 4);
        assert!(memory.lend_stash(UNIT).is_some(), "little finds room");
        assert_eq!(all(), before);
    }

    #[test]
    fn long_leases_leave_room_for_those_of_a_few_mebibytes() {
        // What a shard has by default.
        let memory = memory(116 << 20, 64 << 20);
        let slow = memory.lend(48 << 20, 0).unwrap();
        assert!(memory.lend(5 << 20, 0).is_none(), "48 MiB take a block of 64");
        let several: Vec<Lease> = (0..8).map_while(|_| memory.lend(2 << 20, 0)).collect();
        assert_eq!(several.len(), 8);
        let missing = memory.shortage(2 << 20, 0);
        assert!(memory.lend(2 << 20, 0).is_none() && !memory.could_meet(missing));
        drop(slow);
        assert!(memory.could_meet(missing) && memory.lend(2 << 20, 0).is_some(), "what is idle may be used");
    }

    #[test]
    fn whoever_waits_for_a_long_lease_gets_it_in_the_end() {
        let mut memory = memory(116 << 20, 64 << 20);
        let mut lent: Vec<Lease> = (0..10).map_while(|_| memory.lend(2 << 20, 0)).collect();
        assert_eq!(lent.len(), 10);
        assert!(memory.lend(64 << 20, 0).is_none());
        memory.want_long(true);
        // As many come as go.
        for _ in 0..100 {
            if memory.lend(64 << 20, 0).is_some() {
                memory.take_returned();
                let missing = memory.shortage(2 << 20, 0);
                assert!(!memory.could_meet(missing), "the others have their own zone");
                memory.want_long(false);
                assert!(memory.take_returned() && memory.could_meet(missing));
                return;
            }
            drop(lent.pop());
            lent.splice(0..0, memory.lend(2 << 20, 0));
        }
        panic!("it starves");
    }
}
