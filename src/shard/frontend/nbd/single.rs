//! Reads that are one operation of the ring: a slot, but no task. They are queued when they are parsed.
//!
//! Most copied reads are. Only the whole success is dealt with here: a read that came back short or with an
//! error starts again as a task, which has one way for all that can happen.

use crate::backend::SingleRead;
use crate::ring::{Operation, Owner};
use crate::shard::frontend::nbd::connection::{Connection, Feeding};
use crate::shard::request::table::RequestId;
use crate::shard::request::{Action, Work, sparse};

impl Connection {
    /// The one operation that a request is, if it is one read.
    #[inline(always)]
    pub(crate) fn single_read(&self, work: &Work) -> Option<SingleRead> {
        let Action::Read { in_parts } = work.action else { return None };
        if work.range.is_empty() || (in_parts && sparse::is_worth_it(work.range, &self.peer.device)) {
            return None;
        }
        self.peer.device.single_read(work.range)
    }
}

/// Starts a read that needs no task.
#[inline(always)]
pub(crate) fn read_alone(id: RequestId, read: SingleRead, work: Work, feeding: &mut Feeding<'_>) {
    let lease = work.lease.expect("a read of a file has its memory");
    let (SingleRead { file, offset }, length) = (read, work.range.length() as u32);
    let operation = Operation::Read { file, offset, lease, start: 0, length, in_worker: false };
    feeding.ring.push(operation, Owner::Request(id.0));
}
