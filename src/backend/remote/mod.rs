//! A device that stands on another NBD server.
//!
//! What it has to decide knows no socket, no protocol and no clock: `reconnect` when to connect, `refill`
//! when to connect once more while other connections stand, `unanswered` what to send again, `unflushed` what
//! may be lost, `contexts` which meta contexts are passed on, `facts` whether the remote is the one that it
//! was. Around that are the tasks of a shard: `supervisor` connects, `link` moves the bytes of one
//! connection, and `shared` is what they have in common with the requests of `on_shard`.

mod connection;
mod contexts;
mod counts;
mod facts;
mod link;
mod on_shard;
mod reconnect;
mod refill;
mod shared;
#[cfg(feature = "sim")]
mod simulated;
mod state;
mod store;
mod supervisor;
mod unanswered;
mod unflushed;
mod wire;
#[cfg(test)]
mod worlds;

pub(crate) use counts::RemoteStatus;
pub(super) use on_shard::Remote;
pub(super) use store::RemoteStore;
#[cfg(feature = "sim")]
pub use store::SimulatedWay;
