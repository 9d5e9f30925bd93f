//! The life of a server: start, serve, stop.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::accept::{Acceptor, accept};
use super::catalogue::{Catalogue, Entry};
use super::changes;
use super::endpoint::Endpoint;
use super::host::{ChangeError, Host, HostError, Ready, Wish};
use super::listener::{self, ListenError, Listener};
use super::negotiate::{Client, negotiate};
use super::observe::{Observers, wants_latencies};
use super::plane::Plane;
use crate::backend::{self, Export, OpenError};
use crate::config::{Config, ExportUri, Limits, Pinning};
use crate::identity::PeerIdentity;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::ExportInfo;
use crate::shard::{self, ShardConfig, ShardError, ShardHandle};
use crate::stats::Interval;
use crate::sys::confine;

/// Whom to serve.
#[derive(Debug)]
pub enum Service {
    /// Everybody who connects.
    Listeners,
    /// One client, which is connected: its socket, a blocking one.
    Client(OwnedFd),
}

/// An export that is about to be served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Where its bytes live.
    pub source: String,
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// One for each listener.
    pub uris: Vec<String>,
    /// For each listener, what `qemu-img info` is given in a shell.
    pub qemu: Vec<String>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Asked to, and everything was finished.
    Stopped,
    /// Asked to twice: what was not finished is lost.
    CutOff,
    /// A shard failed, or did not end.
    Failed,
}

/// Why a server did not start; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process around the server.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An export.
    #[error(transparent)]
    Export(#[from] backend::OpenError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] shard::StartError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `--latency-log`.
    #[error("cannot write the latency log {}: {error}; choose another --latency-log", path.display())]
    LatencyLog {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The control plane's ring, which is small: after those of the shards there is little left to fail.
    #[error(
        "the control plane's ring does not fit into the locked memory limit: raise it (ulimit -l, or LimitMEMLOCK= of \
         systemd), or start fewer --shards"
    )]
    LockedMemory,
    /// The control plane.
    #[error("cannot start the control plane: {0}")]
    Runtime(io::Error),
}

impl StartError {
    fn of_runtime(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::LockedMemory,
            _ => Self::Runtime(error),
        }
    }
}

/// Handshakes that go on when the server stops may hear of it for so long.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(2);
/// Shards cut off what is unfinished at [`Limits::shutdown_timeout`] by themselves; later than this they are stuck.
const SHARD_GRACE: Duration = Duration::from_secs(2);

/// What a finished shutdown still takes.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Shards that ended: which, and what they recorded last.
type Exits = UnboundedReceiver<(usize, Result<Box<Interval>, ShardError>)>;

/// Serves until the host says so, or until the client of [`Service::Client`] is gone.
///
/// # Errors
/// [`StartError`]; nothing is left behind then.
pub fn run(config: &Config, service: Service, host: &mut impl Host) -> Result<Ending, StartError> {
    let client = match service {
        Service::Client(socket) => Some(socket),
        Service::Listeners => None,
    };
    let inherited = host.before_threads()?;
    let catalogue = open_exports(config, Export::open)?;
    let limits = Arc::new(config.limits.clone());
    let files = catalogue.files() + host.exports_later();
    let (shards, exits) = host.around_shards(|| start_shards(config, files, &limits))??;
    let connections = if client.is_some() { 1 } else { limits.connections };
    let plane = Rc::new(Plane::new(catalogue, limits, shards, connections));
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(StartError::of_runtime)?;
    let observers = Observers::default();
    let server =
        Server { config, plane: Rc::clone(&plane), endpoints: Vec::new(), exits, ended_shards: 0, observers };
    let ending = runtime.block_on(server.serve(client, inherited, host));
    match ending {
        // Dropping it would wait for operations in flight; the process ends now.
        Ok(Ending::CutOff) if !host.goes_on() => std::mem::forget(runtime),
        Ok(_) => {}
        Err(_) => plane.stop(),
    }
    ending
}

/// Does what [`run`] does before it listens, without memory and threads: the exports can be opened, user and group exist. No
/// file is locked, so that it goes beside a server. Tells what would be served, without URIs.
///
/// # Errors
/// [`StartError`].
pub fn check(config: &Config) -> Result<Vec<Served>, StartError> {
    listener::check(&config.unix_access)?;
    let catalogue = open_exports(config, Export::look_at)?;
    Ok(catalogue.iter().map(|entry| served(entry, &[])).collect())
}

/// What is told of an export of a server that listens there.
pub(super) fn served(entry: &Entry, endpoints: &[Endpoint]) -> Served {
    let (name, facts) = (&entry.info.name, &entry.info.facts);
    Served {
        name: name.clone(),
        source: entry.source.clone(),
        size: facts.size,
        read_only: facts.read_only,
        uris: endpoints.iter().map(|endpoint| endpoint.uri(name)).collect(),
        qemu: endpoints.iter().map(|endpoint| endpoint.qemu_arguments(name)).collect(),
    }
}

/// What clients are told of an export.
pub(super) fn info_of(
    (name, description): (&str, &str),
    source: &str,
    export: &Export,
    limits: &Limits,
) -> ExportInfo {
    if export.facts().size == 0 {
        tracing::warn!(
            export = name,
            "{source} is empty, so clients see a disk of 0 bytes: give it a size (truncate -s 10G) and start again"
        );
    }
    let mut facts = export.facts().clone();
    facts.block_sizes.maximum = limits.longest_request;
    ExportInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        facts,
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: false,
    }
}

fn open_exports(
    config: &Config,
    open: impl Fn(&ExportUri, bool) -> Result<Export, OpenError>,
) -> Result<Catalogue, StartError> {
    let mut catalogue = Catalogue::default();
    for wanted in &config.exports {
        let export = open(&wanted.uri, wanted.read_only)?;
        let source = wanted.uri.to_string();
        let texts = (wanted.name.as_str(), wanted.description.as_str());
        let info = info_of(texts, &source, &export, &config.limits);
        catalogue.add(info, export, source).expect("names were checked");
    }
    Ok(catalogue)
}

fn start_shards(
    config: &Config,
    files: usize,
    limits: &Arc<Limits>,
) -> Result<(Vec<ShardHandle>, Exits), StartError> {
    let (exit, exits) = unbounded_channel();
    let start = |(index, &cpu)| {
        let exit = exit.clone();
        ShardHandle::start(ShardConfig {
            index,
            cpu: Some(cpu),
            limits: Arc::clone(limits),
            files,
            busy_poll: config.busy_poll,
            record: wants_latencies(config),
            slow: config.slow,
            // Nobody listens any more when the process ends.
            on_exit: Box::new(move |result| drop(exit.send((index, result)))),
        })
    };
    let mut shards: Vec<ShardHandle> = Vec::new();
    for place in config.shards.iter().enumerate() {
        match start(place) {
            Ok(shard) => shards.push(shard),
            Err(error) => {
                shards.iter().for_each(ShardHandle::shutdown);
                return Err(error.into());
            }
        }
    }
    if limits.pinned == Pinning::Auto && !shards.iter().all(ShardHandle::is_pinned) {
        tracing::warn!(
            "buffer memory is not locked, which costs a little speed: the locked memory limit is too low; raise it (ulimit -l, \
             or LimitMEMLOCK= of systemd), give less --memory, or say --pinned off"
        );
    }
    Ok((shards, exits))
}

/// Waits until the host wants the server to stop at once; what else it wants comes too late.
async fn next_stop(host: &mut impl Host) -> &'static str {
    loop {
        match host.next().await {
            Wish::Stop(signal) => return signal,
            Wish::Add(addition) => (addition.answer)(Err(ChangeError::Stopping)),
            Wish::Remove(takeaway) => (takeaway.answer)(Err(ChangeError::Stopping)),
        }
    }
}

/// Everything that ends with the server.
struct Server<'a> {
    config: &'a Config,
    plane: Rc<Plane>,
    /// Where it listens.
    endpoints: Vec<Endpoint>,
    exits: Exits,
    ended_shards: usize,
    observers: Observers,
}

impl Server<'_> {
    async fn serve(
        mut self,
        client: Option<OwnedFd>,
        inherited: Vec<Listener>,
        host: &mut impl Host,
    ) -> Result<Ending, StartError> {
        host.before_listening()?;
        let mut listeners = inherited;
        if client.is_none() {
            listener::listen(&self.config.listen, &self.config.unix_access, &mut listeners)?;
        }
        let files: Vec<_> = listeners.iter_mut().filter_map(|listener| listener.file.take()).collect();
        let log_lines_dropped = host.log_lines_dropped();
        self.observers = Observers::start(&self.plane, self.config, log_lines_dropped)?;
        self.endpoints = listeners.iter().map(|listener| listener.endpoint.clone()).collect();
        let exports: Vec<_> =
            self.plane.catalogue().iter().map(|entry| served(entry, &self.endpoints)).collect();
        let acceptors: io::Result<Vec<_>> = listeners.into_iter().map(Acceptor::new).collect();
        let acceptors = acceptors.map_err(StartError::Runtime)?;
        let sockets: Vec<_> = files.iter().chain(&self.observers.files).collect();
        host.before_accept(Ready { exports: &exports, admin: &self.observers.urls, sockets: &sockets })?;
        // From here on only what a running server needs.
        self.observers.accept();
        let mut tasks = Vec::new();
        for acceptor in acceptors {
            tasks.push(tokio_uring::spawn(accept(Rc::clone(&self.plane), acceptor)));
        }
        let asked = match client {
            Some(socket) => self.until_client_is_gone(socket, host).await,
            None => self.until_asked(host).await,
        };
        host.stopping();
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        drop(files);
        self.plane.stop();
        let drained = self.drain_or_cut_off(host).await;
        self.observers.finish();
        Ok(if asked == Ending::Failed { asked } else { drained })
    }

    /// Waits until the host wants an end. A shard that fails takes its own connections with it; the last one takes the server.
    async fn until_asked(&mut self, host: &mut impl Host) -> Ending {
        loop {
            tokio::select! {
                wish = host.next() => match wish {
                    Wish::Stop(signal) => {
                        tracing::info!(signal, "stopping");
                        return Ending::Stopped;
                    }
                    Wish::Add(addition) => {
                        changes::add(&self.plane, &self.observers, &self.endpoints, *addition);
                    }
                    Wish::Remove(takeaway) => {
                        changes::remove(&self.plane, self.observers.collector(), *takeaway);
                    }
                },
                Some((shard, result)) = self.exits.recv() => {
                    self.shard_failed(shard, result);
                    if self.ended_shards == self.config.shards.len() {
                        tracing::error!("no shard is left: stopping");
                        return Ending::Failed;
                    }
                }
            }
        }
    }

    /// A shard has ended though nobody asked it to.
    fn shard_failed(&mut self, shard: usize, result: Result<Box<Interval>, ShardError>) {
        self.ended_shards += 1;
        self.plane.note_failure(shard);
        self.observers.note_failure(shard);
        let reason = match result {
            Ok(last) => {
                self.observers.take_last(shard, last);
                "it ended without being asked".to_owned()
            }
            Err(error) => format!("{error}{}", confine::hint_of_unknown()),
        };
        const WHAT: &str = "a shard failed: its connections are closed, the others are served by the other \
                            shards; restart the server when you can";
        tracing::error!(shard, reason, "{WHAT}");
    }

    /// Serves one client. Its permit is the only one, so that another can be had when it is gone.
    async fn until_client_is_gone(&mut self, socket: OwnedFd, host: &mut impl Host) -> Ending {
        let plane = Rc::clone(&self.plane);
        let permit = plane.permit().await;
        let peer = PeerIdentity::of(&socket);
        tokio_uring::spawn(negotiate(Rc::clone(&plane), Client { socket, peer, permit }));
        tokio::select! {
            _permit = plane.returned() => Ending::Stopped,
            ending = self.until_asked(host) => ending,
        }
    }

    /// Drains until the host asks again, and then only as long as nobody notices.
    async fn drain_or_cut_off(&mut self, host: &mut impl Host) -> Ending {
        let plane = Rc::clone(&self.plane);
        let drain = self.drain();
        tokio::pin!(drain);
        let signal = tokio::select! {
            ending = &mut drain => return ending,
            signal = next_stop(host) => signal,
        };
        // The signal may have come when all was finished but the last lines of code, as that of timeout(1), which signals the
        // process and then its group: then nothing was lost.
        if let Ok(ending) = timeout(LAST_LINES, &mut drain).await {
            return ending;
        }
        tracing::warn!(signal, "stopping at once: what is in flight is lost");
        if host.goes_on() {
            plane.cut_off();
            drain.await;
        }
        Ending::CutOff
    }

    /// Waits until every shard has finished and every handshake has heard of it, each within its time.
    async fn drain(&mut self) -> Ending {
        let shards = self.config.shards.len();
        let plane = Rc::clone(&self.plane);
        let patience = plane.limits.shutdown_timeout + SHARD_GRACE;
        let finish = async {
            while self.ended_shards < shards {
                match self.exits.recv().await {
                    Some((shard, Ok(last))) => self.observers.take_last(shard, last),
                    Some((shard, failed)) => {
                        self.shard_failed(shard, failed);
                        continue;
                    }
                    None => break,
                }
                self.ended_shards += 1;
            }
            if self.plane.failures() > 0 { Ending::Failed } else { Ending::Stopped }
        };
        let handshakes = timeout(HANDSHAKE_GRACE, plane.no_handshakes());
        let (ending, _left_or_late) = tokio::join!(timeout(patience, finish), handshakes);
        ending.unwrap_or_else(|_elapsed| {
            tracing::error!("a shard did not stop in time: what it had in flight is lost");
            Ending::Stopped
        })
    }
}
