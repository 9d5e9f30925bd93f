//! Servers with one export on each kind of storage, for statements that must hold on all of them.

use crate::support::image::{Image, LoopDevice, pattern};
use crate::support::peer::Peer;
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};

/// What is behind an export.
pub(crate) enum Medium {
    File(Image),
    Loop(LoopDevice),
    Memory,
}

/// One export of [`Disks`].
pub(crate) struct Disk {
    /// Its export name: `file`, `direct`, `mem`, `loop` or `loop-direct`.
    pub(crate) name: &'static str,
    pub(crate) medium: Medium,
    uri: String,
}

impl Disk {
    /// Bytes as they are behind the server's back; `None` for memory.
    pub(crate) fn behind(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        match &self.medium {
            Medium::File(image) => Some(image.read(offset, length)),
            // Through the device: the page cache of its backing file is another one.
            Medium::Loop(device) => {
                use std::os::unix::fs::FileExt;
                let mut bytes = vec![0; length];
                let device = std::fs::File::open(&device.path).expect("open the loop device");
                device.read_exact_at(&mut bytes, offset).expect("read the loop device");
                Some(bytes)
            }
            Medium::Memory => None,
        }
    }
}

/// A server with an export on each kind of storage. The server goes first when this is dropped.
pub(crate) struct Disks {
    pub(crate) server: Server,
    pub(crate) disks: Vec<Disk>,
}

impl Disks {
    /// Empty disks of `size` bytes: file, O_DIRECT file, memory, loop device. Other servers get a file only.
    #[track_caller]
    pub(crate) fn of(size: u64) -> Self {
        Self::with(size, Options::new())
    }

    #[track_caller]
    pub(crate) fn with(size: u64, options: Options) -> Self {
        let mut disks = vec![file("file", size, "")];
        if Peer::from_env() == Peer::Ringnbd {
            disks.push(file("direct", size, "?direct=true"));
            disks.push(Disk { name: "mem", medium: Medium::Memory, uri: format!("mem:{size}") });
            for (name, query) in [("loop", ""), ("loop-direct", "?direct=true")] {
                if let Some(device) = LoopDevice::over(Image::sparse(size)) {
                    let uri = format!("file:{}{query}", device.path.display());
                    disks.push(Disk { name, medium: Medium::Loop(device), uri });
                }
            }
        }
        let options =
            disks.iter().fold(options, |options, disk| options.export(format!("{}={}", disk.name, disk.uri)));
        Self { server: options.start(), disks }
    }

    /// Calls `test` with a fresh connection in each mode to each disk.
    #[track_caller]
    pub(crate) fn each(&self, modes: &[Mode], test: impl Fn(&Disk, &mut Connection)) {
        for disk in &self.disks {
            for &mode in modes {
                eprintln!("-- disk {}, {mode:?} replies", disk.name);
                test(disk, &mut Connection::attach(&self.server, disk.name, mode));
            }
        }
    }

    /// The same, the disk's first `length` bytes being full of the pattern of seed 1 each time.
    #[track_caller]
    pub(crate) fn each_filled(&self, length: usize, modes: &[Mode], test: impl Fn(&Disk, &mut Connection)) {
        self.each(modes, |disk, client| {
            client.write(0, &pattern(1, 0, length));
            test(disk, client);
        });
    }
}

fn file(name: &'static str, size: u64, query: &str) -> Disk {
    let image = Image::sparse(size);
    let uri = format!("file:{}{query}", image.path.display());
    Disk { name, medium: Medium::File(image), uri }
}

/// Where two byte strings differ first, for a message that fits a screen.
#[track_caller]
pub(crate) fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    // The comparison of slices is fast even in a debug build, a search byte by byte is not.
    if got == expected {
        return;
    }
    assert_eq!(got.len(), expected.len(), "{what}: length");
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        let end = (at + 16).min(got.len());
        panic!(
            "{what}: first difference at {at:#x}: got {:02x?}, expected {:02x?}",
            &got[at..end],
            &expected[at..end]
        );
    }
}

#[track_caller]
pub(crate) fn assert_zero(got: &[u8], what: &str) {
    static ZEROES: [u8; 65536] = [0; 65536];
    if got.chunks(ZEROES.len()).all(|piece| *piece == ZEROES[..piece.len()]) {
        return;
    }
    if let Some(at) = got.iter().position(|&byte| byte != 0) {
        panic!("{what}: byte {at:#x} is {:#04x}, not zero", got[at]);
    }
}
