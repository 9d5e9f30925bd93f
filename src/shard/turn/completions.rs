//! What completions brought.

use crate::ring::{Event, Operation, Owner, SendBatch};
use crate::shard::frontend::nbd::ending::{Ending, Reason};
use crate::shard::request::table::RequestId;
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// What completions brought; nothing acts on it yet.
    pub(crate) fn record(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            let key = event.key;
            match event.owner {
                Owner::Task(task) => self.shared.context.ready.wake(task),
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
            Operation::Send { batch, .. } => self.sent(key, completion.result, batch),
            Operation::AwaitRoom { .. } | Operation::Populate { .. } | Operation::Read { .. } => {
                if let Some((id, held)) = connection.may_send(completion) {
                    self.requests.record(id).held += held as u32;
                }
                to_flush(&mut self.to_flush, key, connection);
            }
            _ => {}
        }
        self.list(key);
    }

    /// The end of a connection's send.
    fn sent(&mut self, key: u32, result: Result<u32, i32>, mut batch: Box<SendBatch>) {
        let connection = &mut self.connections[key as usize];
        let goes_on = connection.outbound.sent(&mut batch, result, self.recorder.now(), &mut self.ended);
        self.batches.give(batch);
        connection.progress.outbound.moved(u64::from(result.unwrap_or(0)));
        let export = connection.peer.export;
        for id in self.ended.drain(..) {
            let record = self.requests.remove(id);
            connection.release(&record);
            if let Some(timing) = &record.timing {
                connection.totals.count(timing);
                self.recorder.sent(export, timing, &connection.name);
            }
        }
        if !goes_on || connection.ending == Ending::Abort {
            connection.because(Reason::Broken(result.err().unwrap_or(libc::EPIPE))).end(Ending::Abort);
        }
        to_flush(&mut self.to_flush, key, connection);
    }
}
