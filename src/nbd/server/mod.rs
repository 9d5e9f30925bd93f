//! The server's side.

pub mod handshake;
pub mod inbound;
pub mod reply;
pub mod request;
pub mod requests;
