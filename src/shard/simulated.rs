//! A shard without a thread, for simulations: what drives the world lets it take its turns.

use super::{NewConnection, Removal, ShardConfig, ShardHandle, ShardStartError};
use std::sync::Arc;

use crate::backend::{Export, ExportId, HomeTask};
use crate::ring::Wait;
use crate::ring::sim::World;
use crate::shard::request::serve::work;
use crate::shard::turn::run::Worker;
use crate::shard::turn::shard::Shard;

/// A shard on a simulated ring. The thread must be in a world when it is made.
pub struct SteppedShard {
    worker: Box<dyn Step>,
    handle: ShardHandle,
    world: World,
    ring: usize,
    busy: bool,
}

/// What a shard has in hand; after each load it is what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Bytes of lease memory that are not lent.
    pub free_bytes: usize,
    /// Receive buffers that the ring can take.
    pub receive_buffers: u16,
    /// Registered sockets, and files of devices that are not open.
    pub registered_files: u32,
    /// Operations in flight.
    pub operations: usize,
    /// Requests in the table.
    pub requests: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Requests whose reply is not out.
    pub unsent: usize,
    /// Connections.
    pub connections: usize,
    /// Connections that the control plane believes it to have.
    pub counted_connections: usize,
}

/// A worker, whatever its tasks are called.
trait Step {
    fn turn(&mut self) -> Option<Wait>;
    fn holdings(&self) -> Holdings;
}

impl<F: Future<Output = ()>> Step for Worker<F> {
    fn turn(&mut self) -> Option<Wait> {
        Worker::turn(self)
    }

    fn holdings(&self) -> Holdings {
        let shard = &self.shard;
        Holdings {
            free_bytes: shard.admission.pool().free_bytes(),
            receive_buffers: shard.ring.available_receive_buffers(),
            registered_files: shard.ring.registered_files() - shard.devices.files() as u32,
            operations: shard.ring.operations_in_flight(),
            requests: shard.admission.usage().working(),
            tasks: self.tasks.running(),
            unsent: shard.requests.unsent(),
            connections: shard.connections.len(),
            counted_connections: shard.connection_count.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

impl SteppedShard {
    /// Sets up the `ring`th shard of the world; its thread, CPU and `on_exit` have no meaning.
    ///
    /// # Errors
    /// As [`ShardHandle::start`].
    pub fn start(config: ShardConfig, ring: usize) -> Result<Self, ShardStartError> {
        let world = World::current().expect("the thread is in a world");
        let (handle, shard_end) = ShardHandle::new(&config.limits)?;
        let shard = Shard::new(&config, shard_end)?;
        Ok(Self { worker: Box::new(Worker::new(shard, work)), handle, world, ring, busy: true })
    }

    /// Whether a turn would do something.
    pub fn may_run(&self) -> bool {
        !self.world.is_asleep(self.ring) && (self.busy || self.world.has_completions(self.ring))
    }

    /// One turn of the loop; false when the shard has shut down.
    pub fn turn(&mut self) -> bool {
        let wait = self.worker.turn();
        self.busy = wait == Some(Wait::No);
        wait.is_some()
    }

    /// As [`ShardHandle::connect`].
    ///
    /// # Errors
    /// Gives the connection back when the mailbox is full.
    pub fn connect(&self, negotiated: NewConnection) -> Result<(), Box<NewConnection>> {
        self.handle.connect(negotiated)?;
        self.world.rang();
        Ok(())
    }

    /// As [`ShardHandle::remove`].
    pub fn remove(&self, id: ExportId, how: Removal, done: impl FnOnce() + Send + 'static) -> bool {
        let sent = self.handle.remove(id, how, done);
        self.world.rang();
        sent
    }

    /// As [`ShardHandle::visit`].
    pub fn visit(&self, id: ExportId, export: Arc<Export>, task: HomeTask) -> bool {
        let sent = self.handle.visit(id, export, task);
        self.world.rang();
        sent
    }

    /// As [`ShardHandle::rates_changed`].
    pub fn rates_changed(&self) {
        self.handle.rates_changed();
        self.world.rang();
    }

    /// As [`ShardHandle::shutdown`].
    pub fn shutdown(&self) {
        self.handle.shutdown();
        self.world.rang();
    }

    /// What it has in hand now.
    pub fn holdings(&self) -> Holdings {
        self.worker.holdings()
    }
}
