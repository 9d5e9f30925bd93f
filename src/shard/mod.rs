//! The data plane: one shard is one pinned thread with one ring, and owns its connections for life.
//!
//! ```text
//! handle, mailbox   how the control plane reaches a shard: a bounded channel and a doorbell
//! turn              the loop: completions, messages, feeding, sending
//! frontend/nbd      a connection: bytes become requests, answers become replies
//! request           what is done for a request: no protocol, no socket
//! admission         which connections may hold memory and slots, which wait, which are evicted
//! devices           exports that are open here
//! record            moments and counters of requests
//! ```
#![forbid(unsafe_code)]

mod admission;
#[cfg(feature = "bench")]
pub(crate) mod bench;
mod busy_poll;
mod departure;
mod devices;
mod fault_watch;
mod frontend;
mod handle;
mod mailbox;
mod record;
mod request;
mod setup;
#[cfg(feature = "sim")]
mod simulated;
mod takes_tls;
#[cfg(test)]
mod tests;
mod turn;

pub(crate) use admission::fair::FlowId;
pub use admission::gate::ExportLimits;
pub(crate) use admission::gate::RateGroup;
pub(crate) use frontend::nbd::LeavingSecure;
pub use frontend::nbd::Secured;
pub use handle::ShardHandle;
pub(crate) use mailbox::{Dismissal, LeavingConnection, Settlement};
pub use mailbox::{NewConnection, Removal};
pub use setup::ShardConfig;
pub(crate) use setup::{ShardError, ShardStartError};
#[cfg(feature = "sim")]
pub use simulated::{Holdings, SteppedShard};
pub(crate) use takes_tls::{ConnectionTls, TakesTls};
