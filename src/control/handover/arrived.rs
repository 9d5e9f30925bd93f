//! Connections that have come, from another process or from one that has ended.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketType, sockopt};

use super::message::BadMessage;
use super::secure_state::SecureState;
use super::socket::HandoverError;
use crate::config::Limits;
use crate::control::TlsProof;
use crate::control::catalogue::Entry;
use crate::control::growth;
use crate::control::listen::negotiate::is_tcp;
use crate::control::plane::Plane;
use crate::control::sessions::{RunningSession, ends_beyond};
use crate::identity::{PeerIdentity, TlsIdentity};
use crate::nbd::session::Session;
use crate::shard::{NewConnection, Secured};

/// Bytes of a message beside the input of a connection.
pub(super) const BESIDE_INPUT: usize = 1 << 20;
/// Between two offers of a connection to shards that are all full.
const PLACEMENT_PAUSE: Duration = Duration::from_millis(1);

/// A connection that has come.
pub(in crate::control) struct Arrived {
    pub(super) entry: Rc<Entry>,
    pub(super) socket: OwnedFd,
    pub(super) session: Session,
    /// With TLS.
    pub(super) secure: Option<ResumedSecure>,
    pub(super) input: Vec<u8>,
}

/// Bytes of input of all connections: what the old process had in memory of the same size.
pub(super) fn room_for_input(limits: &Limits, shards: usize) -> usize {
    limits.memory_per_shard * shards + limits.connections * limits.receive_buffer
}

/// A connection with TLS that goes on here: its keys, who its client is, and what it was believed for.
pub(super) type ResumedSecure = (Box<Secured>, TlsIdentity, TlsProof);

pub(super) fn resumed(plane: &Plane, secure: &SecureState) -> Result<ResumedSecure, HandoverError> {
    let SecureState { keys, received } = secure;
    let resumed = plane.encryption.as_ref().and_then(|encryption| encryption.resume(keys, received));
    resumed.ok_or(HandoverError::OutOfOrder("keys that are none"))
}

/// Whether a connection can go on with an export.
pub(super) fn check(entry: &Entry, session: &Session, socket: &OwnedFd) -> Result<(), HandoverError> {
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return Err(BadMessage("a connection that is no stream").into());
    }
    let facts = entry.export().expect("it was opened").facts();
    if session.size > entry.size() || (facts.read_only && !session.is_read_only()) {
        return Err(HandoverError::OutOfOrder("a session that does not fit its export"));
    }
    Ok(())
}

/// The connections are served from now on.
pub(in crate::control) async fn attach(plane: &Rc<Plane>, arrived: Vec<Arrived>) {
    for Arrived { entry, socket, session, secure, input } in arrived {
        let mut peer = PeerIdentity::of(&socket);
        let (secure, proof) = match secure {
            None => (None, None),
            Some((secured, identity, proof)) => {
                peer.tls = Some(Arc::new(identity));
                (Some(secured), Some(proof))
            }
        };
        let longest = proof.as_ref().and_then(|_| plane.longest_session());
        // Counted as those are that came by a handshake, so that its number in the log is its own.
        let counted = plane.begin_handshake();
        let number = plane.counts().handshakes;
        let permit = plane.permit().await;
        let mark = plane.sessions.mark();
        let may_write = !session.is_read_only();
        let (id, ends_beyond) = (entry.id, ends_beyond(&session));
        let running = |shard| RunningSession { shard, id, may_write, ends_beyond, peer: peer.clone(), proof };
        let mut new = Box::new(NewConnection {
            number,
            over_tcp: is_tcp(&socket),
            socket,
            id: entry.id,
            export: Arc::clone(entry.export().expect("it was opened")),
            limits: entry.limits(),
            session,
            leftover: input,
            secure,
            peer: peer.clone(),
            permit: Box::new((permit.connection, (entry.count_client(), mark.clone()))),
            socket_permit: Box::new(permit.handshake),
        });
        let shard = loop {
            match plane.place(new) {
                Ok(shard) => break Some(shard),
                Err(back) => new = back,
            }
            if plane.failures() == plane.shard_count() || plane.is_stopping() {
                new.hang_up();
                break None;
            }
            tokio::time::sleep(PLACEMENT_PAUSE).await;
        };
        drop(counted);
        let export = entry.info.name.as_str();
        match shard {
            None => tracing::error!(connection = number, %peer, export, "no shard is left for a connection"),
            Some(shard) => {
                tracing::info!(connection = number, %peer, export, shard, "taken over");
                plane.sessions.add(number, &mark, running(shard), longest);
                growth::tell_client(plane, number, entry.size());
            }
        }
    }
}
