//! The other server: one of some project, which can be killed and started again.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::peers;
use crate::support::image::Image;
use crate::support::wait_until;

/// Which one, and how it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Extended headers, several connections.
    Ringnbd,
    /// Extended headers, of another project.
    QemuNbd,
    /// Structured replies.
    Nbdkit,
    /// Simple replies.
    NbdkitSimple,
    /// Structured replies, each some milliseconds late: a kill finds requests under way.
    NbdkitSlow,
    /// Structured replies without meta contexts.
    NbdServer,
}

impl Kind {
    pub(crate) fn has_map(self) -> bool {
        !matches!(self, Self::NbdkitSimple | Self::NbdServer)
    }
}

/// A running server of `disk`.
pub(crate) struct Far {
    kind: Kind,
    disk: PathBuf,
    /// What stands before the plugin of nbdkit, and behind its file; arguments of qemu-nbd.
    filters: Vec<String>,
    directory: TempDir,
    child: Option<Child>,
}

impl Far {
    /// `None` after a skip.
    pub(crate) fn start(kind: Kind, image: &Image) -> Option<Self> {
        Self::start_with(kind, image, &[])
    }

    /// As [`Far::start`], with further arguments of nbdkit behind the file.
    pub(crate) fn start_with(kind: Kind, image: &Image, filters: &[&str]) -> Option<Self> {
        Self::of_file(kind, &image.path, filters)
    }

    /// As [`Far::start_with`], of a file that may be of another format for qemu-nbd.
    pub(crate) fn of_file(kind: Kind, file: &Path, filters: &[&str]) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("ringnbd-far").tempdir().expect("a directory");
        let mut far = Self { kind, disk: file.to_owned(), filters: Vec::new(), directory, child: None };
        far.set_arguments(filters);
        far.start_again()?;
        Some(far)
    }

    /// What it is started with from the next time on.
    pub(crate) fn set_arguments(&mut self, filters: &[&str]) {
        self.filters = filters.iter().map(|word| (*word).to_owned()).collect();
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// `None` after a skip.
    pub(crate) fn start_again(&mut self) -> Option<()> {
        assert!(self.child.is_none(), "it runs");
        std::fs::remove_file(self.socket()).ok();
        let mut command = self.command()?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("start the other server"));
        let socket = self.socket();
        wait_until("the other server", || UnixStream::connect(&socket).is_ok());
        Some(())
    }

    /// SIGKILL to the whole group: the tools of the peers' root have a process before them.
    pub(crate) fn kill(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let Some(mut child) = self.child.take() else { return };
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        let status = child.wait().expect("wait for it");
        assert!(status.signal().is_some() || status.code().is_some());
        let socket = self.socket();
        wait_until("its end", || UnixStream::connect(&socket).is_err());
    }

    pub(crate) fn restart(&mut self) -> Option<()> {
        self.kill();
        self.start_again()
    }

    fn command(&self) -> Option<Command> {
        use std::os::unix::process::CommandExt;
        let (socket, disk) = (self.socket(), &self.disk);
        let mut command = match self.kind {
            Kind::Ringnbd => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
                command.arg("serve").arg(format!("disk={}", disk.display()));
                command.args(["--shards", "1", "--memory", "80M", "--unix"]).arg(socket);
                command
            }
            Kind::QemuNbd => {
                let mut command = peers::command("qemu-nbd")?;
                let format =
                    if disk.extension().is_some_and(|kind| kind == "qcow2") { "qcow2" } else { "raw" };
                command.args(["--persistent", "--shared=8", "--discard=unmap", "--format", format]);
                command.args(&self.filters);
                command.args(["--export-name", "disk", "--socket"]).arg(socket).arg(disk);
                command
            }
            Kind::NbdServer => {
                let mut command = peers::command("nbd-server")?;
                let config = self.directory.path().join("config");
                let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let text = format!(
                    "[generic]\nunixsock = {}\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\n[disk]\nexportname = {}\nflush = true\nfua = true\n",
                    socket.display(),
                    disk.display()
                );
                std::fs::write(&config, text).unwrap();
                command.arg("-C").arg(config).arg("-n");
                command
            }
            Kind::Nbdkit | Kind::NbdkitSimple | Kind::NbdkitSlow => {
                let mut command = peers::command("nbdkit")?;
                command.args(["--foreground", "--unix"]).arg(socket);
                if self.kind == Kind::NbdkitSimple {
                    command.arg("--no-sr");
                }
                let (filters, parameters): (Vec<_>, Vec<_>) =
                    self.filters.iter().partition(|word| word.starts_with("--"));
                let mut parameters: Vec<_> = parameters.into_iter().map(String::as_str).collect();
                if self.kind == Kind::NbdkitSlow {
                    command.arg("--filter=delay");
                    parameters.extend(["rdelay=5ms", "wdelay=5ms"]);
                }
                command.args(filters).arg("file").arg(disk).args(parameters);
                command
            }
        };
        command.process_group(0);
        Some(command)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.kill();
    }
}
