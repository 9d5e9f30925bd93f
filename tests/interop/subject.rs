//! One cell of the table: a server of one disk, reached by one transport.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::peers;
use crate::picture::{Picture, assert_same};
use crate::support::image::{Image, LoopDevice, disk_dir};
use crate::support::server::{Options, Server};

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

/// What kind of disk is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    File,
    Direct,
    Device,
    Memory,
    /// An image over a base that holds the picture.
    Overlay,
}

/// The table's spelling.
impl Disk {
    pub(crate) fn file() -> Disk {
        Disk::File
    }

    pub(crate) fn direct() -> Disk {
        Disk::Direct
    }

    pub(crate) fn device() -> Disk {
        Disk::Device
    }

    pub(crate) fn memory() -> Disk {
        Disk::Memory
    }

    pub(crate) fn overlay() -> Disk {
        Disk::Overlay
    }

    /// Can the file system tell which parts are holes? A loop device has no SEEK_HOLE, memory has its own map.
    pub(crate) fn is_regular_file(self) -> bool {
        matches!(self, Disk::File | Disk::Direct)
    }
}

enum Backing {
    File(Image),
    Device(LoopDevice),
    Memory,
    /// The base; the overlay is a directory beside it.
    Overlay(Image),
}

/// A running server and the disk behind it.
pub(crate) struct Subject {
    pub(crate) server: Server,
    transport: Transport,
    backing: Backing,
    /// For the files of the test.
    scratch: TempDir,
}

impl Subject {
    /// Serves a disk that holds `picture`. `None` after a named skip.
    pub(crate) fn holding(picture: &Picture, transport: Transport, disk: Disk) -> Option<Subject> {
        let subject = Subject::new(picture.bytes.len() as u64, Some(picture), transport, disk, &[])?;
        if disk == Disk::Memory {
            let source = subject.scratch("preload.img");
            picture.save(&source);
            peers::run(peers::command("nbdcopy")?.arg(source).arg(subject.uri())).ok();
        }
        Some(subject)
    }

    /// Serves an empty disk of `size` bytes, which may be larger than the machine's.
    pub(crate) fn empty(size: u64, transport: Transport, disk: Disk) -> Option<Subject> {
        Subject::new(size, None, transport, disk, &[])
    }

    /// Serves an empty disk and other exports.
    pub(crate) fn with_others(
        size: u64,
        transport: Transport,
        disk: Disk,
        others: &[&str],
    ) -> Option<Subject> {
        Subject::new(size, None, transport, disk, others)
    }

    fn new(
        size: u64,
        picture: Option<&Picture>,
        transport: Transport,
        disk: Disk,
        others: &[&str],
    ) -> Option<Subject> {
        let image = || {
            let image = Image::sparse(size);
            if let Some(picture) = picture {
                picture.save(&image.path);
            }
            image
        };
        let backing = match disk {
            Disk::File | Disk::Direct => Backing::File(image()),
            Disk::Device => Backing::Device(peers::or_skip(LoopDevice::over(image()), "loop device")?),
            Disk::Memory => Backing::Memory,
            Disk::Overlay => Backing::Overlay(image()),
        };
        let export = match &backing {
            Backing::File(image) if disk == Disk::Direct => {
                format!("file:{}?direct=true", image.path.display())
            }
            Backing::File(image) => image.path.display().to_string(),
            Backing::Device(device) => device.path.display().to_string(),
            Backing::Memory => format!("mem:{size}"),
            Backing::Overlay(base) => {
                let (directory, base) = (base.dir().join("overlay"), base.path.display());
                format!("overlay:{}?base={base}", directory.display())
            }
        };
        let mut options = Options::new().shards(2).memory("256M").export(export);
        for other in others {
            options = options.export(*other);
        }
        if transport == Transport::Tcp {
            options = options.without_unix().tcp("127.0.0.1:0");
        }
        Some(Subject { server: options.start(), transport, backing, scratch: disk_dir() })
    }

    /// URI of the default export.
    pub(crate) fn uri(&self) -> String {
        match self.transport {
            Transport::Unix => self.server.uri(""),
            Transport::Tcp => self.server.tcp_uri(""),
        }
    }

    /// How `nbd-client` is told where the server is.
    pub(crate) fn nbd_client_address(&self) -> Vec<String> {
        match self.transport {
            Transport::Unix => vec!["-unix".into(), self.server.socket().display().to_string()],
            Transport::Tcp => {
                let address = self.server.tcp_address();
                vec![address.ip().to_string(), address.port().to_string()]
            }
        }
    }

    /// Path for a file of the test; on a disk, not in memory.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Path for a socket of the test: short enough for `sun_path`.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.server.dir().join(name)
    }

    /// Bytes the backing file occupies, after the kernel decided where to put them. `None` if it is no regular file.
    pub(crate) fn allocated(&self) -> Option<u64> {
        match &self.backing {
            Backing::File(image) => {
                image.open().sync_all().unwrap();
                Some(image.allocated())
            }
            _ => None,
        }
    }

    /// Stops the server, which must end well, and gives what the disk holds. Memory and overlays are read before, by two clients
    /// that must agree. `None` after a named skip.
    pub(crate) fn stop_and_read(mut self) -> Option<Vec<u8>> {
        if let Backing::Memory | Backing::Overlay(_) = self.backing {
            let bytes = self.read_by_two_clients()?;
            self.server.stop();
            return Some(bytes);
        }
        self.server.stop();
        let path = match &self.backing {
            Backing::File(image) => &image.path,
            Backing::Device(device) => &device.path,
            Backing::Memory | Backing::Overlay(_) => unreachable!("read above"),
        };
        Some(std::fs::read(path).unwrap())
    }

    fn read_by_two_clients(&self) -> Option<Vec<u8>> {
        let (one, other) = (self.scratch("by-qemu.img"), self.scratch("by-libnbd.img"));
        let mut qemu: Command = peers::command("qemu-img")?;
        peers::run(qemu.args(["convert", "-f", "raw", "-O", "raw"]).arg(self.uri()).arg(&one)).ok();
        peers::run(peers::command("nbdcopy")?.arg(self.uri()).arg(&other)).ok();
        let (one, other) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
        assert_same(&one, &other, "what qemu-img and nbdcopy read");
        Some(one)
    }
}
