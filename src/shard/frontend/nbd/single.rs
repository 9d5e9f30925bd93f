//! Reads that are one operation of the ring: a slot, but no task. They are queued when they are parsed.
//!
//! Most copied reads are. Only the whole success is dealt with here: a read that came back short or with an error starts again as a task,
//! which has one way for all that can happen.

use crate::block::ByteRange;
use crate::nbd::server::reply::ReplyTo;
use crate::nbd::server::request::{Command, Request};
use crate::ring::{Completion, Event, FileIndex, Lease, Operation, Owner, Payload};
use crate::shard::frontend::nbd::connection::{Connection, Feeding};
use crate::shard::request::serve::{Peer, Work};
use crate::shard::request::table::RequestId;
use crate::shard::turn::shard::Shard;

/// The file that a request is one read of, if it is.
#[inline]
fn file(request: &Request, peer: &Peer) -> Option<FileIndex> {
    let Command::Read { dont_fragment } = request.command else { return None };
    let range = request.range;
    if range.is_empty() || peer.may_leave_out_holes(range, dont_fragment) {
        return None;
    }
    peer.device.single_read(range)
}

impl Connection {
    /// Starts a read that needs no task; gives back the memory of what does.
    #[inline]
    pub(crate) fn read_alone(
        &self,
        id: RequestId,
        request: &Request,
        lease: Option<Lease>,
        feeding: &mut Feeding<'_>,
    ) -> Result<(), Option<Lease>> {
        let Some(file) = file(request, &self.peer) else { return Err(lease) };
        let lease = lease.expect("a read of a file has its memory");
        let (offset, length) = (request.range.offset(), request.range.length() as u32);
        let operation = Operation::Read { file, offset, lease, start: 0, length, in_worker: false };
        feeding.ring.push(operation, Owner::Request(id.0));
        Ok(())
    }
}

impl Shard {
    /// The end of such a read: its reply, or a task that reads again.
    pub(crate) fn single_ended(&mut self, id: RequestId, event: Event) {
        let Completion { result, operation, .. } = self.ring.collect(event);
        let Operation::Read { lease, .. } = operation else { unreachable!("it comes back as it went") };
        let record = self.requests.record(id);
        let timing = record.timing.as_ref().expect("it was admitted");
        let (cookie, offset, length) = (record.cookie, timing.offset, timing.length);
        let peer = &self.connections[record.connection as usize].peer;
        if result != Ok(length as u32) {
            let command = Command::Read { dont_fragment: true };
            let range = ByteRange::new(offset, length).expect("it was one before");
            let request = Request { cookie, command, range, offset, flags: Default::default() };
            self.admitted.push((id, Work { request, lease: Some(lease), peer: peer.clone() }));
            return;
        }
        let to = ReplyTo { mode: peer.session.reply_mode, cookie, offset, chunked: true };
        let header = to.data(offset, length as u32, true);
        let payload = Payload::Leased { lease: lease.freeze(), start: 0, length: length as u32 };
        if let Some(key) = self.answered(id, 0) {
            let outbound = &mut self.connections[key as usize].outbound;
            outbound.push_one(header, payload, id, self.recorder.now(), &mut self.batches);
        }
    }
}
