//! The control plane: one thread that accepts, negotiates, and hands sockets over to the shards. It never
//! moves a byte of data.
//!
//! ```text
//!  listener ─► accept ─► negotiate (nbd::server::handshake) ─► placement ─► ShardHandle::connect
//! ```
//!
//! * `start`, `server`: from the configuration to the first client, and from there to the end; `host`: the
//!   process around it.
//! * `listen/`: how clients connect. `catalogue`, `changes`: what is served. `plane`: what all of it shares.
//! * `live/`: exports that come, go and change while clients are there, by the control socket or by a reload.
//! * `handover/`: a new process goes on in the place of this one.
//! * `stores/`: the stores that the server has open: their images as exports, and what is done to them.
//! * `events`, `event_stream`: what happens, for those who follow it.
//! * `observe/`: what is known of a running server. `admin/` shows it, `operate/` changes the server; both
//!   speak `http/`.
//!
//! This is the only place that knows tokio-uring. Its order at start leaves nothing behind after an error:
//! what only opens or checks comes first, files (sockets, pidfile) come last, and each file is removed by the
//! guard that made it.
#![forbid(unsafe_code)]

mod admin;
mod catalogue;
mod changes;
mod client_stream;
mod drain;
#[cfg(feature = "tls")]
mod encryption;
mod enforce;
mod event_stream;
mod events;
mod file_opener;
mod growth;
mod handover;
mod handshake_memory;
mod host;
mod http;
mod keeper;
mod listen;
mod live;
pub(crate) mod machine;
#[cfg(not(feature = "tls"))]
mod no_encryption;
mod observe;
mod observers;
mod operate;
pub(crate) mod ownership;
mod parting;
mod placement;
mod plane;
mod reload;
mod retire;
mod served;
mod server;
mod sessions;
mod start;
mod start_error;
mod stores;
mod succession;
mod tenants;

#[cfg(feature = "tls")]
use crate::tls::TlsProof;
#[cfg(feature = "tls")]
pub(crate) use encryption::EncryptionError;
#[cfg(feature = "tls")]
use encryption::{Encryption, SecureChannel};
#[cfg(not(feature = "tls"))]
pub(crate) use no_encryption::EncryptionError;
#[cfg(not(feature = "tls"))]
use no_encryption::{Encryption, SecureChannel, TlsProof};

pub use crate::backend::LaunchCommand;
pub use file_opener::{FileToOpen, OpenFiles, OpeningFile};
pub use handover::{Takeover, TakeoverError, read_arbitrary};
pub use host::{AddExport, ChangeError, Host, HostError, HostRequest, Ready, RemoveExport, StoreRights};
pub use keeper::KeepDescriptors;
pub use listen::listeners::{InheritedDescriptors, Listener, inherited};
pub use reload::{OpenedFile, Reload, Reloaded, Reloading};
pub use served::Served;
pub use server::Ending;
pub use start::{Service, check, run};
pub use start_error::StartError;
