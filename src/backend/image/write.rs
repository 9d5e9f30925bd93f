//! Writes of an image: to the head's data, then the state in memory, then the answer.
//!
//! A block that the head does not have is written whole. A write of a part of it merges: it reads what is
//! below, puts its bytes in, and writes the block. The last block of a disk that ends within it gets zeroes
//! behind the end, so that it has them whenever the disk becomes larger. A merge has its block alone.
//! Other writes have their blocks together: two writes of one block leave bytes of both, as on any disk.
//! Zeroing has its blocks alone. Otherwise a write that ends after it makes a block DATA again, although the
//! file may have the bytes of another write there, which was zeroed.
//!
//! A state changes in one step after the write has ended, so a read never looks for bytes that are not there
//! yet. A write that failed changes none: what it left in the data is never read.

use super::chain::Chain;
use super::source::Source;
use super::store::Blocks;
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange};
use crate::exec::RangeMode;
use crate::ring::SharedLease;
use crate::store::map::BlockState;

/// What came of a write that was to need nothing from below.
enum Written {
    Durable,
    Buffered,
    /// It does need it; its payload comes back.
    Not(SharedLease),
}

impl Chain {
    /// Writes `lease[0..]` to `range`. Whether it is durable now; it need not be without `fua`, nor with it.
    pub(super) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        fua: bool,
        context: &ShardContext,
    ) -> Result<bool, BlockError> {
        let blocks = self.store.touched(range);
        self.head().know(blocks, context).await?;
        // Of what is forgotten at the end nothing needs to be durable.
        let fua = fua && self.head().map_file.is_some();
        match self.write_whole(range, lease, fua, context).await? {
            Written::Durable => Ok(true),
            Written::Buffered => Ok(false),
            Written::Not(lease) => {
                Box::pin(self.write_parts(range, lease, context)).await?;
                Ok(false)
            }
        }
    }

    /// A write that needs nothing from below: it covers its blocks, or the head has them.
    async fn write_whole(
        &self,
        range: ByteRange,
        lease: SharedLease,
        fua: bool,
        context: &ShardContext,
    ) -> Result<Written, BlockError> {
        let (blocks, covered) = (self.store.touched(range), self.store.written(range));
        let head = self.head();
        let is_data =
            || head.map.borrow().uniform(blocks.start, blocks.length) == Some(Some(BlockState::Data));
        if covered != blocks && !is_data() {
            return Ok(Written::Not(lease));
        }
        let _together = self.store.locks.lock(self.store.bytes(blocks), RangeMode::Shared).await;
        // They may have been trimmed meanwhile.
        let in_place = is_data();
        if covered != blocks && !in_place {
            return Ok(Written::Not(lease));
        }
        // What is pending is not durable by the write alone.
        let is_journaled = in_place && !head.map.borrow().has_pending_in(blocks.start, blocks.length);
        let alone = fua && (is_journaled || canary!(FuaNeighbours));
        if canary!(StateBeforeWrite) {
            self.set(covered, BlockState::Data, context).await?;
        }
        head.data.write_from(range, lease, 0, alone, context).await?;
        // A block of which only a part was written keeps its state: a TRIM that came meanwhile is the later
        // one.
        self.set(covered, BlockState::Data, context).await?;
        if alone && canary!(FuaNeighbours) {
            self.record_unsynced(context).await?;
        }
        Ok(if alone { Written::Durable } else { Written::Buffered })
    }

    /// A write of which a part of a block at either end may have to be merged.
    async fn write_parts(
        &self,
        range: ByteRange,
        lease: SharedLease,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let blocks = self.store.touched(range);
        let mode = if canary!(MergeLosesNeighbour) { RangeMode::Shared } else { RangeMode::Exclusive };
        let _alone = self.store.locks.lock(self.store.bytes(blocks), mode).await;
        let covered = self.store.written(range);
        let (first, last) = (blocks.start, blocks.end() - 1);
        let inner = self.store.bytes(covered);
        let mut done = 0;
        if first < covered.start || covered.is_empty() {
            let end = range.end().min((first + 1) * self.store.block());
            done = end - range.offset();
            let front = ByteRange::new(range.offset(), done).expect("within the range");
            self.merge(front, lease.clone(), 0, context).await?;
        }
        if !covered.is_empty() {
            self.head().data.write_from(inner, lease.clone(), done as u32, false, context).await?;
            self.set(covered, BlockState::Data, context).await?;
            done += inner.length();
        }
        if done < range.length() {
            debug_assert!(last * self.store.block() == range.offset() + done);
            let back =
                ByteRange::new(range.offset() + done, range.length() - done).expect("within the range");
            self.merge(back, lease, done as u32, context).await?;
        }
        Ok(())
    }

    /// Writes `lease[start..]` to a part of one block, which the caller has alone.
    async fn merge(
        &self,
        range: ByteRange,
        lease: SharedLease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        // What is known of the block must stay known: see below.
        self.layers.iter().for_each(|layer| layer.map.borrow_mut().hold_leaves());
        let merged = self.merge_held(range, lease, start, context).await;
        self.layers.iter().for_each(|layer| layer.map.borrow_mut().release_leaves());
        merged
    }

    async fn merge_held(
        &self,
        range: ByteRange,
        lease: SharedLease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let blocks = self.store.touched(range);
        let whole = self.store.bytes(blocks);
        if self.head().map.borrow().uniform(blocks.start, 1) == Some(Some(BlockState::Data)) {
            return self.head().data.write_from(range, lease, start, false, context).await;
        }
        let on_disk = ByteRange::new(whole.offset(), whole.length().min(self.store.size() - whole.offset()))
            .expect("within the disk");
        // Nodes come into memory of the reserve. Whoever holds some of it must not ask for more: many merges
        // would wait for each other for ever.
        self.know_sources(on_disk, context).await?;
        let mut merged = context.pool.reserve().lend(whole.length() as usize).await;
        // What lies behind the end of the disk is zeroes.
        merged.bytes_mut(0..whole.length() as usize).fill(0);
        if !canary!(MergeSkipsBase) {
            let (back, result) = self.read(on_disk, merged, 0, context).await;
            merged = back;
            result.map_err(|failure| failure.error)?;
        }
        let (at, from) = ((range.offset() - whole.offset()) as usize, start as usize);
        let length = range.length() as usize;
        merged.bytes_mut(at..at + length).copy_from_slice(lease.bytes(from..from + length));
        self.head().data.write_from(whole, merged.freeze(), 0, false, context).await?;
        self.set(blocks, BlockState::Data, context).await
    }

    /// Blocks of the head have a state from now on, which is pending until a commit has made it durable. What
    /// a commit needs of the map's file is allocated first, so that a full disk shows here.
    pub(super) async fn set(
        &self,
        blocks: Blocks,
        state: BlockState,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let head = self.head();
        if blocks.is_empty() || head.map.borrow().uniform(blocks.start, blocks.length) == Some(Some(state)) {
            return Ok(());
        }
        let is_prepared = {
            let map = head.map.borrow();
            let needs_slots =
                || head.map_file.is_some() && !map.new_slots(blocks.start, blocks.length).is_empty();
            map.missing(blocks.start, blocks.length).is_none() && !needs_slots()
        };
        if is_prepared && self.has_log_room() {
            self.change(blocks, state);
            return Ok(());
        }
        head.map.borrow_mut().hold_leaves();
        let set = Box::pin(self.set_held(blocks, state, context)).await;
        head.map.borrow_mut().release_leaves();
        set
    }

    async fn set_held(
        &self,
        blocks: Blocks,
        state: BlockState,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let head = self.head();
        // Leaves that were there before the write may have gone.
        head.know(blocks, context).await?;
        let slots = match head.map_file {
            Some(_) => head.map.borrow().new_slots(blocks.start, blocks.length),
            None => Vec::new(),
        };
        if !slots.is_empty() {
            head.allocate_slots(slots, context).await?;
        }
        if !self.has_log_room() {
            Box::pin(self.make_log_room(context)).await?;
        }
        self.change(blocks, state);
        Ok(())
    }

    /// Blocks have a state from now on: what that needs is in memory, and there is room for it.
    fn change(&self, blocks: Blocks, state: BlockState) {
        self.head().map.borrow_mut().change(blocks.start, blocks.length, state);
        if state == BlockState::Data {
            self.store.counts.first_writes(blocks.length);
        }
    }

    /// Whether a block reads as zeroes and takes no room, so that zeroing it changes nothing.
    pub(super) fn is_nothing(&self, blocks: Blocks) -> bool {
        matches!(self.whole(self.store.bytes(blocks)), Some(Source::Zeroes { reserved: false }))
    }
}
