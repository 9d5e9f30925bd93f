//! The NBD protocol as values: bytes in, types out. No socket, no clock, no memory but its own.
//!
//! Source: `doc/proto.md` of the NBD project; each rule cites its heading.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod client;
pub mod error;
mod headers;
pub mod meta_context;
pub mod names;
pub mod printable;
pub mod server;
pub mod session;
pub mod vocabulary;
pub mod wire;
