//! Backends: what carries out requests. An asserting gate stands in front of each.
//!
//! No protocol here: ranges, flags and leases come in, leases and errors go out.
#![forbid(unsafe_code)]

mod abandon;
mod allocation;
mod application;
mod at_once;
mod changes;
mod durability;
mod export;
mod export_id;
mod fault;
mod file;
mod inode;
mod kind;
mod known_data;
mod lock;
mod memory;
mod open_error;
mod page_cache;
mod prefetch;
mod steps;
#[cfg(test)]
pub(crate) mod testing;
mod trust;
mod unaligned;
mod workers;
mod zeroing;

pub(crate) use abandon::Abandon;
pub(crate) use application::Outstanding;
pub use application::{
    ApplicationDevice, BlockingDevice, DeviceQueue, DeviceRequest, FastDevice, Immediate, Preview,
};
pub(crate) use at_once::{AtOnce, Glance};
pub use export::Export;
pub use export_id::ExportId;
pub(crate) use export_id::FILES_PER_EXPORT;
pub(crate) use file::ReadFailure;
pub(crate) use open_error::OpenError;
pub(crate) use page_cache::Standing;
pub(crate) use trust::Trust;

use crate::block::{BlockError, BlockSizes, ByteRange, DeviceFacts, Extent, IoFlags};
use crate::exec::{Helpers, ReadyList};
use crate::ring::{FileIndex, Lease, Ring, SharedLease};
use kind::Kind;

/// What every device of a shard works with.
pub(crate) struct ShardContext {
    /// The shard's number.
    pub shard: usize,
    /// Its ring.
    pub ring: Ring,
    /// Its ready list.
    pub ready: ReadyList,
    /// Its helper threads.
    pub helpers: Helpers,
    /// Its requests to devices of the application.
    pub outstanding: Outstanding,
    /// Worker threads of its ring that one export may keep busy.
    pub workers_per_export: usize,
    /// Zeroes to write where nothing better works.
    pub zeroes: SharedLease,
}

impl ShardContext {
    /// The doorbell rang: what ended elsewhere goes on, and so do tasks that were woken.
    pub(crate) fn collect(&self) {
        self.helpers.collect();
        self.outstanding.collect();
        self.ready.collect();
    }
}

/// An export on one shard: a gate, which asserts what the protocol layer must have checked, and what is
/// behind it.
pub(crate) struct Device {
    facts: DeviceFacts,
    kind: Kind,
}

impl Device {
    /// Makes an export usable on a shard.
    ///
    /// # Errors
    /// When its files cannot be registered with the ring; an application's own.
    pub(crate) fn new(export: &Export, context: &ShardContext) -> std::io::Result<Self> {
        Ok(Self { facts: export.facts().clone(), kind: Kind::open(export, context)? })
    }

    /// What stands for a device that could not be opened. It gets no requests.
    pub(crate) fn absent(export: &Export) -> Self {
        Self { facts: export.facts().clone(), kind: Kind::Null }
    }

    /// Places that it takes among the ring's files.
    pub(crate) fn files(&self) -> usize {
        self.kind.files()
    }

    /// The file that a read of a range is one operation of, if it is.
    pub(crate) fn single_read(&self, range: ByteRange) -> Option<FileIndex> {
        let Kind::File(file) = &self.kind else { return None };
        self.assert_request(range, false);
        file.single_read(range)
    }

    /// The gate.
    fn assert_request(&self, range: ByteRange, writes: bool) {
        assert!(range.is_within(self.facts.size), "{range:?} is beyond the export");
        assert!(!(writes && self.facts.read_only), "a write reached a read-only export");
    }

    /// Reads `range` into `lease[start..]`; the lease comes back in any case. `client` is who asks: what is
    /// shared serves clients in turn.
    #[inline(always)]
    pub(crate) fn read<'a>(
        &'a self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        client: u32,
        context: &'a ShardContext,
    ) -> impl Future<Output = (Lease, Result<(), ReadFailure>)> + use<'a> {
        self.assert_request(range, false);
        assert!(u64::from(start) + range.length() <= lease.capacity() as u64);
        self.kind.read(range, lease, start, client, context)
    }

    /// Writes `lease[0..]` to `range`.
    ///
    /// # Errors
    /// Any; part of the range may be written then.
    #[inline(always)]
    pub(crate) fn write<'a>(
        &'a self,
        range: ByteRange,
        lease: SharedLease,
        flags: IoFlags,
        client: u32,
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.assert_request(range, true);
        assert!(range.length() <= lease.capacity() as u64);
        self.kind.write(range, lease, flags, client, context)
    }

    /// Makes everything durable that was answered.
    ///
    /// # Errors
    /// The medium's.
    #[inline(always)]
    pub(crate) fn flush<'a>(
        &'a self,
        client: u32,
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.kind.flush(self.facts.read_only, client, context)
    }

    /// Gives the blocks of a range back, where that is possible; durable before it returns when the flags ask
    /// for it. Stops when it is abandoned.
    ///
    /// # Errors
    /// The medium's.
    #[inline(always)]
    pub(crate) fn trim<'a>(
        &'a self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &'a Abandon),
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.assert_request(range, true);
        self.kind.trim(range, flags, asker, context)
    }

    /// Makes a range read as zeroes. Stops when it is abandoned.
    ///
    /// # Errors
    /// [`BlockError::NotSupported`] only when the flags ask for fast zeroing; the medium's.
    #[inline(always)]
    pub(crate) fn write_zeroes<'a>(
        &'a self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &'a Abandon),
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.assert_request(range, true);
        self.kind.write_zeroes(range, flags, asker, context)
    }

    /// Prefetches a range, as far as that disturbs nobody. Stops when it is abandoned.
    ///
    /// # Errors
    /// Only those of faults.
    #[inline(always)]
    pub(crate) fn cache<'a>(
        &'a self,
        range: ByteRange,
        abandon: &'a Abandon,
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.assert_request(range, false);
        self.kind.cache(range, abandon, context)
    }

    /// Extents from the start of `range`, at least one, at most `limit`, merged, none beyond the range.
    /// `client` is who asks: helper threads serve clients in turn.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) fn extents<'a>(
        &'a self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<Vec<Extent>, BlockError>> + use<'a> {
        self.assert_request(range, false);
        self.kind.extents(range, limit, client, context)
    }

    /// Whether holes of a range need not be looked for: it is known to have none, or asking would cost more
    /// than reading.
    pub(crate) fn is_known_data(&self, range: ByteRange) -> bool {
        self.kind.is_known_data(range)
    }

    /// As [`Device::extents`], for a read that wants to leave out holes: no fault of BLOCK_STATUS applies.
    /// `None` when there are none.
    pub(crate) async fn holes_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Option<Vec<Extent>> {
        let extents = self.kind.extents_for_read(range, limit, client, context).await.ok()?;
        extents.iter().any(|extent| extent.zero).then_some(extents)
    }
}

const _: () = assert!(crate::ring::LARGEST_LEASE == BlockSizes::MAXIMUM_PAYLOAD as usize);
