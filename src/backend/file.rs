//! A file or block device on one shard: every operation through the ring, every short result carried on.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::ShardContext;
use super::export::FileStore;
use super::known_data::KnownData;
use super::page_cache::PageCache;
use super::unaligned::UnalignedGate;
use crate::block::{BlockError, ByteRange, Extent, IoFlags};
use crate::ring::{AllocateMode, FileIndex, Lease, MappedRange, Operation, SharedLease};

/// Bytes that one CACHE reads ahead at the most.
const LONGEST_PREFETCH: u64 = 128 << 20;

/// A file export on one shard.
pub(super) struct FileDevice {
    store: Arc<FileStore>,
    buffered: FileIndex,
    durable: Option<FileIndex>,
    direct: Option<FileIndex>,
    /// Where reads can be answered from at once; none for an O_DIRECT export.
    page_cache: Option<PageCache>,
    /// Parts of the file that are known to hold no hole; see [`FileDevice::is_known_data`].
    known: RefCell<KnownData>,
}

/// A read that ended early: which bytes from the start are good, and why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFailure {
    /// Why.
    pub error: BlockError,
    /// Bytes from the start of the range that were read.
    pub good: u64,
}

impl FileDevice {
    pub(super) fn new(store: Arc<FileStore>, size: u64, context: &ShardContext) -> std::io::Result<Self> {
        let register = |file: &std::fs::File| context.ring.register_file(file.as_fd());
        let buffered = register(&store.buffered)?;
        let durable = store.durable.as_ref().map(register).transpose()?;
        let direct = store.direct.as_ref().map(|direct| register(&direct.file)).transpose()?;
        let mapping = match direct {
            None if store.can_be_mapped && size > 0 => context.ring.map_file(store.buffered.as_fd(), size),
            _ => None,
        };
        let page_cache = mapping.map(|mapping| PageCache::new(mapping, size, !store.is_block_device));
        Ok(Self { store, buffered, durable, direct, page_cache, known: RefCell::new(KnownData::new(size)) })
    }

    /// A range to be sent straight from the page cache; see [`PageCache::get`].
    pub(super) fn cached(&self, range: ByteRange, now: u64) -> Option<MappedRange> {
        self.page_cache.as_ref()?.get(range, now)
    }

    /// The direct descriptor when there is one and the range allows it.
    fn direct_for(&self, range: ByteRange) -> Option<(FileIndex, &UnalignedGate)> {
        let (index, file) = self.direct.zip(self.store.direct.as_ref())?;
        range.is_aligned(file.alignment).then_some((index, &file.gate))
    }

    /// Reads `range` into `lease[start..]`.
    pub(super) async fn read(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        let file = self.direct_for(range).map_or(self.buffered, |(index, _)| index);
        let mut done = 0;
        while done < range.length() {
            let (offset, length) = (range.offset() + done, (range.length() - done) as u32);
            let operation = Operation::Read { file, offset, lease, start: start + done as u32, length };
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
    pub(super) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        fua: bool,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let fua = fua && !canary!(FuaIgnored);
        self.known.borrow_mut().written(range);
        if let Some((index, gate)) = self.direct_for(range) {
            // The error of a direct write is its own: `RWF_DSYNC` is told of it whatever runs beside it.
            let _direct = gate.direct(context.shard, &context.wakeups).await;
            return write_all(index, range, lease, fua, context).await.map(drop);
        }
        match fua {
            true => Box::pin(self.write_durably(range, lease, context)).await,
            false => self.write_buffered(range, lease, context).await,
        }
    }

    /// Through the page cache.
    async fn write_buffered(
        &self,
        range: ByteRange,
        lease: SharedLease,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let _alone = match &self.store.direct {
            Some(direct) if !canary!(UnalignedGateSkipped) => {
                Some(direct.gate.unaligned(&context.wakeups).await)
            }
            _ => None,
        };
        write_all(self.buffered, range, lease, false, context).await.map(drop)
    }

    /// Through the page cache to the medium.
    async fn write_durably(
        &self,
        range: ByteRange,
        lease: SharedLease,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let file = self.durable.expect("only an export that may be written gets writes");
        let write = self.store.range_syncs.begin_write();
        self.write_buffered(range, lease, context).await?;
        let sync = async || until_done(|| Operation::Sync { file, range: Some(range) }, context).await;
        write.finish(&context.wakeups, sync).await
    }

    /// `fdatasync`: everything that was answered before, on any connection of any shard, is durable when it returns, because an
    /// answered write has left this process for the file. See [`super::durability`].
    pub(super) async fn flush(&self, context: &ShardContext) -> Result<(), BlockError> {
        if canary!(FlushWithoutSync) {
            return Ok(());
        }
        let file = self.buffered;
        let sync = async || until_done(|| Operation::Sync { file, range: None }, context).await;
        self.store.syncs.flush(&context.wakeups, sync).await
    }

    /// Gives the blocks of a range back. A hint: where it cannot be done it is not an error.
    pub(super) async fn trim(&self, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
        let Some(whole) = shrunk(range, self.store.allocation_unit) else { return Ok(()) };
        self.known.borrow_mut().discarded(range);
        match self.allocate(AllocateMode::PunchHole, whole, context).await {
            Ok(()) | Err(BlockError::NotSupported) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a range read as zeroes, by the cheapest way that keeps the promises of the flags.
    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let whole = shrunk(range, self.store.allocation_unit);
        // A block device zeroes whole sectors only, and without NOUNMAP it may write them out one by one: not fast.
        let sure_to_be_slow = whole != Some(range) || (self.store.is_block_device && flags.no_hole);
        if flags.fast_zero && sure_to_be_slow {
            return Err(BlockError::NotSupported);
        }
        self.known.borrow_mut().discarded(range);
        let modes: &[AllocateMode] = match flags.no_hole {
            true => &[AllocateMode::ZeroRange],
            false => &[AllocateMode::PunchHole, AllocateMode::ZeroRange],
        };
        let modes = if self.store.is_block_device && flags.fast_zero { &modes[..1] } else { modes };
        let mut zeroed = None;
        for mode in modes {
            let Some(whole) = whole else { break };
            match self.allocate(*mode, whole, context).await {
                Ok(()) => zeroed = Some(whole),
                Err(BlockError::NotSupported) => continue,
                Err(error) => return Err(error),
            }
            break;
        }
        let Some(zeroed) = zeroed else {
            if flags.fast_zero {
                return Err(BlockError::NotSupported);
            }
            return self.write_zeroes_as_data(range, context).await;
        };
        // What sticks out of whole sectors on either side.
        for (start, end) in [(range.offset(), zeroed.offset()), (zeroed.end(), range.end())] {
            let part = ByteRange::new(start, end - start).expect("within the range");
            self.write_zeroes_as_data(part, context).await?;
            if canary!(ZeroesFirstPartOnly) {
                break;
            }
        }
        Ok(())
    }

    async fn write_zeroes_as_data(&self, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
        let mut done = 0;
        while done < range.length() {
            let length = (range.length() - done).min(context.zeroes.capacity() as u64);
            let part = ByteRange::new(range.offset() + done, length).expect("within the range");
            self.write(part, context.zeroes.clone(), false, context).await?;
            done += length;
            if canary!(ZeroesFirstPartOnly) {
                break;
            }
        }
        Ok(())
    }

    async fn allocate(
        &self,
        mode: AllocateMode,
        range: ByteRange,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let file = self.buffered;
        match until_done(|| Operation::Allocate { file, mode, range }, context).await {
            Ok(()) => Ok(()),
            Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL) => {
                Err(BlockError::NotSupported)
            }
            Err(errno) => Err(failure(errno)),
        }
    }

    /// Asks the kernel to read the first bytes of a range ahead into the page cache; with O_DIRECT there is nothing to do.
    ///
    /// The protocol leaves open "whether there is a limit on how much can be cached at once" (`NBD_CMD_CACHE`). Without one a single
    /// request fills the page cache with a whole disk, and a later TRIM that drops it all keeps writes to the file waiting.
    pub(super) async fn cache(&self, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
        if self.direct.is_none() {
            let front = ByteRange::new(range.offset(), range.length().min(LONGEST_PREFETCH));
            let front = front.expect("within the range");
            // A prefetch that fails changes nothing that a client could see.
            let _hint = context.ring.run(Operation::Prefetch { file: self.buffered, range: front }).await;
        }
        Ok(())
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
        let extents = context.helpers.extents(&self.store, range, limit, client).await?;
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

    /// Extents of a range that is about to be read: as [`FileDevice::extents`], but asked for whole regions, so that once a region is
    /// known to hold data nobody asks again.
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
    /// Only ever used to leave a question out: when a hole was made meanwhile, by another shard or by a stranger, its zeroes are
    /// read as data, which is as true.
    pub(super) fn is_known_data(&self, range: ByteRange) -> bool {
        self.store.is_block_device || self.known.borrow().holds(range)
    }
}

/// Runs an operation that moves no bytes, and does so again while it is interrupted; an errno if it fails.
async fn until_done(operation: impl Fn() -> Operation, context: &ShardContext) -> Result<(), i32> {
    loop {
        match context.ring.run(operation()).await.0 {
            Ok(_) => return Ok(()),
            Err(libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
}

async fn write_all(
    file: FileIndex,
    range: ByteRange,
    mut lease: SharedLease,
    durable: bool,
    context: &ShardContext,
) -> Result<SharedLease, BlockError> {
    let mut done = 0;
    while done < range.length() {
        let (offset, length) = (range.offset() + done, (range.length() - done) as u32);
        let operation = Operation::Write { file, offset, lease, start: done as u32, length, durable };
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

/// The part of extents, which begin at `start`, that lies in `range`.
fn within(extents: &[Extent], start: u64, range: ByteRange) -> Vec<Extent> {
    let mut offset = start;
    let mut inside = Vec::with_capacity(extents.len());
    for extent in extents {
        let (from, to) = (offset.max(range.offset()), (offset + extent.length).min(range.end()));
        if from < to {
            inside.push(Extent { length: to - from, ..*extent });
        }
        offset += extent.length;
    }
    inside
}

fn failure(errno: i32) -> BlockError {
    tracing::debug!(errno, "the backend failed");
    BlockError::from_errno(errno)
}

/// The whole units inside a range.
fn shrunk(range: ByteRange, unit: u32) -> Option<ByteRange> {
    let unit = u64::from(unit);
    let start = range.offset().checked_next_multiple_of(unit)?;
    let end = range.end() / unit * unit;
    ByteRange::new(start, end.checked_sub(start)?).filter(|whole| !whole.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[test]
    fn whole_sectors_inside_a_range() {
        assert_eq!(shrunk(range(1, 1024), 512), Some(range(512, 512)));
        assert_eq!(shrunk(range(1, 600), 512), None);
        assert_eq!(shrunk(range(7, 9), 1), Some(range(7, 9)));
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
}
