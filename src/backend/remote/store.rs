//! The export of another server, as all shards know it: where it is and what it promised.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::contexts::{BASE_ALLOCATION, LinkContexts, MOST_PASSED, first_wish, later_wish, passed_names};
use super::counts::{RemoteCounts, RemoteStatus};
use super::facts::RemoteFacts;
use super::wire::LONGEST_PAYLOAD;
use crate::backend::FILES_PER_EXPORT;
use crate::backend::launch::LaunchCommand;
use crate::backend::open_error::OpenError;
use crate::block::{BlockSizes, DeviceFacts};
use crate::client::uri::{NbdUri, ServerAddress};
use crate::client::{Client, ClientError, Timeouts, WantedContexts, enter_over, enter_with};
use crate::config::{CommandUri, RemoteUri};
use crate::exec::lock;
use crate::nbd::client::handshake::{ExportDetails, FurtherContexts, Transmission};
use crate::nbd::client::request::ClientRequest;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;
use crate::store::base::{FoundBase, sample_of};

/// What clients are promised on the strength of the remote: it may not lose these.
const PROMISED: u16 = NBD_FLAG_SEND_FLUSH
    | NBD_FLAG_SEND_FUA
    | NBD_FLAG_SEND_TRIM
    | NBD_FLAG_SEND_WRITE_ZEROES
    | NBD_FLAG_SEND_FAST_ZERO;
/// How long a connection may take to come about. Other work may wait for the thread meanwhile.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(10),
    silence: Duration::from_secs(10),
};
/// The pause between two attempts at the start.
const PAUSE: Duration = Duration::from_millis(250);

/// An export of another server.
#[derive(Debug)]
pub(in crate::backend) struct RemoteStore {
    /// As it was written, for people.
    pub(super) text: String,
    pub(super) way: RemoteWay,
    pub(super) facts: RemoteFacts,
    /// Transmission flags, as told at the start.
    pub(super) flags: u16,
    /// Its meta contexts that clients can select here too, by name, beside `base:allocation`.
    pub(super) passed: Vec<Arc<str>>,
    /// How long requests wait for a lost connection.
    pub(super) reconnect: Duration,
    /// At most so many; 1 unless the remote allows more.
    pub(super) connections: usize,
    /// The connection by which the remote was asked, for the first shard that needs one: a remote may end
    /// when its last client goes.
    pub(super) first: Mutex<Option<RemoteSocket>>,
    pub(super) counts: RemoteCounts,
}

/// How a simulated remote is reached.
#[cfg(feature = "sim")]
pub type SimulatedWay = fn() -> Option<OwnedFd>;

/// How there comes to be a connection.
#[derive(Debug)]
pub(super) enum RemoteWay {
    /// All addresses of a host. They were looked up at the start, since a confined server cannot do that.
    Places(Vec<NbdUri>),
    /// A command that is started, and which of its exports.
    Launch { launcher: Arc<dyn LaunchCommand>, name: String, export: String },
    /// In a simulation: a socket to a server with which all is agreed on; none when it cannot be reached.
    #[cfg(feature = "sim")]
    Simulated(SimulatedWay),
}

/// What a user asks of an export of another server.
struct RemoteWishes {
    reconnect: Duration,
    connections: usize,
    read_only: bool,
}

/// A connection that has entered the transmission phase.
#[derive(Debug)]
pub(super) struct RemoteSocket {
    pub(super) socket: OwnedFd,
    pub(super) facts: RemoteFacts,
    pub(super) mode: ReplyMode,
    pub(super) contexts: LinkContexts,
    /// What the remote calls this opening of its export, if it does.
    pub(super) instance: Option<u32>,
}

impl RemoteStore {
    /// Asks the remote about its export, for as long as the URI says.
    ///
    /// # Errors
    /// [`OpenError`]: it cannot be asked, or says what cannot be passed on.
    pub(in crate::backend) fn open(
        uri: &RemoteUri,
        read_only: bool,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let (way, entered) = Self::ask(uri, MOST_PASSED)?;
        Self::of_asked(uri, way, entered, read_only)
    }

    /// The same of an export that is never written, and what it is known by.
    ///
    /// # Errors
    /// As [`RemoteStore::open`]; it cannot be read.
    pub(in crate::backend) fn open_base(
        uri: &RemoteUri,
    ) -> Result<(Self, DeviceFacts, FoundBase), OpenError> {
        // No client asks a base for anything.
        let (way, (socket, transmission)) = Self::ask(uri, 0)?;
        let failed = |error| OpenError::Remote(uri.address.clone(), error);
        let export = &transmission.export;
        // Over this connection, since a remote may allow no other one.
        let mut client = Client::borrowing(&socket, &transmission, TIMEOUTS).map_err(failed)?;
        let sample =
            sample_of(export.size, |offset, block| client.read_any(offset, block)).map_err(failed)?;
        client.give_back().map_err(failed)?;
        let found = FoundBase::remote(uri.to_string(), export.size, Some(&export.name), sample);
        let (store, facts) = Self::of_asked(uri, way, (socket, transmission), true)?;
        Ok((store, facts, found))
    }

    fn ask(uri: &RemoteUri, most_passed: usize) -> Result<(RemoteWay, (OwnedFd, Transmission)), OpenError> {
        let text = uri.address.clone();
        let wrong = |error| OpenError::RemoteAddress(text.clone(), error);
        let address: NbdUri = uri.address.parse().map_err(wrong)?;
        // INFO would not do: some servers tell the size only with GO.
        let asked = patiently(uri.open_timeout, || {
            let places = places(&address)?;
            let entered = first_of(&places, |place| enter(place, first_wish(most_passed)))?;
            Ok((RemoteWay::Places(places), entered))
        });
        asked.map_err(|error| match error {
            ConnectError::Client(error) => OpenError::Remote(text.clone(), error),
            other => OpenError::Command(text.clone(), other.to_string()),
        })
    }

    fn of_asked(
        uri: &RemoteUri,
        way: RemoteWay,
        entered: (OwnedFd, Transmission),
        read_only: bool,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let (text, read_only) = (uri.address.clone(), read_only || uri.read_only);
        let wishes = RemoteWishes { reconnect: uri.reconnect, connections: uri.connections, read_only };
        Self::of(text, way, entered, &wishes)
    }

    /// Starts a command and asks it about its export.
    ///
    /// # Errors
    /// [`OpenError`]: it cannot be started, or says what cannot be passed on.
    pub(in crate::backend) fn of_command(
        uri: &CommandUri,
        launcher: Arc<dyn LaunchCommand>,
        read_only: bool,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let text = uri.to_string();
        let name = uri.words[0].display().to_string();
        let wish = || first_wish(MOST_PASSED);
        let entered = patiently(uri.open_timeout, || enter_command(&*launcher, (&name, &uri.export), wish()));
        let entered = entered.map_err(|error| OpenError::Command(text.clone(), error.to_string()))?;
        let way = RemoteWay::Launch { launcher, name, export: uri.export.clone() };
        let read_only = read_only || uri.read_only;
        // Its standard input is one connection.
        let wishes = RemoteWishes { reconnect: uri.reconnect, connections: 1, read_only };
        Self::of(text, way, entered, &wishes)
    }

    /// One that was asked.
    fn of(
        text: String,
        way: RemoteWay,
        (socket, transmission): (OwnedFd, Transmission),
        wishes: &RemoteWishes,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let flags = transmission.export.transmission_flags;
        let passed = passed_names(&transmission.contexts);
        if passed.len() == MOST_PASSED {
            tracing::warn!(remote = text, "no more than {MOST_PASSED} of its meta contexts are passed on");
        }
        let first =
            RemoteSocket::new(socket, &transmission, &passed).map_err(|error| failure(&text, error))?;
        let told = first.facts.clone();
        let connections = if flags & NBD_FLAG_CAN_MULTI_CONN == 0 { 1 } else { wishes.connections };
        let facts = DeviceFacts {
            size: told.size,
            read_only: told.read_only || wishes.read_only,
            rotational: flags & NBD_FLAG_ROTATIONAL != 0,
            fast_zero: flags & NBD_FLAG_SEND_FAST_ZERO != 0,
            block_sizes: told.block_sizes,
        };
        tracing::info!(remote = text, connections, replies = ?first.mode, "a remote export");
        let (reconnect, first) = (wishes.reconnect, Mutex::new(Some(first)));
        let counts = RemoteCounts::default();
        Ok((Self { text, way, facts: told, flags, passed, reconnect, connections, first, counts }, facts))
    }

    /// The meta contexts that clients can select, beside `base:allocation`.
    pub(in crate::backend) fn passed_contexts(&self) -> &[Arc<str>] {
        &self.passed
    }

    /// What is told of it.
    pub(in crate::backend) fn status(&self) -> RemoteStatus {
        self.counts.status()
    }

    /// What its reads are multiples of.
    pub(in crate::backend) fn minimum_block(&self) -> u32 {
        self.facts.block_sizes.minimum
    }

    /// As many devices of files as its connections take places among the ring's files.
    pub(in crate::backend) fn files(&self) -> usize {
        self.connections.div_ceil(FILES_PER_EXPORT)
    }

    /// Connects, and waits for that: as often as is wanted and the remote allows, at least once.
    ///
    /// # Errors
    /// The first connection's.
    pub(super) fn connect(&self) -> Result<Vec<RemoteSocket>, ConnectError> {
        let first = lock(&self.first).take();
        let mut sockets = vec![first.map_or_else(|| self.connect_once(), Ok)?];
        // It may allow fewer than we would like.
        if let Some(more) = self.connections.checked_sub(1).filter(|more| *more > 0) {
            sockets.extend(self.connect_more(more).into_iter().flatten());
        }
        Ok(sockets)
    }

    /// Connects as often as that, at least once, while other connections stand.
    ///
    /// # Errors
    /// The first connection's.
    pub(super) fn connect_more(&self, connections: usize) -> Result<Vec<RemoteSocket>, ConnectError> {
        let mut sockets = vec![self.connect_once()?];
        while sockets.len() < connections
            && let Ok(socket) = self.connect_once()
        {
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn connect_once(&self) -> Result<RemoteSocket, ConnectError> {
        let (socket, transmission) = match &self.way {
            RemoteWay::Places(places) => first_of(places, |place| enter(place, later_wish(&self.passed)))?,
            RemoteWay::Launch { launcher, name, export } => {
                enter_command(&**launcher, (name, export), later_wish(&self.passed))?
            }
            #[cfg(feature = "sim")]
            RemoteWay::Simulated(connect) => {
                let socket = connect().ok_or(ConnectError::Client(ClientError::Closed))?;
                return Ok(self.simulated_socket(socket));
            }
        };
        RemoteSocket::new(socket, &transmission, &self.passed)
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        let Some(first) = lock(&self.first).take() else { return };
        let disconnect = ClientRequest { command: NBD_CMD_DISC, flags: 0, cookie: 0, offset: 0, length: 0 };
        let mut header = Vec::new();
        disconnect.encode(first.mode, &mut header);
        // The connection ends in any case.
        let _ = rustix::io::write(&first.socket, &header);
    }
}

impl RemoteSocket {
    fn new(socket: OwnedFd, transmission: &Transmission, passed: &[Arc<str>]) -> Result<Self, ConnectError> {
        let facts = facts_of(&transmission.export).map_err(ConnectError::Facts)?;
        let (contexts, mode) = (LinkContexts::of(transmission, passed), transmission.dialect.reply_mode);
        let instance = match contexts.instance() {
            Some(context) => instance_of(&socket, transmission, context)?,
            None => None,
        };
        Ok(Self { socket, facts, mode, contexts, instance })
    }
}

/// What the remote calls this opening of its export.
fn instance_of(
    socket: &OwnedFd,
    transmission: &Transmission,
    context: u32,
) -> Result<Option<u32>, ClientError> {
    let export = &transmission.export;
    let block = u64::from(export.block_sizes.map_or(1, |sizes| sizes.minimum));
    if export.size < block {
        return Ok(None);
    }
    let mut client = Client::borrowing(socket, transmission, TIMEOUTS)?;
    let told = match client.block_status(context, 0, block) {
        // It goes on without.
        Err(ClientError::Request { .. }) => Vec::new(),
        told => told?,
    };
    client.give_back()?;
    Ok(told.first().and_then(|extent| u32::try_from(extent.flags).ok()))
}

fn failure(text: &str, error: ConnectError) -> OpenError {
    match error {
        ConnectError::Client(error) => OpenError::Remote(text.to_owned(), error),
        ConnectError::Facts(what) => OpenError::RemoteFacts(text.to_owned(), what),
        launch @ ConnectError::Launch(_) => OpenError::Command(text.to_owned(), launch.to_string()),
    }
}

fn wanted(further: FurtherContexts) -> WantedContexts {
    WantedContexts { names: vec![BASE_ALLOCATION.to_owned()], further }
}

fn enter(place: &NbdUri, further: FurtherContexts) -> Result<(OwnedFd, Transmission), ClientError> {
    enter_with(place, wanted(further), ReplyMode::Extended, TIMEOUTS)
}

/// Starts a command and enters its export.
fn enter_command(
    launcher: &dyn LaunchCommand,
    (name, export): (&str, &str),
    further: FurtherContexts,
) -> Result<(OwnedFd, Transmission), ConnectError> {
    let socket = launcher.launch().map_err(ConnectError::Launch)?;
    Ok(enter_over(socket, (name, export), wanted(further), TIMEOUTS)?)
}

/// Asks once, and then again for so long as may help.
fn patiently<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, ConnectError>,
) -> Result<T, ConnectError> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(error) if may_pass(&error) && began.elapsed() + PAUSE < patience => std::thread::sleep(PAUSE),
            asked => return asked,
        }
    }
}

/// Why there is no connection now.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Launch(String),
    #[error("it {0}")]
    Facts(&'static str),
}

/// Whether the same may succeed a moment later.
fn may_pass(error: &ConnectError) -> bool {
    !matches!(error, ConnectError::Client(ClientError::Unsupported(_)))
}

/// What the first place gives that gives anything; the last one's error.
fn first_of<T>(
    places: &[NbdUri],
    mut ask: impl FnMut(&NbdUri) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut last = ClientError::Closed;
    for place in places {
        match ask(place) {
            Ok(told) => return Ok(told),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The same export at each address of its host, so that names are looked up no more.
fn places(uri: &NbdUri) -> Result<Vec<NbdUri>, ClientError> {
    let ServerAddress::Tcp { host, port } = &uri.address else { return Ok(vec![uri.clone()]) };
    let found = (host.as_str(), *port).to_socket_addrs();
    let found = found.map_err(|source| ClientError::Resolve { host: host.clone(), source })?;
    let at = |address: SocketAddr| {
        let host = match address {
            SocketAddr::V6(address) if address.scope_id() != 0 => {
                format!("{}%{}", address.ip(), address.scope_id())
            }
            address => address.ip().to_string(),
        };
        NbdUri { address: ServerAddress::Tcp { host, port: address.port() }, ..uri.clone() }
    };
    Ok(found.map(at).collect())
}

/// What a handshake told, if it can be passed on.
fn facts_of(details: &ExportDetails) -> Result<RemoteFacts, &'static str> {
    if i64::try_from(details.size).is_err() {
        return Err("says that it has 8 EiB or more");
    }
    let flags = details.transmission_flags;
    Ok(RemoteFacts {
        size: details.size,
        read_only: flags & NBD_FLAG_READ_ONLY != 0,
        abilities: flags & PROMISED,
        block_sizes: sizes_of(details.block_sizes)?,
        name: Some(details.name.clone()),
    })
}

/// The block sizes of the remote, within what this server can do.
fn sizes_of(told: Option<BlockSizes>) -> Result<BlockSizes, &'static str> {
    let BlockSizes { minimum, preferred, maximum } = told.unwrap_or_default();
    if !minimum.is_power_of_two() || minimum > 65_536 {
        return Err("has a minimum block size that the protocol does not allow");
    }
    let maximum = maximum.min(LONGEST_PAYLOAD) / minimum * minimum;
    if maximum == 0 {
        return Err("has a maximum block size that is less than its minimum");
    }
    let is_usable = preferred.is_power_of_two() && preferred >= minimum.max(512) && preferred <= maximum;
    let preferred = if is_usable { preferred } else { minimum.max(4096) };
    Ok(BlockSizes { minimum, preferred, maximum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(minimum: u32, preferred: u32, maximum: u32) -> Result<BlockSizes, &'static str> {
        sizes_of(Some(BlockSizes { minimum, preferred, maximum }))
    }

    #[test]
    fn block_sizes_of_a_remote_are_made_usable_or_refused() {
        assert_eq!(sizes_of(None), Ok(BlockSizes::default()));
        let largest = BlockSizes { minimum: 512, preferred: 65_536, maximum: LONGEST_PAYLOAD };
        assert_eq!(sizes(512, 65_536, u32::MAX), Ok(largest));
        let small = BlockSizes { minimum: 1, preferred: 4096, maximum: 4095 };
        assert_eq!(sizes(1, 8192, 4095), Ok(small));
        for (minimum, preferred, maximum) in
            [(0, 4096, 4096), (3, 4096, 4096), (4096, 4096, 0), (131_072, 131_072, 131_072)]
        {
            assert!(sizes(minimum, preferred, maximum).is_err(), "{minimum} {preferred} {maximum}");
        }
    }

    #[test]
    fn names_of_hosts_are_looked_up_once() {
        let uri: NbdUri = "nbd://127.0.0.1:99/disk".parse().unwrap();
        assert_eq!(places(&uri).unwrap(), [uri]);
        let uri: NbdUri = "nbd+unix:///disk?socket=/a".parse().unwrap();
        assert_eq!(places(&uri).unwrap(), [uri]);
        let uri: NbdUri = "nbd://[::1]/".parse().unwrap();
        assert_eq!(places(&uri).unwrap(), [uri]);
    }
}
