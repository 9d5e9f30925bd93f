//! Reads that are one operation of the ring: a slot, but no task.
//!
//! Most copied reads are. Only the whole success is dealt with here: a read that came back short or with an error starts again as a task,
//! which has one way for all that can happen.

use super::outbound::{Reply, ReplyChunk};
use super::request_table::RequestId;
use super::serve::{Peer, Work};
use super::worker::Shard;
use crate::nbd::reply::ReplyTo;
use crate::nbd::request::{Command, Request};
use crate::ring::{Completion, FileIndex, Operation, Owner, Payload};

/// The file that a request is one read of, if it is.
fn file(request: &Request, peer: &Peer) -> Option<FileIndex> {
    let Command::Read { dont_fragment } = request.command else { return None };
    let range = request.range;
    if range.is_empty() || peer.may_leave_out_holes(range, dont_fragment) {
        return None;
    }
    peer.device.single_read(range)
}

impl Shard {
    /// Starts a read that needs no task; gives back what does.
    pub(super) fn start_single(&mut self, id: RequestId, work: Work) -> Option<Work> {
        let Some(file) = file(&work.request, &work.peer) else { return Some(work) };
        let Work { request, lease, .. } = work;
        let lease = lease.expect("a read of a file has its memory");
        let length = request.range.length() as u32;
        let offset = request.range.offset();
        let operation = Operation::Read { file, offset, lease, start: 0, length, in_worker: false };
        self.requests.read_alone(id, request);
        self.ring.push(operation, Owner::Request(id.0));
        None
    }

    /// The end of such a read: its reply, or a task that reads again.
    pub(super) fn single_ended(&mut self, id: RequestId, completion: Completion) {
        let Operation::Read { lease, .. } = completion.operation else {
            unreachable!("it comes back as it went")
        };
        let entry = self.requests.entry(id);
        let request = entry.single.take().expect("it is read without a task");
        let key = entry.connection;
        let connection = &mut self.connections[key as usize];
        let length = request.range.length() as u32;
        if completion.result != Ok(length) {
            let work = Work { request, lease: Some(lease), peer: connection.peer.clone() };
            self.again.push((id, work));
            return;
        }
        let to = ReplyTo::request(&request, connection.peer.session.reply_mode);
        let header = to.data(request.range.offset(), length, true);
        let payload = Payload::Leased { lease: lease.freeze(), start: 0, length };
        self.reply(id, Reply::One(ReplyChunk { header, payload }), 0);
    }
}
