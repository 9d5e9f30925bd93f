//! A blocking device of the application on one shard: its requests are carried out by the shard's helper
//! threads.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::api::BlockingDevice;
use super::health::{Caged, Health};
use super::outstanding::{Committed, Outstanding};
use super::request::{DeviceRequest, Way};
use crate::block::{CommandKind, Extent};
use crate::exec::{ClientTurns, Helpers, caught, lock};

/// Requests that wait for a thread. A thread that has come works until none is left, so that a busy device
/// pays for no wake-up.
pub(crate) struct BlockingQueue {
    device: Arc<Caged<dyn BlockingDevice>>,
    health: Arc<Health>,
    state: Mutex<BlockingState>,
    way: Arc<Way>,
    /// Threads that it may keep busy.
    most: usize,
}

struct BlockingState {
    waiting: ClientTurns<DeviceRequest>,
    /// Threads that work for it, or are on their way.
    threads: usize,
}

impl BlockingQueue {
    pub(in crate::backend) fn new(
        device: &Arc<Caged<dyn BlockingDevice>>,
        health: &Arc<Health>,
        way: &Arc<Way>,
        most: usize,
    ) -> Arc<Self> {
        let (device, health, way) = (Arc::clone(device), Arc::clone(health), Arc::clone(way));
        let state = BlockingState { waiting: ClientTurns::default(), threads: 0 };
        Arc::new(Self { device, health, state: Mutex::new(state), way, most: most.max(1) })
    }

    /// Hands requests over, each with its client; says how many more threads should
    /// [work](BlockingQueue::work) for them: all that there are, or one if none does.
    pub(in crate::backend) fn submit(
        &self,
        requests: impl ExactSizeIterator<Item = (u32, DeviceRequest)>,
        all_threads: bool,
    ) -> usize {
        let mut state = lock(&self.state);
        let most = if all_threads { self.most } else { 1 };
        let more_threads = requests.len().min(most.saturating_sub(state.threads));
        state.threads += more_threads;
        for (client, request) in requests {
            state.waiting.ask(client, request);
        }
        more_threads
    }

    /// How many more threads should work, because those that do are slow.
    fn more_threads(&self) -> usize {
        let mut state = lock(&self.state);
        let more_threads = if state.waiting.is_empty() { 0 } else { self.most - state.threads };
        state.threads += more_threads;
        more_threads
    }

    /// Works on what waits, until nothing does.
    pub(in crate::backend) fn work(&self) {
        let mut more_follow = false;
        while let Some(request) = self.next() {
            more_follow = request.more_follow;
            self.carry_out(request);
        }
        if more_follow {
            // What followed went to another thread.
            self.way.doorbell.announce();
        }
    }

    fn next(&self) -> Option<DeviceRequest> {
        let mut state = lock(&self.state);
        let mut next = state.waiting.next();
        match &mut next {
            Some(request) => request.more_follow = !state.waiting.is_empty(),
            None => state.threads -= 1,
        }
        next
    }

    /// Nobody waits for what is left.
    pub(in crate::backend) fn close(&self) {
        let left = std::mem::take(&mut lock(&self.state).waiting);
        // Outside of the lock: a request that is dropped fails, which rings.
        drop(left);
    }

    /// Whom helper threads know it by.
    fn key(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    fn carry_out(&self, mut request: DeviceRequest) {
        if self.health.has_failed() {
            return;
        }
        match caught(|| run(self.device.get(), &mut request)) {
            Ok(Ok(extents)) => request.complete_with_extents(extents),
            Ok(Err(error)) => request.fail(error),
            // The request is dropped, which fails it.
            Err(_panic) => self.health.fail(),
        }
    }
}

/// Turns for which a device that was slow is taken for a slow one.
const SLOW_TURNS: u32 = 64;

/// A blocking device on its shard. What it is handed in a turn goes to the threads at the end of the turn:
/// they and the shard meet at one lock.
///
/// Verbs that are quick get one thread: several would do little but wait for each other at that lock. When
/// nothing ends for a moment, the others are [called](Committed::hurry), and at once for a while.
pub(crate) struct BlockingOnShard {
    queue: Arc<BlockingQueue>,
    /// Of this turn, each with its client.
    handed: RefCell<Vec<(u32, DeviceRequest)>>,
    slow_turns: Cell<u32>,
}

impl BlockingOnShard {
    pub(in crate::backend) fn new(queue: Arc<BlockingQueue>) -> Rc<Self> {
        Rc::new(Self { queue, handed: RefCell::default(), slow_turns: Cell::new(0) })
    }

    pub(in crate::backend) async fn submit(
        self: &Rc<Self>,
        request: DeviceRequest,
        client: u32,
        (outstanding, helpers, is_simulated): (&Outstanding, &Helpers, bool),
    ) {
        if is_simulated {
            if self.queue.submit([(client, request)].into_iter(), true) > 0 {
                let queue = Arc::clone(&self.queue);
                let work = helpers.run(self.queue.key(), client, move || queue.work());
                Box::pin(work).await.unwrap_or_default();
            }
            return;
        }
        let mut handed = self.handed.borrow_mut();
        if handed.is_empty() {
            outstanding.will_commit(Rc::clone(self) as Rc<dyn Committed>);
        }
        handed.push((client, request));
    }

    /// Has more threads work.
    fn call(&self, more_threads: usize, client: u32, helpers: &Helpers) {
        for _ in 0..more_threads {
            let queue = Arc::clone(&self.queue);
            helpers.hand(self.queue.key(), client, move || queue.work());
        }
    }

    /// Nobody waits for what is left.
    pub(in crate::backend) fn close(&self) {
        drop(self.handed.take());
        self.queue.close();
    }
}

impl Committed for BlockingOnShard {
    fn commit(&self, helpers: &Helpers) -> bool {
        let mut handed = self.handed.borrow_mut();
        let Some((client, _)) = handed.first() else { return false };
        let client = *client;
        let is_slow = self.slow_turns.get() > 0;
        self.slow_turns.set(self.slow_turns.get().saturating_sub(1));
        let count = handed.len();
        let more_threads = self.queue.submit(handed.drain(..), is_slow);
        self.call(more_threads, client, helpers);
        !is_slow && count > more_threads
    }

    fn hurry(&self, helpers: &Helpers) {
        let more_threads = self.queue.more_threads();
        if more_threads > 0 {
            self.slow_turns.set(SLOW_TURNS);
            self.call(more_threads, 0, helpers);
        }
    }

    /// Its threads look before each request.
    fn look(&self) {}
}

/// Calls the verb of a request; extents of a BLOCK_STATUS only.
fn run(device: &dyn BlockingDevice, request: &mut DeviceRequest) -> io::Result<Vec<Extent>> {
    let (offset, length, flags) = (request.offset(), request.length(), request.flags());
    match request.command() {
        CommandKind::Read => device.read(offset, request.buffer())?,
        CommandKind::Write => {
            device.write(offset, request.data())?;
            if flags.fua {
                device.flush()?;
            }
        }
        CommandKind::Flush => device.flush()?,
        CommandKind::Trim => device.trim(offset, length)?,
        CommandKind::WriteZeroes => device.zero(offset, length, flags)?,
        CommandKind::BlockStatus => return device.status(offset, length, request.most_extents()),
        CommandKind::Cache => {}
    }
    Ok(Vec::new())
}
