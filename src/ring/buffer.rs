//! Buffer memory of a shard: one mapped arena, registered with the ring, lent out as [`Lease`]s.
//!
//! A lease is the only way to reach the memory. A lease that is handed to the kernel is moved into the
//! operation, so safe code cannot touch bytes that the kernel may be writing. There are two types, so that
//! the compiler checks who may write:
//!
//! * A [`Lease`] is the only holder of its bytes. The kernel may write into it, and so may its owner. It can
//!   be [split](Lease::split_at) into leases of disjoint parts, for several reads at once.
//! * A [`SharedLease`], made by [`Lease::freeze`], has any number of holders. Nobody writes its bytes again.
//!
//! The block is counted: it goes back when the last lease of any of its parts is gone.

use std::cell::{Cell, Ref, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use super::block::Block;
use super::buddy::Buddy;
use super::reserve_line::ReserveLine;
use super::zone::{BULK_THRESHOLD, UNIT, ZoneKind, order_of};
use crate::sys::Mapping;

/// The longest lease that a pool can be made for.
pub const LARGEST_LEASE: usize = 256 << 20;
/// The most bytes of the zone [`ZoneKind::Apart`].
const MOST_APART: usize = 16 << 20;
/// The zone for leases of 1 to 4 MiB is a multiple of so many units.
const MIDDLE_STEP: u32 = ((8 << 20) / UNIT) as u32;

/// Five zones over one mapping.
#[derive(Debug, Clone)]
pub struct BufferPool {
    inner: Rc<PoolCore>,
}

#[derive(Debug)]
struct PoolCore {
    mapping: Mapping,
    /// By [`ZoneKind`].
    zones: [RefCell<Zone>; 5],
    /// Bytes of the longest lease.
    longest: usize,
    /// The blocks that start at each unit; only those that are lent mean something.
    blocks: Box<[Block<PoolCore>]>,
    /// Those that wait for memory that is kept for devices.
    reserve: ReserveLine<Lease>,
    /// Set when a lease came back; the shard's loop wakes who waits for memory.
    returned: Cell<bool>,
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
}

/// A counted loan of part of the arena, aligned to 4,096 bytes unless it was split. It is the only access to
/// its bytes.
#[derive(Debug)]
pub struct Lease {
    /// Points into the pool, which the block itself keeps alive until its last lease is dropped. A pointer
    /// also keeps a lease on its shard.
    block: NonNull<Block<PoolCore>>,
    /// Its part of the block, in bytes.
    start: u32,
    length: u32,
}

/// A lease that may have several holders and is never written again.
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
    /// Maps `bytes` of memory for leases of up to `longest` bytes. Long ones get three eighths, and at least
    /// one of the longest; those of 1 to 4 MiB a third of the rest, in steps of 8 MiB. Of what is left a
    /// quarter, and at most 16 MiB, is [`ZoneKind::Apart`].
    ///
    /// [`Limits::MINIMUM_MEMORY_PER_SHARD`](crate::config::Limits::MINIMUM_MEMORY_PER_SHARD) is the least
    /// that a server asks for; less is for tests, and may leave that zone empty.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn new(bytes: usize, longest: usize) -> std::io::Result<Self> {
        Self::with_reserve(bytes, longest, 0)
    }

    /// As [`BufferPool::new`], and `reserve` bytes more for devices, in whole pages.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn with_reserve(bytes: usize, longest: usize, reserve: usize) -> std::io::Result<Self> {
        let largest = longest.next_power_of_two().max(UNIT);
        assert!(longest <= LARGEST_LEASE, "a lease of {longest} bytes is beyond every limit");
        assert!(bytes >= largest + BULK_THRESHOLD, "limits leave no room for one largest lease");
        let units = (bytes / UNIT) as u32;
        let reserve = (reserve / UNIT) as u32;
        let mapping = Mapping::anonymous((units + reserve) as usize * UNIT)?;
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
        let zones = [
            zone(long + middle, small),
            zone(long, middle),
            zone(0, long),
            zone(units - apart, apart),
            zone(units, reserve),
        ];
        let address = |unit: u32| mapping.address().wrapping_add(unit as usize * UNIT);
        let blocks = (0..units + reserve).map(|unit| Block::new(address(unit), unit)).collect();
        let (reserve, returned) = (ReserveLine::default(), Cell::new(false));
        Ok(Self { inner: Rc::new(PoolCore { mapping, zones, longest, blocks, reserve, returned }) })
    }

    /// Lends at least `length` bytes, if there is a block for them. Who may have how much is for others to
    /// say.
    pub fn lend(&self, length: usize) -> Option<Lease> {
        assert!(length <= self.inner.longest, "a lease of {length} bytes is beyond every limit");
        self.take(self.kind_of(length), length, 0)
    }

    /// The zone that leases of a length come from.
    #[inline]
    pub(crate) fn kind_of(&self, length: usize) -> ZoneKind {
        match ZoneKind::of(length) {
            // They would have no zone of their own.
            ZoneKind::Middle if self.zone(ZoneKind::Middle).units == 0 => ZoneKind::Long,
            kind => kind,
        }
    }

    /// Lends at least `length` bytes of a zone in which at least `free` bytes are free.
    #[inline]
    pub(crate) fn take(&self, kind: ZoneKind, length: usize, free: usize) -> Option<Lease> {
        let order = order_of(length);
        let mut zone = self.inner.zones[kind as usize].borrow_mut();
        if zone.free() < free {
            return None;
        }
        let unit = zone.buddy.take(order)? + zone.first_unit;
        drop(zone);
        Some(self.hand_out(unit, order, kind))
    }

    /// Whether a zone has a block for so many bytes.
    pub(crate) fn has(&self, kind: ZoneKind, length: usize) -> bool {
        self.inner.zones[kind as usize].borrow_mut().buddy.has(order_of(length))
    }

    /// Bytes of a zone that are not lent.
    pub(crate) fn free(&self, kind: ZoneKind) -> usize {
        self.zone(kind).free()
    }

    /// Bytes of a zone.
    pub(crate) fn size(&self, kind: ZoneKind) -> usize {
        self.zone(kind).units as usize * UNIT
    }

    /// Bytes of the longest lease.
    pub(crate) fn longest(&self) -> usize {
        self.inner.longest
    }

    /// Bytes of the lease that so many need.
    pub(crate) fn rounded(length: usize) -> usize {
        UNIT << order_of(length)
    }

    fn zone(&self, kind: ZoneKind) -> Ref<'_, Zone> {
        self.inner.zones[kind as usize].borrow()
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

    pub(super) fn reserve_line(&self) -> &ReserveLine<Lease> {
        &self.inner.reserve
    }

    /// Bytes of the longest lease that the reserve could give if all of it was free.
    pub(super) fn longest_of_reserve(&self) -> usize {
        let units = self.zone(ZoneKind::Reserve).units as usize;
        let largest = units.checked_ilog2().map_or(0, |order| UNIT << order);
        largest.min(self.inner.longest.max(BULK_THRESHOLD).next_power_of_two())
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

    /// Lets others hold the same bytes, which are never written again.
    pub fn freeze(self) -> SharedLease {
        SharedLease(self)
    }

    /// Whether the byte at `start` has an address that is a multiple of `alignment`, as O_DIRECT wants it.
    pub fn is_aligned(&self, start: u32, alignment: u32) -> bool {
        (self.address().addr() + start as usize).is_multiple_of(alignment as usize)
    }

    /// Two leases of the bytes before and from `at`. Each is the only holder of its part, so both may be read
    /// into at the same time.
    pub fn split_at(mut self, at: usize) -> (Self, Self) {
        assert!(at <= self.capacity(), "split beyond the end");
        let mut rest = self.another_holder();
        rest.start += at as u32;
        rest.length -= at as u32;
        self.length = at as u32;
        (self, rest)
    }

    fn block(&self) -> &Block<PoolCore> {
        // SAFETY: the block lies in memory that its pool owns and never moves, and as long as there is a
        // lease of it, it holds the pool.
        unsafe { self.block.as_ref() }
    }

    /// A second lease of the same bytes: the caller ensures that they are not written through one while the
    /// other is in use.
    fn another_holder(&self) -> Self {
        let holders = &self.block().holders;
        holders.set(holders.get().checked_add(1).expect("fewer holders than chunks of one reply"));
        Self { block: self.block, start: self.start, length: self.length }
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: every block lent is inside the mapping, which lives as long as the pool that the block
        // holds, and it is initialised (anonymous memory is zero). A writer has the only lease of it by
        // `&mut` or, if it is the kernel, inside an operation and out of reach of safe code.
        unsafe { std::slice::from_raw_parts(self.address().add(range.start), range.len()) }
    }

    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: as in `bytes`; this is the only lease of these bytes (others of the block hold other parts,
        // and a lease that is shared is given out by shared reference only), and `&mut self` makes the access
        // exclusive.
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

    /// As [`Lease::is_aligned`].
    pub fn is_aligned(&self, start: u32, alignment: u32) -> bool {
        self.0.is_aligned(start, alignment)
    }

    /// Where its bytes start, for the kernel to read.
    pub(super) fn address(&self) -> *const u8 {
        self.0.address()
    }
}

impl SharedLease {
    /// The lease itself.
    ///
    /// # Errors
    /// Gives it back while others hold parts of the same block.
    pub fn into_exclusive(self) -> Result<Lease, Self> {
        if self.0.block().holders.get() == 1 { Ok(self.0) } else { Err(self) }
    }

    /// The lease of a whole block that is held in these parts, and where each of them begins.
    ///
    /// # Errors
    /// Gives them back when they are of several blocks, or others hold parts as well.
    pub fn unite(parts: Vec<Self>) -> Result<(Lease, Vec<u32>), Vec<Self>> {
        let Some(first) = parts.first() else { return Err(parts) };
        let is_all = usize::from(first.0.block().holders.get()) == parts.len();
        if !is_all || parts.iter().any(|part| part.0.block != first.0.block) {
            return Err(parts);
        }
        let starts = parts.iter().map(|part| part.0.start).collect();
        let mut whole = first.0.another_holder();
        (whole.start, whole.length) = (0, (UNIT << whole.block().order.get()) as u32);
        drop(parts);
        Ok((whole, starts))
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
            if block.kind.get() == ZoneKind::Reserve {
                return BufferPool { inner: pool }.serve_reserve();
            }
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
        let mut lease = pool.lend(5000).unwrap();
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
        let (mut front, rest) = pool.lend(8192).unwrap().split_at(1000);
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
    fn parts_are_united_when_nobody_else_holds_any() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let (front, back) = pool.lend(8192).unwrap().split_at(1000);
        let (front, back) = (front.freeze(), back.freeze());
        let (other, third) = (pool.lend(10).unwrap().freeze(), back.clone());
        let parts = SharedLease::unite(vec![front, back]).unwrap_err();
        drop(third);
        let mut mixed = parts;
        mixed.push(other);
        let mut parts = SharedLease::unite(mixed).unwrap_err();
        let other = parts.pop().unwrap().into_exclusive().unwrap();
        let (mut whole, starts) = SharedLease::unite(parts).unwrap();
        assert_eq!((whole.capacity(), starts), (8192, vec![0, 1000]));
        whole.bytes_mut(0..8192).fill(1);
        drop((whole, other));
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    #[should_panic(expected = "range.end <= self.capacity()")]
    fn a_part_ends_where_the_next_begins() {
        let pool = BufferPool::new(48 << 20, LONGEST).unwrap();
        let (mut front, _back) = pool.lend(8192).unwrap().split_at(1000);
        front.bytes_mut(0..1001);
    }

    #[test]
    fn a_pool_for_short_leases_has_one_zone_for_them() {
        let pool = BufferPool::new(8 << 20, 1 << 20).unwrap();
        let all: Vec<Lease> = std::iter::from_fn(|| pool.lend(UNIT)).collect();
        assert_eq!(all.len(), 6 * 256);
    }
}
