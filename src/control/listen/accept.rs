//! The loop of one listener.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::endpoint::Endpoint;
use super::listeners::Listener;
use super::negotiate::{Candidate, negotiate};
use crate::control::stores::Stores;
use crate::identity::PeerIdentity;
use crate::sys::confine;

/// The pause after the process, or the system, ran out of descriptors or memory. Accepting cannot succeed
/// before some are freed.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// A listener that tokio watches. One of tokio-uring cannot be made of a socket that systemd bound, and does
/// not tell unix from TCP.
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

    /// The next client: its socket, blocking, and its identity.
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
            // No delay, because requests and replies are small: a SHOULD of the spec. Keep-alive finds
            // clients whose machine is gone. The connection works without either.
            let socket = SockRef::from(&socket);
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
            let _slower = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
        }
        Ok((socket, peer))
    }
}

/// After so long without a byte the kernel asks whether the client's machine is still there. Its own choice
/// is two hours, which is too long for a request that goes on for a client that was killed.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether clients are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Accepting {
    Yes,
    /// They wait in the backlog.
    NotNow,
    /// Not by this process any more.
    Over,
}

/// Accepts until it is aborted, or told that it is over: each client gets a task of its own.
///
/// There is room for `Limits::connections`. The next client after that is accepted and waits for its
/// greeting, and those behind it wait in the backlog.
pub(in crate::control) async fn accept(
    stores: Rc<Stores>,
    acceptor: Acceptor,
    mut accepting: watch::Receiver<Accepting>,
) {
    let mut exhausted = false;
    loop {
        match accepting.wait_for(|now| *now != Accepting::NotNow).await.map(|now| *now) {
            Ok(Accepting::Yes) => {}
            _ => return,
        }
        let accepted = tokio::select! {
            biased;
            _ = accepting.changed() => continue,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                exhausted = false;
                let permit = stores.plane.permit().await;
                tokio_uring::spawn(negotiate(Rc::clone(&stores), Candidate { socket, peer, permit }));
            }
            Err(error) if is_exhaustion(&error) => {
                if !exhausted {
                    tracing::warn!(reason = %error, "cannot accept for now: raise the limit of open files (ulimit -n)");
                }
                exhausted = true;
                tokio::time::sleep(EXHAUSTION_PAUSE).await;
            }
            // The client left before it was accepted, or the network failed. The listener still works.
            Err(error) => tracing::debug!("could not accept: {error}{}", confine::hint(&error)),
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
