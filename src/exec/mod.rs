//! What runs the tasks of a shard, and what they wait for beside the ring.
#![forbid(unsafe_code)]

mod sync;
mod task;

pub(crate) use sync::{Line, Milestones, Place, Waiters, Wakeups, lock};
pub(crate) use task::side_by_side;
pub use task::{ReadyList, Tasks};
