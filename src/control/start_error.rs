//! What keeps a server from starting.

use std::io;
use std::path::PathBuf;

use super::EncryptionError;
use super::handover::TakeoverError;
use super::host::HostError;
use super::listen::listeners::ListenError;
use super::stores::StoresError;
use crate::{backend, shard};

/// Why a server did not start; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process around the server.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An export.
    #[error(transparent)]
    Export(#[from] backend::OpenError),
    /// A store whose images are all exports.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] shard::ShardStartError),
    /// Certificates and keys.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The threads for handshakes of TLS.
    #[error("cannot start threads for TLS handshakes: {0}")]
    HandshakeThreads(io::Error),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server that was to be taken over.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// `--latency-log`.
    #[error("cannot write the latency log {}: {error}; choose another --latency-log", path.display())]
    LatencyLog {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The control plane's ring, which is small: after those of the shards there is little left to fail.
    #[error(
        "the control plane's ring does not fit into the locked memory limit: raise it (ulimit -l, or LimitMEMLOCK= of \
         systemd), or start fewer --shards"
    )]
    LockedMemory,
    /// The control plane.
    #[error("cannot start the control plane: {0}")]
    Runtime(io::Error),
}

impl StartError {
    pub(super) fn of_runtime(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::LockedMemory,
            _ => Self::Runtime(error),
        }
    }
}
