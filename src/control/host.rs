//! What a process adds to the server that it hosts.

use std::error::Error;
use std::path::PathBuf;

use super::listener::{Listener, SocketFile};
use super::server::Served;

/// Why the process does not want the server to go on.
pub type HostError = Box<dyn Error + Send + Sync>;

/// The process around a server: it is asked at each stage of the start, and says when to stop.
///
/// `ringnbd serve` gives privileges up here, handles signals, and announces itself. A server that an application embeds changes nothing in the
/// process: the stages do nothing then.
#[allow(async_fn_in_trait)]
pub trait Host {
    /// Before exports are opened, and before there is any other thread: gives the sockets that the process was started with.
    ///
    /// # Errors
    /// Ends the start.
    fn before_threads(&mut self) -> Result<Vec<Listener>, HostError> {
        Ok(Vec::new())
    }

    /// Around the start of the shards: runs `start`, on whatever thread. What that thread gave up, they do not have.
    ///
    /// # Errors
    /// Ends the start.
    fn around_shards<T: Send>(&mut self, start: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        Ok(start())
    }

    /// Inside the control plane's runtime, before the first file is made.
    ///
    /// # Errors
    /// Ends the start.
    fn before_listening(&mut self) -> Result<(), HostError> {
        Ok(())
    }

    /// Everything is open; the next step is to accept clients.
    ///
    /// # Errors
    /// Ends the start.
    fn before_accept(&mut self, ready: Ready<'_>) -> Result<(), HostError>;

    /// Waits until the server is to stop, and says why. Once more: until it is to stop at once.
    async fn stop(&mut self) -> &'static str;

    /// Whether the process goes on when the server was cut off: then its threads are waited for, and its memory is given back.
    fn goes_on(&self) -> bool {
        true
    }

    /// The server stops, for whatever reason.
    fn stopping(&mut self) {}

    /// Log lines that got lost, for the metrics.
    fn log_lines_dropped(&self) -> fn() -> u64 {
        || 0
    }
}

/// A server that has only to accept.
#[derive(Debug, Clone, Copy)]
pub struct Ready<'a> {
    /// What is served, by export.
    pub exports: &'a [Served],
    /// Where the admin server is.
    pub admin: &'a [String],
    /// The files of its sockets, which are removed at its end.
    pub(super) sockets: &'a [&'a SocketFile],
}

impl Ready<'_> {
    /// The files of the server's sockets.
    pub fn sockets(&self) -> impl Iterator<Item = PathBuf> {
        self.sockets.iter().map(|socket| socket.path().to_owned())
    }

    /// Makes each socket belong to a user, who may connect to it and remove it then. Tells of those that cannot be handed over.
    pub fn hand_sockets_over(&self, user: (u32, u32)) {
        for socket in self.sockets {
            if let Err(error) = socket.hand_over(user) {
                let path = socket.path().display();
                tracing::warn!(%path, reason = %error, "cannot hand the socket over to the user of the server");
            }
        }
    }
}
