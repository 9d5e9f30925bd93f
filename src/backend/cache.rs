//! CACHE: reads a range ahead into the page cache.
//!
//! One `POSIX_FADV_WILLNEED` reads no more than the device's read-ahead ahead, however long its range is, so
//! a range is asked for in steps of that length. A prefetch runs in a worker thread of the ring, which other
//! exports need too: one at a time runs on an export and a shard. While it does, further ones succeed without
//! work; CACHE promises nothing that a client could miss.

use super::abandon::Abandon;
use super::context::ShardContext;
use super::file::FileDevice;
use super::steps::steps;
use crate::block::{BlockError, ByteRange};
use crate::ring::Operation;

/// Bytes that one CACHE reads ahead at the most.
///
/// The protocol leaves open "whether there is a limit on how much can be cached at once" (`NBD_CMD_CACHE`).
/// Without one a single request fills the page cache with a whole disk, and a later TRIM that drops it all
/// keeps writes to the file waiting.
const LONGEST_PREFETCH: u64 = 128 << 20;

/// Bytes of one step at the most, where the device's read-ahead is longer.
///
/// A kernel without preemption gives the processor back after a whole step, whose pages it has to find and,
/// in a hole, to clear. A worker on the shard's own processor then keeps every request of the shard waiting:
/// a neighbour's write waited 22 ms (p99) beside steps of 1 MiB, 3.5 ms beside these (`cache-flood` of
/// `perf/compare`).
const LONGEST_STEP: u64 = 128 << 10;

impl FileDevice {
    /// Reads the first bytes of a range ahead; with O_DIRECT there is nothing to do. Stops when the client is
    /// gone, or when the export has all its worker threads in use.
    pub(super) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        if self.direct.is_some() {
            return Ok(());
        }
        let Some(_running) = self.prefetching.begin() else { return Ok(()) };
        let front = ByteRange::new(range.offset(), range.length().min(LONGEST_PREFETCH));
        for step in steps(front.expect("within the range"), self.store.read_ahead.min(LONGEST_STEP)) {
            let place = self.workers.try_enter();
            if abandon.is_abandoned() || (place.is_none() && !canary!(PrefetchUnbounded)) {
                break;
            }
            // A prefetch that fails changes nothing that a client could see.
            let _hint = context.ring.run(Operation::Prefetch { file: self.buffered, range: step }).await;
        }
        Ok(())
    }
}
