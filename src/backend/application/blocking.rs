//! A blocking device of the application on one shard: its requests are carried out by the shard's helper
//! threads.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::api::BlockingDevice;
use super::health::{Caged, Health};
use super::outstanding::{Committed, Outstanding};
use super::request::DeviceRequest;
use crate::block::{CommandKind, Extent};
use crate::exec::{ClientTurns, Helpers, caught, lock};

/// Requests that wait for a thread. A thread that has come works until none is left, so that a busy device
/// pays for no wake-up.
pub(crate) struct BlockingQueue {
    device: Arc<Caged<dyn BlockingDevice>>,
    health: Arc<Health>,
    state: Mutex<BlockingState>,
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
        most: usize,
    ) -> Arc<Self> {
        let (device, health) = (Arc::clone(device), Arc::clone(health));
        let state = BlockingState { waiting: ClientTurns::default(), threads: 0 };
        Arc::new(Self { device, health, state: Mutex::new(state), most: most.max(1) })
    }

    /// Hands requests over, each with its client; says how many more threads should
    /// [work](BlockingQueue::work) for them.
    pub(in crate::backend) fn submit(
        &self,
        requests: impl ExactSizeIterator<Item = (u32, DeviceRequest)>,
    ) -> usize {
        let mut state = lock(&self.state);
        let more_threads = requests.len().min(self.most - state.threads);
        state.threads += more_threads;
        for (client, request) in requests {
            state.waiting.ask(client, request);
        }
        more_threads
    }

    /// Works on what waits, until nothing does.
    pub(in crate::backend) fn work(&self) {
        while let Some(request) = self.next() {
            self.carry_out(request);
        }
    }

    fn next(&self) -> Option<DeviceRequest> {
        let mut state = lock(&self.state);
        let next = state.waiting.next();
        state.threads -= usize::from(next.is_none());
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

/// A blocking device on its shard. What it is handed in a turn goes to the threads at the end of the turn:
/// they and the shard meet at one lock.
pub(crate) struct BlockingOnShard {
    queue: Arc<BlockingQueue>,
    /// Of this turn, each with its client.
    handed: RefCell<Vec<(u32, DeviceRequest)>>,
}

impl BlockingOnShard {
    pub(in crate::backend) fn new(queue: Arc<BlockingQueue>) -> Rc<Self> {
        Rc::new(Self { queue, handed: RefCell::default() })
    }

    pub(in crate::backend) async fn submit(
        self: &Rc<Self>,
        request: DeviceRequest,
        client: u32,
        (outstanding, helpers, is_simulated): (&Outstanding, &Helpers, bool),
    ) {
        if is_simulated {
            if self.queue.submit([(client, request)].into_iter()) > 0 {
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

    /// Nobody waits for what is left.
    pub(in crate::backend) fn close(&self) {
        drop(self.handed.take());
        self.queue.close();
    }
}

impl Committed for BlockingOnShard {
    fn commit(&self, helpers: &Helpers) {
        let mut handed = self.handed.borrow_mut();
        let Some((client, _)) = handed.first() else { return };
        let client = *client;
        for _ in 0..self.queue.submit(handed.drain(..)) {
            let queue = Arc::clone(&self.queue);
            helpers.hand(self.queue.key(), client, move || queue.work());
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
