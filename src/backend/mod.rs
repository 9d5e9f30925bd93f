//! Backends: what carries out requests. An asserting gate stands in front of each.
//!
//! No protocol here: ranges, flags and leases come in, leases and errors go out.
#![forbid(unsafe_code)]

mod abandon;
mod allocation;
mod at_once;
mod changes;
mod durability;
mod export;
mod export_id;
mod fault;
mod file;
mod inode;
mod known_data;
mod lock;
mod memory;
mod page_cache;
mod prefetch;
mod steps;
#[cfg(test)]
pub(crate) mod testing;
mod trust;
mod unaligned;
mod workers;
mod zeroing;

use std::sync::Arc;

pub(crate) use abandon::Abandon;
pub(crate) use at_once::AtOnce;
pub use export::Export;
pub(crate) use export::OpenError;
pub use export_id::ExportId;
pub(crate) use export_id::FILES_PER_EXPORT;
pub(crate) use file::ReadFailure;
pub(crate) use page_cache::Standing;
pub(crate) use trust::Trust;

use crate::block::{BlockError, BlockSizes, ByteRange, CommandKind, DeviceFacts, Extent, IoFlags};
use crate::exec::{Helpers, ReadyList};
use crate::ring::{FileIndex, Lease, Ring, SharedLease};
use export::Store;
use fault::{Fault, Verdict};
use file::FileDevice;
use memory::MemoryStore;
use steps::steps;

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
    /// Worker threads of its ring that one export may keep busy.
    pub workers_per_export: usize,
    /// Zeroes to write where nothing better works.
    pub zeroes: SharedLease,
}

/// An export on one shard.
pub(crate) struct Device {
    facts: DeviceFacts,
    faults: Vec<Fault>,
    kind: Kind,
}

// There is one value a device and shard, itself behind an `Rc`: another pointer on every way to a file would cost more.
#[allow(clippy::large_enum_variant)]
enum Kind {
    File(FileDevice),
    Memory(Arc<MemoryStore>),
    Null,
}

/// Copies of memory longer than this give way in between, so that they do not hold up the shard.
const MEMORY_STEP: u64 = 256 << 10;
/// Memory given back in one step.
const DISCARD_STEP: u64 = 64 << 20;

impl Device {
    /// Makes an export usable on a shard.
    ///
    /// # Errors
    /// When its files cannot be registered with the ring.
    pub(crate) fn new(export: &Export, context: &ShardContext) -> std::io::Result<Self> {
        let facts = export.facts().clone();
        let kind = match &export.store {
            Store::File(store) => Kind::File(FileDevice::new(Arc::clone(store), facts.size, context)?),
            Store::Memory(store) => Kind::Memory(Arc::clone(store)),
            Store::Null => Kind::Null,
        };
        let faults = export.faults.iter().map(|options| Fault::new(options.clone(), context.shard)).collect();
        Ok(Self { facts, faults, kind })
    }

    /// Places that it takes among the ring's files.
    pub(crate) fn files(&self) -> usize {
        if let Kind::File(file) = &self.kind { file.files() } else { 0 }
    }

    /// The file that a read of a range is one operation of, if it is.
    pub(crate) fn single_read(&self, range: ByteRange) -> Option<FileIndex> {
        let Kind::File(file) = &self.kind else { return None };
        self.assert_request(range, false);
        if self.faults.is_empty() { file.single_read(range) } else { None }
    }

    /// Whether writes vanish, so that they are done when their payload is here.
    pub(crate) fn drops_writes(&self) -> bool {
        matches!(self.kind, Kind::Null) && self.faults.is_empty()
    }

    /// Whether reads bring nothing but zeroes, so that no memory is needed for them.
    pub(crate) fn reads_zeroes(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// The gate: what the protocol layer must have checked.
    fn assert_request(&self, range: ByteRange, writes: bool) {
        assert!(range.is_within(self.facts.size), "{range:?} is beyond the export");
        assert!(!(writes && self.facts.read_only), "a write reached a read-only export");
    }

    async fn faults(
        &self,
        command: CommandKind,
        range: Option<ByteRange>,
        context: &ShardContext,
    ) -> Verdict {
        for fault in &self.faults {
            let verdict = fault.meet(command, range, &context.ring).await;
            if verdict != Verdict::Pass {
                return verdict;
            }
        }
        Verdict::Pass
    }

    async fn fault(
        &self,
        command: CommandKind,
        range: Option<ByteRange>,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self.faults(command, range, context).await {
            Verdict::Pass => Ok(()),
            Verdict::Fail(error) | Verdict::FailAfter(_, error) => Err(error),
        }
    }

    /// Reads `range` into `lease[start..]`; the lease comes back in any case.
    pub(crate) async fn read(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        self.assert_request(range, false);
        assert!(u64::from(start) + range.length() <= lease.capacity() as u64);
        if self.faults.is_empty() {
            return self.read_store(range, lease, start, context).await;
        }
        match Box::pin(self.faults(CommandKind::Read, Some(range), context)).await {
            Verdict::Pass => self.read_store(range, lease, start, context).await,
            Verdict::Fail(error) => (lease, Err(ReadFailure { error, good: 0 })),
            Verdict::FailAfter(good, error) => {
                let front = ByteRange::new(range.offset(), good).expect("within the range");
                let (lease, result) = self.read_store(front, lease, start, context).await;
                (lease, result.and(Err(ReadFailure { error, good })))
            }
        }
    }

    async fn read_store(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        match &self.kind {
            // What is rare is boxed.
            Kind::File(file) if file.may_block() => {
                Box::pin(file.read_in_worker(range, lease, start, context)).await
            }
            Kind::File(file) => file.read(range, lease, start, context).await,
            Kind::Memory(store) => {
                let mut done = 0;
                while done < range.length() {
                    let step = MEMORY_STEP.min(range.length() - done) as usize;
                    let at = start as usize + done as usize;
                    store.read(range.offset() + done, lease.bytes_mut(at..at + step));
                    done += step as u64;
                    if done < range.length() {
                        context.ready.give_way(&context.ring).await;
                    }
                }
                (lease, Ok(()))
            }
            Kind::Null => {
                lease.bytes_mut(start as usize..start as usize + range.length() as usize).fill(0);
                (lease, Ok(()))
            }
        }
    }

    /// The faults of a read that needs no data, for a device that [reads zeroes](Device::reads_zeroes).
    ///
    /// # Errors
    /// The fault's.
    pub(crate) async fn read_zeroes(
        &self,
        range: ByteRange,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.assert_request(range, false);
        self.fault(CommandKind::Read, Some(range), context).await
    }

    /// Writes `lease[0..]` to `range`.
    ///
    /// # Errors
    /// Any; part of the range may be written then.
    pub(crate) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        flags: IoFlags,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.assert_request(range, true);
        assert!(range.length() <= lease.capacity() as u64);
        if self.faults.is_empty() {
            return self.write_store(range, lease, flags, context).await;
        }
        match Box::pin(self.faults(CommandKind::Write, Some(range), context)).await {
            Verdict::Pass => self.write_store(range, lease, flags, context).await,
            Verdict::Fail(error) => Err(error),
            Verdict::FailAfter(good, error) => {
                let front = ByteRange::new(range.offset(), good).expect("within the range");
                self.write_store(front, lease, flags, context).await?;
                Err(error)
            }
        }
    }

    async fn write_store(
        &self,
        range: ByteRange,
        lease: SharedLease,
        flags: IoFlags,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match &self.kind {
            Kind::File(file) => file.write(range, lease, flags.fua, context).await,
            Kind::Memory(store) => {
                let mut done = 0;
                while done < range.length() {
                    let step = MEMORY_STEP.min(range.length() - done) as usize;
                    store.write(range.offset() + done, lease.bytes(done as usize..done as usize + step));
                    done += step as u64;
                    if done < range.length() {
                        context.ready.give_way(&context.ring).await;
                    }
                }
                Ok(())
            }
            Kind::Null => Ok(()),
        }
    }

    /// Makes everything durable that was answered.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) async fn flush(&self, context: &ShardContext) -> Result<(), BlockError> {
        self.fault(CommandKind::Flush, None, context).await?;
        match &self.kind {
            Kind::File(file) if !self.facts.read_only => file.flush(context).await,
            _ => Ok(()),
        }
    }

    /// Gives the blocks of a range back, where that is possible; durable before it returns when the flags ask for it. Stops when it is
    /// abandoned.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) async fn trim(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.assert_request(range, true);
        self.fault(CommandKind::Trim, Some(range), context).await?;
        match &self.kind {
            Kind::File(file) => {
                file.trim(range, abandon, context).await?;
                if flags.fua { file.flush(context).await } else { Ok(()) }
            }
            Kind::Memory(store) => discard(store, range, abandon, context).await,
            Kind::Null => Ok(()),
        }
    }

    /// Makes a range read as zeroes. Stops when it is abandoned.
    ///
    /// # Errors
    /// [`BlockError::NotSupported`] only when the flags ask for fast zeroing; the medium's.
    pub(crate) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.assert_request(range, true);
        self.fault(CommandKind::WriteZeroes, Some(range), context).await?;
        match &self.kind {
            Kind::File(file) => {
                file.write_zeroes(range, flags, abandon, context).await?;
                if flags.fua && !canary!(FuaOfZeroesIgnored) { file.flush(context).await } else { Ok(()) }
            }
            Kind::Memory(store) => {
                discard(store, range, abandon, context).await?;
                if flags.no_hole {
                    store.mark(range);
                }
                Ok(())
            }
            Kind::Null => Ok(()),
        }
    }

    /// Prefetches a range, as far as that disturbs nobody. Stops when it is abandoned.
    ///
    /// # Errors
    /// Only those of faults.
    pub(crate) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.assert_request(range, false);
        self.fault(CommandKind::Cache, Some(range), context).await?;
        match &self.kind {
            Kind::File(file) => file.cache(range, abandon, context).await,
            _ => Ok(()),
        }
    }

    /// Extents from the start of `range`, at least one, at most `limit`, merged, none beyond the range. `client` is who asks: helper threads
    /// serve clients in turn.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        self.assert_request(range, false);
        self.fault(CommandKind::BlockStatus, Some(range), context).await?;
        self.extents_of_store(range, limit, client, context).await
    }

    /// Whether it is known that a range has no holes: then [`Device::holes_for_read`] need not be asked.
    pub(crate) fn is_known_data(&self, range: ByteRange) -> bool {
        match &self.kind {
            Kind::File(file) => file.is_known_data(range),
            Kind::Memory(_) => false,
            Kind::Null => true,
        }
    }

    /// As [`Device::extents`], for a read that wants to leave out holes: no fault of BLOCK_STATUS applies. `None` when there are none.
    pub(crate) async fn holes_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Option<Vec<Extent>> {
        let extents = match &self.kind {
            Kind::File(file) => file.extents_for_read(range, limit, client, context).await,
            _ => self.extents_of_store(range, limit, client, context).await,
        };
        let extents = extents.ok()?;
        extents.iter().any(|extent| extent.zero).then_some(extents)
    }

    async fn extents_of_store(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        match &self.kind {
            Kind::File(file) => file.extents(range, limit, client, context).await,
            Kind::Memory(store) => Ok(store.extents(range, limit)),
            Kind::Null => Ok(vec![Extent { length: range.length(), hole: true, zero: true }]),
        }
    }
}

async fn discard(
    store: &MemoryStore,
    range: ByteRange,
    abandon: &Abandon,
    context: &ShardContext,
) -> Result<(), BlockError> {
    for (index, step) in steps(range, DISCARD_STEP).enumerate() {
        if index > 0 {
            context.ready.give_way(&context.ring).await;
            abandon.check()?;
        }
        store.discard(step);
    }
    Ok(())
}

const _: () = assert!(crate::ring::LARGEST_LEASE == BlockSizes::MAXIMUM_PAYLOAD as usize);
