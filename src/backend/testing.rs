//! What tests of devices need.

use std::rc::Rc;
use std::sync::Arc;

use super::{Outstanding, ShardContext, SharedParts};
use crate::exec::{Background, Helpers, ReadyList};
use crate::ring::{Ring, RingOptions};
use crate::sys::Doorbell;

/// What a device of a shard works with, on the kernel's ring.
pub(crate) fn context_with(options: &RingOptions) -> ShardContext {
    let (ring, pool) = Ring::new(options).unwrap();
    let doorbell = Arc::new(Doorbell::new().unwrap());
    let ready = ReadyList::new(&doorbell);
    let helpers = Rc::new(Helpers::start((1, 1), &doorbell, &ring).unwrap());
    let background = Background::default();
    let outstanding = Outstanding::new(&doorbell, ready.clone(), ring.clone());
    let zeroes = pool.lend(4096).unwrap().freeze();
    ShardContext {
        shard: 0,
        ring,
        pool,
        ready,
        helpers,
        background,
        outstanding,
        workers_per_export: 1,
        shared: SharedParts::default(),
        zeroes,
    }
}
