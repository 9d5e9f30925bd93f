//! The start of a server, and what is checked without one.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::unbounded_channel;

use super::Encryption;
use super::catalogue::Catalogue;
use super::handover::{Takeover, TakeoverError};
use super::host::{Host, StoreRights};
use super::listen::listeners::{self, InheritedDescriptors};
use super::observers::wants_latencies;
use super::plane::Plane;
use super::served::{Served, info_of, served};
use super::server::{Clients, Ending, Exits, Server};
use super::start_error::StartError;
use super::stores::{FILES_OF_STORES, OpenedStores, Stores, StoresError};
use crate::backend::{Export, LaunchCommand, OpenError};
use crate::config::{CommandUri, Config, ExportConfig, ExportUri, Limits, Pinning};
use crate::shard::{ShardConfig, ShardHandle};

/// Places for another server's connections, at most.
const FILES_OF_REMOTE: usize = 16;

/// The clients of a server.
#[derive(Debug)]
pub enum Service {
    /// All that connect.
    Listeners,
    /// All that connect, until the last of them is gone.
    UntilLast,
    /// One client, which is connected: its socket, a blocking one.
    Client(OwnedFd),
    /// All that connect, in the place of another process.
    Takeover(Box<Takeover>),
}

/// Serves until the host says so, or until the client of [`Service::Client`] is gone.
///
/// # Errors
/// [`StartError`]; nothing is left behind then.
pub fn run(config: &Config, service: Service, host: &mut impl Host) -> Result<Ending, StartError> {
    let until_last = matches!(service, Service::UntilLast);
    let (client, mut takeover) = match service {
        Service::Client(socket) => (Some(socket), None),
        Service::Takeover(takeover) => (None, Some(takeover)),
        Service::Listeners | Service::UntilLast => (None, None),
    };
    takeover.as_ref().map_or(Ok(()), |_| Takeover::check(config))?;
    let starter = rustix::process::getuid().as_raw();
    let InheritedDescriptors { listeners: inherited, kept } = host.before_threads()?;
    let mut encryption = Encryption::load(config)?;
    let keeper = host.keeper();
    if let (Some(keeper), false) = (&keeper, kept.is_empty()) {
        let is_wanted = client.is_none() && takeover.is_none();
        let taken = Takeover::of_kept(kept, Arc::clone(keeper), config).filter(|_| is_wanted);
        takeover = taken.map(Box::new).or(takeover);
    }
    let limits = Arc::new(config.limits.clone());
    let mut start = |host: &mut _, (files, connects)| {
        start_data_plane(host, config, &mut encryption, (files, &limits, connects))
    };
    // What takes long is done before clients wait for it.
    let early = match &takeover {
        Some(takeover) if takeover.has_stores(config) => {
            Some(start(host, (files_at_most(config) + host.exports_later(), false))?)
        }
        _ => None,
    };
    takeover.as_mut().map_or(Ok(()), |takeover| takeover.claim_stores(config, config.tls.is_some()))?;
    let (catalogue, opened) = open_exports(config, true, |wanted| {
        let passed = takeover.as_mut().and_then(|takeover| takeover.open(wanted));
        passed.unwrap_or_else(|| open_export(wanted, host))
    })?;
    let connects = connects_later(config, &opened, early.is_some())?;
    let files = catalogue.files() + host.exports_later() + opened.files();
    let directories = [opened.directories(), opened.log_directories()].concat();
    let wanted = StoreRights { directories: &directories, fetch: opened.fetch() };
    host.around_stores(&wanted, || opened.start_threads())?.map_err(OpenError::Store)?;
    let (shards, exits) = early.map_or_else(|| start(host, (files, connects)), Ok)?;
    let connections = if client.is_some() { 1 } else { limits.connections };
    let plane = Rc::new(Plane::new(catalogue, limits, shards, connections, encryption));
    plane.tenants.set(&config.tenants);
    for entry in plane.catalogue().iter() {
        if let Some(wanted) = entry.wanted() {
            entry.set_rates(&wanted.rates, &plane.tenants);
        }
    }
    let restricted = config.exports.iter().find(|export| !export.rights.are_open());
    if let Some(export) = restricted {
        plane.set_has_rights(&export.rights);
    }
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(StartError::of_runtime)?;
    let stores = Stores::new(Rc::clone(&plane), opened);
    let server = Server::new(config, stores, (exits, starter), keeper);
    let clients = Clients { client, until_last, takeover };
    let ending = runtime.block_on(server.serve(clients, inherited, host));
    match ending {
        // Dropping it would wait for operations in flight; the process ends now.
        Ok(Ending::CutOff) if !host.goes_on() => std::mem::forget(runtime),
        Ok(_) => {}
        Err(_) => plane.stop(),
    }
    ending
}

/// Checks what [`run`] does before it listens, without memory and threads: whether the exports can be opened,
/// and user and group exist. It locks no file, so that it can run beside a server. Commands are started by
/// what `launcher` gives, and end with it. Gives what would be served, without URIs.
///
/// # Errors
/// [`StartError`].
pub fn check(
    config: &Config,
    mut launcher: impl FnMut(&CommandUri) -> Option<Arc<dyn LaunchCommand>>,
) -> Result<Vec<Served>, StartError> {
    listeners::check(&config.unix_access)?;
    Encryption::load(config)?;
    let (catalogue, _stores) = open_exports(config, false, |ExportConfig { uri, read_only, .. }| match uri
        .command()
        .and_then(&mut launcher)
    {
        Some(launcher) => Export::of_command(uri, *read_only, launcher),
        None => Export::look_at(uri, *read_only),
    })?;
    Ok(catalogue.iter().map(|entry| served(entry, &[], false)).collect())
}

/// Opens an export that no other process has.
fn open_export(wanted: &ExportConfig, host: &mut impl Host) -> Result<Export, OpenError> {
    let ExportConfig { uri, read_only, .. } = wanted;
    match uri {
        ExportUri::Application { number } => match host.device(*number) {
            Some(device) => Export::of_device(&device, *read_only),
            None => Export::open(uri, *read_only),
        },
        uri => match uri.command().and_then(|command| host.launcher(command)) {
            Some(launcher) => Export::of_command(uri, *read_only, launcher),
            None => Export::open(uri, *read_only),
        },
    }
}

/// Whether images of stores stand on exports of other servers.
fn connects_later(config: &Config, opened: &OpenedStores, has_shards: bool) -> Result<bool, StartError> {
    let says_so = config.exports.iter().any(|export| export.uri.is_remote());
    match opened.connect() {
        // The shards were confined before anybody had looked at the bases.
        true if has_shards && !says_so => Err(TakeoverError::Failed(
            "a base of a store is an export of another server: restart the server instead".to_owned(),
        )
        .into()),
        connects => Ok(connects),
    }
}

/// More places for files than the exports of a configuration need, as is known before they are opened.
fn files_at_most(config: &Config) -> usize {
    fn of(uri: &ExportUri) -> usize {
        match uri {
            ExportUri::File { .. } => 1,
            ExportUri::Image(_) => Export::MOST_FILES_OF_IMAGE,
            ExportUri::Remote(_) | ExportUri::Command(_) => FILES_OF_REMOTE,
            ExportUri::Memory { .. } | ExportUri::Null { .. } | ExportUri::Application { .. } => 0,
            ExportUri::Fault { inner, .. } => of(inner),
        }
    }
    config.exports.iter().map(|export| of(&export.uri)).sum::<usize>() + FILES_OF_STORES
}

/// Starts the shards, and the threads of handshakes.
fn start_data_plane(
    host: &mut impl Host,
    config: &Config,
    encryption: &mut Option<Encryption>,
    (files, limits, connects): (usize, &Arc<Limits>, bool),
) -> Result<(Vec<ShardHandle>, Exits), StartError> {
    host.around_shards(connects, || {
        encryption.as_mut().map_or(Ok(()), Encryption::start).map_err(StartError::HandshakeThreads)?;
        start_shards(config, files, limits)
    })?
}

fn open_exports(
    config: &Config,
    locks: bool,
    mut open: impl FnMut(&ExportConfig) -> Result<Export, OpenError>,
) -> Result<(Catalogue, OpenedStores), StartError> {
    let (mut catalogue, mut stores) = (Catalogue::default(), OpenedStores::default());
    for wanted in &config.exports {
        if stores.take(wanted, locks)? {
            continue;
        }
        let export = open(wanted)?;
        stores.note(&wanted.name, &export);
        let source = wanted.uri.to_string();
        let texts = (wanted.name.as_str(), wanted.description.as_str());
        let info = info_of(texts, &source, &export, &config.limits);
        let taken = || {
            let (name, store) = (wanted.name.clone(), wanted.uri.to_string());
            StoresError::Clash { name, store }
        };
        let entry = catalogue.add(info, export, source).ok_or_else(taken)?;
        entry.set_rights(&wanted.rights);
        entry.set_wanted(wanted);
    }
    stores.check_names(&catalogue)?;
    Ok((catalogue, stores))
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
            // The receiver is gone when the process ends.
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
