//! Tells systemd how the service is doing (`sd_notify(3)`), when it wants to know.

use std::cell::Cell;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A connection to `$NOTIFY_SOCKET`. Without one, and on any error, nothing happens: the service is the same.
///
/// It is made early: a running server connects to nothing any more.
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// The last word was said.
    stopping: Cell<bool>,
}

impl Notifier {
    pub(super) fn from_environment() -> Self {
        Self { socket: connected_to_manager(), stopping: Cell::new(false) }
    }

    /// Sends a state such as `READY=1`.
    pub(super) fn tell(&self, state: &str) {
        if self.stopping.get() {
            return;
        }
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "could not notify the service manager");
        }
    }

    /// The configuration is read again; `READY=1` says when that is done. `Type=notify-reload` wants to know
    /// the time.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Another process is the server now, and speaks for itself.
    pub(super) fn be_silent(&self) {
        self.stopping.set(true);
    }

    /// The server stops. A reload that ends later says nothing any more.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
        self.stopping.set(true);
    }
}

/// A socket to tell the service manager something; none if there is none.
pub(super) fn connected_to_manager() -> Option<UnixDatagram> {
    let target = std::env::var_os("NOTIFY_SOCKET")?;
    let connected = || -> io::Result<UnixDatagram> {
        let address = match target.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&target)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(socket)
    };
    connected().inspect_err(|error| tracing::debug!(%error, "could not reach the service manager")).ok()
}
