//! Replies leave, connections ask for more bytes, and those that are over go.

use crate::shard::request::answer::Answer;
use std::sync::atomic::Ordering;

use crate::block::BlockError;
use crate::ring::{MappedRange, Operation, Payload};
use crate::shard::admission::queue::Listed;
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::hold::SocketOwner;
use crate::shard::frontend::nbd::outbound::Next;
use crate::shard::request::table::RequestId;
use crate::shard::turn::shard::Shard;
use crate::stats::{self, Timing};

impl Shard {
    /// A device is done with a request: its answer goes out unless the connection was aborted.
    pub(crate) fn answer(&mut self, id: RequestId, answer: Answer, after_run: u64) {
        if let Some(error) = answer.failure() {
            self.count_failure(id, error);
        }
        if let Some(key) = self.answered(id, after_run) {
            let (record, now) = (self.requests.record(id), self.recorder.now());
            self.connections[key as usize].reply(id, answer, record, now, &mut self.batches);
        }
    }

    /// The same for all the data of a READ.
    #[inline(always)]
    pub(crate) fn answer_data(&mut self, id: RequestId, payload: Payload) {
        if let Some(key) = self.answered(id, 0) {
            let (record, now) = (self.requests.record(id), self.recorder.now());
            self.connections[key as usize].reply_data(id, payload, record, now, &mut self.batches);
        }
    }

    /// A device is done with a request; the connection that gets the reply, unless it was aborted.
    #[inline]
    fn answered(&mut self, id: RequestId, after_run: u64) -> Option<u32> {
        let record = self.requests.record(id);
        let key = record.connection;
        let connection = &mut self.connections[key as usize];
        let timing = record.timing.as_mut().expect("it was admitted");
        self.recorder.completed(connection.peer.export, timing, after_run);
        record.grant.end_work();
        if !timing.is(stats::Operation::Read) && !timing.is(stats::Operation::BlockStatus) {
            // The payload of a write is not needed any more; only what was read stays until it is sent.
            record.grant.release_memory();
        }
        to_flush(&mut self.to_flush, key, connection);
        if connection.closing == Closing::Abort {
            connection.forgotten.push(id);
            return None;
        }
        Some(key)
    }

    #[cold]
    fn count_failure(&mut self, id: RequestId, error: BlockError) {
        let record = self.requests.record(id);
        let peer = &self.connections[record.connection as usize].peer;
        if !peer.abandon.is_abandoned() {
            let operation = record.timing.as_ref().map(Timing::operation);
            self.recorder.export(peer.export).count_error(operation, error);
        }
    }

    /// Starts sends, and lets connections go that are over.
    pub(crate) fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            connection.flushing = false;
            connection.seal_tail(&mut self.batches);
            if connection.closing == Closing::No
                && self.stops_idle
                && (self.shutdown.is_some() || connection.is_removed())
                && connection.is_idle()
            {
                connection.stop(self.recorder.now());
            } else if connection.closing == Closing::No && connection.may_be_turned_away() {
                connection.because(Reason::Unwelcome).stop(self.recorder.now());
            }
            if connection.closing == Closing::Graceful && connection.hold.owner == SocketOwner::Shard {
                connection.say_farewell();
            }
            if connection.outbound.wants_to_send() && connection.closing != Closing::Abort {
                self.start_send(key);
            }
            self.remove_forgotten(key);
            let connection = &mut self.connections[key as usize];
            if let Listed::Waiting { held, .. } = connection.listed
                && connection.ledger.held() < held
            {
                self.list(key);
            }
            self.end(key);
        }
        self.to_flush = keys;
    }

    /// Starts a connection's send, or what must come before it.
    fn start_send(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        let (socket, now) = (connection.socket, self.recorder.now());
        let mut batch = connection.outbound.take_batch(&mut self.batches);
        let device = &connection.peer.device;
        let fault_watch = &mut self.fault_watch;
        let standing = |mapped: &MappedRange, waited_long: bool| {
            let trust = if waited_long { None } else { fault_watch.trust(now) };
            device.standing(mapped, trust, now)
        };
        let operation = match connection.outbound.fill(&mut batch, now, standing) {
            Next::Send(mode) => {
                self.fault_watch.sends(mode, now);
                let operation = connection.push(&self.ring, key, Operation::Send { socket, mode, batch });
                connection.outbound.started(mode, operation);
                return self.watch_send(key);
            }
            Next::AwaitRoom => Some(Operation::AwaitRoom { socket }),
            Next::Populate(mapped) => Some(Operation::Populate { mapped }),
            Next::Nothing => None,
            Next::Broken => {
                connection.because(Reason::Torn(libc::EIO)).end(Closing::Abort);
                None
            }
        };
        self.batches.give(batch);
        if let Some(operation) = operation {
            connection.outbound.pause();
            connection.push(&self.ring, key, operation);
            self.watch_send(key);
        }
        let connection = &mut self.connections[key as usize];
        if connection.outbound.lost().is_some() {
            self.list(key);
        }
    }

    /// Starts receives of connections that need more bytes. After the sends, so that clients that wait for
    /// replies wait less.
    pub(crate) fn receive(&mut self) {
        for key in self.to_receive.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            let buffers = self.ring.available_receive_buffers() > 0;
            let watch = connection.watch_client();
            if let Some(operation) =
                watch.or_else(|| connection.next_receive(self.shutdown.is_some(), buffers))
            {
                connection.receive = Some(connection.push(&self.ring, key, operation));
            }
        }
    }

    /// Takes out of the table what will not be answered; what it held goes back.
    fn remove_forgotten(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if connection.has_done_all() {
            connection.forget_payload();
        }
        for id in std::mem::take(&mut connection.forgotten) {
            let record = self.requests.remove(id);
            connection.count(&record);
        }
    }

    /// Does what a connection that is ending still needs, once each.
    pub(crate) fn end(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if let Some(operation) = connection.parting_shutdown() {
            connection.push(&self.ring, key, operation);
        }
        if let Some((operation, time)) = connection.begin_lingering(self.limits.shutdown_timeout) {
            connection.push(&self.ring, key, operation);
            connection.linger_timer = Some(connection.push(&self.ring, key, Operation::sleep(time)));
        }
        if let Some(target) = connection.useless_timer() {
            connection.push(&self.ring, key, Operation::Cancel { target });
        }
        if let Some(target) = connection.useless_receive()
            && !std::mem::replace(&mut connection.cancelled, true)
        {
            connection.push(&self.ring, key, Operation::Cancel { target });
        }
        if connection.is_over() {
            match connection.listed {
                // It comes off the list in one of the next turns, and then back here.
                Listed::ToFeed => return,
                Listed::Waiting { place, .. } => self.admission.stop_waiting(place),
                Listed::No => {}
            }
            let connection = self.connections.remove(key as usize);
            self.admission.close_ledger(&connection.ledger);
            self.throttle.leave(connection.gate_number, self.recorder.now());
            self.recorder.disconnected(connection.peer.export);
            self.admission.share_among(self.connections.len());
            assert_eq!(connection.ledger.in_flight(), 0, "each request ends or is forgotten");
            if !(canary!(SocketLeaked) && connection.closing == Closing::Abort) {
                self.ring.release_file(connection.socket);
            }
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            connection.tell_end(self.recorder.elapsed());
            let id = connection.peer.id;
            drop(connection);
            self.detach(id);
        }
    }
}

/// Puts a connection on the list to be flushed, unless it is there already.
pub(crate) fn to_flush(list: &mut Vec<u32>, key: u32, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.flushing, true) {
        list.push(key);
    }
}
