//! What a process adds to the server that it hosts.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use super::file_opener::OpenFiles;
use super::keeper::KeepDescriptors;
use super::listen::listeners::{InheritedDescriptors, SocketFile};
use super::reload::Reload;
use super::served::Served;
use crate::backend::{ApplicationDevice, Export, LaunchCommand};
use crate::config::CommandUri;
use crate::shard::Removal;

/// Why the process does not want the server to go on.
pub type HostError = Box<dyn Error + Send + Sync>;

/// What threads of stores need.
#[derive(Debug)]
pub struct StoreRights<'a> {
    /// What is below these is theirs.
    pub directories: &'a [PathBuf],
    /// Threads that they have started already connect to tiers.
    pub fetch: bool,
}

/// The process around a server: it is asked at each stage of the start, and says when to stop.
///
/// `ringnbd serve` gives privileges up here, handles signals, and announces itself. A server that an
/// application embeds changes nothing in the process: the stages do nothing then.
#[allow(async_fn_in_trait)]
pub trait Host {
    /// Called before exports are opened, and before there is any other thread. Gives what the process was
    /// started with.
    ///
    /// # Errors
    /// Ends the start.
    fn before_threads(&mut self) -> Result<InheritedDescriptors, HostError> {
        Ok(InheritedDescriptors::default())
    }

    /// What keeps connections from the end of this process to the start of the next one. Asked once, after
    /// [`Host::before_threads`].
    fn keeper(&mut self) -> Option<Arc<dyn KeepDescriptors>> {
        None
    }

    /// Runs `start`, which starts the shards, on any thread. The shards lack what that thread gave up.
    /// `connects`: images of stores are on other servers, to which they connect.
    ///
    /// # Errors
    /// Ends the start.
    fn around_shards<T: Send>(
        &mut self,
        _connects: bool,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, HostError> {
        Ok(start())
    }

    /// Runs `start`, which starts the threads of the stores, on any thread. They lack what that thread gave
    /// up, which must not be these rights.
    ///
    /// # Errors
    /// Ends the start.
    fn around_stores<T: Send>(
        &mut self,
        _wanted: &StoreRights<'_>,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, HostError> {
        Ok(start())
    }

    /// Inside the control plane's runtime, before the first file is made.
    ///
    /// # Errors
    /// Ends the start.
    fn before_listening(&mut self) -> Result<(), HostError> {
        Ok(())
    }

    /// Everything is open; the next step is to accept clients.
    ///
    /// # Errors
    /// Ends the start.
    fn before_accept(&mut self, ready: Ready<'_>) -> Result<(), HostError>;

    /// The clients of the process that was taken over are this one's from now on. Until then nothing says
    /// that the server is up.
    fn taken_over(&mut self, _ready: Ready<'_>) {}

    /// Another process has taken over, and serves in the place of this one.
    fn handed_over(&mut self, _process: u32) {}

    /// Waits for what the host wants next.
    async fn next(&mut self) -> HostRequest;

    /// Hands over the device of an [`ExportUri::Application`](crate::config::ExportUri::Application) with
    /// this number, once.
    fn device(&mut self, _number: usize) -> Option<ApplicationDevice> {
        None
    }

    /// What starts the command of an [`ExportUri::Command`](crate::config::ExportUri::Command), once for each
    /// export.
    fn launcher(&mut self, _command: &CommandUri) -> Option<Arc<dyn LaunchCommand>> {
        None
    }

    /// What reads the configuration again, when there is one. Asked once, when the server begins to accept.
    fn reloader(&mut self) -> Option<Box<dyn Reload>> {
        None
    }

    /// What opens files for exports that come by the control socket or by a reload. Asked once, when the
    /// server begins to accept.
    fn file_opener(&mut self) -> Option<Box<dyn OpenFiles>> {
        None
    }

    /// Exports of files that it may add while the server runs: shards keep threads and places for so many.
    fn exports_later(&self) -> usize {
        0
    }

    /// Whether the process goes on when the server was cut off. If so, its threads are waited for, and its
    /// memory is given back.
    fn goes_on(&self) -> bool {
        true
    }

    /// The server is about to stop, and still serves: the time to end what needs it.
    async fn release(&mut self) {}

    /// The server stops, for whatever reason.
    fn stopping(&mut self) {}

    /// Log lines that got lost, for the metrics.
    fn log_lines_dropped(&self) -> fn() -> u64 {
        || 0
    }
}

/// What a host wants of a server that runs.
pub enum HostRequest {
    /// That it stops, and why; the second time: at once.
    Stop(&'static str),
    /// One more export.
    Add(Box<AddExport>),
    /// One export less.
    Remove(Box<RemoveExport>),
    /// That the configuration is read again.
    Reload,
}

/// An export to serve from now on.
pub struct AddExport {
    /// Its name, which no other export may have.
    pub name: String,
    /// A text for people.
    pub description: String,
    /// Where its bytes live, for people.
    pub source: String,
    /// The export, opened.
    pub export: Export,
    /// Hears what is served, or why not; it must not wait.
    pub answer: Box<dyn FnOnce(Result<Served, ChangeError>) + Send>,
}

/// An export to serve no more.
pub struct RemoveExport {
    /// Its name.
    pub name: String,
    /// What becomes of its connections.
    pub how: Removal,
    /// Called when the export is gone or, if its connections may take their time, when no client finds it any
    /// more. It must not wait.
    pub answer: Box<dyn FnOnce(Result<(), ChangeError>) + Send>,
}

/// Why the exports stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is one of that name.
    #[error("there is an export \"{0}\" already: remove it first, or choose another name")]
    NameTaken(String),
    /// There is none.
    #[error("there is no export \"{0}\"")]
    NoSuchExport(String),
    /// It ends.
    #[error("the server is stopping")]
    Stopping,
}

/// A server that has only to accept.
#[derive(Debug, Clone, Copy)]
pub struct Ready<'a> {
    /// What is served, by export.
    pub exports: &'a [Served],
    /// Stores whose images are all exports, in words.
    pub stores: &'a [String],
    /// The directories of all stores.
    pub directories: &'a [PathBuf],
    /// Where the admin server is.
    pub admin: &'a [String],
    /// Where the control socket is.
    pub control: Option<&'a str>,
    /// The files of its sockets, which are removed at its end.
    pub(super) sockets: &'a [&'a SocketFile],
    /// Directories of logs of images, which are removed at its end.
    pub(super) logs: &'a [PathBuf],
}

impl Ready<'_> {
    /// The files of the server's sockets.
    pub fn sockets(&self) -> impl Iterator<Item = PathBuf> {
        self.sockets.iter().map(|socket| socket.path().to_owned())
    }

    /// The directories of the logs of its images.
    pub fn log_directories(&self) -> &[PathBuf] {
        self.logs
    }

    /// Makes each socket belong to a user, who may then connect to it and remove it. Logs those that cannot
    /// be handed over.
    pub fn hand_sockets_over(&self, user: (u32, u32)) {
        for socket in self.sockets {
            if let Err(error) = socket.hand_over(user) {
                let path = socket.path().display();
                tracing::warn!(%path, reason = %error, "cannot hand the socket over to the user of the server");
            }
        }
    }
}
