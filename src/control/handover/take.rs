//! The new process: what it is given before it starts, and the connections at its end.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketType, sockopt};

use super::PROTOCOL;
use super::message::{BadMessage, HandoverMessage, NEWEST, OLDEST, OfferedExport};
use super::offer::PassedListeners;
use super::secure_state::SecureState;
use super::socket::{HandoverError, HandoverSocket};
use crate::backend::{Export, OpenError, PreparedFile};
use crate::config::{Config, ExportConfig, ExportUri, ImagePlace, Limits};
use crate::control::TlsProof;
use crate::control::catalogue::Entry;
use crate::control::growth;
use crate::control::listen::listeners;
use crate::control::listen::negotiate::is_tcp;
use crate::control::plane::Plane;
use crate::control::sessions::{RunningSession, ends_beyond};
use crate::control::stores::{Chosen, Stores};
use crate::identity::{PeerIdentity, TlsIdentity};
use crate::nbd::session::Session;
use crate::shard::{NewConnection, Secured};
use crate::store::image_path::ImagePath;
use crate::sys::peer_credentials;

/// The old process answers within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where it makes durable what stores have.
const RELEASE_TIME: Duration = Duration::from_secs(120);
/// The longest answer of HTTP.
const ANSWER_BYTES: usize = 16 << 10;
/// Bytes of a message beside the input of a connection.
const BESIDE_INPUT: usize = 1 << 20;
/// Between two offers of a connection to shards that are all full.
const PLACEMENT_PAUSE: Duration = Duration::from_millis(1);

/// Why a server cannot take over; a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Nothing listens there.
    #[error("no server answers at {0} ({1}): write where the --control socket of the old server is")]
    NoServer(String, std::io::Error),
    /// Somebody else's server.
    #[error("the server at {0} is of the user {1}: start this one as that user, or as root")]
    Stranger(String, u32),
    /// It refuses.
    #[error("the old server refuses to hand over: {0}")]
    Refused(String),
    /// Two commands of one export would run at a time.
    #[error(
        "the export \"{0}\" is a command, which would run twice for a while: leave it out here (its clients stay with the old \
         server), or restart the server instead"
    )]
    Command(String),
    /// It went wrong on the way.
    #[error("the old server goes on, because the hand-over failed: {0}")]
    Failed(String),
}

impl From<HandoverError> for TakeoverError {
    fn from(error: HandoverError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What the old process has offered, and the way to it.
#[derive(Debug)]
pub struct Takeover {
    socket: HandoverSocket,
    process: u32,
    exports: Vec<(OfferedExport, Vec<OwnedFd>)>,
    /// Directories of stores that can be had.
    stores: Vec<PathBuf>,
    /// Exports from this number on are images whose store is this process's now.
    first_image: usize,
    /// The numbers of exports that were opened with what came.
    opened: Vec<u32>,
    pub(in crate::control) listeners: PassedListeners,
}

/// A connection that has come.
pub(in crate::control) struct Arrived {
    pub(super) entry: Rc<Entry>,
    pub(super) socket: OwnedFd,
    pub(super) session: Session,
    /// With TLS.
    pub(super) secure: Option<ResumedSecure>,
    pub(super) input: Vec<u8>,
}

impl Takeover {
    /// Asks the server at a control socket what it has. It goes on serving.
    ///
    /// # Errors
    /// [`TakeoverError`].
    pub fn begin(path: &Path) -> Result<Self, TakeoverError> {
        let shown = path.display().to_string();
        let no_server = |error| TakeoverError::NoServer(shown.clone(), error);
        let mut stream = UnixStream::connect(path).map_err(no_server)?;
        // Who listens there was checked by nobody else: a stranger could hand over what is not what it says.
        let owner = peer_credentials(stream.as_fd()).map_err(no_server)?.uid;
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(TakeoverError::Stranger(shown, owner));
        }
        stream.set_read_timeout(Some(PATIENCE)).map_err(no_server)?;
        ask(&mut stream).map_err(no_server)?.map_or(Ok(()), |why| Err(TakeoverError::Refused(why)))?;
        let socket = HandoverSocket::new(stream, PATIENCE).map_err(no_server)?;
        Ok(Self::introduce(socket)?)
    }

    /// From HELLO to OFFERED.
    fn introduce(socket: HandoverSocket) -> Result<Self, HandoverError> {
        let process = std::process::id();
        socket.send(&HandoverMessage::Hello { oldest: OLDEST, newest: NEWEST, process }, &[])?;
        let process = match socket.receive_plain(BESIDE_INPUT)? {
            HandoverMessage::Welcome { version, process } if (OLDEST..=NEWEST).contains(&version) => process,
            HandoverMessage::Welcome { version, .. } => {
                return Err(HandoverError::Version(version, version, OLDEST, NEWEST));
            }
            other => return Err(HandoverError::OutOfOrder(other.kind())),
        };
        let mut takeover = Self {
            socket,
            process,
            exports: Vec::new(),
            stores: Vec::new(),
            first_image: usize::MAX,
            opened: Vec::new(),
            listeners: PassedListeners::default(),
        };
        loop {
            match takeover.socket.receive(BESIDE_INPUT)? {
                (HandoverMessage::Export(offered), files) if offered.purposes.len() == files.len() => {
                    takeover.exports.push((offered, files));
                }
                (HandoverMessage::Listener { purpose, is_inherited }, files) => {
                    let [socket] = <[OwnedFd; 1]>::try_from(files)
                        .map_err(|_| BadMessage("a listener without a socket"))?;
                    let listener = listeners::passed(socket, is_inherited);
                    let listener = listener.ok_or(BadMessage("a socket that does not listen"))?;
                    let number = takeover.listeners.waiting.len() as u32;
                    takeover.listeners.waiting.push((number, purpose, listener));
                }
                (HandoverMessage::Store { path }, _) => takeover.stores.push(path.into()),
                (HandoverMessage::Offered, _) => return Ok(takeover),
                (other, _) => return Err(HandoverError::OutOfOrder(other.kind())),
            }
        }
    }

    /// The stores of a configuration that the old process has, by their numbers there.
    fn wanted_stores(&self, config: &Config) -> Vec<u32> {
        let wanted: Vec<_> = config.exports.iter().flat_map(|export| directories_of(&export.uri)).collect();
        let numbered = self.stores.iter().zip(0..);
        numbered.filter(|(path, _)| wanted.contains(path)).map(|(_, number)| number).collect()
    }

    /// Whether the old process can run until this one has started.
    pub(in crate::control) fn check(config: &Config) -> Result<(), TakeoverError> {
        let command = config.exports.iter().find(|export| export.uri.command().is_some());
        command.map_or(Ok(()), |export| Err(TakeoverError::Command(export.name.clone())))
    }

    /// Whether this process will have stores of the old one.
    pub(in crate::control) fn has_stores(&self, config: &Config) -> bool {
        !self.wanted_stores(config).is_empty()
    }

    /// Has the old process close the stores that this one serves too. Their clients wait from now on, until
    /// COMMIT or until this process gives up.
    pub(in crate::control) fn claim_stores(
        &mut self,
        config: &Config,
        with_tls: bool,
    ) -> Result<(), TakeoverError> {
        let stores = self.wanted_stores(config);
        if stores.is_empty() {
            return Ok(());
        }
        self.socket.set_patience(RELEASE_TIME).map_err(HandoverError::Io)?;
        self.socket.send(&HandoverMessage::Claim { stores, with_tls }, &[])?;
        self.first_image = self.exports.len();
        loop {
            match self.socket.receive_plain(BESIDE_INPUT)? {
                HandoverMessage::Export(offered) if offered.purposes.is_empty() => {
                    self.exports.push((offered, Vec::new()));
                }
                HandoverMessage::Released => break,
                other => return Err(HandoverError::OutOfOrder(other.kind()).into()),
            }
        }
        self.socket.set_patience(PATIENCE).map_err(HandoverError::Io)?;
        Ok(())
    }

    /// Opens the images that clients of the old process have and that are no exports of the configuration:
    /// each as one of its store.
    pub(in crate::control) async fn open_images(&mut self, stores: &Rc<Stores>) -> Vec<Chosen> {
        let mut images = Vec::new();
        for number in self.first_image.min(self.exports.len())..self.exports.len() {
            if self.opened.contains(&(number as u32)) {
                continue;
            }
            if let Some(chosen) = stores.place_of(&self.exports[number].0.name).await {
                self.opened.push(number as u32);
                images.push(chosen);
            }
        }
        images
    }

    /// The old process.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Opens an export with the files of the same one of the old process; none if there is none.
    pub(in crate::control) fn open(&mut self, wanted: &ExportConfig) -> Option<Result<Export, OpenError>> {
        let uri = wanted.uri.to_string();
        let is_it = |offered: &OfferedExport| {
            offered.name == wanted.name && offered.uri == uri && offered.read_only == wanted.read_only
        };
        let number = self.exports.iter().position(|(offered, _)| is_it(offered))?;
        let (offered, files) = &mut self.exports[number];
        let mut prepared = PreparedFile::default();
        for (purpose, file) in offered.purposes.iter().zip(files.drain(..)) {
            prepared.add(*purpose, file.into());
        }
        let opened = Export::of_prepared(&wanted.uri, wanted.read_only, prepared);
        if let Ok(export) = &opened {
            if offered.has_lost_writes {
                export.note_lost_writes();
            }
            self.opened.push(number as u32);
        }
        Some(opened)
    }

    /// Says that this process has started, and takes what is sent then. It blocks: there are no clients yet.
    pub(in crate::control) fn receive_connections(
        &self,
        plane: &Plane,
    ) -> Result<Vec<Arrived>, TakeoverError> {
        let entries: Vec<_> = self.opened.iter().filter_map(|number| self.entry(plane, *number)).collect();
        let exports = entries.iter().map(|(number, _)| *number).collect();
        let listeners = self.listeners.taken.clone();
        let with_tls = plane.encryption.is_some();
        self.socket.send(&HandoverMessage::Prepared { exports, listeners, with_tls }, &[])?;
        let mut arrived: Vec<Arrived> = Vec::new();
        let mut room = room_for_input(&plane.limits, plane.shard_count());
        loop {
            let limit = BESIDE_INPUT + room.min(plane.limits.longest_request as usize + BESIDE_INPUT);
            match self.socket.receive(limit)? {
                (HandoverMessage::Connection { export, session, secure, input }, files) => {
                    let [socket] = <[OwnedFd; 1]>::try_from(files)
                        .map_err(|_| HandoverError::OutOfOrder("a connection without a socket"))?;
                    let entry = entries.iter().find(|(number, _)| *number == export);
                    let entry = entry.ok_or(HandoverError::OutOfOrder("a connection of no export"))?;
                    let entry = Rc::clone(&entry.1);
                    check(&entry, &session, &socket)?;
                    let secure = secure.map(|secure| resumed(plane, &secure)).transpose()?;
                    if arrived.len() >= plane.limits.connections {
                        let limit = plane.limits.connections;
                        let why = format!("more than {limit} connections come: raise --max-connections");
                        return Err(self.give_up(why));
                    }
                    let Some(left) = room.checked_sub(input.len()) else {
                        return Err(self.give_up("more comes than fits: give it more --memory".to_owned()));
                    };
                    room = left;
                    arrived.push(Arrived { entry, socket, session, secure, input });
                }
                (HandoverMessage::AllSent { connections }, _) if connections as usize == arrived.len() => {
                    return Ok(arrived);
                }
                (other, _) => return Err(HandoverError::OutOfOrder(other.kind()).into()),
            }
        }
    }

    /// An export of the old process as this one has it, if a client cannot tell one from the other.
    fn entry(&self, plane: &Plane, number: u32) -> Option<(u32, Rc<Entry>)> {
        let (offered, _) = &self.exports[number as usize];
        let entry = plane.find(&offered.name)?;
        (entry.size() >= offered.size).then_some((number, entry))
    }

    fn give_up(&self, why: String) -> TakeoverError {
        // It hears so by the end of the connection otherwise.
        let _told = self.socket.send(&HandoverMessage::GivenUp(why.clone()), &[]);
        TakeoverError::Failed(why)
    }

    /// Says that nothing is missing. From COMMIT on all of it is this process's.
    pub(in crate::control) fn finish(&self) -> Result<(), TakeoverError> {
        self.socket.send(&HandoverMessage::Ready, &[])?;
        match self.socket.receive_plain(BESIDE_INPUT)? {
            HandoverMessage::Commit => Ok(()),
            other => Err(HandoverError::OutOfOrder(other.kind()).into()),
        }
    }
}

/// Bytes of input of all connections: what the old process had in memory of the same size.
fn room_for_input(limits: &Limits, shards: usize) -> usize {
    limits.memory_per_shard * shards + limits.connections * limits.receive_buffer
}

/// A connection with TLS that goes on here: its keys, who its client is, and what it was believed for.
pub(super) type ResumedSecure = (Box<Secured>, TlsIdentity, TlsProof);

pub(super) fn resumed(plane: &Plane, secure: &SecureState) -> Result<ResumedSecure, HandoverError> {
    let SecureState { keys, received } = secure;
    let resumed = plane.encryption.as_ref().and_then(|encryption| encryption.resume(keys, received));
    resumed.ok_or(HandoverError::OutOfOrder("keys that are none"))
}

/// Where the store of an export may be, without links; none for what is in no store.
fn directories_of(uri: &ExportUri) -> Vec<PathBuf> {
    match uri {
        ExportUri::Fault { inner, .. } => directories_of(inner),
        ExportUri::Image(image) => {
            let paths = match &image.place {
                ImagePlace::Store(path) => {
                    let of_image = path.to_str().and_then(|text| text.parse::<ImagePath>().ok());
                    std::iter::once(path.clone()).chain(of_image.map(|path| path.store)).collect()
                }
                ImagePlace::Overlay(path) => vec![path.clone()],
                ImagePlace::Temporary => Vec::new(),
            };
            paths.iter().filter_map(|path: &PathBuf| std::fs::canonicalize(path).ok()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a connection can go on with an export.
fn check(entry: &Entry, session: &Session, socket: &OwnedFd) -> Result<(), HandoverError> {
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return Err(BadMessage("a connection that is no stream").into());
    }
    let facts = entry.export().expect("it was opened").facts();
    if session.size > entry.size() || (facts.read_only && !session.is_read_only()) {
        return Err(HandoverError::OutOfOrder("a session that does not fit its export"));
    }
    Ok(())
}

/// Leaves HTTP; a sentence when the server refuses.
fn ask(stream: &mut UnixStream) -> std::io::Result<Option<String>> {
    let request = format!(
        "POST /api/v1/handover HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // What follows the head is not HTTP any more, so no byte of that may be read.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if answer.len() >= ANSWER_BYTES || stream.read(&mut byte)? == 0 {
            return Err(std::io::Error::other("it does not speak as a control socket does"));
        }
        answer.push(byte[0]);
    }
    if answer.starts_with(b"HTTP/1.1 101 ") {
        return Ok(None);
    }
    let mut body = Vec::new();
    // The end of the body is the end of the answer, or of the patience.
    let length = content_length(&answer).min(ANSWER_BYTES);
    stream.take(length as u64).read_to_end(&mut body)?;
    let body = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
    let sentence = body["error"].as_str().map(str::to_owned);
    Ok(Some(sentence.unwrap_or_else(|| "it is of a version that has no hand-over".to_owned())))
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, length)| length.trim().parse().ok()).unwrap_or(0)
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
