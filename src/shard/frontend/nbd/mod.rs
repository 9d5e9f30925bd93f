//! NBD on a socket: received bytes become requests, answers become replies.

mod answer;
pub(crate) mod batches;
mod begin;
mod close;
pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod hang_up;
mod immediate;
pub(crate) mod linger;
pub(crate) mod outbound;
pub(crate) mod reply;
pub(crate) mod single;
pub(crate) mod slow_send;
mod unparsed;
