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
mod collector;
mod confine;
mod endpoint;
mod handshake_memory;
mod latency_log;
mod listener;
pub mod log;
pub mod machine;
mod negotiate;
mod notify;
mod observe;
mod pidfile;
mod placement;
mod plane;
mod process;
mod server;
mod signals;
pub mod stdio;

pub use endpoint::Endpoint;
pub use listener::ListenError;
pub use pidfile::PidfileError;
pub use server::{Ending, Served, Service, StartError, check, run};
pub use signals::on_stop;
