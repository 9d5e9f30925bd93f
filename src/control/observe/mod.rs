//! What is known of a server that runs: what its shards recorded, what the kernel tells of the process.

pub(super) mod collector;
mod latency_log;
pub(super) mod process;
