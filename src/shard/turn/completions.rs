//! What completions brought.

use crate::backend::SingleRead;
use crate::block::ByteRange;
use crate::ring::{Completion, Payload};
use crate::ring::{Event, Operation, Owner, SendBatch};
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::request::table::RequestId;
use crate::shard::request::{Action, ShardJob, Work};
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;
use std::rc::Rc;

impl Shard {
    /// What completions brought; nothing acts on it yet.
    pub(crate) fn record(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            let key = event.key;
            match event.owner {
                Owner::Task(task) => self.shared.context.ready.wake(task),
                Owner::Within(_) => self.ring.wake_within(key),
                Owner::Request(request) => self.single_ended(RequestId(request), event),
                Owner::Connection(connection) => self.completed(connection, event),
                Owner::Shard => match self.ring.collect(event).operation {
                    Operation::Watch { .. } => self.doorbell_rang = true,
                    Operation::Sleep { .. } => self.timer_ended(key),
                    _ => {}
                },
                Owner::Nobody => unreachable!("nobody is told"),
            }
        }
    }

    /// The end of one operation of a connection.
    pub(crate) fn completed(&mut self, key: u32, event: Event) {
        let operation = event.key;
        let completion = self.ring.collect(event);
        let connection = &mut self.connections[key as usize];
        connection.operations -= 1;
        match completion.operation {
            Operation::Sleep { .. } if connection.lingered(operation) => {
                to_flush(&mut self.to_flush, key, connection);
            }
            Operation::AwaitHangUp { .. } | Operation::Sleep { .. } => {
                connection.watched(completion.result);
                to_flush(&mut self.to_flush, key, connection);
            }
            Operation::Receive { .. } | Operation::ReceiveInto { .. } => {
                debug_assert_eq!(connection.receive, Some(operation));
                connection.received(completion);
            }
            Operation::Install { .. } => connection.installed(completion.installed()),
            Operation::Send { batch, .. } => self.sent(key, completion.result, batch),
            Operation::AwaitRoom { .. } | Operation::Populate { .. } | Operation::Read { .. } => {
                if let Some((id, held)) = connection.may_send(completion) {
                    self.requests.record(id).grant.hold(held);
                }
                to_flush(&mut self.to_flush, key, connection);
            }
            _ => {}
        }
        self.list(key);
    }

    /// The end of a read that is one operation: its answer, or a task that reads again, which has one way for
    /// all that can happen.
    fn single_ended(&mut self, id: RequestId, event: Event) {
        let Completion { result, operation, .. } = self.ring.collect(event);
        let Operation::Read { lease, file, offset: at, .. } = operation else {
            unreachable!("it comes back as it went")
        };
        let record = self.requests.record(id);
        let timing = record.timing.as_ref().expect("it was admitted");
        let (offset, length) = (timing.offset, timing.length);
        let range = ByteRange::new(offset, length).expect("it was one before");
        let peer = &self.connections[record.connection as usize].peer;
        let read = SingleRead { file, offset: at };
        if result != Ok(length as u32) || !peer.device.still_holds(range, read, &lease) {
            let peer = Rc::clone(peer);
            let (action, flags) = (Action::Read { in_parts: false }, Default::default());
            let work = Work { action, range, flags, lease: Some(lease) };
            self.jobs.push(ShardJob::Request(id, peer, work));
            return;
        }
        let payload = Payload::Leased { lease: lease.freeze(), start: 0, length: length as u32 };
        self.answer_data(id, payload);
    }

    /// The end of a connection's send.
    fn sent(&mut self, key: u32, result: Result<u32, i32>, mut batch: Box<SendBatch>) {
        let connection = &mut self.connections[key as usize];
        let goes_on = connection.outbound.sent(&mut batch, result, self.recorder.now(), &mut self.ended);
        self.batches.give(batch);
        connection.progress.outbound.moved(u64::from(result.unwrap_or(0)));
        if connection.secure.is_some() {
            self.recorder.tls().key_updates += connection.take_key_updates();
        }
        let export = connection.peer.export;
        for id in self.ended.drain(..) {
            let record = self.requests.remove(id);
            connection.count(&record);
            if let Some(timing) = &record.timing {
                connection.traffic.count(timing);
                self.recorder.sent(export, timing, &connection.name);
            }
        }
        if !goes_on || connection.closing == Closing::Abort {
            connection.because(Reason::Broken(result.err().unwrap_or(libc::EPIPE))).end(Closing::Abort);
        }
        to_flush(&mut self.to_flush, key, connection);
    }
}
