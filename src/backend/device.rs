//! The gate in front of each device: it asserts what the protocol layer must have checked.

use std::sync::Arc;
use std::time::Duration;

use super::abandon::Abandon;
use super::context::ShardContext;
use super::export::Export;
use super::file::ReadFailure;
use super::image::{HomeTask, SealFailure};
use super::kind::Kind;
use super::single_read::SingleRead;
use crate::block::{BlockError, BlockSizes, ByteRange, DeviceFacts, Extent, IoFlags, NumberedExtent};
use crate::ring::{Lease, SharedLease};

/// An export on one shard: a gate, which asserts what the protocol layer must have checked, and what is
/// behind it.
pub(crate) struct Device {
    facts: DeviceFacts,
    instance: u32,
    pub(super) kind: Kind,
}

impl Device {
    /// Makes an export usable on a shard.
    ///
    /// # Errors
    /// When its files cannot be registered with the ring; an application's own.
    pub(crate) fn new(export: &Export, context: &ShardContext) -> std::io::Result<Self> {
        let (facts, instance) = (export.facts().clone(), export.instance);
        Ok(Self { facts, instance, kind: Kind::open(export, context)? })
    }

    /// What stands for a device that could not be opened. It gets no requests.
    pub(crate) fn absent(export: &Export) -> Self {
        Self { facts: export.facts().clone(), instance: export.instance, kind: Kind::Null }
    }

    /// A number that this opening of the export has and no other one, in this process or another.
    pub(crate) fn instance(&self) -> u32 {
        self.instance
    }

    /// A connection comes, with a number that another one may have had before.
    pub(crate) fn greet(&self, client: u32) {
        self.kind.greet(client);
    }

    /// Places that it takes among the ring's files.
    pub(crate) fn files(&self) -> usize {
        self.kind.files()
    }

    /// The one operation that a read of a range is, if it is.
    pub(crate) fn single_read(&self, range: ByteRange) -> Option<SingleRead> {
        self.assert_request(range, false);
        match &self.kind {
            Kind::File(file) => file.single_read(range),
            Kind::Image(image) => image.single_read(range),
            _ => None,
        }
    }

    /// Whether what [one read](Self::single_read) has brought is still what a range holds.
    #[inline(always)]
    pub(crate) fn still_holds(&self, range: ByteRange, read: SingleRead, lease: &Lease) -> bool {
        match &self.kind {
            Kind::Image(image) => image.still_holds(range, read, lease),
            _ => true,
        }
    }

    /// The gate.
    pub(super) fn assert_request(&self, range: ByteRange, writes: bool) {
        assert!(
            range.is_within(self.facts.size) || self.has_grown_to(range),
            "{range:?} is beyond the export"
        );
        assert!(!(writes && self.facts.read_only), "a write reached a read-only export");
    }

    /// An image may be larger than it was when it was opened.
    #[cold]
    fn has_grown_to(&self, range: ByteRange) -> bool {
        self.kind.image().is_some_and(|image| range.is_within(image.size()))
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

    /// Has an image go on with another head, as it is ordered, or with fewer layers; see
    /// [`super::seal_group`]. Changes wait for at most `limit` for those that are under way.
    pub(crate) async fn perform(&self, task: HomeTask, limit: Duration, context: &ShardContext) {
        match &self.kind {
            _ if self.facts.read_only && task.needs_head() => task.fail(SealFailure::NotWritten),
            kind => kind.perform(task, limit, context).await,
        }
    }

    /// How deep in the chain of an image the bytes of a range are: 1 for its head, 2 and up for what is below
    /// it, 0 where nothing has them. Extents as of [`Device::extents`].
    ///
    /// # Errors
    /// [`BlockError::Invalid`] if it is no image; the medium's.
    pub(crate) async fn depths(
        &self,
        range: ByteRange,
        limit: usize,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        self.assert_request(range, false);
        match self.kind.image() {
            Some(image) => image.depths(range, limit, context).await,
            None => Err(BlockError::Invalid),
        }
    }

    /// What of a range has changed since a snapshot of the image: 1 for that, 0 for the rest. Extents as of
    /// [`Device::extents`].
    ///
    /// # Errors
    /// [`BlockError::Invalid`] if it is no image, or has no such snapshot any more; the medium's.
    pub(crate) async fn changed(
        &self,
        range: ByteRange,
        since: &Arc<str>,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        self.assert_request(range, false);
        match self.kind.image() {
            Some(image) => image.changed(range, since, limit, client, context).await,
            None => Err(BlockError::Invalid),
        }
    }

    /// What another server, whose export this is, tells of a range by one of its meta contexts. Extents as of
    /// [`Device::extents`].
    ///
    /// # Errors
    /// [`BlockError::Invalid`] if it is no such export; the other server's, or it has no such context any
    /// more.
    pub(crate) async fn passed(
        &self,
        range: ByteRange,
        name: &str,
        limit: usize,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        self.assert_request(range, false);
        match self.kind.remote() {
            Some(remote) => Box::pin(remote.status(range, name, limit)).await,
            None => Err(BlockError::Invalid),
        }
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
