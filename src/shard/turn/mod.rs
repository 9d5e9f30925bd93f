//! The loop of a shard.

mod completions;
mod departure;
mod evict;
mod feed;
mod flush;
pub(crate) mod gates;
mod intake;
pub(crate) mod run;
mod sends;
pub(crate) mod shard;
mod throttle;
