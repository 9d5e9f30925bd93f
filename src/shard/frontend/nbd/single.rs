//! Reads that are one operation of the ring: a slot, but no task. They are queued when they are parsed.
//!
//! Most copied reads are. Only the whole success is dealt with here: a read that came back short or with an error starts again as a task,
//! which has one way for all that can happen.

use crate::ring::{Operation, Owner};
use crate::shard::frontend::nbd::connection::{Connection, Feeding};
use crate::shard::request::table::RequestId;
use crate::shard::request::{Action, Work, sparse};

impl Connection {
    /// Starts a read that needs no task; gives back what does.
    #[inline]
    pub(crate) fn read_alone(
        &self,
        id: RequestId,
        work: Work,
        feeding: &mut Feeding<'_>,
    ) -> Result<(), Work> {
        let (device, range) = (&self.peer.device, work.range);
        let Action::Read { in_parts } = work.action else { return Err(work) };
        if range.is_empty() || (in_parts && sparse::is_worth_it(range, device)) {
            return Err(work);
        }
        let Some(file) = device.single_read(range) else { return Err(work) };
        let lease = work.lease.expect("a read of a file has its memory");
        let (offset, length) = (range.offset(), range.length() as u32);
        let operation = Operation::Read { file, offset, lease, start: 0, length, in_worker: false };
        feeding.ring.push(operation, Owner::Request(id.0));
        Ok(())
    }
}
