//! A server of some project, serving a file whose bytes and holes are known.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::peers::{self, Daemon};
use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};

/// A server and the part of the protocol that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Extended headers.
    QemuNbd,
    /// Structured replies.
    Nbdkit,
    /// Fixed newstyle without structured replies.
    NbdkitSimple,
    /// Plain newstyle: EXPORT_NAME only.
    NbdkitPlain,
    /// Structured replies without meta contexts.
    NbdServer,
    /// This project's own.
    Ringnbd,
}

/// One for each line of the test table; `None` is a skip.
impl Kind {
    pub(crate) fn qemu_nbd() -> Option<Kind> {
        Some(Kind::QemuNbd)
    }

    pub(crate) fn nbdkit() -> Option<Kind> {
        Some(Kind::Nbdkit)
    }

    pub(crate) fn nbdkit_simple() -> Option<Kind> {
        Some(Kind::NbdkitSimple)
    }

    pub(crate) fn nbdkit_plain() -> Option<Kind> {
        Some(Kind::NbdkitPlain)
    }

    pub(crate) fn nbd_server() -> Option<Kind> {
        Some(Kind::NbdServer)
    }

    pub(crate) fn ringnbd() -> Option<Kind> {
        Some(Kind::Ringnbd)
    }

    pub(crate) fn reply_mode(self) -> &'static str {
        match self {
            Kind::QemuNbd | Kind::Ringnbd => "extended",
            Kind::Nbdkit | Kind::NbdServer => "structured",
            Kind::NbdkitSimple | Kind::NbdkitPlain => "simple",
        }
    }

    pub(crate) fn handshake(self) -> &'static str {
        if self == Kind::NbdkitPlain { "newstyle" } else { "fixed_newstyle" }
    }

    pub(crate) fn export(self) -> &'static str {
        "disk one"
    }

    /// What LIST gives. nbdkit's file plugin accepts any name and lists the default export.
    pub(crate) fn listed(self) -> Vec<&'static str> {
        match self {
            Kind::QemuNbd | Kind::Ringnbd | Kind::NbdServer => vec![self.export()],
            Kind::Nbdkit | Kind::NbdkitSimple | Kind::NbdkitPlain => vec![""],
        }
    }

    /// nbd-server opens an export on GO; INFO, which is all that a list can ask, tells size 0.
    pub(crate) fn tells_size_in_info(self) -> bool {
        self != Kind::NbdServer
    }
}

/// Which parts of the file hold data: pairs of offset and length, multiples of 64 KiB and apart.
pub(crate) struct Layout {
    size: u64,
    data: Vec<(u64, u64)>,
}

impl Layout {
    pub(crate) fn small() -> Self {
        let data = vec![(65_536, 131_072), (1 << 20, 65_536), ((16 << 20) - 65_536, 65_536)];
        Self { size: 16 << 20, data }
    }

    /// Beyond 4 GiB, and with data around that border.
    pub(crate) fn large() -> Self {
        let data = vec![(0, 65_536), ((4 << 30) - 65_536, 131_072), ((9 << 30) + (1 << 20), 65_536)];
        Self { size: 10 << 30, data }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The allocation map, merged: offset, length, type.
    pub(crate) fn extents(&self) -> Vec<(u64, u64, String)> {
        let mut extents = Vec::new();
        let mut end = 0;
        for &(offset, length) in self.data.iter().chain([&(self.size, 0)]) {
            if offset > end {
                extents.push((end, offset - end, "hole,zero".into()));
            }
            if length > 0 {
                extents.push((offset, length, "data".into()));
            }
            end = offset + length;
        }
        extents
    }

    fn image(&self) -> Image {
        let image = Image::sparse(self.size);
        for &(offset, length) in &self.data {
            image.write(offset, &pattern(7, offset, length as usize));
        }
        image
    }
}

/// Keeps the server running.
#[allow(dead_code, reason = "it is held, not read")]
enum Running {
    Peer(Daemon),
    Ours(Server),
}

/// A running server.
pub(crate) struct Subject {
    pub(crate) image: Image,
    kind: Kind,
    socket: PathBuf,
    _running: Running,
    _dir: TempDir,
}

impl Subject {
    /// `None` after a skip.
    pub(crate) fn serve(kind: Kind, layout: &Layout) -> Option<Self> {
        let image = layout.image();
        // Not the build directory: the path of a socket holds 107 bytes at most.
        let dir = tempfile::Builder::new().prefix("ringnbd-client").tempdir().expect("make a run directory");
        let mut socket = dir.path().join("s");
        let running = if kind == Kind::Ringnbd {
            let export = format!("{}={}", kind.export(), image.path.display());
            let server = Options::new().export(export).start();
            socket = server.socket();
            Running::Ours(server)
        } else {
            let command = command(kind, &image.path, dir.path(), &socket)?;
            // A connection that says nothing shows that it accepts, and not only that the socket's file is there.
            Running::Peer(Daemon::start(command, || UnixStream::connect(&socket).is_ok()))
        };
        Some(Self { image, kind, socket, _running: running, _dir: dir })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn uri(&self) -> String {
        self.uri_of(self.kind.export())
    }

    pub(crate) fn uri_of(&self, export: &str) -> String {
        format!("nbd+unix:///{}?socket={}", export.replace(' ', "%20"), self.socket.display())
    }
}

fn command(kind: Kind, image: &Path, dir: &Path, socket: &Path) -> Option<Command> {
    match kind {
        Kind::QemuNbd => {
            let mut command = peers::command("qemu-nbd")?;
            command.args(["--persistent", "--shared=8", "--format=raw", "--discard=unmap", "--export-name"]);
            command.args([kind.export(), "--description", "for a test", "--socket"]).arg(socket).arg(image);
            Some(command)
        }
        Kind::NbdServer => {
            let mut command = peers::command("nbd-server")?;
            let config = dir.join("config");
            // It always listens on TCP too; a port of its own keeps tests apart.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let text = format!(
                "[generic]\nunixsock = {}\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\n[{}]\nexportname = {}\n",
                socket.display(),
                kind.export(),
                image.display()
            );
            std::fs::write(&config, text).unwrap();
            command.arg("-C").arg(config).arg("-n");
            Some(command)
        }
        Kind::Nbdkit | Kind::NbdkitSimple | Kind::NbdkitPlain => {
            let mut command = peers::command("nbdkit")?;
            command.args(["--foreground", "--unix"]).arg(socket);
            match kind {
                Kind::NbdkitSimple => drop(command.arg("--no-sr")),
                Kind::NbdkitPlain => drop(command.arg("--mask-handshake=0")),
                _ => {}
            }
            command.arg("file").arg(image);
            Some(command)
        }
        Kind::Ringnbd => unreachable!("it is started by the harness of the server's own tests"),
    }
}
