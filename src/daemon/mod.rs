//! The process of `ringnbd serve`: what it gives up, how it is told to stop, where its log goes, how it says that it is there.
//!
//! The server itself is the library, which leaves its process alone. [`Daemon`] is what is added: it stands at each stage of the start.
//!
//! ```text
//! before_threads    the pidfile is free; sockets of systemd; the user exists; no_new_privs
//! around_shards     the log gets its thread; a thread that can open no file starts the shards
//! before_listening  signals do not end the process any more, so that no file is left behind
//! before_accept     sockets are handed over; the sandbox is entered; banner, pidfile, READY=1
//! ```
#![forbid(unsafe_code)]

pub(crate) mod configuration;
mod confine;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod logging;
mod notify;
mod pidfile;
pub(crate) mod signals;
pub(crate) mod stdio;

use crate::config::Config;
use crate::control::{self, Host, HostError, Listener, Ready, Wish};
use crate::sandbox::{Sandbox, SandboxError};
use notify::Notifier;
use pidfile::Pidfile;
use signals::Signals;

/// The process around a server. `R` hears when everything is up.
pub(crate) struct Daemon<'a, R> {
    config: &'a Config,
    /// The sockets of systemd are wanted.
    takes_sockets: bool,
    ready: R,
    notifier: Notifier,
    sandbox: Option<Sandbox>,
    signals: Option<Signals>,
    /// Removed at the end.
    pidfile: Option<Pidfile>,
}

impl<'a, R: FnMut(Ready<'_>)> Daemon<'a, R> {
    /// A process that nothing is done to yet. `takes_sockets`: the server listens, and does so on sockets that systemd hands over.
    pub(crate) fn new(config: &'a Config, takes_sockets: bool, ready: R) -> Self {
        let notifier = Notifier::from_environment();
        Self { config, takes_sockets, ready, notifier, sandbox: None, signals: None, pidfile: None }
    }

    fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("the first stage prepares it")
    }
}

/// Whether a user and the parts of the sandbox are there, as far as that can be said beforehand.
pub(crate) fn check(config: &Config) -> Result<(), SandboxError> {
    Sandbox::prepare(config.sandbox, config.user.as_ref()).map(drop)
}

impl<R: FnMut(Ready<'_>)> Host for Daemon<'_, R> {
    fn before_threads(&mut self) -> Result<Vec<Listener>, HostError> {
        self.config.pidfile.as_deref().map_or(Ok(()), Pidfile::check)?;
        let inherited = if self.takes_sockets { control::inherited()? } else { Vec::new() };
        self.sandbox = Some(Sandbox::prepare(self.config.sandbox, self.config.user.as_ref())?);
        Ok(inherited)
    }

    fn around_shards<T: Send>(&mut self, start: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        let started = self.sandbox().isolated(|| log::detach().map(|()| start()))?;
        started.map_err(|error| format!("cannot start a thread for the log: {error}").into())
    }

    fn before_listening(&mut self) -> Result<(), HostError> {
        let signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
        self.signals = Some(signals);
        Ok(())
    }

    fn before_accept(&mut self, ready: Ready<'_>) -> Result<(), HostError> {
        let pidfile = self.config.pidfile.as_deref().map(Pidfile::prepare).transpose()?;
        let announcement = confine::enter(self.sandbox(), ready, pidfile)?;
        (self.ready)(ready);
        log::settle();
        self.pidfile = announcement.publish()?;
        self.notifier.tell("READY=1");
        Ok(())
    }

    async fn next(&mut self) -> Wish {
        let signals = self.signals.as_mut().expect("they are handled before the server listens");
        Wish::Stop(signals.next().await)
    }

    fn goes_on(&self) -> bool {
        false
    }

    fn stopping(&mut self) {
        self.notifier.tell("STOPPING=1");
    }

    fn log_lines_dropped(&self) -> fn() -> u64 {
        || log::LOG.dropped()
    }
}
