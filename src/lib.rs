//! ringnbd: an io_uring, thread-per-core NBD storage server.
#![deny(unsafe_code)]

pub mod block;
pub mod config;
pub mod nbd;
