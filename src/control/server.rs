//! The life of a server that was started: it serves, then it drains.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::catalogue::Entry;
use super::changes;
use super::enforce::end_old_sessions;
use super::file_opener::OpenFiles;
use super::handover::{Handovers, Leaver, ListenerPurpose, PassedListeners, Takeover};
use super::host::{Host, HostRequest, Ready};
use super::keeper::KeepDescriptors;
use super::listen::accept::{Accepting, Acceptor, accept};
use super::listen::endpoint::Endpoint;
use super::listen::listeners::{self, ListenError, Listener};
use super::listen::negotiate::{Candidate, negotiate};
use super::live::Live;
use super::observers::Observers;
use super::operate::{self, Operator};
use super::plane::Plane;
use super::reload::{ReloadWish, Reloads};
use super::served::{Served, served};
use super::start_error::StartError;
use super::stores::Stores;
use crate::config::Config;
use crate::identity::PeerIdentity;
use crate::shard::ShardError;
use crate::stats::Interval;
use crate::sys::confine;

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

/// Shards that ended: which, and what they recorded last.
pub(super) type Exits = UnboundedReceiver<(usize, Result<Box<Interval>, ShardError>)>;

/// Whom a server serves.
pub(super) struct Clients {
    /// Only this one, and until it is gone.
    pub(super) client: Option<OwnedFd>,
    /// Until the last one is gone.
    pub(super) until_last: bool,
    /// Those of another process, in its place.
    pub(super) takeover: Option<Box<Takeover>>,
}

/// Everything that ends with the server.
pub(super) struct Server<'a> {
    pub(super) config: &'a Config,
    pub(super) plane: Rc<Plane>,
    pub(super) stores: Rc<Stores>,
    /// Where it listens.
    endpoints: Vec<Endpoint>,
    pub(super) exits: Exits,
    pub(super) ended_shards: usize,
    pub(super) observers: Observers,
    reloads: Rc<Reloads>,
    /// An operator wants the server to end.
    drain: Rc<Notify>,
    /// The user that started the server, who may operate it.
    starter: u32,
    pub(super) accepting: watch::Sender<Accepting>,
    pub(super) handovers: Rc<Handovers>,
    /// New processes that have started and are to be given the clients.
    leavers: UnboundedReceiver<Leaver>,
    pub(super) control: Option<JoinHandle<()>>,
    /// What changes exports, from the start on.
    pub(super) live: Option<Rc<Live>>,
    /// Files of sockets that another process has.
    pub(super) given: Vec<PathBuf>,
    /// What keeps connections until the next process starts.
    pub(super) keeper: Option<Arc<dyn KeepDescriptors>>,
    /// The service manager has asked for the end.
    pub(super) may_part: bool,
}

impl<'a> Server<'a> {
    /// One with shards that run, and nowhere to listen yet.
    pub(super) fn new(
        config: &'a Config,
        stores: Rc<Stores>,
        (exits, starter): (Exits, u32),
        keeper: Option<Arc<dyn KeepDescriptors>>,
    ) -> Self {
        let plane = Rc::clone(&stores.plane);
        let (endpoints, observers, reloads) = (Vec::new(), Observers::default(), Rc::default());
        let drain = Rc::default();
        let (ready, leavers) = unbounded_channel();
        let accepting = watch::Sender::new(Accepting::Yes);
        let handovers = Handovers::new(&stores, &accepting, ready);
        Self {
            config,
            plane,
            stores,
            endpoints,
            exits,
            ended_shards: 0,
            observers,
            reloads,
            drain,
            starter,
            accepting,
            handovers,
            leavers,
            control: None,
            live: None,
            given: Vec::new(),
            keeper,
            may_part: false,
        }
    }

    /// Serves to the end.
    pub(super) async fn serve(
        mut self,
        clients: Clients,
        inherited: Vec<Listener>,
        host: &mut impl Host,
    ) -> Result<Ending, StartError> {
        let Clients { client, until_last, mut takeover } = clients;
        host.before_listening()?;
        let mut nobody = PassedListeners::default();
        let passed = takeover.as_mut().map_or(&mut nobody, |takeover| &mut takeover.listeners);
        let mut bound = inherited;
        if client.is_none() {
            self.listen(passed, &mut bound)?;
        }
        let files: Vec<_> = bound.iter_mut().filter_map(|listener| listener.file.take()).collect();
        let log_lines_dropped = host.log_lines_dropped();
        self.observers = Observers::start(&self.stores, self.config, log_lines_dropped, passed)?;
        self.stores.tell(self.observers.collector());
        self.endpoints = bound.iter().map(|listener| listener.endpoint.clone()).collect();
        let exports = self.served();
        let mut control = self.listen_for_operators(passed)?;
        passed.close();
        self.offer_listeners(&bound, control.as_ref()).map_err(StartError::Runtime)?;
        let acceptors: io::Result<Vec<_>> = bound.into_iter().map(Acceptor::new).collect();
        let acceptors = acceptors.map_err(StartError::Runtime)?;
        let control_file = control.as_mut().and_then(|listener| listener.file.take());
        let control_url = control.as_ref().map(|listener| listener.endpoint.admin_url());
        let sockets: Vec<_> = files.iter().chain(&self.observers.files).chain(&control_file).collect();
        self.stores.tell_control(self.config.control.as_deref());
        let offers = self.offers();
        let directories = self.stores.directories();
        let logs = self.log_directories();
        let ready = Ready {
            exports: &exports,
            stores: &offers,
            directories: &directories,
            admin: &self.observers.urls,
            control: control_url.as_deref(),
            sockets: &sockets,
            logs: &logs,
        };
        host.before_accept(ready)?;
        if let Some(mut takeover) = takeover {
            self.take_over(&mut takeover, ready, host).await?;
        }
        // From here on only what a running server needs.
        let live = self.live(host.file_opener());
        self.live = Some(Rc::clone(&live));
        self.handovers.live.replace(Some(Rc::clone(&live)));
        self.reloads = Reloads::new(host.reloader(), &live);
        self.observers.accept();
        self.stores.begin();
        self.control = control.map(|listener| self.operate(listener, live)).transpose()?;
        let tasks = self.accept(acceptors);
        let asked = self.until_the_end(client, until_last, host).await;
        let parting = self.part(host).await;
        host.release().await;
        let all_files = files.iter().chain(&self.observers.files).chain(&control_file);
        all_files.filter(|file| self.has_given(file)).for_each(|file| file.is_ours(false));
        self.handovers.listeners.take();
        host.stopping();
        tasks.iter().for_each(JoinHandle::abort);
        drop(files);
        let drained = self.end(parting, host).await;
        drop(control_file);
        self.stores.tell_control(None);
        Ok(if asked == Ending::Failed { asked } else { drained })
    }

    /// Accepts clients from now on, and ends sessions that have lasted too long.
    fn accept(&self, acceptors: Vec<Acceptor>) -> Vec<JoinHandle<()>> {
        let old =
            self.plane.longest_session().map(|longest| end_old_sessions(Rc::clone(&self.plane), longest));
        let mut tasks: Vec<_> = old.into_iter().map(tokio_uring::spawn).collect();
        for acceptor in acceptors {
            let accepting = self.accepting.subscribe();
            tasks.push(tokio_uring::spawn(accept(Rc::clone(&self.stores), acceptor, accepting)));
        }
        tasks
    }

    /// Serves until there is a reason to end.
    async fn until_the_end(
        &mut self,
        client: Option<OwnedFd>,
        until_last: bool,
        host: &mut impl Host,
    ) -> Ending {
        match client {
            Some(socket) => self.until_client_is_gone(socket, host).await,
            None if until_last => self.until_last_is_gone(host).await,
            None => self.until_asked(host).await,
        }
    }

    /// Listens for clients, at once or with what another process has.
    fn listen(&self, passed: &mut PassedListeners, bound: &mut Vec<Listener>) -> Result<(), ListenError> {
        bound.append(&mut passed.take_inherited());
        let passed = |address: &_| passed.take(ListenerPurpose::Clients, address);
        listeners::listen(&self.config.listen, &self.config.unix_access, passed, bound)
    }

    /// Where images note changes for the time after a kill.
    fn log_directories(&self) -> Vec<PathBuf> {
        let catalogue = self.plane.catalogue();
        let of_exports = catalogue.iter().filter_map(|entry| entry.export()?.log_directory());
        of_exports.chain(self.stores.log_directories().iter().cloned()).collect()
    }

    /// Stores whose images are all exports, in words, with where to reach them.
    fn offers(&self) -> Vec<String> {
        let with_tls = self.plane.needs_tls("NAME");
        let uris: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.uri("NAME", with_tls)).collect();
        let place = if uris.is_empty() { String::new() } else { format!(", at {}", uris.join(" and ")) };
        self.stores.in_words().into_iter().map(|words| format!("{words}{place}")).collect()
    }

    /// What is served where.
    fn served(&self) -> Vec<Served> {
        let catalogue = self.plane.catalogue();
        let of = |entry: &Rc<Entry>| served(entry, &self.endpoints, self.plane.needs_tls(&entry.info.name));
        catalogue.iter().map(of).collect()
    }

    /// What changes exports from now on.
    fn live(&self, opener: Option<Box<dyn OpenFiles>>) -> Rc<Live> {
        Live::new(&self.stores, self.observers.collector(), opener, self.config.defaults.clone())
    }

    /// The control socket, if there is to be one.
    fn listen_for_operators(&self, passed: &mut PassedListeners) -> Result<Option<Listener>, ListenError> {
        let listen = |path| operate::listen(path, &self.config.control_readers, passed);
        self.config.control.as_deref().map(listen).transpose()
    }

    /// Answers at the control socket.
    fn operate(&self, listener: Listener, live: Rc<Live>) -> Result<JoinHandle<()>, StartError> {
        let acceptor = Acceptor::new(listener).map_err(StartError::Runtime)?;
        let collector = self.observers.collector().expect("the control socket is one of those who want it");
        let (plane, reloads) = (Rc::clone(&self.plane), Rc::clone(&self.reloads));
        let (stores, endpoints) = (Rc::clone(&self.stores), self.endpoints.clone());
        let (starter, drain) = (self.starter, Rc::clone(&self.drain));
        let readers = self.config.control_readers.clone();
        let handovers = Rc::clone(&self.handovers);
        let operator = Operator {
            plane,
            stores,
            collector,
            reloads,
            live,
            endpoints,
            starter,
            readers,
            drain,
            handovers,
        };
        Ok(operator.start(acceptor))
    }

    /// Waits until the host wants an end. A shard that fails takes its own connections with it; the last one
    /// ends the server.
    async fn until_asked(&mut self, host: &mut impl Host) -> Ending {
        loop {
            tokio::select! {
                request = host.next() => match request {
                    HostRequest::Stop(signal) => {
                        tracing::info!(signal, "stopping");
                        self.may_part = signal == "SIGTERM";
                        return Ending::Stopped;
                    }
                    HostRequest::Add(add) => {
                        changes::add(&self.plane, &self.observers, &self.endpoints, *add);
                    }
                    HostRequest::Remove(remove) => {
                        changes::remove(&self.plane, self.observers.collector(), *remove);
                    }
                    // What came of it is logged.
                    HostRequest::Reload => drop(self.reloads.begin(ReloadWish::default())),
                },
                Some(leaver) = self.leavers.recv() => {
                    if self.hand_over(leaver, host).await {
                        return self.until_left(host).await;
                    }
                }
                () = self.drain.notified() => {
                    tracing::info!("stopping, as an operator asked");
                    return Ending::Stopped;
                }
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

    /// A shard has ended although the server does not stop.
    pub(super) fn shard_failed(&mut self, shard: usize, result: Result<Box<Interval>, ShardError>) {
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
        tokio_uring::spawn(negotiate(Rc::clone(&self.stores), Candidate { socket, peer, permit }));
        tokio::select! {
            _permit = plane.returned() => Ending::Stopped,
            ending = self.until_asked(host) => ending,
        }
    }

    /// Serves until there is no client any more, after there was one.
    async fn until_last_is_gone(&mut self, host: &mut impl Host) -> Ending {
        let plane = Rc::clone(&self.plane);
        tokio::select! {
            () = plane.last_is_gone() => {
                tracing::info!("the last client is gone: stopping");
                Ending::Stopped
            }
            ending = self.until_asked(host) => ending,
        }
    }
}
