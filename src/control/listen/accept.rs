//! The loop of one listener.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use super::endpoint::Endpoint;
use super::listeners::Listener;
use super::negotiate::{Candidate, negotiate};
use crate::control::plane::Plane;
use crate::identity::PeerIdentity;
use crate::sys::confine;

/// After the process, or the system, ran out of descriptors or memory: until somebody closes one, accepting cannot succeed.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// A listener that tokio watches. tokio-uring's own can neither be made of a socket that systemd bound nor tell unix from TCP.
pub(in crate::control) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Takes the socket of a listener, inside the runtime.
    pub(in crate::control) fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener.endpoint {
            Endpoint::Tcp(_) => Self::Tcp(TcpListener::from_std(listener.socket.into())?),
            Endpoint::Unix(_) | Endpoint::Abstract(_) => {
                Self::Unix(UnixListener::from_std(listener.socket.into())?)
            }
        })
    }

    /// The next client: its socket, blocking, and who it is.
    async fn accept(&self) -> io::Result<(OwnedFd, PeerIdentity)> {
        let (socket, peer) = match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (OwnedFd::from(stream.into_std()?), address.into())
            }
            Self::Unix(listener) => {
                let socket = OwnedFd::from(listener.accept().await?.0.into_std()?);
                let peer = PeerIdentity::of(&socket);
                (socket, peer)
            }
        };
        // The rings wait by themselves; a socket that answers EAGAIN is of no use to them.
        SockRef::from(&socket).set_nonblocking(false)?;
        if matches!(self, Self::Tcp(_)) {
            // No delay, because requests and replies are small: a SHOULD of the spec. Keep-alive finds the clients whose machine
            // is gone. Without either the connection still works.
            let socket = SockRef::from(&socket);
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
            let _slower = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
        }
        Ok((socket, peer))
    }
}

/// After so long without a byte the kernel asks whether the client's is still there. Two hours, its own choice, is long for a request that
/// goes on for a client that was killed.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// Accepts as long as it is let: each client gets a task of its own.
///
/// There is room for `Limits::connections`; the next client after that is accepted and waits for its greeting, and those behind it
/// wait in the backlog.
pub(in crate::control) async fn accept(plane: Rc<Plane>, acceptor: Acceptor) {
    let mut exhausted = false;
    loop {
        match acceptor.accept().await {
            Ok((socket, peer)) => {
                exhausted = false;
                let permit = plane.permit().await;
                tokio_uring::spawn(negotiate(Rc::clone(&plane), Candidate { socket, peer, permit }));
            }
            Err(error) if is_exhaustion(&error) => {
                if !exhausted {
                    tracing::warn!(reason = %error, "cannot accept for now: raise the limit of open files (ulimit -n)");
                }
                exhausted = true;
                tokio::time::sleep(EXHAUSTION_PAUSE).await;
            }
            // The client left before it was accepted, or the network is to blame; the listener is as good as before.
            Err(error) => tracing::debug!("could not accept: {error}{}", confine::hint(&error)),
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
