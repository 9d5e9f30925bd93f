//! The NBD protocol as values: bytes in, types out. No socket, no clock, no ring.
//!
//! Source: `doc/proto.md` of the NBD project; each rule cites its heading.
#![forbid(unsafe_code)]

pub mod chunks;
pub mod client_handshake;
pub mod client_request;
pub mod error;
pub mod handshake;
pub mod inbound;
pub mod meta_context;
pub mod printable;
pub mod reply;
pub mod request;
pub mod session;
pub mod wire;
