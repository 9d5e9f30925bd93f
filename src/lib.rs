//! ringnbd: an io_uring, thread-per-core NBD storage server.
#![deny(unsafe_code)]

pub mod backend;
pub mod block;
pub mod cli;
pub mod client;
pub mod config;
pub mod nbd;
#[allow(unsafe_code)]
pub mod ring;
pub mod shard;
#[allow(unsafe_code)]
pub mod sys;
pub mod task;
