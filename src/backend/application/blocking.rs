//! A blocking device of the application on one shard: its requests are carried out by the shard's helper
//! threads.

use std::io;
use std::sync::{Arc, Mutex};

use super::api::BlockingDevice;
use super::health::{Caged, Health};
use super::request::DeviceRequest;
use crate::block::{CommandKind, Extent};
use crate::exec::{Lines, caught, lock};

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
    /// By client: one that asks a thousand times does not hold up one that asks once.
    waiting: Lines<DeviceRequest>,
    /// Threads that work for it, or are on their way.
    threads: usize,
}

/// The device's key in its own lines.
const DEVICE: usize = 0;

impl BlockingQueue {
    pub(in crate::backend) fn new(
        device: &Arc<Caged<dyn BlockingDevice>>,
        health: &Arc<Health>,
        most: usize,
    ) -> Arc<Self> {
        let (device, health) = (Arc::clone(device), Arc::clone(health));
        let state = BlockingState { waiting: Lines::new(usize::MAX, usize::MAX), threads: 0 };
        Arc::new(Self { device, health, state: Mutex::new(state), most: most.max(1) })
    }

    /// Hands a request over; true when one more thread should [work](BlockingQueue::work) for it.
    pub(in crate::backend) fn submit(&self, request: DeviceRequest, client: u32) -> bool {
        let mut state = lock(&self.state);
        state.waiting.ask(DEVICE, client, request);
        let needs_thread = state.threads < self.most;
        state.threads += usize::from(needs_thread);
        needs_thread
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
        match next {
            Some(_) => state.waiting.answered(DEVICE),
            None => state.threads -= 1,
        }
        next.map(|(_, request)| request)
    }

    /// Nobody waits for what is left.
    pub(in crate::backend) fn close(&self) {
        let mut left = Vec::new();
        let mut state = lock(&self.state);
        while let Some((_, request)) = state.waiting.next() {
            state.waiting.answered(DEVICE);
            left.push(request);
        }
        drop(state);
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
