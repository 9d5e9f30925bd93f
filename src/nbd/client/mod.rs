//! The client's side.

pub mod handshake;
pub mod replies;
pub mod request;
