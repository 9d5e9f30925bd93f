//! What looks at a server: the collector, the latency log, the admin server. Each exists only if the
//! configuration asks for it.

use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::admin::{self, Admin};
use super::catalogue::Entry;
use super::handover::{ListenerPurpose, OfferedListener, PassedListeners};
use super::http;
use super::listen::accept::Acceptor;
use super::listen::endpoint::Endpoint;
use super::listen::listeners::{self, ListenError, Listener, SocketFile};
use super::observe::collector::Collector;
use super::start_error::StartError;
use super::stores::Stores;
use crate::config::Config;
use crate::config::listen::UnixAccess;
use crate::stats::Interval;

/// What a server is observed with.
#[derive(Default)]
pub(super) struct Observers {
    collector: Option<Rc<Collector>>,
    /// The sockets of the admin server, which are not accepted from yet.
    acceptors: Vec<Acceptor>,
    admin: Option<Rc<Admin>>,
    tasks: Vec<JoinHandle<()>>,
    /// For another process.
    pub(super) offered: Vec<OfferedListener>,
    /// Where the admin server is.
    pub(super) urls: Vec<String>,
    /// Their files.
    pub(super) files: Vec<SocketFile>,
}

/// Whether shards need to record times.
pub(super) fn wants_latencies(config: &Config) -> bool {
    config.histograms && (config.admin.is_some() || config.slow.is_some() || config.latency_log.is_some())
}

/// Whether shards need to be asked at all: the control socket shows connections, and no times.
fn is_wanted(config: &Config) -> bool {
    wants_latencies(config) || config.admin.is_some() || config.control.is_some()
}

impl Observers {
    /// Starts what the configuration asks for, inside the runtime.
    pub(super) fn start(
        stores: &Rc<Stores>,
        config: &Config,
        log_lines_dropped: fn() -> u64,
        passed: &mut PassedListeners,
    ) -> Result<Self, StartError> {
        if !is_wanted(config) {
            return Ok(Self::default());
        }
        let mut bound = Vec::new();
        if let Some(address) = &config.admin {
            let passed = |address: &_| passed.take(ListenerPurpose::Admin, address);
            listeners::listen(std::slice::from_ref(address), &UnixAccess::default(), passed, &mut bound)
                .map_err(|error| ListenError::Admin(Box::new(error)))?;
        }
        let collector =
            Collector::start(Rc::clone(&stores.plane), config.latency_log.clone()).map_err(|error| {
                let path = config.latency_log.clone().unwrap_or_default();
                StartError::LatencyLog { path, error }
            })?;
        let is_local = bound.iter().any(is_loopback);
        let admin = Admin::new(stores, Rc::clone(&collector), is_local, config.histograms, log_lines_dropped);
        let urls = bound.iter().map(|listener| listener.endpoint.admin_url()).collect();
        bound.iter().for_each(warn_of_networks);
        let offered = match config.control {
            Some(_) => OfferedListener::all(&[], &bound, None).map_err(StartError::Runtime)?,
            None => Vec::new(),
        };
        let files = bound.iter_mut().filter_map(|listener| listener.file.take()).collect();
        let acceptors = bound.into_iter().map(Acceptor::new).collect::<Result<_, _>>();
        Ok(Self {
            collector: Some(collector),
            acceptors: acceptors.map_err(StartError::Runtime)?,
            admin: Some(admin),
            tasks: Vec::new(),
            offered,
            urls,
            files,
        })
    }

    /// Accepts clients of the admin server from now on.
    pub(super) fn accept(&mut self) {
        let Some(admin) = &self.admin else { return };
        let room = Rc::new(Semaphore::new(admin::CONNECTIONS));
        for acceptor in self.acceptors.drain(..) {
            self.tasks.push(tokio_uring::spawn(http::serve(Rc::clone(admin), acceptor, Rc::clone(&room))));
        }
    }

    /// Accepts no more clients: another process does.
    pub(super) fn stop_accepting(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// An export is served from now on.
    pub(super) fn added(&self, entry: &Entry) {
        if let Some(collector) = &self.collector {
            collector.added(entry);
        }
    }

    /// The collector, which is told when an export is gone on all shards.
    pub(super) fn collector(&self) -> Option<Rc<Collector>> {
        self.collector.clone()
    }

    /// Takes what a shard recorded last, when it has ended.
    pub(super) fn take_last(&self, shard: usize, interval: Box<Interval>) {
        if let Some(collector) = &self.collector {
            collector.take_last(shard, interval);
        }
    }

    /// A shard has failed: it answers nothing any more.
    pub(super) fn note_failure(&self, shard: usize) {
        if let Some(collector) = &self.collector {
            collector.note_failure(shard);
        }
    }

    /// Writes what is still to be written; all shards have ended.
    pub(super) fn finish(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(collector) = &self.collector {
            collector.finish();
        }
    }
}

fn is_loopback(listener: &Listener) -> bool {
    matches!(listener.endpoint, Endpoint::Tcp(address) if address.ip().is_loopback())
}

/// Says that more than this machine can see everything, where it can.
fn warn_of_networks(listener: &Listener) {
    if let Endpoint::Tcp(address) = listener.endpoint
        && !is_loopback(listener)
    {
        tracing::warn!(%address, "the admin server can be reached from the network and has no authentication");
    }
}
