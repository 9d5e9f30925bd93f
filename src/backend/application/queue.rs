//! A fast device of the application on one shard. Its code runs only here, and only where a panic of it is
//! caught.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::api::{DeviceQueue, FastDevice, Immediate, Preview};
use super::health::Health;
use super::outstanding::{Committed, Outstanding};
use super::request::DeviceRequest;
use crate::exec::{Helpers, caught};

/// The queue that an application opened on this shard.
pub(crate) struct QueueOnShard {
    /// None once the device has failed.
    inner: RefCell<Option<Box<dyn DeviceQueue>>>,
    health: Arc<Health>,
    /// It is to be committed in this turn.
    uncommitted: Cell<bool>,
}

impl QueueOnShard {
    /// Opens the device on a shard.
    pub(in crate::backend) fn open(
        device: &dyn FastDevice,
        health: &Arc<Health>,
        shard: usize,
        outstanding: &Outstanding,
    ) -> io::Result<Rc<Self>> {
        let opened = match health.has_failed() {
            true => None,
            false => match caught(|| device.open(shard)) {
                Ok(opened) => Some(opened?),
                Err(_panic) => {
                    health.fail();
                    None
                }
            },
        };
        let (inner, health) = (RefCell::new(opened), Arc::clone(health));
        let queue = Rc::new(Self { inner, health, uncommitted: Cell::new(false) });
        let weak: Weak<Self> = Rc::downgrade(&queue);
        queue.health.ring_when_it_fails(outstanding.opened(weak));
        Ok(queue)
    }

    /// Runs code of the application; none when it panics, or when the device has failed.
    fn guarded<T>(&self, run: impl FnOnce(&mut dyn DeviceQueue) -> T) -> Option<T> {
        if self.health.has_failed() {
            self.close();
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        let queue = inner.as_mut()?;
        match caught(|| run(&mut **queue)) {
            Ok(given) => Some(given),
            Err(_panic) => {
                drop(inner);
                self.health.fail();
                self.close();
                None
            }
        }
    }

    /// Drops what the application opened, and with it the requests that it keeps there.
    fn close(&self) {
        let inner = self.inner.take();
        if inner.is_some() && caught(|| drop(inner)).is_err() {
            self.health.fail();
        }
    }

    pub(in crate::backend) fn immediate(&self, asked: &Preview) -> Option<Immediate> {
        self.guarded(|queue| queue.immediate(asked)).flatten()
    }

    /// Hands a request over; it fails when the device has.
    pub(in crate::backend) fn submit(self: &Rc<Self>, request: DeviceRequest, outstanding: &Outstanding) {
        self.guarded(|queue| queue.submit(request));
        if !self.uncommitted.replace(true) {
            outstanding.will_commit(Rc::clone(self) as Rc<dyn Committed>);
        }
    }
}

impl Committed for QueueOnShard {
    fn commit(&self, _helpers: &Helpers) -> bool {
        self.uncommitted.set(false);
        self.guarded(|queue| queue.commit());
        false
    }

    fn hurry(&self, _helpers: &Helpers) {}

    fn look(&self) {
        if self.health.has_failed() {
            self.close();
        }
    }
}

impl Drop for QueueOnShard {
    fn drop(&mut self) {
        self.close();
    }
}
