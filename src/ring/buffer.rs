//! Buffer memory of a shard: one mapped arena, taken at start, registered with the ring, lent out as [`Lease`]s.
//!
//! A lease is the only way to reach the memory. Whoever hands one to the kernel moves it into the operation, so safe code cannot touch
//! bytes that the kernel may be writing. There are two types, so that the compiler checks who may write:
//!
//! * A [`Lease`] is the only holder of its bytes. The kernel may write into it, and so may its owner. It can be [split](Lease::split_at)
//!   into leases of disjoint parts, for several reads at once.
//! * A [`SharedLease`], made by [`Lease::freeze`], has any number of holders. Nobody writes its bytes again.
//!
//! The block is counted: it goes back when the last lease of any of its parts is gone.

use std::cell::{Cell, Ref, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use super::buddy::Buddy;
use super::shortage::{BULK_THRESHOLD, Shortage, UNIT, ZoneKind, order_of};
use crate::sys::Mapping;

/// The longest lease that a pool can be made for.
pub const LARGEST_LEASE: usize = 256 << 20;
/// Of the last quarter of the small leases everybody gets the same share, and no more than this: clients that take much and give
/// nothing back do not stop those that need little.
const LARGEST_LAST_SHARE: usize = 128 << 10;

/// Bytes at the most that are kept for [`BufferPool::lend_apart`].
const MOST_APART: usize = 16 << 20;
/// The zone for leases of 1 to 4 MiB is a multiple of so many units.
const MIDDLE_STEP: u32 = ((8 << 20) / UNIT) as u32;

/// Four zones over one mapping.
#[derive(Debug)]
pub struct BufferPool {
    inner: Rc<PoolCore>,
}

#[derive(Debug)]
struct PoolCore {
    mapping: Mapping,
    /// By [`ZoneKind`].
    zones: [RefCell<Zone>; 4],
    /// Bytes of the longest lease.
    longest: usize,
    /// Somebody waits for a long lease: no shorter ones are taken out of that zone.
    long_is_wanted: Cell<bool>,
    /// The blocks that start at each unit; only those that are lent mean something.
    blocks: Box<[Block]>,
    /// Bytes of the last quarter of the small leases that one may hold.
    last_share: Cell<usize>,
    /// Set when a lease came back; the shard's loop wakes who waits for memory.
    returned: Cell<bool>,
}

/// A block that is lent.
struct Block {
    /// While it is lent, what it is part of; so a lease needs to know its block only.
    pool: Cell<Option<Rc<PoolCore>>>,
    /// Where it starts, inside the mapping, and as a unit of it.
    address: *mut u8,
    unit: u32,
    /// Leases of it, or of parts of it.
    holders: Cell<u16>,
    order: Cell<u8>,
    kind: Cell<ZoneKind>,
}

impl Block {
    fn new(mapping: &Mapping, unit: u32) -> Self {
        let address = mapping.address().wrapping_add(unit as usize * UNIT);
        let (pool, holders, order) = (Cell::new(None), Cell::new(0), Cell::new(0));
        Self { pool, address, unit, holders, order, kind: Cell::new(ZoneKind::Small) }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Block({}, {} leases)", self.unit, self.holders.get())
    }
}

#[derive(Debug)]
struct Zone {
    first_unit: u32,
    units: u32,
    buddy: Buddy,
}

impl Zone {
    /// Bytes that are not lent.
    fn free(&self) -> usize {
        self.buddy.free_units() as usize * UNIT
    }

    /// Bytes.
    fn last_quarter(&self) -> usize {
        self.units as usize * UNIT / 4
    }
}

/// A counted loan of part of the arena, aligned to 4,096 bytes unless it was split. It is the only way to its bytes.
#[derive(Debug)]
pub struct Lease {
    /// In the pool that it holds itself until the last of its leases is gone. A pointer also keeps a lease on its shard.
    block: NonNull<Block>,
    /// Its part of the block, in bytes.
    start: u32,
    length: u32,
}

/// A lease that may have several holders, and that nobody writes any more.
///
/// It cannot be handed to the kernel to be written:
///
/// ```compile_fail,E0308
/// # use ringnbd::ring::{FileIndex, Lease, Operation};
/// fn read(file: FileIndex, lease: Lease) -> Operation {
///     let shared = lease.freeze();
///     Operation::Read { file, offset: 0, lease: shared, start: 0, length: 512 }
/// }
/// ```
///
/// nor can a lease be kept that the kernel writes:
///
/// ```compile_fail,E0382
/// # use ringnbd::ring::{FileIndex, Lease, Operation};
/// fn read(file: FileIndex, lease: Lease) -> (Operation, Lease) {
///     (Operation::Read { file, offset: 0, lease, start: 0, length: 512 }, lease)
/// }
/// ```
#[derive(Debug)]
pub struct SharedLease(Lease);

impl BufferPool {
    /// Maps `bytes` of memory for leases of up to `longest` bytes. Long ones get three eighths, and at least one of the longest; those of 1 to
    /// 4 MiB a third of the rest, in steps of 8 MiB. Of what is left a quarter, and at most 16 MiB, is for [`BufferPool::lend_apart`].
    ///
    /// A server asks for 48 MiB and more ([`Limits::MINIMUM_MEMORY_PER_SHARD`](crate::config::Limits::MINIMUM_MEMORY_PER_SHARD)); less is for
    /// tests, and may leave no room for what is kept apart.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn new(bytes: usize, longest: usize) -> std::io::Result<Self> {
        let largest = longest.next_power_of_two().max(UNIT);
        assert!(longest <= LARGEST_LEASE, "a lease of {longest} bytes is beyond every limit");
        assert!(bytes >= largest + BULK_THRESHOLD, "limits leave no room for one largest lease");
        let units = (bytes / UNIT) as u32;
        let mapping = Mapping::anonymous(units as usize * UNIT)?;
        let (long, middle) = if longest > BULK_THRESHOLD {
            let largest = (largest / UNIT) as u32;
            let long = (units / 8 * 3 / largest * largest).max(largest);
            (long, (units - long) / 3 / MIDDLE_STEP * MIDDLE_STEP)
        } else {
            (0, 0)
        };
        let order = order_of(longest.max(BULK_THRESHOLD));
        let apart = ((units - long - middle) / 4).min((MOST_APART / UNIT) as u32);
        let zone =
            |first_unit, units| RefCell::new(Zone { first_unit, units, buddy: Buddy::new(units, order) });
        // The long zone stands first, where its blocks are aligned by their own size.
        let small = units - long - middle - apart;
        let zones =
            [zone(long + middle, small), zone(long, middle), zone(0, long), zone(units - apart, apart)];
        let blocks = (0..units).map(|unit| Block::new(&mapping, unit)).collect();
        let (last_share, returned) = (Cell::new(LARGEST_LAST_SHARE), Cell::new(false));
        let long_is_wanted = Cell::new(false);
        Ok(Self {
            inner: Rc::new(PoolCore {
                mapping,
                zones,
                longest,
                long_is_wanted,
                blocks,
                last_share,
                returned,
            }),
        })
    }

    /// Lends at least `length` bytes to someone who already holds `held` bytes.
    ///
    /// `None` when there is no room, or when the rest must stay for others: nobody comes to hold more than what is free after it. So
    /// a client that never reads its replies gets half of the memory at the most, the next one a quarter; and the last quarter is shared
    /// out evenly, see [`BufferPool::share_among`].
    pub fn lend(&self, length: usize, held: usize) -> Option<Lease> {
        if length <= UNIT {
            return self.lend_unit(length, held);
        }
        assert!(length <= self.inner.longest, "a lease of {length} bytes is beyond every limit");
        let kind = self.kind_of(length);
        if self.free_for(kind) < self.must_be_free(kind, &self.zone(kind), length, held) {
            return None;
        }
        self.zones_for(kind).find_map(|kind| self.take(kind, length))
    }

    /// The same for what most requests need, with one look at its zone.
    #[inline]
    fn lend_unit(&self, length: usize, held: usize) -> Option<Lease> {
        let mut zone = self.inner.zones[ZoneKind::Small as usize].borrow_mut();
        if zone.free() < self.must_be_free(ZoneKind::Small, &zone, length, held) {
            return None;
        }
        let unit = zone.buddy.take(0)? + zone.first_unit;
        drop(zone);
        Some(self.hand_out(unit, 0, ZoneKind::Small))
    }

    fn kind_of(&self, length: usize) -> ZoneKind {
        match ZoneKind::of(length) {
            // They would have no zone of their own.
            ZoneKind::Middle if self.zone(ZoneKind::Middle).units == 0 => ZoneKind::Long,
            kind => kind,
        }
    }

    /// Whether a lease is part of what is shared out evenly, of which each connection is sure.
    pub fn is_sure_of(&self, length: usize, held: usize) -> bool {
        matches!(ZoneKind::of(length), ZoneKind::Small) && held + length <= self.inner.last_share.get()
    }

    /// Bytes of the zone of a kind that must be free for [`BufferPool::lend`].
    #[inline]
    fn must_be_free(&self, kind: ZoneKind, zone: &Zone, length: usize, held: usize) -> usize {
        let as_much_is_left = if held > 0 { held + 2 * length } else { 0 };
        let exceeds_share = matches!(kind, ZoneKind::Small) && held + length > self.inner.last_share.get();
        let last_quarter_is_left = if exceeds_share { length + zone.last_quarter() } else { 0 };
        as_much_is_left.max(last_quarter_is_left)
    }

    /// What is missing when [`BufferPool::lend`] has lent nothing. It stays true as long as `held` does and the shares do not grow.
    pub fn shortage(&self, length: usize, held: usize) -> Shortage {
        let kind = self.kind_of(length);
        let free = self.must_be_free(kind, &self.zone(kind), length, held);
        Shortage { kind, free, order: order_of(length) }
    }

    /// Whether what is free is enough.
    pub fn could_meet(&self, shortage: Shortage) -> bool {
        self.free_for(shortage.kind) >= shortage.free
            && self
                .zones_for(shortage.kind)
                .any(|kind| self.inner.zones[kind as usize].borrow_mut().buddy.has(shortage.order))
    }

    /// While somebody waits for a long lease, those of 1 to 4 MiB keep to their own zone, if there is one: their zone is theirs
    /// alone, so in return they do not keep long ones from being lent for ever.
    pub fn want_long(&self, wanted: bool) {
        if self.inner.long_is_wanted.replace(wanted) && !wanted {
            // Whoever waits for one of those may have it now.
            self.inner.returned.set(true);
        }
    }

    fn zone(&self, kind: ZoneKind) -> Ref<'_, Zone> {
        self.inner.zones[kind as usize].borrow()
    }

    /// The zones that leases of a kind may come from now, in order.
    fn zones_for(&self, kind: ZoneKind) -> impl Iterator<Item = ZoneKind> + use<> {
        let may_spill = !self.inner.long_is_wanted.get();
        let second = (kind == ZoneKind::Middle && may_spill).then_some(ZoneKind::Long);
        std::iter::once(kind).chain(second)
    }

    /// Bytes of these zones that are not lent.
    fn free_for(&self, kind: ZoneKind) -> usize {
        self.zones_for(kind).map(|kind| self.zone(kind).free()).sum()
    }

    /// Lends at least `length` bytes of a zone of its own to someone who waits for a lease, to keep there what it has received. Half of the
    /// zone is for those who keep no more than their share of the last quarter.
    pub fn lend_apart(&self, length: usize) -> Option<Lease> {
        let (free, half) = {
            let zone = self.inner.zones[ZoneKind::Apart as usize].borrow();
            (zone.free(), zone.units as usize * UNIT / 2)
        };
        if length > self.inner.last_share.get() && free < length + half {
            return None;
        }
        self.take(ZoneKind::Apart, length)
    }

    fn take(&self, kind: ZoneKind, length: usize) -> Option<Lease> {
        let order = order_of(length);
        let mut zone = self.inner.zones[kind as usize].borrow_mut();
        let unit = zone.buddy.take(order)? + zone.first_unit;
        drop(zone);
        Some(self.hand_out(unit, order, kind))
    }

    #[inline]
    fn hand_out(&self, unit: u32, order: u8, kind: ZoneKind) -> Lease {
        let block = &self.inner.blocks[unit as usize];
        assert_eq!(block.holders.replace(1), 0, "unit {unit} is lent twice");
        block.order.set(order);
        block.kind.set(kind);
        block.pool.set(Some(Rc::clone(&self.inner)));
        Lease { block: NonNull::from(block), start: 0, length: (UNIT << order) as u32 }
    }

    /// So many connections share the memory: each is sure of an equal part of the last quarter of the small leases for what it holds, and
    /// of as much for what it has received, as long as one page is enough for it. Whole pages, so that one more or less seldom changes
    /// it; true when it has grown.
    pub fn share_among(&self, connections: usize) -> bool {
        // Half of what is kept apart, which is less than that quarter.
        let shared = self.inner.zones[ZoneKind::Apart as usize].borrow().units as usize * UNIT / 2;
        let share = (shared / connections.max(1) / UNIT * UNIT).clamp(UNIT, LARGEST_LAST_SHARE);
        self.inner.last_share.replace(share) < share
    }

    /// Whether a lease came back since the last call.
    pub fn take_returned(&self) -> bool {
        self.inner.returned.replace(false)
    }

    /// Whether [`BufferPool::take_returned`] would say so.
    pub fn has_returned(&self) -> bool {
        self.inner.returned.get()
    }

    /// Bytes that are not lent.
    pub fn free_bytes(&self) -> usize {
        self.inner.zones.iter().map(|zone| zone.borrow().free()).sum()
    }

    /// Bytes in all.
    pub fn total_bytes(&self) -> usize {
        self.inner.zones.iter().map(|zone| zone.borrow().units as usize * UNIT).sum()
    }

    /// The same pool under another handle.
    pub(super) fn another_handle(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }

    /// Address and length of the whole arena, for registration.
    pub(super) fn arena(&self) -> (*mut u8, usize) {
        (self.inner.mapping.address(), self.inner.mapping.length())
    }
}

impl Lease {
    /// Bytes that it holds: a power of two times 4,096 unless it was split.
    pub fn capacity(&self) -> usize {
        self.length as usize
    }

    /// Lets others hold the same bytes; from now on nobody may write them.
    pub fn freeze(self) -> SharedLease {
        SharedLease(self)
    }

    /// Whether the byte at `start` has an address that is a multiple of `alignment`, as O_DIRECT wants it.
    pub fn is_aligned(&self, start: u32, alignment: u32) -> bool {
        (self.address().addr() + start as usize).is_multiple_of(alignment as usize)
    }

    /// Two leases of the bytes before and from `at`. Each is the only holder of its part, so both may be read into at the same time.
    pub fn split_at(mut self, at: usize) -> (Self, Self) {
        assert!(at <= self.capacity(), "split beyond the end");
        let mut rest = self.another_holder();
        rest.start += at as u32;
        rest.length -= at as u32;
        self.length = at as u32;
        (self, rest)
    }

    fn block(&self) -> &Block {
        // SAFETY: the block lies in memory that its pool owns and never moves, and as long as there is a lease of it, it holds the pool.
        unsafe { self.block.as_ref() }
    }

    /// The same bytes once more: the caller sees to it that they are not both written and reached otherwise.
    fn another_holder(&self) -> Self {
        let holders = &self.block().holders;
        holders.set(holders.get().checked_add(1).expect("fewer holders than chunks of one reply"));
        Self { block: self.block, start: self.start, length: self.length }
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: every block lent is inside the mapping, which lives as long as the pool that the block holds, and it is initialised (anonymous memory is zero). Who
        // writes it has the only lease of it by `&mut` or, being the kernel, inside an operation and out of reach of safe code.
        unsafe { std::slice::from_raw_parts(self.address().add(range.start), range.len()) }
    }

    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: as in `bytes`; this is the only lease of these bytes (others of the block hold other parts, and a lease that is shared
        // is given out by shared reference only), and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address().add(range.start), range.len()) }
    }

    /// Where its bytes start, for the kernel.
    pub(super) fn address(&self) -> *mut u8 {
        self.block().address.wrapping_add(self.start as usize)
    }
}

impl SharedLease {
    /// Bytes that it holds.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.0.bytes(range)
    }

    /// Where its bytes start, for the kernel to read.
    pub(super) fn address(&self) -> *const u8 {
        self.0.address()
    }
}

impl Clone for SharedLease {
    fn clone(&self) -> Self {
        Self(self.0.another_holder())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let block = self.block();
        block.holders.set(block.holders.get() - 1);
        if block.holders.get() == 0 {
            // It lives as long as this.
            let pool = block.pool.take().expect("a block that is lent holds its pool");
            let mut zone = pool.zones[block.kind.get() as usize].borrow_mut();
            let first = zone.first_unit;
            zone.buddy.give(block.unit - first, block.order.get());
            drop(zone);
            pool.returned.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 32 << 20;

    #[test]
    fn a_lease_comes_back_with_its_last_holder() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let free = pool.free_bytes();
        let mut lease = pool.lend(5000, 0).unwrap();
        assert_eq!(lease.capacity(), 8192);
        lease.bytes_mut(0..5000).fill(7);
        let lease = lease.freeze();
        let second = lease.clone();
        drop(lease);
        assert!(!pool.take_returned());
        assert_eq!(second.bytes(4999..5000), [7]);
        drop(second);
        assert!(pool.take_returned());
        assert_eq!(pool.free_bytes(), free);
    }

    #[test]
    fn parts_are_disjoint_and_give_the_block_back_together() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let free = pool.free_bytes();
        let (mut front, rest) = pool.lend(8192, 0).unwrap().split_at(1000);
        let (mut middle, mut back) = rest.split_at(3000);
        assert_eq!((front.capacity(), middle.capacity(), back.capacity()), (1000, 3000, 4192));
        front.bytes_mut(0..1000).fill(1);
        middle.bytes_mut(0..3000).fill(2);
        back.bytes_mut(0..4192).fill(3);
        assert_eq!(middle.address(), front.address().wrapping_add(1000));
        assert_eq!(back.address(), front.address().wrapping_add(4000));
        assert!(front.bytes(0..1000).iter().all(|byte| *byte == 1));
        assert!(middle.bytes(0..3000).iter().all(|byte| *byte == 2));
        let middle = middle.freeze();
        drop((front, back));
        assert!(!pool.take_returned() && middle.bytes(2999..3000) == [2]);
        drop(middle);
        assert!(pool.take_returned() && pool.free_bytes() == free);
    }

    #[test]
    #[should_panic(expected = "range.end <= self.capacity()")]
    fn a_part_ends_where_the_next_begins() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let (mut front, _back) = pool.lend(8192, 0).unwrap().split_at(1000);
        front.bytes_mut(0..1001);
    }

    #[test]
    fn the_last_quarter_is_shared_out() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        pool.share_among(200);
        let hoard = |length: usize| {
            let mut hoard = Vec::new();
            while let Some(lease) = pool.lend(length, hoard.len() * length) {
                hoard.push(lease);
            }
            hoard
        };
        let hoards: Vec<Vec<Lease>> = (0..199).map(|_| hoard(65_536)).collect();
        assert!(hoards[198].is_empty() && hoards[0].len() > 80);
        assert!(pool.lend(1 << 20, 0).is_none(), "it must leave the rest to the small ones");
        let small: Vec<Vec<Lease>> = (0..200).map(|_| hoard(4096)).collect();
        assert!(small.iter().all(|hoard| hoard.len() >= 2));
    }

    #[test]
    fn hoarders_leave_memory_and_small_leases_leave_the_bulk_zone() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let mut hoards: Vec<Vec<Lease>> = Vec::new();
        for _ in 0..5 {
            let mut hoard = Vec::new();
            while let Some(lease) = pool.lend(65_536, hoard.len() * 65_536) {
                hoard.push(lease);
            }
            hoards.push(hoard);
        }
        assert!(hoards[..2].iter().all(|hoard| hoard.len() > 10));
        assert!(hoards.iter().all(|hoard| hoard.len() > 1));
        assert!(pool.lend(4096, 0).is_some(), "a newcomer finds room");
        assert!(pool.lend(LONGEST, 0).is_some(), "the largest request finds room");
    }

    #[test]
    fn a_shortage_says_what_must_come_back() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let mut leases: Vec<Lease> = std::iter::from_fn(|| pool.lend(UNIT, 0)).collect();
        assert!(pool.lend(5000, 0).is_none());
        let missing = pool.shortage(5000, 0);
        assert!(!missing.is_bulk() && pool.shortage(BULK_THRESHOLD + 1, 0).is_bulk());
        assert!(!pool.could_meet(missing));
        // Which of them are neighbours depends on the order in which they were lent.
        while !pool.could_meet(missing) {
            assert!(pool.lend(5000, 0).is_none());
            leases.swap_remove(leases.len() / 2);
        }
        assert!(pool.lend(5000, 0).is_some());
        // One who holds some must leave as much.
        let more = pool.shortage(5000, pool.free_bytes());
        assert!(!pool.could_meet(more) && pool.could_meet(missing.least(more)));
    }

    #[test]
    fn what_those_who_wait_keep_is_not_what_they_wait_for() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        pool.share_among(200);
        let all = || std::iter::from_fn(|| pool.lend(BULK_THRESHOLD, 0)).collect::<Vec<_>>().len();
        let before = all();
        let kept: Vec<Lease> = std::iter::from_fn(|| pool.lend_apart(100_000)).collect();
        assert!(kept.len() >= 4);
        assert!(pool.lend_apart(UNIT).is_some(), "little finds room");
        assert_eq!(all(), before);
    }

    #[test]
    fn long_leases_leave_room_for_those_of_a_few_mebibytes() {
        // What a shard has by default.
        let pool = BufferPool::new(116 << 20, 64 << 20).unwrap();
        let slow = pool.lend(48 << 20, 0).unwrap();
        assert!(pool.lend(5 << 20, 0).is_none(), "48 MiB take a block of 64");
        let several: Vec<Lease> = (0..8).map_while(|_| pool.lend(2 << 20, 0)).collect();
        assert_eq!(several.len(), 8);
        let missing = pool.shortage(2 << 20, 0);
        assert!(pool.lend(2 << 20, 0).is_none() && !pool.could_meet(missing));
        drop(slow);
        assert!(pool.could_meet(missing) && pool.lend(2 << 20, 0).is_some(), "what is idle may be used");
    }

    #[test]
    fn whoever_waits_for_a_long_lease_gets_it_in_the_end() {
        let pool = BufferPool::new(116 << 20, 64 << 20).unwrap();
        let mut lent: Vec<Lease> = (0..10).map_while(|_| pool.lend(2 << 20, 0)).collect();
        assert_eq!(lent.len(), 10);
        assert!(pool.lend(64 << 20, 0).is_none());
        pool.want_long(true);
        // As many come as go.
        for _ in 0..100 {
            if pool.lend(64 << 20, 0).is_some() {
                pool.take_returned();
                let missing = pool.shortage(2 << 20, 0);
                assert!(!pool.could_meet(missing), "the others have their own zone");
                pool.want_long(false);
                assert!(pool.take_returned() && pool.could_meet(missing));
                return;
            }
            drop(lent.pop());
            lent.splice(0..0, pool.lend(2 << 20, 0));
        }
        panic!("it starves");
    }

    #[test]
    fn a_pool_for_short_leases_has_one_zone_for_them() {
        let pool = BufferPool::new(8 << 20, 1 << 20).unwrap();
        let all: Vec<Lease> = std::iter::from_fn(|| pool.lend(UNIT, 0)).collect();
        assert_eq!(all.len(), 6 * 256);
    }
}
