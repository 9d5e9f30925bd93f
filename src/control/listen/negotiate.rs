//! Drives one handshake over a socket, then hands the socket over.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::AddressFamily;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use super::audit::Audit;
use super::channel::Channel;
use crate::control::client_stream::Failure;
use crate::control::enforce::enforce_on;
use crate::control::growth;
use crate::control::handshake_memory::Claim;
use crate::control::plane::{Permit, Plane};
use crate::control::sessions::{RunningSession, SessionMark, ends_beyond};
use crate::control::stores::{Absence, Chosen, Stores};
use crate::control::{SecureChannel, TlsProof};
use crate::identity::{PeerIdentity, TlsIdentity};
use crate::nbd::server::handshake::{CloseReason, Event, Handshake};
use crate::nbd::session::Session;
use crate::rights::Asker;
use crate::shard::{NewConnection, Secured};
use crate::stats::TlsFailure;

/// A client that was just accepted.
pub(in crate::control) struct Candidate {
    pub(in crate::control) socket: OwnedFd,
    pub(in crate::control) peer: PeerIdentity,
    /// Its places.
    pub(in crate::control) permit: Permit,
}

/// Between two offers of a connection to shards that are all full.
const PLACEMENT_PAUSE: Duration = Duration::from_millis(1);

/// Negotiates with a client and hands it over to a shard, within the time that a handshake may take.
///
/// Thousands may wait here. What is only needed for a while is in a box, so that a task is small.
pub(in crate::control) async fn negotiate(stores: Rc<Stores>, candidate: Candidate) {
    let plane = Rc::clone(&stores.plane);
    let _counted = plane.begin_handshake();
    // Handshakes are counted, so this one has a number of its own.
    let number = plane.counts().handshakes;
    let enforced = plane.sessions.enforced();
    let Candidate { socket, mut peer, permit } = candidate;
    let Permit { connection, handshake: handshake_permit } = permit;
    let mut handshake = Handshake::with_tls(plane.handshake_limits(), plane.tls_mode());
    tracing::debug!(connection = number, %peer, "connected");
    let outcome = match ring_stream(&socket) {
        Err(error) => Err(Failure::Io(error)),
        Ok(stream) => {
            let audit = Audit::new(&plane, number, &peer);
            let whole = converse(&stores, &mut handshake, &stream, &audit);
            timeout(plane.limits.handshake_timeout, whole).await.unwrap_or(Err(Failure::TimedOut))
        }
    };
    let result = match outcome {
        Ok(Agreed { session, entry, leftover, secure, tls, proof }) => {
            peer.tls = tls;
            let mark = plane.sessions.mark();
            let counted = (entry.count_client(), mark.clone());
            let permit = Box::new((connection, counted));
            let socket_permit = Box::new(handshake_permit);
            let peer = peer.clone();
            let over_tcp = is_tcp(&socket);
            let negotiated = NewConnection {
                number,
                socket,
                over_tcp,
                id: entry.id,
                export: Arc::clone(entry.export().expect("an image that was chosen is open")),
                limits: entry.limits(),
                session,
                leftover,
                secure,
                peer,
                permit,
                socket_permit,
            };
            let whole = hand_over(&plane, &entry, Box::new(negotiated), (mark, proof));
            let handed_over = Box::pin(whole).await;
            // What it was let in by may be from before.
            if handed_over.is_ok() && plane.sessions.enforced() != enforced {
                enforce_on(&plane, number);
            }
            // The export may have become larger since its size was told.
            if handed_over.is_ok() {
                growth::tell_client(&plane, number, entry.size());
            }
            handed_over
        }
        Err(failure) => {
            // A receive that still waits in the ring holds the other descriptor open: this ends it.
            let _already = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
            Err(failure)
        }
    };
    if let Err(failure) = result {
        report(number, &peer, &failure, &handshake);
    }
}

/// The socket for the ring. A stream of tokio-uring cannot give up its descriptor, so it gets one of its own.
/// It ignores the address family, so this type does for unix sockets too.
fn ring_stream(socket: &OwnedFd) -> io::Result<TcpStream> {
    Ok(TcpStream::from_std(socket.try_clone()?.into()))
}

/// Whether a stream is one of TCP; one that was inherited may be of any kind.
pub(in crate::control) fn is_tcp(socket: &OwnedFd) -> bool {
    let domain = rustix::net::sockopt::socket_domain(socket);
    matches!(domain, Ok(AddressFamily::INET | AddressFamily::INET6))
}

/// What a handshake came to.
struct Agreed {
    session: Session,
    entry: Chosen,
    leftover: Vec<u8>,
    secure: Option<Box<Secured>>,
    tls: Option<Arc<TlsIdentity>>,
    proof: Option<TlsProof>,
}

async fn converse(
    stores: &Rc<Stores>,
    handshake: &mut Handshake,
    stream: &TcpStream,
    audit: &Audit<'_>,
) -> Result<Agreed, Failure> {
    let plane = &stores.plane;
    let mut asker = Asker::of(audit.peer);
    let mut channel = Channel::new(stream);
    let (mut tls, mut chosen): (_, Option<Chosen>) = (None, None);
    let mut claim = plane.handshake_memory.claim();
    loop {
        handshake.set_shutting_down(plane.is_stopping());
        let mut input = channel.unread();
        let (event, left) = (handshake.feed(&mut input), input.len());
        channel.leave(left);
        match event.map_err(Failure::Closed)? {
            None => channel.receive(&mut claim, handshake.option_bytes()).await?,
            Some(Event::Output) => channel.send(handshake.take_output()).await?,
            Some(Event::Lookup(name)) => {
                let found = Box::pin(stores.look_up(&name, handshake.is_choosing(), &asker)).await;
                if matches!(found, Err(Absence::Moved)) {
                    return Err(Failure::Moved);
                }
                let is_hidden = is_hidden(plane, handshake.is_secure(), &name);
                let found = if is_hidden { found.and(Err(Absence::Refused)) } else { found };
                audit.decided(&asker, (handshake.option_name(), &name), &found);
                let found = found.ok();
                let info = match &found {
                    Some(entry) => Some(Box::pin(stores.info_now(entry)).await),
                    None => None,
                };
                let answer = info.as_ref().map_or(0, |info| plane.answer_bytes(Some(info)));
                claim.hold(handshake.option_bytes().max(answer)).await;
                // It may have gone while memory was waited for.
                chosen = found.filter(|entry| plane.catalogue().has(entry.id));
                handshake
                    .found(chosen.as_ref().zip(info.as_ref()).map(|(entry, info)| (entry.index(), info)));
            }
            Some(Event::List) => {
                Box::pin(list(stores, handshake, &asker, &mut claim, audit)).await?;
            }
            Some(Event::StartTls) => {
                channel.release();
                let secure = Box::pin(begin_tls(plane, stream, &mut claim)).await?;
                let identity = Arc::new(secure.identity());
                asker = Asker::of(&PeerIdentity { tls: Some(Arc::clone(&identity)), ..audit.peer.clone() });
                tls = Some(identity);
                channel.secure = Some(secure);
                handshake.secured();
            }
            Some(Event::Done(negotiated)) => {
                // The export that was looked up last. If its index belongs to another one now, it was
                // removed.
                let entry = chosen.filter(|entry| entry.index() == negotiated.export);
                let entry = entry.expect("a session is one of the export that was asked for last");
                let proof = channel.secure.as_ref().map(SecureChannel::proof);
                let (leftover, secure) = channel.into_rest();
                return Ok(Agreed { session: negotiated.session, entry, leftover, secure, tls, proof });
            }
        }
    }
}

/// Whether a client is told of an export only when its connection is a secure one.
fn is_hidden(plane: &Plane, is_secure: bool, name: &str) -> bool {
    !is_secure && plane.needs_tls(name)
}

/// Tells a client which exports there are.
async fn list(
    stores: &Rc<Stores>,
    handshake: &mut Handshake,
    asker: &Asker,
    claim: &mut Claim,
    audit: &Audit<'_>,
) -> Result<(), Failure> {
    let plane = &stores.plane;
    let is_secure = handshake.is_secure();
    let mut images = stores.listed(asker).await.map_err(|_absence| Failure::Moved)?;
    images.retain(|info| !is_hidden(plane, is_secure, &info.name));
    let bytes = images.iter().map(|info| plane.answer_bytes(Some(info))).sum::<usize>();
    claim.hold(bytes + plane.answer_bytes(None)).await;
    let catalogue = plane.catalogue();
    let others = catalogue.iter().filter(|entry| !stores.offers(&entry.info.name));
    let others = others.filter(|entry| entry.decide(asker).is_listed);
    let others: Vec<_> = others.filter(|entry| !is_hidden(plane, is_secure, &entry.info.name)).collect();
    audit.listed(asker, others.len() + images.len());
    handshake.listed(others.iter().map(|entry| &entry.info).chain(&images));
    Ok(())
}

/// Makes the connection a secure one, and counts what came of it.
async fn begin_tls(plane: &Plane, stream: &TcpStream, claim: &mut Claim) -> Result<SecureChannel, Failure> {
    let encryption = plane.encryption.as_ref().expect("it is offered only if it is there");
    // It counts as too long when it is dropped.
    let late = LateTls(plane);
    let begun = SecureChannel::begin(encryption, stream, claim).await;
    std::mem::forget(late);
    plane.count_tls(match &begun {
        Ok(secure) => Ok(secure.kind()),
        Err(Failure::Tls(failure, _)) => Err(*failure),
        Err(_) => Err(TlsFailure::Gone),
    });
    begun
}

/// Counts a handshake of TLS that was given up.
struct LateTls<'a>(&'a Plane);

impl Drop for LateTls<'_> {
    fn drop(&mut self) {
        self.0.count_tls(Err(TlsFailure::TimedOut));
    }
}

/// Finds a shard with room. A full mailbox empties within a turn of the shard's loop, so this rarely waits.
async fn hand_over(
    plane: &Plane,
    entry: &Chosen,
    mut negotiated: Box<NewConnection>,
    (mark, proof): (SessionMark, Option<TlsProof>),
) -> Result<(), Failure> {
    let (number, peer) = (negotiated.number, negotiated.peer.clone());
    let tls = peer.tls.as_deref().map(tracing::field::debug);
    let export = entry.info.name.as_str();
    let (mode, may_write) = (negotiated.session.reply_mode, !negotiated.session.is_read_only());
    let ends_beyond = ends_beyond(&negotiated.session);
    let deadline = tokio::time::Instant::now() + plane.limits.handshake_timeout;
    loop {
        if !plane.catalogue().has(entry.id) {
            negotiated.hang_up();
            return Err(Failure::Removed);
        }
        negotiated = match plane.place(negotiated) {
            Ok(shard) => {
                tracing::info!(connection = number, %peer, export, shard, replies = ?mode, tls, "negotiated");
                let longest = proof.as_ref().and_then(|_| plane.longest_session());
                let (id, peer) = (entry.id, peer.clone());
                let running = RunningSession { shard, id, may_write, ends_beyond, peer, proof };
                plane.sessions.add(number, &mark, running, longest);
                return Ok(());
            }
            Err(back) => back,
        };
        if plane.is_stopping() || tokio::time::Instant::now() >= deadline {
            negotiated.hang_up();
            return Err(Failure::NoShard);
        }
        tokio::time::sleep(PLACEMENT_PAUSE).await;
    }
}

/// Logs why a handshake failed. A client that leaves, or never says anything, is logged at DEBUG only: port
/// scanners and health checks do that.
fn report(connection: u64, peer: &PeerIdentity, failure: &Failure, handshake: &Handshake) {
    match failure {
        Failure::Closed(CloseReason::Aborted) => {
            tracing::debug!(connection, %peer, "the client ended the negotiation")
        }
        Failure::Gone => {
            tracing::debug!(connection, %peer, "the client closed the connection during the handshake")
        }
        Failure::TimedOut if !handshake.has_begun() => {
            tracing::debug!(connection, %peer, "the client never said anything")
        }
        Failure::TimedOut => {
            tracing::info!(connection, %peer, reason = "the handshake took too long", "handshake failed")
        }
        Failure::Tls(_, reason) => {
            tracing::info!(connection, %peer, reason, "TLS handshake failed")
        }
        Failure::Closed(reason) => tracing::info!(connection, %peer, %reason, "handshake failed"),
        Failure::Io(error) => tracing::info!(connection, %peer, reason = %error, "handshake failed"),
        Failure::Removed => {
            tracing::info!(connection, %peer, reason = "the export was removed", "handshake failed")
        }
        Failure::Moved => {
            tracing::info!(connection, %peer, reason = "another process has the images now", "handshake failed")
        }
        Failure::NoShard => {
            tracing::info!(connection, %peer, reason = "no shard took the connection", "handshake failed")
        }
    }
}
