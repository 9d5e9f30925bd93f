//! A server in a process of its own, for a command that stands around it: it is this program, started again.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::signals::{Signals, Told};
use crate::sys::WatchedDescriptor;

/// The program, as the kernel knows it: its name could lead to another program by now.
const PROGRAM: &str = "/proc/self/exe";
/// Where a server says that it is up, and with it where a client reaches its first export.
const NOTIFY: &str = "NOTIFY_SOCKET";
const READY: &str = "READY=1";
const URI: &str = "X_RINGNBD_URI=";
/// More than any message has.
const LONGEST_MESSAGE: usize = 16 << 10;

/// What a server says when it is up; a service manager ignores the second line.
pub(super) fn ready(uri: Option<&String>) -> String {
    uri.map_or_else(|| READY.to_owned(), |uri| format!("{READY}\n{URI}{uri}"))
}

/// A directory of this user alone, removed at the end with what is in it.
#[derive(Debug)]
pub(crate) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    pub(crate) fn create() -> io::Result<Self> {
        let name =
            format!("ringnbd-{}", uuid::Builder::from_random_bytes(random_bytes()?).into_uuid().simple());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// A server that is up.
#[derive(Debug)]
pub(crate) struct ServerWithin {
    child: Child,
    /// Where a client reaches its first export, if it has one.
    pub(crate) uri: Option<String>,
}

/// How a server that was to be started ended instead; it has said why.
#[derive(Debug)]
pub(crate) enum NotUp {
    Ended(ExitStatus),
    Failed(io::Error),
}

impl From<io::Error> for NotUp {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl ServerWithin {
    /// Starts `serve` with these arguments and waits until it is up. `directory` is used until then. What a
    /// terminal tells this process does not reach the server.
    pub(crate) fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        directory: &Path,
    ) -> Result<Self, NotUp> {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(arguments).env(NOTIFY, &path).stdin(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let process = pidfd_open(pid_of(&child), PidfdFlags::empty()).map_err(io::Error::from)?;
        let uri = loop {
            let mut events = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
            match poll(&mut events, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let [said, ended] = events.map(|event| !event.revents().is_empty());
            if said {
                let mut message = vec![0; LONGEST_MESSAGE];
                let length = socket.recv(&mut message)?;
                if let Some(uri) = said_ready(&message[..length]) {
                    break uri;
                }
            } else if ended {
                return Err(NotUp::Ended(child.wait()?));
            }
        };
        let _gone = std::fs::remove_file(&path);
        Ok(Self { child, uri })
    }

    /// Asks it to stop; what was begun is finished.
    pub(crate) fn ask_to_stop(&self) {
        let _ended = kill_process(pid_of(&self.child), Signal::TERM);
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The URI of a server that says that it is up: `None` when this message says something else.
fn said_ready(message: &[u8]) -> Option<Option<String>> {
    let text = String::from_utf8_lossy(message);
    let mut is_ready = false;
    let mut uri = None;
    for line in text.lines() {
        is_ready |= line == READY;
        uri = line.strip_prefix(URI).map(str::to_owned).or(uri);
    }
    is_ready.then_some(uri)
}

/// The numbers of a process's end as a shell tells them.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Runs a command to its end, and gives the signals that would end this process to it.
pub(crate) fn run_command(command: &mut Command) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // First: one that comes at once must not end this process alone.
        let mut signals = Signals::new(false)?;
        let mut child = command.spawn()?;
        let pid = pid_of(&child);
        let process = WatchedDescriptor::begin(pidfd_open(pid, PidfdFlags::NONBLOCK)?)?;
        loop {
            tokio::select! {
                ended = process.readable() => {
                    ended?;
                    return child.wait();
                }
                told = signals.next() => {
                    let signal = if told == Told::Stop("SIGINT") { Signal::INT } else { Signal::TERM };
                    let _ended = kill_process(pid, signal);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_where_it_is() {
        let uri = "nbd://localhost/a".to_owned();
        assert_eq!(said_ready(ready(Some(&uri)).as_bytes()), Some(Some(uri)));
        assert_eq!(said_ready(ready(None).as_bytes()), Some(None));
        assert_eq!(said_ready(b"STATUS=READY=1"), None);
        assert_eq!(said_ready(b"\xff\nREADY=1"), Some(None));
    }

    #[test]
    fn a_private_directory_is_nobody_elses_and_goes() {
        use std::os::unix::fs::PermissionsExt;
        let directory = PrivateDirectory::create().unwrap();
        let path = directory.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("a"), "b").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
