//! The phases of a turn: record, feed, run, reply, flush. See [`Shard`] for their order and what holds after each turn.

use std::net::Shutdown;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::connection::{Connection, Fed, Feeding};
use super::ending::{Ending, Reason};
use super::outbound::Next;
use super::reply::Reply;
use super::request_table::RequestId;
use super::serve::{Shared, Work};
use super::waiting::{Listed, Need};
use super::worker::Shard;
use crate::ring::{Event, Operation, Owner, SendBatch};
use crate::task::Tasks;

impl Shard {
    /// What completions brought; nothing acts on it yet.
    pub(super) fn record(&mut self, events: &mut Vec<Event>) {
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
    pub(super) fn completed(&mut self, key: u32, event: Event) {
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

    /// Puts a connection on the list to be fed. One that waits is fed too: what it did itself may let it go on, without a try of the others.
    pub(super) fn list(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        match std::mem::replace(&mut connection.listed, Listed::ToFeed) {
            Listed::ToFeed => return,
            Listed::Waiting { place, .. } => self.waiting.remove(place),
            Listed::No => {}
        }
        self.to_feed.push_back(key);
    }

    /// Received bytes become requests: first of those who had to wait, then of those that come new.
    pub(super) fn feed(&mut self) {
        self.try_waiting();
        for _ in 0..self.to_feed.len().min(self.limits.connections_per_turn) {
            let key = self.to_feed.pop_front().expect("counted");
            self.connections[key as usize].listed = Listed::No;
            self.feed_one(key);
        }
    }

    /// Feeds one connection, which is on no list; false when it has to wait for the shard and got nothing at all.
    pub(super) fn feed_one(&mut self, key: u32) -> bool {
        let connection = &mut self.connections[key as usize];
        let before = connection.in_flight;
        let scarce = self.ring.available_receive_buffers() < self.limits.receive_buffers() / 4;
        let most = self.room.most(before, self.requests.unsent());
        let mut feeding = Feeding {
            limits: &self.limits,
            pool: &self.pool,
            ring: &self.ring,
            batches: &mut self.batches,
            seniority: &mut self.seniority,
            requests: &mut self.requests,
            most_in_flight: most.min(self.limits.requests_per_connection),
            room: &self.room,
            shutting_down: self.shutdown.is_some(),
            scarce_buffers: scarce,
            now: self.recorder.now(),
            fault_watch: &mut self.fault_watch,
            recorder: &mut self.recorder,
            key,
            admitted: &mut self.admitted,
            started: &mut self.started,
        };
        let fed = connection.feed(&mut feeding);
        let began_requests = connection.in_flight > before;
        if connection.outbound.wants_to_send() || connection.ending != Ending::No || self.shutdown.is_some() {
            to_flush(&mut self.to_flush, key, connection);
        }
        let waits_for = if let Fed::WaitsForShard(need) = fed { Some(need) } else { None };
        connection.stand_in_line(waits_for, key, &mut self.seniority);
        self.seniority.take_freed().for_each(|kind| self.waiting.try_all(kind));
        let buffers = self.ring.available_receive_buffers() > 0;
        let need = match fed {
            Fed::Ended if connection.should_watch_client() => {
                self.to_receive.push(key);
                return true;
            }
            Fed::NeedsBytes if buffers || connection.receives_payload() => {
                self.to_receive.push(key);
                return true;
            }
            Fed::NeedsBytes => Need::Buffer,
            Fed::WaitsForShard(need) => need,
            Fed::WaitsForReplies => {
                self.watch();
                return true;
            }
            Fed::Ended => return true,
        };
        connection.listed = Listed::Waiting { place: self.waiting.push(key, need), held: connection.held };
        self.watch();
        began_requests
    }

    /// Admitted requests become tasks; all that are ready run.
    pub(super) fn run<F: Future<Output = ()>>(
        &mut self,
        tasks: &mut Tasks<F>,
        serve: &impl Fn(Rc<Shared>, RequestId, Work) -> F,
    ) {
        for (id, work) in self.admitted.drain(..) {
            tasks.spawn(serve(Rc::clone(&self.shared), id, work));
        }
        tasks.run_ready();
        let mut finished = std::mem::take(&mut *self.shared.finished.borrow_mut());
        let after_run = if finished.is_empty() { 0 } else { self.recorder.clock() };
        for (id, reply) in finished.drain(..) {
            self.reply(id, reply, after_run);
        }
        *self.shared.finished.borrow_mut() = finished;
        for (export, command, error) in self.shared.errors.borrow_mut().drain(..) {
            self.recorder.export(export).count_error(Some(command), error);
        }
    }

    /// A backend is done with a request: its reply goes out unless nobody is there to read it.
    pub(super) fn reply(&mut self, id: RequestId, reply: Reply, after_run: u64) {
        let Some(connection) = self.answered(id, after_run) else { return };
        self.connections[connection as usize].outbound.push(reply, id);
    }

    /// A backend is done with a request; the connection that gets the reply, if it still takes one.
    #[inline]
    pub(super) fn answered(&mut self, id: RequestId, after_run: u64) -> Option<u32> {
        let record = self.requests.answered(id);
        let key = record.connection;
        let connection = &mut self.connections[key as usize];
        let timing = record.timing.as_mut().expect("it was admitted");
        self.recorder.completed(connection.peer.export, timing, after_run);
        connection.answered(record);
        to_flush(&mut self.to_flush, key, connection);
        if connection.ending == Ending::Abort {
            connection.forgotten.push(id);
            return None;
        }
        Some(key)
    }

    /// Starts sends, and lets connections go that are over.
    pub(super) fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            connection.flushing = false;
            if connection.ending == Ending::No && self.shutdown.is_some() && connection.is_idle() {
                connection.stop(self.recorder.now());
            }
            if connection.outbound.wants_to_send() && connection.ending != Ending::Abort {
                self.start_send(key);
            }
            let connection = &mut self.connections[key as usize];
            if let Listed::Waiting { held, .. } = connection.listed
                && connection.held < held
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
        let standing = |range, waited_long: bool| {
            let trust = if waited_long { None } else { fault_watch.trust(now) };
            device.standing(range, trust, now)
        };
        let operation = match connection.outbound.fill(&mut batch, now, standing) {
            Next::Send(mode) => {
                self.fault_watch.sends(mode, now);
                connection.operations += 1;
                let operation = Operation::Send { socket, mode, batch };
                let operation = self.ring.push(operation, Owner::Connection(key));
                connection.outbound.started(mode, operation);
                return self.watch_send(key);
            }
            Next::AwaitRoom => Some(Operation::AwaitRoom { socket }),
            Next::Populate(mapped) => Some(Operation::Populate { mapped }),
            Next::Nothing => None,
            Next::Broken => {
                connection.because(Reason::Torn(libc::EIO)).end(Ending::Abort);
                None
            }
        };
        self.batches.give(batch);
        if let Some(operation) = operation {
            connection.outbound.pause();
            connection.operations += 1;
            self.ring.push(operation, Owner::Connection(key));
            self.watch_send(key);
        }
        let connection = &mut self.connections[key as usize];
        if connection.outbound.lost().is_some() {
            self.list(key);
        }
    }

    /// Starts receives of connections that need more bytes. After the sends: whoever waits for a reply waits less.
    pub(super) fn receive(&mut self) {
        for key in self.to_receive.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            let buffers = self.ring.available_receive_buffers() > 0;
            let watch = connection.watch_client();
            if let Some(operation) =
                watch.or_else(|| connection.next_receive(self.shutdown.is_some(), buffers))
            {
                connection.operations += 1;
                connection.receive = Some(self.ring.push(operation, Owner::Connection(key)));
            }
        }
    }

    /// Does what a connection that is ending still needs, once each.
    pub(super) fn end(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        let is_over = connection.is_over();
        if connection.has_done_all() {
            connection.forget_payload();
        }
        for id in std::mem::take(&mut connection.forgotten) {
            let record = self.requests.remove(id);
            connection.release(&record);
        }
        if connection.ending == Ending::Abort && connection.operations > 0 && !connection.shut_down {
            connection.shut_down = true;
            connection.operations += 1;
            let operation = Operation::Shutdown { socket: connection.socket, how: Shutdown::Both };
            self.ring.push(operation, Owner::Connection(key));
        }
        if let Some((operation, time)) = connection.begin_lingering(self.limits.shutdown_timeout) {
            connection.operations += 1;
            self.ring.push(operation, Owner::Connection(key));
            connection.operations += 1;
            connection.linger_timer = Some(self.ring.push(Operation::sleep(time), Owner::Connection(key)));
        }
        if let Some(target) = connection.useless_timer() {
            connection.operations += 1;
            self.ring.push(Operation::Cancel { target }, Owner::Connection(key));
        }
        if let Some(target) = connection.useless_receive()
            && !std::mem::replace(&mut connection.cancelled, true)
        {
            connection.operations += 1;
            self.ring.push(Operation::Cancel { target }, Owner::Connection(key));
        }
        if is_over {
            match connection.listed {
                // It comes off the list in one of the next turns, and then back here.
                Listed::ToFeed => return,
                Listed::Waiting { place, .. } => self.waiting.remove(place),
                Listed::No => {}
            }
            let mut connection = self.connections.remove(key as usize);
            connection.stand_in_line(None, key, &mut self.seniority);
            self.seniority.take_freed().for_each(|kind| self.waiting.try_all(kind));
            self.recorder.disconnected(connection.peer.export);
            self.share_out();
            assert_eq!(connection.in_flight, 0, "each request ends or is forgotten");
            if !(canary!(SocketLeaked) && connection.ending == Ending::Abort) {
                self.ring.release_file(connection.socket);
            }
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            connection.tell_end(self.recorder.elapsed());
            let id = connection.peer.id;
            drop(connection);
            if let Some(done) = self.devices.leave(id) {
                self.recorder.forget(id.index as usize);
                done();
            }
        }
    }
}

/// Puts a connection on the list to be flushed, unless it is there already.
pub(super) fn to_flush(list: &mut Vec<u32>, key: u32, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.flushing, true) {
        list.push(key);
    }
}
