//! The loop of a shard.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use slab::Slab;

use super::connection::{Admitted, Connection, Ending, Fed, Feeding};
use super::mailbox::Message;
use super::request_table::{Entry, RequestTable};
use super::serve::{Peer, Shared, Work, serve};
use super::{Negotiated, StartError};
use crate::backend::{Device, Export, Helpers, ShardContext};
use crate::config::Limits;
use crate::nbd::reply::LONGEST_HEADER;
use crate::ring::{
    BufferPool, Completion, Event, OpKey, Operation, Owner, Ring, RingOptions, SendBatch, Wait,
};
use crate::sys::Doorbell;
use crate::task::{ReadyList, Tasks};

/// What a shard is made of.
pub(super) struct WorkerConfig {
    pub(super) index: usize,
    pub(super) limits: Arc<Limits>,
    pub(super) exports: Arc<[Arc<Export>]>,
    pub(super) busy_poll: Duration,
    pub(super) messages: Receiver<Message>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) connections: Arc<AtomicUsize>,
}

/// One shard: a thread, a ring, and all that its connections need.
///
/// Each turn goes one way: *reap* completions, which only records what they brought; *mailbox*; *feed*: received bytes become requests,
/// each with a slot and memory; *run*: tasks go as far as they can, new ones submit their first operation; *reply*: what is finished
/// is queued on its connection; *flush*: one vectored send a connection; and one system call submits it all and waits. Feeding comes
/// before running so that a request's first operation leaves in the turn in which its bytes came. The price: a long list of ready
/// work delays the next reaping, so every phase takes a bounded number of items and leaves the rest for the next turn.
///
/// Kept after each turn:
/// * a connection has at most one receive and one send in flight, and `operations` counts them;
/// * every request is in exactly one place: waiting, receiving, in the table (then a task runs it), or its reply is outbound;
/// * a listed connection is on exactly one of the lists `to_feed` and `waiting`;
/// * a connection is freed only when nothing of it is in flight, so keys are never mistaken.
pub(super) struct Shard {
    limits: Arc<Limits>,
    ring: Ring,
    pool: BufferPool,
    shared: Rc<Shared>,
    devices: Vec<Rc<Device>>,
    connections: Slab<Connection>,
    requests: RequestTable,
    /// Connections with something to parse or to receive.
    to_feed: VecDeque<u32>,
    /// Connections that wait for memory, slots or receive buffers of the shard.
    waiting: VecDeque<u32>,
    /// Connections with something to send or to end.
    to_flush: Vec<u32>,
    admitted: Vec<(u32, Admitted)>,
    /// Spare batches, small and large; boxed, because an operation holds one behind a pointer.
    batches: SpareBatches,
    /// Requests of all connections whose reply is not out.
    unsent: usize,
    /// A connection waits for a receive buffer.
    starved: bool,
    /// Slots were freed since waiting connections were last listed.
    slots_freed: bool,
    messages: Receiver<Message>,
    doorbell: Arc<Doorbell>,
    doorbell_rang: bool,
    shutdown: Option<Instant>,
    busy_poll: Duration,
    connection_count: Arc<AtomicUsize>,
}

type SpareBatches = [Vec<Box<SendBatch>>; 2];

impl Shard {
    pub(super) fn new(config: WorkerConfig) -> Result<Self, StartError> {
        let WorkerConfig { index, limits, exports, busy_poll, messages, doorbell, connections } = config;
        let options = RingOptions {
            lease_memory: limits.lease_memory(),
            receive_buffers: limits.receive_buffers(),
            receive_buffer: limits.receive_buffer as u32,
            files: (limits.connections + 2 * exports.len() + 8) as u32,
            registered: limits.pinned,
        };
        let (ring, pool) = Ring::new(&options)?;
        let ready = ReadyList::default();
        let helpers = Helpers::start(limits.helper_threads, &doorbell, ready.clone(), ring.clone())
            .map_err(|error| StartError::System("helper threads", error))?;
        let mut zeroes = pool.lend(ZEROES, 0).expect("the arena is empty");
        zeroes.bytes_mut(0..ZEROES).fill(0);
        let context = ShardContext { shard: index, ring: ring.clone(), ready, helpers, zeroes };
        let devices = exports.iter().map(|export| Device::new(export, &context).map(Rc::new));
        let devices =
            devices.collect::<Result<_, _>>().map_err(|error| StartError::System("exports", error))?;
        let extents_per_reply = limits.extents_per_reply;
        let shared = Rc::new(Shared { context, finished: Default::default(), extents_per_reply });
        let requests = RequestTable::new(limits.requests_per_shard, limits.connections);
        Ok(Self {
            limits,
            ring,
            pool,
            shared,
            devices,
            connections: Slab::new(),
            requests,
            to_feed: VecDeque::new(),
            waiting: VecDeque::new(),
            to_flush: Vec::new(),
            admitted: Vec::new(),
            batches: Default::default(),
            unsent: 0,
            starved: false,
            slots_freed: false,
            messages,
            doorbell,
            doorbell_rang: true,
            shutdown: None,
            busy_poll,
            connection_count: connections,
        })
    }

    /// What completions brought; nothing acts on it yet.
    fn record(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Task(task) => self.shared.context.ready.wake(task),
                Event::Connection(connection, key, completion) => self.completed(connection, key, completion),
                Event::Shard(_, completion) => {
                    if matches!(completion.operation, Operation::Watch { .. }) {
                        self.doorbell_rang = true;
                    }
                }
            }
        }
    }

    fn completed(&mut self, key: u32, operation: OpKey, completion: Completion) {
        let connection = &mut self.connections[key as usize];
        let before = connection.in_flight;
        connection.operations -= 1;
        match completion.operation {
            Operation::Receive { .. } | Operation::ReceiveInto { .. } => {
                debug_assert_eq!(connection.receive, Some(operation));
                connection.received(completion);
            }
            Operation::Send { mut batch, .. } => {
                let whole = completion.result == Ok(batch.length() as u32);
                batch.clear();
                let large = batch.room() > SMALL_BATCH;
                self.batches[usize::from(large)].push(batch);
                let released = connection.outbound.sent();
                connection.release(released);
                if !whole {
                    connection.end(Ending::Abort);
                }
                to_flush(&mut self.to_flush, key, connection);
            }
            _ => {}
        }
        self.unsent = self.unsent + connection.in_flight - before;
        self.list(key);
    }

    /// Puts a connection on the list to be fed, unless it is on one already.
    fn list(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if !std::mem::replace(&mut connection.listed, true) {
            self.to_feed.push_back(key);
        }
    }

    fn take_messages(&mut self) {
        if !std::mem::take(&mut self.doorbell_rang) {
            return;
        }
        let eventfd = self.doorbell.as_fd().as_raw_fd();
        self.ring.push(Operation::Watch { eventfd, counter: Box::new(0) }, Owner::Shard);
        self.shared.context.helpers.collect();
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Connect(negotiated) => self.connect(*negotiated),
                Message::Shutdown => self.begin_shutdown(),
            }
        }
    }

    fn connect(&mut self, negotiated: Negotiated) {
        let Negotiated { socket, export, session, leftover, peer, permit } = negotiated;
        let registered = self.ring.register_file(socket.as_fd());
        let Ok(socket) = registered else {
            tracing::error!(%peer, "no room for a connection's socket, closing it");
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let shared = Rc::new(Peer { session, device: Rc::clone(&self.devices[export]) });
        let connection = Connection::new(socket, shared, peer, leftover, permit);
        let key = self.connections.insert(connection) as u32;
        self.list(key);
    }

    fn begin_shutdown(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown = Some(Instant::now() + self.limits.shutdown_timeout);
        self.ring.push(Operation::sleep(self.limits.shutdown_timeout), Owner::Shard);
        for (key, connection) in &mut self.connections {
            to_flush(&mut self.to_flush, key as u32, connection);
        }
    }

    /// Received bytes become requests.
    fn feed(&mut self) {
        if self.may_go_on() {
            self.pool.take_returned();
            (self.slots_freed, self.starved) = (false, false);
            // In the order in which they began to wait, before those that come new.
            while let Some(key) = self.waiting.pop_back() {
                self.to_feed.push_front(key);
            }
        }
        for _ in 0..self.to_feed.len().min(self.limits.connections_per_turn) {
            let key = self.to_feed.pop_front().expect("counted");
            self.feed_one(key);
        }
    }

    /// Whether something came back that connections may be waiting for.
    fn may_go_on(&self) -> bool {
        let freed = self.slots_freed || self.pool.has_returned();
        !self.waiting.is_empty() && (freed || (self.starved && self.ring.available_receive_buffers() > 0))
    }

    fn feed_one(&mut self, key: u32) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        connection.listed = false;
        let before = connection.in_flight;
        let scarce = self.ring.available_receive_buffers() < self.limits.receive_buffers() / 4;
        let mut feeding = Feeding {
            limits: &self.limits,
            pool: &self.pool,
            free_slots: self.requests.free(),
            unsent: self.unsent,
            shutting_down: self.shutdown.is_some(),
            scarce_buffers: scarce,
            key,
            admitted: &mut self.admitted,
        };
        let fed = connection.feed(&mut feeding);
        self.unsent = self.unsent + connection.in_flight - before;
        if connection.outbound.wants_to_send() || connection.ending != Ending::No || self.shutdown.is_some() {
            to_flush(&mut self.to_flush, key, connection);
        }
        match fed {
            Fed::NeedsBytes if self.ring.available_receive_buffers() > 0 => {
                if let Some(operation) = connection.next_receive(self.shutdown.is_some()) {
                    connection.operations += 1;
                    connection.receive = Some(self.ring.push(operation, Owner::Connection(key)));
                }
            }
            Fed::NeedsBytes | Fed::WaitsForShard => {
                self.starved |= fed == Fed::NeedsBytes;
                connection.listed = true;
                self.waiting.push_back(key);
            }
            Fed::WaitsForReplies | Fed::Ended => {}
        }
    }

    /// Admitted requests become tasks; all that are ready run.
    fn run<F: Future<Output = ()>>(
        &mut self,
        tasks: &mut Tasks<F>,
        serve: &impl Fn(Rc<Shared>, super::request_table::RequestId, Work) -> F,
    ) {
        for (key, Admitted { request, lease, held }) in self.admitted.drain(..) {
            let peer = Rc::clone(&self.connections[key as usize].peer);
            let id = self.requests.insert(Entry { connection: key, held });
            tasks.spawn(id.0, serve(Rc::clone(&self.shared), id, Work { request, lease, peer }));
        }
        tasks.run_ready();
        let mut finished = std::mem::take(&mut *self.shared.finished.borrow_mut());
        for (id, reply) in finished.drain(..) {
            let Entry { connection: key, held } = self.requests.remove(id);
            self.slots_freed = true;
            let connection = &mut self.connections[key as usize];
            let before = connection.in_flight;
            connection.reply(reply, held);
            self.unsent = self.unsent + connection.in_flight - before;
            to_flush(&mut self.to_flush, key, connection);
        }
        *self.shared.finished.borrow_mut() = finished;
    }

    /// Starts sends, and lets connections go that are over.
    fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            connection.flushing = false;
            if connection.ending == Ending::No && self.shutdown.is_some() && connection.is_idle() {
                connection.end(Ending::Graceful);
            }
            if connection.outbound.wants_to_send() && connection.ending != Ending::Abort {
                let mut batch = take_batch(&mut self.batches, connection.outbound.queued(), &self.limits);
                connection.outbound.fill(&mut batch);
                connection.operations += 1;
                let operation = Operation::Send { socket: connection.socket, batch };
                self.ring.push(operation, Owner::Connection(key));
            }
            self.end(key);
        }
        self.to_flush = keys;
    }

    /// Does what a connection that is ending still needs, once each.
    fn end(&mut self, key: u32) {
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
            if connection.listed {
                self.to_feed.retain(|listed| *listed != key);
                self.waiting.retain(|listed| *listed != key);
            }
            let connection = self.connections.remove(key as usize);
            self.unsent -= connection.in_flight;
            self.ring.release_file(connection.socket);
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(peer = %connection.name, "connection closed");
        }
    }

    /// How long the next system call may wait.
    fn wait(&mut self) -> Wait {
        let busy = !self.shared.context.ready.is_empty()
            || !self.to_feed.is_empty()
            || !self.to_flush.is_empty()
            || self.doorbell_rang
            || (self.shutdown.is_some() && self.connections.is_empty())
            || self.may_go_on();
        if busy { Wait::No } else { Wait::Forever }
    }

    /// Cuts off what did not finish in time; true when all is over.
    fn shutdown_is_over(&mut self) -> bool {
        let Some(deadline) = self.shutdown else { return false };
        if Instant::now() >= deadline {
            for (key, connection) in &mut self.connections {
                if connection.ending != Ending::Abort {
                    tracing::warn!(peer = %connection.name, "cut off: it did not finish before the shutdown timeout");
                    connection.end(Ending::Abort);
                    to_flush(&mut self.to_flush, key as u32, connection);
                }
            }
        }
        self.connections.is_empty()
    }
}

/// Puts a connection on the list to be flushed, unless it is there already.
fn to_flush(list: &mut Vec<u32>, key: u32, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.flushing, true) {
        list.push(key);
    }
}

/// Bytes of zeroes to write where nothing better works.
const ZEROES: usize = 256 << 10;
/// Pieces of a small batch, which is all that most connections need; thousands of slow readers then cost little.
const SMALL_BATCH: usize = 2 * (ZERO_PIECES + 8);
/// Pieces that the longest payload of zeroes takes.
const ZERO_PIECES: usize = SendBatch::pieces_of_zeroes(crate::ring::LARGEST_LEASE);

/// A batch with room for `chunks` chunks, or for as many as one send can take.
fn take_batch(spare: &mut SpareBatches, chunks: usize, limits: &Limits) -> Box<SendBatch> {
    let large = chunks > 8;
    let pieces = if large { limits.pieces_per_send } else { SMALL_BATCH.min(limits.pieces_per_send) };
    let fresh = || Box::new(SendBatch::with_capacity(pieces, pieces * LONGEST_HEADER / 2));
    spare[usize::from(large)].pop().unwrap_or_else(fresh)
}

/// Runs a shard until it has shut down.
pub(super) fn run(mut shard: Shard) {
    let mut tasks = Tasks::new(shard.ring.clone(), shard.shared.context.ready.clone());
    let mut events = Vec::with_capacity(shard.limits.completions_per_turn);
    while !shard.shutdown_is_over() {
        shard.take_messages();
        shard.feed();
        shard.run(&mut tasks, &serve);
        shard.flush();
        let wait = shard.wait();
        if wait == Wait::Forever && !shard.busy_poll.is_zero() {
            spin(&shard.ring, shard.busy_poll);
        }
        shard.ring.submit_and_reap(wait, shard.limits.completions_per_turn, &mut events);
        shard.record(&mut events);
    }
    assert_eq!(tasks.running(), 0, "a task outlives every connection");
}

/// Submits, and looks for work without sleeping.
fn spin(ring: &Ring, duration: Duration) {
    let mut events = Vec::new();
    ring.submit_and_reap(Wait::No, 0, &mut events);
    let start = Instant::now();
    while !ring.has_work() && start.elapsed() < duration {
        std::hint::spin_loop();
    }
}
