//! All that a shard has.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use slab::Slab;

use crate::backend::{FILES_PER_EXPORT, Outstanding, ShardContext, SharedParts};
use crate::config::{Limits, Pinning};
use crate::exec::{Background, Helpers, ReadyList};
use crate::ring::{BufferPool, OpKey, Ring, RingError, RingOptions, SharedLease};
use crate::shard::admission::Admission;
use crate::shard::busy_poll::BusyPoll;
use crate::shard::departure::Departure;
use crate::shard::devices::Devices;
use crate::shard::fault_watch::FaultWatch;
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::slow_send::SlowSends;
use crate::shard::mailbox::Message;
use crate::shard::record::Recorder;
use crate::shard::request::ShardJob;
use crate::shard::request::serve::TaskContext;
use crate::shard::request::table::{RequestId, RequestTable};
use crate::shard::setup::{ShardConfig, ShardEnd, ShardStartError};
use crate::shard::turn::gates::Throttle;
use crate::sys::Doorbell;

/// One shard: a thread, a ring, and all that its connections need.
///
/// Each turn goes one way: *reap* completions, which only records what they brought; *mailbox*; *flush*: what
/// was answered by them leaves; *feed*: received bytes become requests, each with a slot and memory; *run*:
/// tasks go as far as they can, new ones submit their first operation; *reply*: what is finished is queued on
/// its connection; *flush*: one vectored send a connection; *receive*: connections that need more bytes ask
/// for them, after the sends, so that clients that wait for replies wait less; and one system call submits it
/// all and waits. Feeding comes before running so that a request's first operation leaves in the turn in
/// which its bytes came. The price: a long list of ready work delays the next reaping, so every phase takes a
/// bounded number of items and leaves the rest for the next turn. Sends come before the reads of their turn,
/// so they end before them: then the replies of those reads need no queue.
///
/// Kept after each turn:
/// * a connection has at most one receive and one send in flight, and `operations` counts them;
/// * every request that holds memory or whose reply is not out has one record in `requests`, and is in
///   exactly one place: receiving, with its backend (a task runs it, or a read of its own is in flight: see
///   [`single`](crate::shard::frontend::nbd::single)), outbound, or forgotten;
/// * a listed connection is on exactly one of the list `to_feed` and the queues of admission, and its
///   `listed` says on which;
/// * a connection that a rate holds back stands before its gate, and there is a turn when it may go on: see
///   [`gates`](crate::shard::turn::gates);
/// * a connection that waits for its turn by weight stands in the line of its device, and there is a turn
///   while that has room: see [`share`](crate::shard::admission::share);
/// * every connection that waits has been retried since its need could last be met, or is marked for retry:
///   see [`queue`](crate::shard::admission::queue);
/// * a connection is freed only when nothing of it is in flight, so keys are never mistaken.
pub(crate) struct Shard {
    /// Its buffer memory is locked.
    pub(crate) is_pinned: bool,
    pub(crate) limits: Arc<Limits>,
    pub(crate) ring: Ring,
    pub(crate) shared: Rc<TaskContext>,
    pub(crate) recorder: Recorder,
    pub(crate) devices: Devices,
    /// Tasks of homes that go on.
    pub(crate) visits: usize,
    pub(crate) connections: Slab<Connection>,
    pub(crate) requests: RequestTable,
    /// Connections with something to parse or to receive.
    pub(crate) to_feed: VecDeque<u32>,
    /// Bytes of records of TLS that have not come as a whole.
    pub(crate) partial_records: Rc<Cell<usize>>,
    /// What its connections hold and wait for.
    pub(crate) admission: Admission,
    /// What holds requests back that there would be room for.
    pub(crate) throttle: Throttle,
    /// Connections that need more bytes.
    pub(crate) to_receive: Vec<u32>,
    /// Connections with something to send or to end.
    pub(crate) to_flush: Vec<u32>,
    /// What needs a task from this turn on.
    pub(crate) jobs: Vec<ShardJob>,
    pub(crate) batches: Batches,
    /// Requests that a send has ended; kept for its memory.
    pub(crate) ended: Vec<RequestId>,
    /// Requests that were handed to their backend in this turn.
    pub(crate) started: Vec<RequestId>,
    pub(crate) messages: Receiver<Message>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) doorbell_rang: bool,
    /// The order to end.
    pub(crate) asked_to_end: Arc<AtomicU8>,
    /// The deadline, by the ring's clock, once the order to end has come.
    pub(crate) shutdown: Option<Duration>,
    /// Connections may have to end when nothing of them is under way: the order to end has come, or an export
    /// was removed [with errors](crate::shard::Removal::WithErrors) once.
    pub(crate) stops_idle: bool,
    /// When to look next for connections that stall while others wait.
    pub(crate) next_look: Option<OpKey>,
    /// When the deadline had passed.
    pub(crate) cut_off: Option<Duration>,
    pub(crate) slow_sends: SlowSends,
    pub(crate) fault_watch: FaultWatch,
    pub(crate) busy_poll: BusyPoll,
    pub(crate) connection_count: Arc<AtomicUsize>,
    /// Connections that another process may be about to get.
    pub(crate) departure: Option<Departure>,
}

/// A ring, and whether its memory is pinned: it is not when the limit of locked memory is too low and pinning
/// was not demanded.
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
    pub(crate) fn new(config: &ShardConfig, end: ShardEnd) -> Result<Self, ShardStartError> {
        let &ShardConfig { index, files, busy_poll, record, slow, .. } = config;
        let limits = Arc::clone(&config.limits);
        let ShardEnd { messages, doorbell, connections, end, rates_changed } = end;
        let options = RingOptions {
            lease_memory: limits.lease_memory(),
            longest_lease: limits.longest_request as usize,
            reserve: Limits::DEVICE_MEMORY,
            receive_buffers: limits.receive_buffers(),
            receive_buffer: limits.receive_buffer as u32,
            files: (limits.connections + FILES_PER_EXPORT * files.min(limits.open_devices) + 8) as u32,
            registered: limits.pinned != Pinning::Off,
            workers: limits.workers(files),
        };
        let (ring, pool, is_pinned) = new_ring(options, limits.pinned)?;
        let ready = ReadyList::new(&doorbell);
        let helpers = Helpers::start(limits.helpers(files), &doorbell, &ring)
            .map_err(|error| ShardStartError::System("helper threads", error))?;
        let outstanding = Outstanding::new(&doorbell, ready.clone(), ring.clone());
        let context = ShardContext {
            shard: index,
            ring: ring.clone(),
            pool: pool.clone(),
            ready,
            helpers: Rc::new(helpers),
            background: Background::default(),
            outstanding,
            workers_per_export: limits.workers_per_export,
            shared: SharedParts::default(),
            zeroes: zeroes(&pool),
        };
        let ((answered, opened, visited), pieces) = (Default::default(), limits.pieces_per_send);
        let shared = TaskContext { context, answered, opened, visited };
        let (admission, depth) = (Admission::new(&limits, pool), limits.device_depth);
        Ok(Self {
            limits,
            is_pinned,
            shared: Rc::new(shared),
            fault_watch: FaultWatch::new(ring.major_faults()),
            recorder: Recorder::new(ring.clone(), record, slow),
            ring,
            devices: Devices::default(),
            visits: 0,
            connections: Slab::new(),
            requests: RequestTable::new(),
            to_feed: VecDeque::new(),
            partial_records: Rc::default(),
            admission,
            throttle: Throttle::new(rates_changed, depth),
            to_receive: Vec::new(),
            to_flush: Vec::new(),
            jobs: Vec::new(),
            batches: Batches::new(pieces),
            ended: Vec::new(),
            started: Vec::new(),
            messages,
            doorbell,
            doorbell_rang: true,
            asked_to_end: end,
            shutdown: None,
            stops_idle: false,
            next_look: None,
            cut_off: None,
            slow_sends: SlowSends::default(),
            busy_poll: BusyPoll::new(busy_poll),
            connection_count: connections,
            departure: None,
        })
    }
}

/// Bytes of zeroes to write where nothing better works.
const ZEROES: usize = 256 << 10;

/// Those, of memory that nobody has used yet.
fn zeroes(pool: &BufferPool) -> SharedLease {
    let mut zeroes = pool.lend(ZEROES).expect("the arena is empty");
    zeroes.bytes_mut(0..ZEROES).fill(0);
    zeroes.freeze()
}
