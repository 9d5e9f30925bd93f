//! Devices that an application has written: what it implements, and how their requests go there and back.
//!
//! A request of a client is a task as always. For a fast device the task hands a [`DeviceRequest`] to the
//! application's queue; for a blocking one, to helper threads. It waits in [`Outstanding`], by a place and a
//! number. Whoever ends the request sends it back to the shard with its memory, through a channel and the
//! doorbell.

mod api;
mod blocking;
mod health;
mod outstanding;
mod queue;
mod request;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use api::{BlockingDevice, DeviceQueue, FastDevice, Immediate, Preview};
pub(crate) use outstanding::Outstanding;
pub use request::DeviceRequest;

use crate::block::DeviceFacts;
use crate::exec::caught;
pub(super) use blocking::{BlockingOnShard, BlockingQueue};
pub(super) use health::{Caged, Health};
pub(super) use queue::QueueOnShard;
pub(super) use request::tidied;

/// A device of the application's own, to be served: by
/// [`ServerBuilder::device`](crate::ServerBuilder::device) or
/// [`ServerHandle::add_device`](crate::ServerHandle::add_device). Clones are the same device.
#[derive(Clone)]
pub struct ApplicationDevice {
    pub(super) source: DeviceSource,
    one_shard: bool,
    pub(super) health: Arc<Health>,
}

#[derive(Clone)]
pub(super) enum DeviceSource {
    Fast(Arc<Caged<dyn FastDevice>>),
    Blocking(Arc<Caged<dyn BlockingDevice>>),
}

impl ApplicationDevice {
    /// A device whose verbs block.
    pub fn blocking(device: impl BlockingDevice) -> Self {
        Self::new(DeviceSource::Blocking(Arc::new(Caged::new(Box::new(device)))))
    }

    /// A device that carries requests out side by side.
    pub fn fast(device: impl FastDevice) -> Self {
        Self::new(DeviceSource::Fast(Arc::new(Caged::new(Box::new(device)))))
    }

    fn new(source: DeviceSource) -> Self {
        Self { source, one_shard: false, health: Arc::default() }
    }

    /// Has all clients of the device served by one shard, so that one [`DeviceQueue`] sees all requests. When
    /// that shard fails, another one opens the device for the next client.
    #[must_use]
    pub fn on_one_shard(mut self) -> Self {
        self.one_shard = true;
        self
    }

    pub(super) fn is_on_one_shard(&self) -> bool {
        self.one_shard
    }

    /// Whether its code has panicked: all its requests fail from then on.
    pub fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// What clients are told of it; why it cannot be served.
    pub(super) fn facts(&self) -> Result<DeviceFacts, &'static str> {
        let facts = caught(|| match &self.source {
            DeviceSource::Fast(device) => device.get().facts(),
            DeviceSource::Blocking(device) => device.get().facts(),
        });
        let facts = facts.map_err(|_panic| "panicked when it was asked for its facts")?;
        if facts.size > i64::MAX as u64 {
            return Err("is larger than any disk: give it less than 8 EiB");
        }
        if !facts.block_sizes.are_valid() {
            return Err("has block sizes that the protocol does not allow: see BlockSizes");
        }
        if !facts.size.is_multiple_of(u64::from(facts.block_sizes.minimum)) {
            return Err("has a size that is no multiple of its minimum block size");
        }
        Ok(facts)
    }
}

impl fmt::Debug for ApplicationDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            DeviceSource::Fast(_) => "fast",
            DeviceSource::Blocking(_) => "blocking",
        };
        write!(formatter, "ApplicationDevice({kind}, failed: {})", self.has_failed())
    }
}
