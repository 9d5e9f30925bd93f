//! What runs the tasks of a shard, and what they wait for beside the ring.
#![forbid(unsafe_code)]

mod background;
mod caught;
mod client_turns;
mod helper_lines;
mod helpers;
mod quiet_doorbell;
mod range_lock;
mod sync;
mod task;
mod waker;

pub(crate) use background::{Background, BackgroundTask};
pub(crate) use caught::caught;
pub(crate) use client_turns::ClientTurns;
pub(crate) use helpers::Helpers;
pub(crate) use quiet_doorbell::QuietDoorbell;
pub(crate) use range_lock::{RangeLock, RangeMode};
pub(crate) use sync::{Milestones, TurnPlace, TurnQueue, Waiters};
pub(crate) use task::side_by_side;
pub use task::{ReadyList, Tasks};
pub(crate) use waker::{Waiter, ring};

pub(crate) use crate::mutex::lock;
