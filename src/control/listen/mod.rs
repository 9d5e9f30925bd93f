//! How clients come: listening sockets, the loop that accepts, the handshake.

pub(super) mod accept;
mod audit;
mod channel;
pub(super) mod endpoint;
pub(super) mod listeners;
pub(super) mod negotiate;
