//! The broker: a small process that opens files for a server that can open none any more, and starts the
//! commands of its exports.
//!
//! ```text
//! ringnbd serve ──► ringnbd broker      started first: before the sandbox, any thread, any key
//!       │  socketpair, its standard input │
//!       ├── directories, Begin ─────────► │ opens the directories and holds them
//!       │ ◄──────────────────────── Ready ┤
//!    sandbox                              │
//!       ├── Open {id, path} ────────────► ├── a thread opens it
//!       │ ◄────────── Opened {id} + file ─┤
//!       ╳ end ──────────────────────────► ╳
//! ```
//!
//! It is this program, run again: a fork alone would have what the server has in its memory. It has no other
//! descriptor, no environment, and a closed list of verbs. What it may open is fixed before the first client
//! is served. A client that takes the server over can at worst open files beside the exports, by the rules of
//! `open.rs`, and have commands of the configuration started again, see `commands.rs`.

mod child;
mod client;
mod commands;
mod message;
mod open;
mod owners;
mod packet;
mod process;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use crate::config::listen::UnixAddress;
use crate::config::{Config, ExportUri, ListenAddress};
use crate::sys;
pub(crate) use client::{Broker, BrokerError};
pub(crate) use commands::{BrokerCommands, CommandError};
pub(crate) use message::OpenMode;
use message::{BrokerReply, BrokerRequest, CommandToStart};
pub(crate) use process::run;

/// Files that are opened at the same time. A file system that hangs has one of these places for each.
const AT_ONCE: usize = 16;
/// How long the broker may take to open its directories.
const START_TIME: Duration = Duration::from_secs(30);
/// The program, as the kernel knows it: its name could lead to another program by now.
const PROGRAM: &str = "/proc/self/exe";

/// Why there is no broker; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerStartError {
    #[error(
        "cannot start the process that opens files for the server: {0}; mount /proc, or do without --config and --control"
    )]
    Process(io::Error),
    #[error("the process that opens files for the server did not start: {0}")]
    Setup(String),
    #[error(
        "the process that opens files for the server does not answer: look at the file systems of allow-directories"
    )]
    Silent,
}

/// What a broker is to open, absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Permissions {
    directories: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    configuration: Option<PathBuf>,
    /// Certificates and keys, which may be renewed.
    readable: Vec<PathBuf>,
    /// Sockets that their owner gets back if the server ends before it is [settled](Broker::settled).
    sockets: Vec<PathBuf>,
    /// Commands to start, each with the URI of its export.
    commands: Vec<(String, CommandToStart)>,
    /// The errors of commands go where the server's log goes.
    pub(crate) shows_errors: bool,
}

impl Permissions {
    /// What a configuration allows: the directories that it names, else those of its exports; and the block
    /// devices among these.
    pub(crate) fn of(config: &Config, configuration: Option<&Path>) -> Self {
        let is_device =
            |path: &Path| path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
        let paths = config.exports.iter().filter_map(|export| path_of(&export.uri));
        let paths = paths.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let (devices, files): (Vec<_>, Vec<_>) = paths.partition(|path| is_device(path));
        let mut directories: Vec<PathBuf> = match &config.allow_directories[..] {
            [] => files.iter().filter_map(|path| path.parent().map(Path::to_owned)).collect(),
            named => {
                named.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect()
            }
        };
        directories.sort_unstable();
        directories.dedup();
        // That of an export that is not there: the export itself will be refused, with a better reason.
        if config.allow_directories.is_empty() {
            directories.retain(|path| path.is_dir());
        }
        let configuration = configuration.and_then(|path| std::path::absolute(path).ok());
        let readable = config.tls_files();
        Self { directories, devices, configuration, readable, ..Self::default() }
    }

    /// With the commands of a configuration.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn with_commands(self, config: &Config) -> Result<Self, CommandError> {
        Ok(Self { commands: commands::of_config(config)?, ..self })
    }

    /// With the socket files of a configuration, which another server has.
    pub(crate) fn with_sockets(self, config: &Config) -> Self {
        let listeners = config.listen.iter().chain(&config.admin);
        let paths = listeners.filter_map(|address| match address {
            ListenAddress::Unix(UnixAddress::Path(path)) => Some(path),
            _ => None,
        });
        Self { sockets: paths.chain(&config.control).cloned().collect(), ..self }
    }

    /// Whether commands are to be started.
    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    fn requests(&self) -> impl Iterator<Item = BrokerRequest> {
        let directories = self.directories.iter().cloned().map(BrokerRequest::Directory);
        let devices = self.devices.iter().cloned().map(BrokerRequest::Device);
        let configuration = self.configuration.iter().cloned().map(BrokerRequest::ConfigurationIs);
        let readable = self.readable.iter().cloned().map(BrokerRequest::MayRead);
        let sockets = self.sockets.iter().cloned().map(BrokerRequest::GivesBack);
        let files = directories.chain(devices).chain(configuration).chain(readable);
        files.chain(sockets).chain([BrokerRequest::Begin])
    }
}

/// The file of an export, behind whatever stands before it.
fn path_of(uri: &ExportUri) -> Option<&Path> {
    match uri {
        ExportUri::File { path, .. } => Some(path),
        ExportUri::Fault { inner, .. } => path_of(inner),
        // What a store opens lies below its own directory, and a base is opened at the start.
        ExportUri::Image(_)
        | ExportUri::Remote(_)
        | ExportUri::Command(_)
        | ExportUri::Memory { .. }
        | ExportUri::Null { .. }
        | ExportUri::Application { .. } => None,
    }
}

/// Starts a broker and tells it what it may open and start. Its end of the socket closes when it ends, and it
/// ends when ours is closed.
///
/// # Errors
/// [`BrokerStartError`].
pub(crate) fn start(wanted: &Permissions) -> Result<(OwnedFd, BrokerCommands), BrokerStartError> {
    let mut command = Command::new(PROGRAM);
    command.arg(SUBCOMMAND).env_clear();
    start_by(command, wanted)
}

fn start_by(
    mut command: Command,
    wanted: &Permissions,
) -> Result<(OwnedFd, BrokerCommands), BrokerStartError> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| BrokerStartError::Process(error.into()))?;
    // A broker that hangs in a directory must not hold the start up for ever.
    set_socket_timeout(&ours, Timeout::Send, Some(START_TIME))
        .map_err(|error| BrokerStartError::Process(error.into()))?;
    sys::close_on_exec_from(3).map_err(BrokerStartError::Process)?;
    let errors = if wanted.has_commands() && wanted.shows_errors { Stdio::inherit() } else { Stdio::null() };
    command.current_dir("/").stdin(theirs).stdout(Stdio::null()).stderr(errors);
    // It is not waited for: its socket says when it ends.
    let _child = command.spawn().map_err(BrokerStartError::Process)?;
    // The command holds a copy of their end.
    drop(command);
    let mut commands = BrokerCommands::default();
    for (uri, command) in &wanted.commands {
        let channel = commands.add(uri.clone()).map_err(BrokerStartError::Process)?;
        let request = BrokerRequest::Command(command.clone());
        if packet::send(ours.as_fd(), &request.encode(), Some(channel.as_fd())).is_err() {
            break;
        }
    }
    for request in wanted.requests() {
        if packet::send(ours.as_fd(), &request.encode(), None).is_err() {
            // It ended; the reason may still be there.
            break;
        }
    }
    match answer(&ours)? {
        BrokerReply::Ready => Ok((ours, commands)),
        BrokerReply::Refused { why, .. } => Err(BrokerStartError::Setup(why)),
        BrokerReply::Opened { .. } | BrokerReply::Missing { .. } => {
            Err(BrokerStartError::Setup("it opened a file before it was asked for one".to_owned()))
        }
    }
}

/// The name of the hidden sub-command.
pub(crate) const SUBCOMMAND: &str = "broker";

/// The first reply, which is waited for, but not for ever.
fn answer(socket: &OwnedFd) -> Result<BrokerReply, BrokerStartError> {
    let time = Timespec { tv_sec: START_TIME.as_secs() as i64, tv_nsec: 0 };
    let waited = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time));
    if waited.map_err(|error| BrokerStartError::Process(error.into()))? == 0 {
        return Err(BrokerStartError::Silent);
    }
    let received = packet::receive(socket.as_fd(), RecvFlags::empty());
    let (bytes, _none) = received.map_err(|error| BrokerStartError::Process(error.into()))?;
    BrokerReply::decode(&bytes).ok_or_else(|| BrokerStartError::Setup("it ended".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Settings};

    fn wanted(text: &str) -> Permissions {
        let machine = Machine { cpus: vec![0], parallelism: 1, memory: 8 << 30, open_files: 1 << 20 };
        let config = Config::resolve(Settings::from_toml(text).unwrap(), &machine).unwrap();
        Permissions::of(&config, Some(Path::new("/etc/c.toml")))
    }

    #[test]
    fn the_directories_of_exports_are_allowed_or_those_that_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let export = |name: &str, uri: &str| format!("[[export]]\nname = \"{name}\"\nuri = \"{uri}\"\n");
        let exports = export("a", &format!("{path}/a"))
            + &export("b", &format!("fault:delay=1s:file:{path}/b?direct=true"))
            + &export("c", "mem:1M")
            + &export("d", "relative.img")
            + &export("e", "/nonexistent/e");
        let own = std::env::current_dir().unwrap();
        let mut directories = vec![directory.path().to_owned(), own.clone()];
        directories.sort();
        let configuration = Some(PathBuf::from("/etc/c.toml"));
        let expected = Permissions { directories, configuration, ..Permissions::default() };
        assert_eq!(wanted(&exports), expected);
        let named = format!("[server]\nallow-directories = [\"/srv/x\", \"y\", \"/srv/x\"]\n{exports}");
        let mut directories = vec![PathBuf::from("/srv/x"), own.join("y")];
        directories.sort();
        assert_eq!(wanted(&named).directories, directories);
    }

    const ROLE: &str = "RINGNBD_TEST_BROKER_ROLE";

    /// Runs itself twice more: as a server that enters its sandbox, which has no way out, and as the broker
    /// of that server.
    #[test]
    fn files_are_opened_for_a_server_that_can_open_none() {
        let this = |role: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let name = "daemon::broker::tests::files_are_opened_for_a_server_that_can_open_none";
            command.args([name, "--exact", "--nocapture"]).env(ROLE, role);
            command
        };
        match std::env::var(ROLE).as_deref() {
            Ok("broker") => return run().unwrap(),
            Ok(directory) => return confined(Path::new(directory), this("broker")),
            Err(_not_yet) => {}
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("disk"), "data").unwrap();
        let output = this(directory.path().to_str().unwrap()).output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && told.contains("opened by the broker"), "{told}");
    }

    fn confined(directory: &Path, broker: Command) {
        use std::io::{Read, Write};

        use crate::config::SandboxMode;
        use crate::sandbox::{Names, Sandbox};
        let wanted = Permissions { directories: vec![directory.to_owned()], ..Permissions::default() };
        let (socket, _no_commands) = start_by(broker, &wanted).unwrap();
        let sandbox = Sandbox::prepare(SandboxMode::Auto, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let broker = Broker::new(socket).unwrap();
            let confinement = sandbox.enter(&Names::default()).unwrap();
            let disk = directory.join("disk");
            if confinement.seccomp == "yes" {
                std::fs::File::options().write(true).open(&disk).unwrap_err();
            }
            if !confinement.landlock.starts_with("no") {
                std::fs::File::open(&disk).unwrap_err();
            }
            let mut file =
                std::fs::File::from(broker.open(&disk, message::OpenMode::ReadWrite).await.unwrap());
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            file.write_all(b" and more").unwrap();
            assert_eq!(text, "data");
            let outside = broker.open(Path::new("/etc/passwd"), message::OpenMode::Read).await.unwrap_err();
            assert!(outside.to_string().contains("allow-directories"), "{outside}");
        });
        println!("opened by the broker");
    }

    #[test]
    fn what_it_is_told_ends_with_begin() {
        let wanted = Permissions {
            directories: vec!["/a".into()],
            devices: vec!["/dev/b".into()],
            configuration: Some("/c".into()),
            readable: vec!["/k".into()],
            sockets: vec!["/s".into()],
            ..Permissions::default()
        };
        let requests: Vec<_> = wanted.requests().collect();
        let expected = [
            BrokerRequest::Directory("/a".into()),
            BrokerRequest::Device("/dev/b".into()),
            BrokerRequest::ConfigurationIs("/c".into()),
            BrokerRequest::MayRead("/k".into()),
            BrokerRequest::GivesBack("/s".into()),
            BrokerRequest::Begin,
        ];
        assert_eq!(requests, expected);
    }
}
