//! What tests of devices need.

use std::sync::Arc;

use super::{Helpers, ShardContext};
use crate::exec::{ReadyList, Wakeups};
use crate::ring::{Ring, RingOptions};
use crate::sys::Doorbell;

/// What a device of a shard works with, on the kernel's ring.
pub(crate) fn context_with(options: &RingOptions) -> ShardContext {
    let (ring, pool) = Ring::new(options).unwrap();
    let (doorbell, ready) = (Arc::new(Doorbell::new().unwrap()), ReadyList::default());
    let helpers = Helpers::start((1, 1), &doorbell, ready.clone(), ring.clone()).unwrap();
    let wakeups = Wakeups::new(&doorbell, ready.clone(), ring.clone());
    let zeroes = pool.lend(4096).unwrap().freeze();
    ShardContext { shard: 0, ring, ready, helpers, wakeups, workers_per_export: 1, zeroes }
}
