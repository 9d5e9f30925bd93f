//! TRIM and WRITE_ZEROES of files: holes, reserved zeroes, or zeroes written as data.
//!
//! One call of the kernel for gigabytes would hold the file's lock for as long as it takes, and everything
//! that needs it. So ranges go in steps, one at a time on an export and a shard (the kernel would do no more
//! than that either), and stop when their client is gone.

use super::abandon::Abandon;
use super::context::ShardContext;
use super::file::{FileDevice, failure, until_done};
use super::steps::steps;
use crate::block::{BlockError, ByteRange, IoFlags};
use crate::ring::{AllocateMode, Operation};

impl FileDevice {
    /// Gives the blocks of a range back. A hint: where it cannot be done it is not an error.
    pub(super) async fn trim(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let Some(whole) = shrunk(range, self.store.allocation_unit) else { return Ok(()) };
        self.known.borrow_mut().discarded(range);
        match self.allocate(AllocateMode::PunchHole, whole, abandon, context).await {
            Ok(()) | Err(BlockError::NotSupported) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a range read as zeroes, by the cheapest way that keeps the promises of the flags.
    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let whole = shrunk(range, self.store.allocation_unit);
        // A block device zeroes whole sectors only, and without NOUNMAP it may write them out one by one: not
        // fast.
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
            match self.allocate(*mode, whole, abandon, context).await {
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
            return self.write_zeroes_as_data(range, abandon, context).await;
        };
        // What sticks out of whole sectors on either side.
        for (start, end) in [(range.offset(), zeroed.offset()), (zeroed.end(), range.end())] {
            let part = ByteRange::new(start, end - start).expect("within the range");
            self.write_zeroes_as_data(part, abandon, context).await?;
            if canary!(ZeroesFirstPartOnly) {
                break;
            }
        }
        Ok(())
    }

    async fn write_zeroes_as_data(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let mut done = 0;
        while done < range.length() {
            if done > 0 {
                abandon.check()?;
            }
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
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let file = self.buffered;
        let longest = if canary!(PunchWhole) { u64::MAX } else { self.store.allocation_step };
        let _change = self.store.inode.changes.begin();
        self.store.inode.note_change();
        for (index, range) in steps(range, longest).enumerate() {
            let _alone = self.allocations.enter(&context.ring).await;
            if index > 0 {
                abandon.check()?;
            }
            match until_done(|| Operation::Allocate { file, mode, range }, context).await {
                Ok(()) => {}
                Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL) => {
                    return Err(BlockError::NotSupported);
                }
                Err(errno) => return Err(failure(errno)),
            }
        }
        Ok(())
    }
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
}
