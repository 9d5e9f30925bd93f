//! The phases of a turn: record, feed, run, reply, flush. See [`Shard`] for their order and what holds after each turn.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::connection::{Admitted, Connection, Ending, Fed, Feeding};
use super::outbound::{Release, Reply};
use super::request_table::{Entry, RequestId};
use super::serve::{Shared, Work};
use super::waiting::{Listed, Need};
use super::worker::{Shard, SpareBatches};
use crate::config::Limits;
use crate::nbd::reply::LONGEST_HEADER;
use crate::ring::{Completion, Event, OpKey, Operation, Owner, SendBatch, SendMode};
use crate::task::Tasks;

impl Shard {
    /// What completions brought; nothing acts on it yet.
    pub(super) fn record(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Task(task) => self.shared.context.ready.wake(task),
                Event::Connection(connection, key, completion) => self.completed(connection, key, completion),
                Event::Request(request, completion) => self.single_ended(RequestId(request), completion),
                Event::Shard(key, completion) => match completion.operation {
                    Operation::Watch { .. } => self.doorbell_rang = true,
                    Operation::Sleep { .. } => self.timer_ended(key),
                    _ => {}
                },
            }
        }
    }

    /// The end of one operation of a connection.
    pub(super) fn completed(&mut self, key: u32, operation: OpKey, completion: Completion) {
        let connection = &mut self.connections[key as usize];
        let before = connection.in_flight;
        connection.operations -= 1;
        match completion.operation {
            Operation::Receive { .. } | Operation::ReceiveInto { .. } => {
                debug_assert_eq!(connection.receive, Some(operation));
                connection.received(completion);
            }
            Operation::Send { batch, .. } => self.sent(key, completion.result, batch),
            _ => {}
        }
        self.unsent = self.unsent + self.connections[key as usize].in_flight - before;
        self.list(key);
    }

    /// The end of a connection's send.
    fn sent(&mut self, key: u32, result: Result<u32, i32>, mut batch: Box<SendBatch>) {
        let connection = &mut self.connections[key as usize];
        let bytes = result.unwrap_or(0) as usize;
        let mut released = connection.outbound.sent(&mut batch, bytes);
        let large = batch.room() > SMALL_BATCH;
        self.batches[usize::from(large)].push(batch);
        connection.idleness.moved |= bytes > 0;
        let export = connection.peer.export;
        for release in released.drain(..).flatten() {
            connection.release(release);
            if let Some(timing) = &release.timing {
                self.recorder.sent(export, timing, &connection.name);
            }
        }
        self.releases.push(released);
        let goes_on = match result {
            Ok(sent) => sent > 0,
            Err(errno) => matches!(errno, libc::EINTR | libc::EAGAIN),
        };
        if !goes_on || connection.ending == Ending::Abort {
            connection.end(Ending::Abort);
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
        let mut feeding = Feeding {
            limits: &self.limits,
            pool: &self.pool,
            free_slots: self.requests.free().saturating_sub(self.admitted.len()),
            most_in_flight: self.room.most(before, self.unsent).min(self.limits.requests_per_connection),
            room: &self.room,
            shutting_down: self.shutdown.is_some(),
            scarce_buffers: scarce,
            now: self.recorder.now(),
            stats: self.recorder.export(connection.peer.export),
            key,
            admitted: &mut self.admitted,
        };
        let fed = connection.feed(&mut feeding);
        let began_requests = connection.in_flight > before;
        self.unsent = self.unsent + connection.in_flight - before;
        if connection.outbound.wants_to_send() || connection.ending != Ending::No || self.shutdown.is_some() {
            to_flush(&mut self.to_flush, key, connection);
        }
        let buffers = self.ring.available_receive_buffers() > 0;
        let need = match fed {
            Fed::NeedsBytes if buffers || connection.receives_payload() => {
                self.to_receive.push(key);
                return true;
            }
            Fed::NeedsBytes => Need::Buffer,
            Fed::WaitsForShard(need) => need,
            Fed::WaitsForReplies | Fed::Ended => return true,
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
        let mut admitted = std::mem::take(&mut self.admitted);
        for (key, Admitted { request, lease, held, arrived }) in admitted.drain(..) {
            let connection = &mut self.connections[key as usize];
            connection.idleness.moved = true;
            let peer = Rc::clone(&connection.peer);
            let timing = self.recorder.admitted(peer.export, &request, arrived);
            let id = self.requests.insert(Entry { connection: key, held, timing, single: None });
            self.started.push(id);
            if let Some(work) = self.start_single(id, Work { request, lease, peer }) {
                tasks.spawn(id.0, serve(Rc::clone(&self.shared), id, work));
            }
        }
        self.admitted = admitted;
        for (id, work) in self.again.drain(..) {
            tasks.spawn(id.0, serve(Rc::clone(&self.shared), id, work));
        }
        tasks.run_ready();
        let mut finished = std::mem::take(&mut *self.shared.finished.borrow_mut());
        let after_run = if finished.is_empty() { 0 } else { self.recorder.clock() };
        for (id, reply) in finished.drain(..) {
            self.reply(id, reply, after_run);
        }
        *self.shared.finished.borrow_mut() = finished;
        for (export, error) in self.shared.errors.borrow_mut().drain(..) {
            self.recorder.export(export).count_error(error);
        }
    }

    /// A request leaves the table with its reply.
    pub(super) fn reply(&mut self, id: RequestId, reply: Reply, after_run: u64) {
        let Entry { connection: key, held, mut timing, .. } = self.requests.remove(id);
        self.recorder.completed(&mut timing, after_run);
        let connection = &mut self.connections[key as usize];
        let before = connection.in_flight;
        connection.reply(reply, Release { held, timing: Some(timing) });
        self.unsent = self.unsent + connection.in_flight - before;
        to_flush(&mut self.to_flush, key, connection);
    }

    /// Starts sends, and lets connections go that are over.
    pub(super) fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            connection.flushing = false;
            if connection.ending == Ending::No && self.shutdown.is_some() && connection.is_idle() {
                connection.end(Ending::Graceful);
            }
            if connection.outbound.wants_to_send() && connection.ending != Ending::Abort {
                let mut batch = take_batch(&mut self.batches, connection.outbound.queued(), &self.limits);
                connection.outbound.fill(
                    &mut batch,
                    self.releases.pop().unwrap_or_default(),
                    self.recorder.now(),
                );
                connection.operations += 1;
                let (socket, mode) = (connection.socket, SendMode::Some);
                let operation = Operation::Send { socket, mode, batch };
                self.ring.push(operation, Owner::Connection(key));
            }
            if let Listed::Waiting { held, .. } = connection.listed
                && connection.held < held
            {
                self.list(key);
            }
            self.end(key);
        }
        self.to_flush = keys;
    }

    /// Starts receives of connections that need more bytes. After the sends: whoever waits for a reply waits less.
    pub(super) fn receive(&mut self) {
        for key in self.to_receive.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            let buffers = self.ring.available_receive_buffers() > 0;
            if let Some(operation) = connection.next_receive(self.shutdown.is_some(), buffers) {
                connection.operations += 1;
                connection.receive = Some(self.ring.push(operation, Owner::Connection(key)));
            }
        }
    }

    /// Does what a connection that is ending still needs, once each.
    pub(super) fn end(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if connection.ending == Ending::Abort && connection.operations > 0 && !connection.shut_down {
            connection.shut_down = true;
            connection.operations += 1;
            self.ring.push(Operation::Shutdown { socket: connection.socket }, Owner::Connection(key));
        }
        if connection.ending == Ending::Graceful
            && let Some(target) = connection.receive
            && !std::mem::replace(&mut connection.cancelled, true)
        {
            connection.operations += 1;
            self.ring.push(Operation::Cancel { target }, Owner::Connection(key));
        }
        if connection.is_over() {
            match connection.listed {
                // It comes off the list in one of the next turns, and then back here.
                Listed::ToFeed => return,
                Listed::Waiting { place, .. } => self.waiting.remove(place),
                Listed::No => {}
            }
            let connection = self.connections.remove(key as usize);
            self.share_out();
            self.unsent -= connection.in_flight;
            if !(canary!(SocketLeaked) && connection.ending == Ending::Abort) {
                self.ring.release_file(connection.socket);
            }
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(peer = %connection.name, "connection closed");
        }
    }
}

/// Puts a connection on the list to be flushed, unless it is there already.
pub(super) fn to_flush(list: &mut Vec<u32>, key: u32, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.flushing, true) {
        list.push(key);
    }
}

/// Chunks of a small batch, which is all that most connections need; thousands of slow readers then cost little.
const SMALL_BATCH_CHUNKS: usize = 8;
const SMALL_BATCH: usize = SMALL_BATCH_CHUNKS * SendBatch::PIECES_PER_CHUNK;

/// A batch with room for `chunks` chunks, or for as many as one send can take.
fn take_batch(spare: &mut SpareBatches, chunks: usize, limits: &Limits) -> Box<SendBatch> {
    let large = chunks > SMALL_BATCH_CHUNKS;
    let pieces = if large { limits.pieces_per_send } else { SMALL_BATCH.min(limits.pieces_per_send) };
    let fresh = || Box::new(SendBatch::with_capacity(pieces, pieces * LONGEST_HEADER / 2));
    spare[usize::from(large)].pop().unwrap_or_else(fresh)
}
