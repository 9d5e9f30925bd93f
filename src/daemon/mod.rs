//! The process of `ringnbd serve`: what it gives up, how it is told to stop, where its log goes, how it
//! announces itself.
//!
//! The server itself is the library, which leaves its process alone. [`Daemon`] is what is added: it acts at
//! each stage of the start.
//!
//! ```text
//! before_threads    the pidfile is free; the broker starts; sockets of systemd; the user exists; no_new_privs
//! around_stores     a thread that can use no names but those of the stores starts their threads
//! around_shards     the log gets its thread; a thread that can open no file starts the shards
//! before_listening  signals do not end the process any more, so that no file is left behind; the broker can be asked
//! before_accept     sockets are handed over; the sandbox is entered; banner, pidfile, READY=1
//! ```
#![forbid(unsafe_code)]

pub(crate) mod attacher;
pub(crate) mod broker;
pub(crate) mod configuration;
mod confine;
mod files;
mod keeper;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod logging;
mod notify;
mod pidfile;
pub(crate) mod reload;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod surroundings;
pub(crate) mod within;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{CommandUri, Config};
use crate::control::{
    self, Host, HostError, HostRequest, InheritedDescriptors, KeepDescriptors, LaunchCommand, OpenFiles,
    Ready, Reload, StoreRights,
};
use crate::sandbox::{Names, Sandbox, SandboxError};
use attacher::Attacher;
use broker::{Broker, BrokerCommands, Permissions};
use confine::Announcement;
use files::FilesOfBroker;
use keeper::ManagerStore;
use notify::Notifier;
use pidfile::Pidfile;
use reload::{Reloader, RunningConfiguration};
use signals::{Signals, Told};
use surroundings::{Nowhere, Parent, Surroundings, WatchedParent};

/// Files that may come while the server runs and that may all block at the same time: a shard has threads for
/// so many.
const EXPORTS_LATER: usize = 16;

/// The process around a server. `R` hears when everything is up.
pub(crate) struct Daemon<'a, R> {
    config: &'a Config,
    /// The sockets of systemd are wanted.
    takes_sockets: bool,
    ready: R,
    /// What to compare a configuration with that is read again.
    running: Option<Arc<RunningConfiguration>>,
    notifier: Rc<Notifier>,
    /// The broker before the runtime is there, and then.
    broker_socket: Option<OwnedFd>,
    broker: Option<Rc<Broker>>,
    attacher: Option<Attacher>,
    /// How the commands of exports are started.
    commands: BrokerCommands,
    sandbox: Option<Sandbox>,
    signals: Option<Signals>,
    surroundings: Surroundings,
    /// The process that started this one before the runtime is there, and then.
    parent: Option<Parent>,
    watched_parent: Option<WatchedParent>,
    nowhere: Option<Nowhere>,
    /// Where connections are kept until the next process starts.
    store: Option<ManagerStore>,
    /// Removed at the end.
    pidfile: Option<Pidfile>,
    /// The process that is taken over.
    predecessor: Option<u32>,
    /// What is published when that is done.
    announcement: Option<Announcement>,
}

impl<'a, R: FnMut(Ready<'_>)> Daemon<'a, R> {
    /// A process that is unchanged as yet. `takes_sockets`: the server listens, and takes the sockets that
    /// systemd hands over.
    pub(crate) fn new(
        config: &'a Config,
        takes_sockets: bool,
        running: Option<RunningConfiguration>,
        ready: R,
    ) -> Self {
        Self {
            config,
            takes_sockets,
            ready,
            running: running.map(Arc::new),
            notifier: Rc::new(Notifier::from_environment()),
            broker_socket: None,
            broker: None,
            attacher: None,
            commands: BrokerCommands::default(),
            sandbox: None,
            signals: None,
            surroundings: Surroundings::default(),
            parent: None,
            watched_parent: None,
            nowhere: None,
            store: None,
            pidfile: None,
            predecessor: None,
            announcement: None,
        }
    }

    /// The same in the place of a process that runs.
    pub(crate) fn in_place_of(self, predecessor: Option<u32>) -> Self {
        Self { predecessor, ..self }
    }

    /// Says that the server is up.
    fn announce(&mut self, ready: Ready<'_>, announcement: Announcement) -> Result<(), HostError> {
        (self.ready)(ready);
        log::settle();
        self.pidfile = announcement.publish()?;
        if let Some(attacher) = &self.attacher {
            let exports = &self.config.exports;
            attacher.attach(&self.config.attach, ready.exports, |name| {
                exports.iter().any(|export| export.name == name && export.uri.is_volatile())
            });
        }
        if let Some(nowhere) = self.nowhere.take() {
            nowhere.take_output().map_err(|error| format!("cannot leave the terminal: {error}"))?;
        }
        if self.predecessor.is_some() {
            self.notifier.tell(&format!("MAINPID={}", std::process::id()));
        }
        let uri = ready.exports.first().and_then(|export| export.uris.first());
        self.notifier.tell(&within::ready(uri.filter(|_| self.surroundings.has_a_command())));
        Ok(())
    }

    /// The same with something around it.
    pub(crate) fn within(self, surroundings: Surroundings) -> Self {
        Self { surroundings, ..self }
    }

    /// Starts a broker if something can ask it for files: the control socket, or a signal to read the
    /// configuration again. And if exports have commands.
    fn start_broker(&mut self) -> Result<(), HostError> {
        let configuration = self.running.as_ref().map(|running| running.source.path());
        let mut wanted = Permissions::of(self.config, configuration).with_commands(self.config)?;
        if self.config.control.is_none() && self.running.is_none() && !wanted.has_commands() {
            return Ok(());
        }
        wanted.shows_errors = self.shows_errors();
        if self.predecessor.is_some() && self.config.user.is_some() {
            wanted = wanted.with_sockets(self.config);
        }
        let (socket, commands) = broker::start(&wanted)?;
        (self.broker_socket, self.commands) = (Some(socket), commands);
        Ok(())
    }

    /// Whether other processes may write where the log goes: not to a client, and they must not keep a
    /// terminal that the server leaves.
    fn shows_errors(&self) -> bool {
        !self.surroundings.leaves_terminal && !stdio::stderr_is_the_client()
    }

    fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("the first stage prepares it")
    }
}

/// Tells the service manager that what was started is ready, for a command that is no server.
pub(crate) fn tell_ready() {
    Notifier::from_environment().tell("READY=1");
}

/// How the commands of a configuration are started, for one that is only looked at.
///
/// # Errors
/// A sentence.
pub(crate) fn commands(config: &Config) -> Result<BrokerCommands, HostError> {
    let mut wanted = Permissions::default().with_commands(config)?;
    if !wanted.has_commands() {
        return Ok(BrokerCommands::default());
    }
    wanted.shows_errors = true;
    Ok(broker::start(&wanted)?.1)
}

/// Whether a user and the parts of the sandbox are there, as far as that can be said beforehand.
pub(crate) fn check(config: &Config) -> Result<(), SandboxError> {
    Sandbox::prepare(config.sandbox, config.user.as_ref()).map(drop)
}

impl<R: FnMut(Ready<'_>)> Host for Daemon<'_, R> {
    fn before_threads(&mut self) -> Result<InheritedDescriptors, HostError> {
        let predecessor = self.predecessor;
        self.config.pidfile.as_deref().map_or(Ok(()), |path| Pidfile::check(path, predecessor))?;
        if self.surroundings.ends_with_parent {
            self.parent = Some(Parent::find()?);
        }
        if self.surroundings.leaves_terminal {
            let nowhere = Nowhere::open().map_err(|error| format!("cannot open /dev/null: {error}"))?;
            self.nowhere = Some(nowhere);
        }
        self.start_broker()?;
        if !self.config.attach.is_empty() {
            let attacher = Attacher::start(self.shows_errors());
            let cannot =
                |error| format!("cannot start the process that attaches exports: {error}; mount /proc");
            self.attacher = Some(attacher.map_err(cannot)?);
        }
        let inherited =
            if self.takes_sockets { control::inherited()? } else { InheritedDescriptors::default() };
        // Devices of this machine cannot wait for a process that may never come.
        let may_keep = self.takes_sockets && self.config.attach.is_empty();
        self.store = ManagerStore::from_environment(may_keep, inherited.has_kept());
        self.sandbox = Some(Sandbox::prepare(self.config.sandbox, self.config.user.as_ref())?);
        Ok(inherited)
    }

    fn keeper(&mut self) -> Option<Arc<dyn KeepDescriptors>> {
        Some(Arc::new(self.store.take()?))
    }

    fn around_stores<T: Send>(
        &mut self,
        wanted: &StoreRights<'_>,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, HostError> {
        if wanted.directories.is_empty() {
            return Ok(start());
        }
        let names =
            Names { stores: wanted.directories.to_vec(), others_connect: wanted.fetch, ..Names::default() };
        Ok(self.sandbox().isolated(&names, start)?)
    }

    fn around_shards<T: Send>(
        &mut self,
        connects: bool,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, HostError> {
        let connects = connects || self.config.exports.iter().any(|export| export.uri.is_remote());
        let names = Names { connects, ..Names::default() };
        let started = self.sandbox().isolated(&names, || log::detach().map(|()| start()))?;
        started.map_err(|error| format!("cannot start a thread for the log: {error}").into())
    }

    fn before_listening(&mut self) -> Result<(), HostError> {
        let signals = Signals::new(self.running.is_some());
        self.signals = Some(signals.map_err(|error| format!("cannot handle signals: {error}"))?);
        let watched = self.parent.take().map(Parent::watch).transpose();
        self.watched_parent =
            watched.map_err(|error| format!("cannot watch the process that started this one: {error}"))?;
        let watched = self.attacher.as_mut().map_or(Ok(()), Attacher::watch);
        watched.map_err(|error| format!("cannot watch the process that attaches exports: {error}"))?;
        let broker = self.broker_socket.take().map(Broker::new).transpose();
        self.broker =
            broker.map_err(|error| format!("cannot ask the process that opens files: {error}"))?.map(Rc::new);
        Ok(())
    }

    fn before_accept(&mut self, ready: Ready<'_>) -> Result<(), HostError> {
        let prepare = |path| Pidfile::prepare(path, self.predecessor);
        let pidfile = self.config.pidfile.as_deref().map(prepare).transpose()?;
        let announcement = confine::enter(self.sandbox(), ready, pidfile, self.predecessor.is_some())?;
        if self.predecessor.is_some() {
            self.announcement = Some(announcement);
            return Ok(());
        }
        self.announce(ready, announcement)
    }

    fn taken_over(&mut self, ready: Ready<'_>) {
        self.broker.iter().for_each(|broker| broker.settled());
        let Some(announcement) = self.announcement.take() else { return };
        if let Err(error) = self.announce(ready, announcement) {
            // The clients are here, whatever else does not come about.
            tracing::error!(reason = %error, "cannot say that the server is up");
        }
    }

    fn handed_over(&mut self, _process: u32) {
        self.notifier.be_silent();
        // The devices are the other one's, whose own attacher adopts them.
        self.attacher = None;
    }

    async fn next(&mut self) -> HostRequest {
        let signals = self.signals.as_mut().expect("they are handled before the server listens");
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop(signal) => HostRequest::Stop(signal),
                Told::Reload => HostRequest::Reload,
            },
            () = WatchedParent::ended(&mut self.watched_parent) => HostRequest::Stop("end of the parent"),
        }
    }

    fn launcher(&mut self, command: &CommandUri) -> Option<Arc<dyn LaunchCommand>> {
        self.commands.take(command)
    }

    fn reloader(&mut self) -> Option<Box<dyn Reload>> {
        let (running, broker) = (Arc::clone(self.running.as_ref()?), Rc::clone(self.broker.as_ref()?));
        Some(Box::new(Reloader { running, broker, notifier: Rc::clone(&self.notifier) }))
    }

    fn file_opener(&mut self) -> Option<Box<dyn OpenFiles>> {
        Some(Box::new(FilesOfBroker(Rc::clone(self.broker.as_ref()?))))
    }

    fn exports_later(&self) -> usize {
        if self.broker_socket.is_some() { EXPORTS_LATER } else { 0 }
    }

    fn goes_on(&self) -> bool {
        false
    }

    async fn release(&mut self) {
        if let Some(attacher) = &mut self.attacher {
            attacher.release().await;
        }
    }

    fn stopping(&mut self) {
        self.notifier.stopping();
    }

    fn log_lines_dropped(&self) -> fn() -> u64 {
        || log::LOG.dropped()
    }
}
