//! A file or block device on one shard: every operation through the ring, every short result carried on.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::allocation::within;
use super::context::ShardContext;
use super::file_store::FileStore;
use super::known_data::KnownData;
use super::page_cache::{PageCache, Standing};
use super::prefetch::Prefetching;
use super::registered::Registered;
use super::trust::Trust;
use super::unaligned::UnalignedGate;
use super::workers::WorkerShare;
use crate::block::{BlockError, ByteRange, Extent};
use crate::ring::{FileIndex, Lease, MappedRange, Operation, SharedLease};

/// A file export on one shard.
pub(super) struct FileDevice {
    pub(super) store: Arc<FileStore>,
    registered: Registered,
    pub(super) buffered: FileIndex,
    durable: Option<FileIndex>,
    pub(super) direct: Option<FileIndex>,
    /// Where reads can be answered from at once; none for an O_DIRECT export.
    page_cache: Option<PageCache>,
    /// Parts of the file that are known to hold no hole; see [`FileDevice::is_known_data`].
    pub(super) known: RefCell<KnownData>,
    /// What may block goes through here, but for allocations and writes through the page cache.
    pub(super) workers: WorkerShare,
    /// One `fallocate` at a time: the file's lock lets no more than that run, and it would wait for it in a
    /// worker thread.
    pub(super) allocations: WorkerShare,
    pub(super) prefetching: Prefetching,
}

/// A read that ended early: which bytes from the start are good, and why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadFailure {
    /// Why.
    pub error: BlockError,
    /// Bytes from the start of the range that were read.
    pub good: u64,
}

impl FileDevice {
    pub(super) fn new(store: Arc<FileStore>, size: u64, context: &ShardContext) -> std::io::Result<Self> {
        let mut registered = Registered::new(&context.ring);
        let buffered = registered.add(&store.buffered)?;
        let durable = store.durable.as_ref().map(|file| registered.add(file)).transpose()?;
        let direct = store.direct.as_ref().map(|direct| registered.add(&direct.file)).transpose()?;
        let mapping = match direct {
            None if store.can_be_mapped && !store.inode.has_direct() && size > 0 => {
                store.mapping.get_or_init(|| context.ring.map_file(store.buffered.as_fd(), size)).as_ref()
            }
            _ => None,
        };
        let page_cache = mapping.map(|mapping| PageCache::new(mapping.handle(), size));
        let share = |places| WorkerShare::new(places, context.ready.clone());
        let (workers, allocations) = (share(context.workers_per_export), share(1));
        let (known, prefetching) = (RefCell::new(KnownData::new(size)), Prefetching::default());
        Ok(Self {
            store,
            registered,
            buffered,
            durable,
            direct,
            page_cache,
            known,
            workers,
            allocations,
            prefetching,
        })
    }

    /// The file is longer from now on. What is new of it is read without the mapping, which ends before it.
    pub(super) fn grow(&self, size: u64) {
        self.known.replace(KnownData::new(size));
    }

    /// Descriptors that the ring has.
    pub(super) fn files(&self) -> usize {
        self.registered.count()
    }

    /// A range to be sent straight from the page cache; see [`PageCache::get`]. Not while pages vanish from
    /// it: the send would wait for them.
    pub(super) fn cached(
        &self,
        range: ByteRange,
        waits: bool,
        trust: &mut Trust,
        now: u64,
    ) -> Option<MappedRange> {
        if self.store.inode.changes.are_under_way() {
            return None;
        }
        self.page_cache.as_ref()?.get(range, waits, trust, now)
    }

    /// Whether all of a range is in the page cache, and may be sent from there.
    pub(super) fn is_cached(&self, range: ByteRange) -> bool {
        self.page_cache.as_ref().is_some_and(|cache| cache.has(range))
    }

    /// See [`PageCache::standing`].
    pub(super) fn standing(&self, range: ByteRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        let cache = self.page_cache.as_ref().filter(|_| !self.store.inode.changes.are_under_way());
        cache.map_or(Standing::Gone, |cache| cache.standing(range, trust, now))
    }

    /// Whether a range that is mapped is one of this file.
    pub(super) fn has_mapped(&self, mapped: &MappedRange) -> bool {
        self.page_cache.as_ref().is_some_and(|cache| cache.has_mapped(mapped))
    }

    /// Reads `range` into `lease` through the page cache.
    pub(super) fn copying(&self, range: ByteRange, lease: Lease) -> Operation {
        let (file, offset, length) = (self.buffered, range.offset(), range.length() as u32);
        let in_worker = self.store.inode.changes.are_under_way();
        Operation::Read { file, offset, lease, start: 0, length, in_worker }
    }

    /// See [`PageCache::distrust`].
    pub(super) fn distrust_page_cache(&self) {
        if let Some(cache) = &self.page_cache {
            cache.distrust();
        }
    }

    /// The direct descriptor when there is one, and the range and the memory allow it. Every lease is
    /// aligned, but in a sparse read, or an image's write, the memory of a part begins where the part begins
    /// in the request, which may be anywhere. `is_aligned` tells whether that is at a multiple of so many
    /// bytes.
    pub(super) fn direct_for(
        &self,
        range: ByteRange,
        is_aligned: impl FnOnce(u32) -> bool,
    ) -> Option<(FileIndex, &UnalignedGate)> {
        let (index, file) = self.direct.zip(self.store.direct.as_ref())?;
        let may = range.is_aligned(file.alignment) && is_aligned(file.memory_alignment);
        may.then_some((index, &self.store.inode.gate))
    }

    fn to_read_from(&self, range: ByteRange, lease: &Lease, start: u32) -> FileIndex {
        let is_aligned = |unit| lease.is_aligned(start, unit) || canary!(MisalignedMemory);
        self.direct_for(range, is_aligned).map_or(self.buffered, |(index, _)| index)
    }

    /// Whether a transfer may need a worker thread for longer than it takes to copy.
    pub(super) fn may_block(&self) -> bool {
        self.store.always_blocks || self.store.inode.changes.are_under_way()
    }

    /// As [`FileDevice::read`], where it [may block](FileDevice::may_block).
    pub(super) async fn read_in_worker(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        let _place = self.workers.enter(&context.ring).await;
        self.read(range, lease, start, context).await
    }

    /// As [`FileDevice::read`], whether it may block or not.
    pub(super) async fn read_anyhow(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        match self.may_block() {
            true => self.read_in_worker(range, lease, start, context).await,
            false => self.read(range, lease, start, context).await,
        }
    }

    /// Reads `range` into `lease[start..]`.
    pub(super) async fn read(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        let file = self.to_read_from(range, &lease, start);
        let mut done = 0;
        while done < range.length() {
            let (offset, length) = (range.offset() + done, (range.length() - done) as u32);
            // Looked at for each operation: a change may have begun during the one before.
            let in_worker = self.store.inode.changes.are_under_way() && !canary!(ReadsBesidePunch);
            let start = start + done as u32;
            let operation = Operation::Read { file, offset, lease, start, length, in_worker };
            let (result, operation) = context.ring.run(operation).await;
            let Operation::Read { lease: back, .. } = operation else {
                unreachable!("it comes back as it went")
            };
            lease = back;
            match result {
                // The file ends before the export does: somebody cut it. Bytes are never made up.
                Ok(0) => return (lease, Err(ReadFailure { error: BlockError::Io, good: done })),
                Ok(moved) => done += u64::from(moved),
                Err(libc::EINTR | libc::EAGAIN) if !canary!(InterruptedIsFailure) => {}
                Err(errno) => {
                    let good = if canary!(FailedReadClaimsAll) { range.length() } else { done };
                    return (lease, Err(ReadFailure { error: failure(errno), good }));
                }
            }
            if done < range.length() && canary!(ShortReadZeroFilled) {
                lease
                    .bytes_mut((start as u64 + done) as usize..(u64::from(start) + range.length()) as usize)
                    .fill(0);
                break;
            }
        }
        (lease, Ok(()))
    }

    /// Writes `lease[0..]` to `range`; durable before it returns when `fua` is asked for.
    #[inline(always)]
    pub(super) fn write<'a>(
        &'a self,
        range: ByteRange,
        lease: SharedLease,
        fua: bool,
        context: &'a ShardContext,
    ) -> impl Future<Output = Result<(), BlockError>> + use<'a> {
        self.write_from(range, lease, 0, fua, context)
    }

    /// As [`FileDevice::write`], of `lease[start..]`.
    pub(super) async fn write_from(
        &self,
        range: ByteRange,
        lease: SharedLease,
        start: u32,
        fua: bool,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let fua = fua && !canary!(FuaIgnored);
        self.known.borrow_mut().written(range);
        self.store.inode.note_change();
        if let Some((index, gate)) = self.direct_for(range, |unit| lease.is_aligned(start, unit)) {
            // The error of a direct write is its own: `RWF_DSYNC` is told of it whatever runs beside it.
            let _direct = gate.direct(context.shard).await;
            let _place = match self.may_block() {
                true => Some(Box::pin(self.workers.enter(&context.ring)).await),
                false => None,
            };
            return write_all(index, range, (lease, start), fua, context).await.map(drop);
        }
        match fua {
            true => Box::pin(self.write_durably(range, lease, start, context)).await,
            false => self.write_buffered(range, lease, start, context).await,
        }
    }

    /// Through the page cache.
    async fn write_buffered(
        &self,
        range: ByteRange,
        lease: SharedLease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        // Also those of an export without a direct descriptor, when another export of the same file has one.
        let must_be_alone = self.store.inode.has_direct() && !canary!(UnalignedGateSkipped);
        let _alone = match must_be_alone {
            true => Some(Box::pin(self.store.inode.gate.unaligned()).await),
            false => None,
        };
        let _place = match self.store.is_block_device {
            // All writes of a regular file have one worker between them.
            false => None,
            true => Some(Box::pin(self.workers.enter(&context.ring)).await),
        };
        write_all(self.buffered, range, (lease, start), false, context).await.map(drop)
    }

    /// Through the page cache to the medium.
    async fn write_durably(
        &self,
        range: ByteRange,
        lease: SharedLease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let file = self.durable.expect("only an export that may be written gets writes");
        let write = self.store.inode.range_syncs.begin_write();
        self.write_buffered(range, lease, start, context).await?;
        let sync = async || self.sync(file, Some(range), context).await;
        write.finish(sync).await
    }

    /// `fdatasync`: everything that was answered before, on any connection of any shard, is durable when it
    /// returns, because an answered write has left this process for the file. See [`super::durability`].
    pub(super) async fn flush(&self, context: &ShardContext) -> Result<(), BlockError> {
        if canary!(FlushWithoutSync) || self.store.inode.passes_for_clean() {
            return Ok(());
        }
        let file = self.buffered;
        let sync = async || self.sync(file, None, context).await;
        self.store.inode.syncs.flush(sync).await
    }

    /// Whether a FLUSH has failed, so that writes may be lost.
    pub(super) fn may_have_lost_writes(&self) -> bool {
        self.store.inode.syncs.has_failed()
    }

    async fn sync(
        &self,
        file: FileIndex,
        range: Option<ByteRange>,
        context: &ShardContext,
    ) -> Result<(), i32> {
        let _place = self.workers.enter(&context.ring).await;
        until_done(|| Operation::Sync { file, range }, context).await
    }

    /// See [`super::allocation::query`].
    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        if self.store.is_block_device {
            return Ok(vec![Extent { length: range.length(), hole: false, zero: false }]);
        }
        let extents = self.ask(range, limit, client, context).await?;
        let mut offset = range.offset();
        for extent in &extents {
            let part = ByteRange::new(offset, extent.length).expect("within the range");
            if !extent.zero {
                self.known.borrow_mut().found(part);
            }
            offset = part.end();
        }
        Ok(extents)
    }

    async fn ask(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        #[cfg(feature = "sim")]
        if let Some(extents) = super::allocation::simulated(&self.store, range, limit, context).await {
            return Ok(extents);
        }
        let store = Arc::clone(&self.store);
        let file = Arc::as_ptr(&store).addr();
        let query = move || super::allocation::query(&store, range, limit);
        context.helpers.run(file, client, query).await.unwrap_or(Err(BlockError::Io))
    }

    /// Extents of a range that is about to be read: as [`FileDevice::extents`], but asked for whole regions,
    /// so that once a region is known to hold data nobody asks again.
    pub(super) async fn extents_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        let wide = self.known.borrow().widened(range);
        let extents = self.extents(wide, limit, client, context).await?;
        Ok(within(&extents, wide.offset(), range))
    }

    /// Whether all of a range was seen to hold data, so that asking again for holes would find none.
    ///
    /// Only ever used to leave a question out: when a hole was made meanwhile, by another shard or by a
    /// stranger, its zeroes are read as data, which is as true.
    pub(super) fn is_known_data(&self, range: ByteRange) -> bool {
        self.store.is_block_device || self.known.borrow().holds(range)
    }
}

/// Runs an operation that moves no bytes, and does so again while it is interrupted; an errno if it fails.
pub(super) async fn until_done(operation: impl Fn() -> Operation, context: &ShardContext) -> Result<(), i32> {
    loop {
        match context.ring.run(operation()).await.0 {
            Ok(_) => return Ok(()),
            Err(libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
}

pub(super) async fn write_all(
    file: FileIndex,
    range: ByteRange,
    (mut lease, start): (SharedLease, u32),
    durable: bool,
    context: &ShardContext,
) -> Result<SharedLease, BlockError> {
    let mut done = 0;
    while done < range.length() {
        let (offset, length) = (range.offset() + done, (range.length() - done) as u32);
        let start = start + done as u32;
        let operation = Operation::Write { file, offset, lease, start, length, durable };
        if canary!(WriteAnsweredEarly) {
            context.ring.push(operation, crate::ring::Owner::Nobody);
            return Ok(context.zeroes.clone());
        }
        let (result, operation) = context.ring.run(operation).await;
        let Operation::Write { lease: back, .. } = operation else {
            unreachable!("it comes back as it went")
        };
        lease = back;
        match result {
            Ok(0) => return Err(BlockError::Io),
            Ok(_) if canary!(ShortWriteIsSuccess) => break,
            // A short write is carried on; the error that cut it comes with the next one.
            Ok(moved) => done += u64::from(moved),
            Err(libc::EINTR | libc::EAGAIN) => {}
            Err(_) if canary!(WriteErrorIgnored) => break,
            Err(errno) => return Err(failure(errno)),
        }
    }
    Ok(lease)
}

pub(super) fn failure(errno: i32) -> BlockError {
    tracing::debug!(errno, "the backend failed");
    BlockError::from_errno(errno)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::backend::Export;
    use crate::backend::export::Store;
    use crate::backend::testing::context_with;
    use crate::config::ExportUri;
    use crate::ring::{Ring, RingOptions, Wait};

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[test]
    fn answers_are_cut_to_the_range() {
        let (hole, data) = (
            |length| Extent { length, hole: true, zero: true },
            |length| Extent { length, hole: false, zero: false },
        );
        let extents = [hole(4096), data(8192), hole(4096)];
        assert_eq!(within(&extents, 1000, range(5000, 5000)), [hole(96), data(4904)]);
        assert_eq!(within(&extents, 1000, range(20_000, 5000)), []);
    }

    fn context() -> ShardContext {
        context_with(&RingOptions { files: 16, ..RingOptions::small() })
    }

    fn finish<F: Future>(future: F, ring: &Ring) -> F::Output {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            ring.submit_and_reap(Wait::Forever, 8, &mut Vec::new());
        }
    }

    #[test]
    fn a_sync_that_failed_is_known_to_all_exports_of_the_file() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let [path, link, other] = ["path", "link", "other"].map(|name| directory.path().join(name));
        std::fs::write(&path, [1; 4096]).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        std::fs::write(&other, [1; 4096]).unwrap();
        let context = context();
        let [path, link, other] = [path, link, other].map(|path| {
            let export = Export::open(&ExportUri::file(&path), false).unwrap();
            let Store::File(store) = &export.store else { panic!("a file") };
            FileDevice::new(Arc::clone(store), 4096, &context).unwrap()
        });
        let flush = |device: &FileDevice| finish(device.flush(&context), &context.ring);
        assert_eq!([&path, &link, &other].map(flush), [Ok(()); 3]);
        // Its syncs fail from now on, with EBADF; those of the other exports would not.
        context.ring.release_file(path.buffered);
        assert!(flush(&path).is_err());
        assert_eq!(flush(&link), Err(BlockError::Io), "what was lost is lost for this one too");
        assert_eq!(flush(&other), Ok(()), "another file");
    }
}
