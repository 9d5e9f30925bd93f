//! Tells systemd how the service is doing (`sd_notify(3)`), when it wants to know.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A connection to `$NOTIFY_SOCKET`. Without one, and on any error, nothing happens: the service is the same.
///
/// It is made early: a running server connects to nothing any more.
pub(super) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    pub(super) fn from_environment() -> Self {
        let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        let connected = || -> io::Result<UnixDatagram> {
            let address = match target.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&target)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            Ok(socket)
        };
        match connected() {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::debug!(%error, "could not reach the service manager");
                Self(None)
            }
        }
    }

    /// Sends a state such as `READY=1`.
    pub(super) fn tell(&self, state: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "could not notify the service manager");
        }
    }
}
