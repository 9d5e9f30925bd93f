//! The loop of one listener.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockAddr, Socket};
use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedSemaphorePermit;

use super::negotiate::{Client, negotiate};
use super::plane::Plane;

/// After the process, or the system, ran out of descriptors or memory: until somebody closes one, accepting cannot succeed.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// Accepts as long as it is let: each client gets a task of its own.
///
/// It waits for a client first and for room among the connections then, so that an idle listener holds no place; when there is
/// no room, clients wait in the backlog.
pub(super) async fn accept(plane: Rc<Plane>, listener: Socket) {
    let listener = match AsyncFd::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot watch a listener"),
    };
    let mut exhausted = false;
    loop {
        let mut ready = match listener.readable().await {
            Ok(ready) => ready,
            Err(error) => return tracing::error!(%error, "cannot watch a listener"),
        };
        let permit = plane.permit().await;
        match listener.get_ref().accept() {
            Ok((socket, address)) => {
                exhausted = false;
                welcome(&plane, socket, &address, permit);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if is_exhaustion(&error) => {
                if !exhausted {
                    tracing::warn!(reason = %error, "cannot accept for now: raise the limit of open files (ulimit -n)");
                }
                exhausted = true;
                tokio::time::sleep(EXHAUSTION_PAUSE).await;
            }
            // The client left before it was accepted, or the network is to blame; the listener is as good as before.
            Err(error) => tracing::debug!(%error, "could not accept"),
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn welcome(plane: &Rc<Plane>, socket: Socket, address: &SockAddr, permit: OwnedSemaphorePermit) {
    let peer = match address.as_socket() {
        Some(address) => {
            // "Newstyle negotiation" works in small messages, and so do requests: a SHOULD of the spec. Keep-alive finds the
            // clients whose machine is gone. Without either the connection still works.
            let _slower = socket.set_tcp_nodelay(true).and_then(|()| socket.set_keepalive(true));
            address.to_string()
        }
        None => unix_peer(&socket),
    };
    tokio_uring::spawn(negotiate(Rc::clone(plane), Client { socket: OwnedFd::from(socket), peer, permit }));
}

/// The process at the other end, which is all the name that it has.
pub(super) fn unix_peer(socket: &impl std::os::fd::AsFd) -> String {
    match rustix::net::sockopt::socket_peercred(socket) {
        Ok(credentials) => {
            format!("unix:pid={},uid={}", credentials.pid.as_raw_pid(), credentials.uid.as_raw())
        }
        Err(_unknown) => "unix".to_owned(),
    }
}
