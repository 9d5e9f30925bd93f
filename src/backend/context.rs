//! What devices work with.

use std::rc::Rc;

use super::application::Outstanding;
use super::shared_parts::SharedParts;
use crate::exec::{Background, Helpers, ReadyList};
use crate::ring::{BufferPool, Ring, SharedLease};

/// What every device of a shard works with.
pub(crate) struct ShardContext {
    /// The shard's number.
    pub shard: usize,
    /// Its ring.
    pub ring: Ring,
    /// The shard's memory; devices take from its reserve.
    pub pool: BufferPool,
    /// Its ready list.
    pub ready: ReadyList,
    /// Its helper threads.
    pub helpers: Rc<Helpers>,
    /// Tasks of devices that belong to no request.
    pub background: Background,
    /// Its requests to devices of the application.
    pub outstanding: Outstanding,
    /// Worker threads of its ring that one export may keep busy.
    pub workers_per_export: usize,
    /// What its devices use together.
    pub shared: SharedParts,
    /// Zeroes to write where nothing better works.
    pub zeroes: SharedLease,
}

impl ShardContext {
    /// The doorbell rang: what ended elsewhere goes on, and so do tasks that were woken.
    pub(crate) fn collect(&self) {
        self.helpers.collect();
        self.outstanding.look();
        self.outstanding.collect();
        self.ready.collect();
    }
}
