//! The control plane: one thread that accepts, negotiates, and hands sockets over to the shards. It never moves a byte of data.
//!
//! ```text
//!  listener ─► accept ─► negotiate (nbd::server::handshake) ─► placement ─► ShardHandle::connect
//! ```
//!
//! This is the only place that knows tokio-uring. Its order at start is chosen so that an error leaves nothing behind: what can
//! only fail comes first, files (sockets, pidfile) come last, and each is removed by the guard that made it.
#![forbid(unsafe_code)]

mod accept;
mod admin;
mod catalogue;
mod changes;
mod collector;
mod endpoint;
mod handshake_memory;
mod host;
mod latency_log;
mod listener;
pub(crate) mod machine;
mod negotiate;
mod observe;
pub(crate) mod ownership;
mod placement;
mod plane;
mod process;
mod server;

pub use host::{Addition, ChangeError, Host, HostError, Ready, Takeaway, Wish};
pub use listener::{Listener, inherited};
pub use server::{Ending, Served, Service, StartError, check, run};
