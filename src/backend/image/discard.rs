//! TRIM and WRITE_ZEROES of an image: the state, then the hole.
//!
//! A block that is trimmed says so, and hides what is below it: the base never shows again. The state comes
//! first. A hole without its state would bring the base back; a state without its hole is only room that is
//! not given back. Blocks are zeroed when no write to them is under way: see `write.rs`.

use super::chain::Chain;
use super::store::behind;
use crate::backend::abandon::Abandon;
use crate::backend::context::ShardContext;
use crate::backend::steps::steps;
use crate::block::{BlockError, ByteRange, IoFlags};
use crate::exec::RangeMode;
use crate::store::map::BlockState;

/// Bytes whose states change in one step.
const STATES_STEP: u64 = 64 << 20;

impl Chain {
    /// Gives the blocks of a range back. Parts of blocks at its ends are zeroed.
    pub(super) async fn trim(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.zero(range, IoFlags::default(), abandon, context).await
    }

    /// Makes a range read as zeroes, by the cheapest way that keeps the promises of the flags.
    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        // A part of a block may have to be merged with what is below it.
        if flags.fast_zero && self.store.covered(range) != self.store.touched(range) {
            return Err(BlockError::NotSupported);
        }
        self.zero(range, flags, abandon, context).await
    }

    async fn zero(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let covered = self.store.covered(range);
        if covered.is_empty() {
            return self.zero_part(range, context).await;
        }
        let inner = self.store.bytes(covered);
        for (from, to) in [(range.offset(), inner.offset()), (inner.end().min(range.end()), range.end())] {
            let part = ByteRange::new(from, to - from).expect("within the range");
            self.zero_part(part, context).await?;
        }
        for step in steps(inner, STATES_STEP.next_multiple_of(self.store.block())) {
            if step.offset() > inner.offset() {
                context.ready.give_way(&context.ring).await;
                abandon.check()?;
            }
            self.zero_blocks(step, flags, abandon, context).await?;
        }
        self.commit_early(context).await;
        Ok(())
    }

    /// Zeroes within one block, or two neighbours.
    async fn zero_part(&self, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
        let mut rest = range;
        while !rest.is_empty() {
            let length = rest.length().min(context.zeroes.capacity() as u64);
            let part = ByteRange::new(rest.offset(), length).expect("within the range");
            self.write(part, context.zeroes.clone(), false, context).await?;
            rest = behind(part, range);
        }
        Ok(())
    }

    async fn zero_blocks(
        &self,
        bytes: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let blocks = self.store.touched(bytes);
        let head = self.head();
        head.know(blocks, context).await?;
        let mode = if canary!(ZeroingBesideWrites) { RangeMode::Shared } else { RangeMode::Exclusive };
        let _alone = self.store.locks.lock(bytes, mode).await;
        if flags.no_hole {
            // Room first: a state that promises it comes when it is there.
            head.data.write_zeroes(bytes, flags, abandon, context).await?;
            return self.set(blocks, BlockState::ZeroReserved, context).await;
        }
        if self.is_nothing(blocks) {
            return Ok(());
        }
        if !canary!(TrimRevealsBase) {
            self.set(blocks, BlockState::Zero, context).await?;
        }
        // Only room is at stake.
        head.data.trim(bytes, abandon, context).await
    }
}
