//! The loop of a shard.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::time::Duration;

use crossbeam_channel::Receiver;
use slab::Slab;

use super::batches::Batches;
use super::busy_poll::BusyPoll;
use super::connection::Connection;
use super::devices::Devices;
use super::fault_watch::FaultWatch;
use super::mailbox::Message;
use super::recorder::Recorder;
use super::request_table::{RequestId, RequestTable};
use super::room::Room;
use super::seniority::Seniority;
use super::serve::{Shared, Work, serve};
use super::slow_sends::SlowSends;
use super::waiting::Waiting;
use super::{ShardConfig, ShardEnd, StartError};
use crate::backend::{FILES_PER_EXPORT, Helpers, ShardContext};
use crate::config::{Limits, Pinning};
use crate::ring::{BufferPool, Event, OpKey, Ring, RingError, RingOptions, Wait};
use crate::stats::Interval;
use crate::sync::Wakeups;
use crate::sys::Doorbell;
use crate::task::{ReadyList, Tasks};

/// One shard: a thread, a ring, and all that its connections need.
///
/// Each turn goes one way: *reap* completions, which only records what they brought; *mailbox*; *flush*: what was answered by them leaves;
/// *feed*: received bytes become requests, each with a slot and memory; *run*: tasks go as far as they can, new ones submit their first
/// operation; *reply*: what is finished is queued on its connection; *flush*: one vectored send a connection; *receive*: connections that need more bytes ask for
/// them, after the sends, so that whoever waits for a reply waits less; and one system call submits it all and waits. Feeding comes
/// before running so that a request's first operation leaves in the turn in which its bytes came. The price: a long list of ready
/// work delays the next reaping, so every phase takes a bounded number of items and leaves the rest for the next turn. Sends come before
/// the reads of their turn, so they end before them: then the replies of those reads need no queue.
///
/// Kept after each turn:
/// * a connection has at most one receive and one send in flight, and `operations` counts them;
/// * every request that holds memory or whose reply is not out has one record in `requests`, and is in exactly one place: receiving, with its
///   backend (a task runs it, or a read of its own is in flight: see [`single`](super::single)), outbound, or forgotten;
/// * a listed connection is on exactly one of the lists `to_feed` and `waiting`, and its `listed` says on which;
/// * everybody in `waiting` was fed in vain and has not got what it needs since, or is fed again without waiting for more: see
///   [`waiting`](super::waiting);
/// * a connection is freed only when nothing of it is in flight, so keys are never mistaken.
pub(super) struct Shard {
    /// Its buffer memory is locked.
    pub(super) is_pinned: bool,
    pub(super) limits: Arc<Limits>,
    pub(super) ring: Ring,
    pub(super) pool: BufferPool,
    pub(super) shared: Rc<Shared>,
    pub(super) recorder: Recorder,
    pub(super) devices: Devices,
    pub(super) connections: Slab<Connection>,
    pub(super) requests: RequestTable,
    /// Connections with something to parse or to receive.
    pub(super) to_feed: VecDeque<u32>,
    /// Connections that wait for memory, slots or receive buffers of the shard.
    pub(super) waiting: Waiting,
    pub(super) seniority: Seniority,
    /// Connections that need more bytes.
    pub(super) to_receive: Vec<u32>,
    /// Connections with something to send or to end.
    pub(super) to_flush: Vec<u32>,
    /// Requests of this turn that need a task.
    pub(super) admitted: Vec<(RequestId, Work)>,
    pub(super) batches: Batches,
    /// Requests that a send has ended; kept for its memory.
    pub(super) ended: Vec<RequestId>,
    /// Requests that were handed to their backend in this turn.
    pub(super) started: Vec<RequestId>,
    /// How many of them each connection may have.
    pub(super) room: Room,
    pub(super) messages: Receiver<Message>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) doorbell_rang: bool,
    /// The order to end.
    pub(super) asked_to_end: Arc<AtomicU8>,
    /// The deadline, by the ring's clock, once the order to end has come.
    pub(super) shutdown: Option<Duration>,
    /// When to look next for connections that stall while others wait.
    pub(super) next_look: Option<OpKey>,
    /// When the deadline had passed.
    pub(super) cut_off: Option<Duration>,
    pub(super) slow_sends: SlowSends,
    pub(super) fault_watch: FaultWatch,
    pub(super) busy_poll: BusyPoll,
    pub(super) connection_count: Arc<AtomicUsize>,
}

/// A ring, and whether its memory is pinned: without when the locked memory limit is too low and nobody insists.
fn new_ring(mut options: RingOptions, pinned: Pinning) -> Result<(Ring, BufferPool, bool), RingError> {
    match Ring::new(&options) {
        Err(RingError::LockedMemory(_)) if pinned == Pinning::Auto => {
            options.registered = false;
            Ring::new(&options).map(|(ring, pool)| (ring, pool, false))
        }
        made => made.map(|(ring, pool)| (ring, pool, options.registered)),
    }
}

impl Shard {
    /// Sets up all that a shard needs, on the calling thread.
    pub(super) fn new(config: &ShardConfig, end: ShardEnd) -> Result<Self, StartError> {
        let &ShardConfig { index, files, busy_poll, record, slow, .. } = config;
        let limits = Arc::clone(&config.limits);
        let ShardEnd { messages, doorbell, connections, end } = end;
        let options = RingOptions {
            lease_memory: limits.lease_memory(),
            longest_lease: limits.longest_request as usize,
            receive_buffers: limits.receive_buffers(),
            receive_buffer: limits.receive_buffer as u32,
            files: (limits.connections + FILES_PER_EXPORT * files.min(limits.open_devices) + 8) as u32,
            registered: limits.pinned != Pinning::Off,
            workers: limits.workers(files),
        };
        let (ring, pool, is_pinned) = new_ring(options, limits.pinned)?;
        let ready = ReadyList::default();
        let helpers = Helpers::start(limits.helpers(files), &doorbell, ready.clone(), ring.clone())
            .map_err(|error| StartError::System("helper threads", error))?;
        let mut zeroes = pool.lend(ZEROES, 0).expect("the arena is empty");
        zeroes.bytes_mut(0..ZEROES).fill(0);
        let zeroes = zeroes.freeze();
        let wakeups = Wakeups::new(&doorbell, ready.clone(), ring.clone());
        let (shard, workers_per_export) = (index, limits.workers_per_export);
        let context =
            ShardContext { shard, ring: ring.clone(), ready, helpers, wakeups, workers_per_export, zeroes };
        let extents_per_reply = limits.extents_per_reply;
        let shared =
            Shared { context, finished: Default::default(), errors: Default::default(), extents_per_reply };
        let requests = RequestTable::new(limits.requests_per_shard, limits.connections);
        let batches = Batches::new(limits.pieces_per_send);
        let room = Room::new(limits.replies_per_shard());
        let fault_watch = FaultWatch::new(ring.major_faults());
        Ok(Self {
            limits,
            is_pinned,
            pool,
            shared: Rc::new(shared),
            recorder: Recorder::new(ring.clone(), record, slow),
            ring,
            devices: Devices::default(),
            connections: Slab::new(),
            requests,
            to_feed: VecDeque::new(),
            waiting: Waiting::default(),
            seniority: Seniority::default(),
            to_receive: Vec::new(),
            to_flush: Vec::new(),
            admitted: Vec::new(),
            batches,
            ended: Vec::new(),
            started: Vec::new(),
            room,
            messages,
            doorbell,
            doorbell_rang: true,
            asked_to_end: end,
            shutdown: None,
            next_look: None,
            cut_off: None,
            slow_sends: SlowSends::default(),
            fault_watch,
            busy_poll: BusyPoll::new(busy_poll),
            connection_count: connections,
        })
    }

    /// What was started in this turn goes to the kernel now.
    fn mark_submitted(&mut self) {
        if self.started.is_empty() {
            return;
        }
        let now = self.recorder.clock();
        for id in self.started.drain(..) {
            self.requests.submitted(id, now);
        }
    }

    /// How long the next system call may wait.
    pub(super) fn wait(&mut self) -> Wait {
        let busy = !self.shared.context.ready.is_empty()
            || !self.to_feed.is_empty()
            || !self.to_flush.is_empty()
            || !self.admitted.is_empty()
            || self.doorbell_rang
            || (self.shutdown.is_some() && self.connections.is_empty())
            || self.may_go_on();
        if busy { Wait::No } else { Wait::Forever }
    }
}

/// Bytes of zeroes to write where nothing better works.
const ZEROES: usize = 256 << 10;

/// A shard with its tasks: what a thread runs, or a simulation steps.
pub(super) struct Worker<F> {
    pub(super) shard: Shard,
    pub(super) tasks: Tasks<F>,
    events: Vec<Event>,
    serve: fn(Rc<Shared>, RequestId, Work) -> F,
}

impl<F: Future<Output = ()>> Worker<F> {
    /// A shard whose requests are carried out by `serve`.
    pub(super) fn new(shard: Shard, serve: fn(Rc<Shared>, RequestId, Work) -> F) -> Self {
        let tasks = Tasks::new(shard.ring.clone(), shard.shared.context.ready.clone());
        let events = Vec::with_capacity(shard.limits.completions_per_turn);
        Self { shard, tasks, events, serve }
    }

    /// One turn of the loop; `None` when the shard has shut down, otherwise [`Wait::No`] when the next turn has something to do.
    pub(super) fn turn(&mut self) -> Option<Wait> {
        let shard = &mut self.shard;
        if shard.shutdown_is_over() {
            let tasks = self.tasks.running();
            assert!(tasks == 0 || shard.cut_off.is_some(), "a task outlives every connection");
            return None;
        }
        shard.take_messages();
        shard.flush();
        shard.feed();
        shard.run(&mut self.tasks, &self.serve);
        shard.flush();
        shard.receive();
        shard.mark_submitted();
        let wait = shard.wait();
        let idle_since = if wait == Wait::Forever { shard.busy_poll.spin(&shard.ring) } else { None };
        shard.ring.submit_and_reap(wait, shard.limits.completions_per_turn, &mut self.events);
        if let Some(since) = idle_since {
            shard.busy_poll.waited(shard.ring.now() - since);
        }
        shard.recorder.turn();
        shard.watch_faults();
        let next = if self.events.is_empty() { wait } else { Wait::No };
        shard.record(&mut self.events);
        Some(next)
    }
}

/// Runs a shard until it has shut down; gives what it recorded since it was last asked.
pub(super) fn run(shard: Shard) -> Box<Interval> {
    let mut worker = Worker::new(shard, serve);
    while worker.turn().is_some() {}
    worker.shard.hand_over(None, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F>(_serve: impl Fn(Rc<Shared>, RequestId, Work) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_task_is_small_enough_to_be_moved_for_each_request() {
        assert!(size_of_task(serve) <= 832, "{} bytes", size_of_task(serve));
    }
}
