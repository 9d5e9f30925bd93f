//! What the kernel shows of its NBD devices in `/sys/block`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::AttachError;

/// Files of sysfs have at most a page; a longer one is cut.
const LONGEST_FILE: u64 = 4096;

/// The state of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelDevice {
    pub(crate) index: u32,
    /// The process that attached it, while it is attached.
    pub(crate) pid: Option<u32>,
    /// Bytes.
    pub(crate) size: u64,
    /// Requests under way: those that read, and those that change something.
    pub(crate) in_flight: (u64, u64),
    /// Another device is made of it.
    pub(crate) is_held: bool,
    pub(crate) identifier: Option<String>,
    /// One for each connection.
    pub(crate) queues: usize,
    pub(crate) block_size: u32,
    pub(crate) is_read_only: bool,
}

/// What a device has done of one kind since it was made. Attaching it again does not begin at zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DoneRequests {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// The sum of how long each took.
    pub(crate) milliseconds: u64,
}

/// The kinds that the kernel counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DoneByKind {
    pub(crate) reads: DoneRequests,
    pub(crate) writes: DoneRequests,
    pub(crate) discards: DoneRequests,
    pub(crate) flushes: DoneRequests,
}

impl KernelDevice {
    /// Nobody has it, and nothing of who had it before is left. The process is gone before the size is, and
    /// the size before the last requests.
    pub(super) fn is_free(&self) -> bool {
        self.pid.is_none() && self.size == 0 && self.in_flight == (0, 0) && !self.is_held
    }

    pub(crate) fn name(&self) -> String {
        name(self.index)
    }
}

pub(crate) fn name(index: u32) -> String {
    format!("/dev/nbd{index}")
}

/// `/dev/nbd3` or `nbd3`. `None` for partitions and anything else.
pub(crate) fn index_of_name(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("/dev/").unwrap_or(name).strip_prefix("nbd")?;
    let index: u32 = digits.parse().ok()?;
    // One name a device, and the kernel's minor numbers end somewhere.
    (index.to_string() == digits && index < 1 << 15).then_some(index)
}

/// Where devices are shown.
#[derive(Debug, Clone)]
pub(super) struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self("/sys/block".into())
    }
}

impl Sysfs {
    /// All devices, by index.
    pub(super) fn devices(&self) -> Result<Vec<KernelDevice>, AttachError> {
        let failed = |error| AttachError::State { path: self.0.clone(), error };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(index) = name.to_str().and_then(index_of_name) {
                found.extend(self.device(index)?);
            }
        }
        found.sort_by_key(|device| device.index);
        Ok(found)
    }

    /// `None` when there is none.
    pub(super) fn device(&self, index: u32) -> Result<Option<KernelDevice>, AttachError> {
        let directory = self.0.join(format!("nbd{index}"));
        let number = |name: &str| parsed::<u64>(&directory.join(name));
        let Some(sectors) = number("size")? else { return Ok(None) };
        let in_flight = text(&directory.join("inflight"))?.unwrap_or_default();
        let mut in_flight = in_flight.split_whitespace().map(|word| word.parse().unwrap_or(0));
        Ok(Some(KernelDevice {
            index,
            pid: parsed(&directory.join("pid"))?,
            size: sectors.saturating_mul(512),
            in_flight: (in_flight.next().unwrap_or(0), in_flight.next().unwrap_or(0)),
            is_held: entries(&directory.join("holders")) > 0,
            identifier: text(&directory.join("backend"))?.filter(|identifier| !identifier.is_empty()),
            queues: entries(&directory.join("mq")),
            block_size: parsed(&directory.join("queue/logical_block_size"))?.unwrap_or(512),
            is_read_only: number("ro")? == Some(1),
        }))
    }

    /// What a device has done; nothing when there is none.
    pub(super) fn done(&self, index: u32) -> Result<DoneByKind, AttachError> {
        let stat = text(&self.0.join(format!("nbd{index}/stat")))?.unwrap_or_default();
        let numbers: Vec<u64> = stat.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
        // Requests, those that were merged into others, sectors, time.
        let kind = |at| DoneRequests {
            requests: number(at),
            bytes: number(at + 2).saturating_mul(512),
            milliseconds: number(at + 3),
        };
        let flushes = DoneRequests { requests: number(15), bytes: 0, milliseconds: number(16) };
        Ok(DoneByKind { reads: kind(0), writes: kind(4), discards: kind(11), flushes })
    }

    /// Has the kernel cut its reads and writes to `bytes` at most. It takes no larger ones than it does.
    pub(super) fn limit_payload(&self, index: u32, bytes: u32) -> io::Result<()> {
        let path = self.0.join(format!("nbd{index}/queue/max_sectors_kb"));
        let wanted = u64::from(bytes / 1024);
        let now: u64 = fs::read_to_string(&path)?.trim().parse().unwrap_or(u64::MAX);
        if wanted < now { fs::write(&path, wanted.to_string()) } else { Ok(()) }
    }
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, |entries| entries.count())
}

fn parsed<T: FromStr>(path: &Path) -> Result<Option<T>, AttachError> {
    Ok(text(path)?.and_then(|text| text.trim().parse().ok()))
}

/// The contents of a small file without its last line end; `None` when there is none, or it goes meanwhile.
fn text(path: &Path) -> Result<Option<String>, AttachError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(Some(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
        }
        // A device that goes is read as one that is gone: its files cannot be read from then on.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(AttachError::State { path: path.to_owned(), error }),
    }
}

fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::NODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let sysfs = Sysfs(root.path().to_owned());
        (root, sysfs)
    }

    #[test]
    fn a_device_is_free_when_nothing_is_left() {
        let free: &[(&str, &str)] = &[("nbd0/size", "0\n"), ("nbd0/inflight", "       0        0\n")];
        let is_free = |more: &[(&str, &str)]| {
            let (_root, sysfs) = with(&[free, more].concat());
            sysfs.device(0).unwrap().unwrap().is_free()
        };
        assert!(is_free(&[]));
        for left in [
            ("nbd0/pid", "77\n"),
            ("nbd0/size", "8\n"),
            ("nbd0/inflight", " 0 1\n"),
            ("nbd0/inflight", " 1 0\n"),
            ("nbd0/holders/dm-0", ""),
        ] {
            assert!(!is_free(&[left]), "{left:?}");
        }
    }

    #[test]
    fn what_a_device_has_done() {
        let stat = "    101    2    1600    33    4    5    64    7    0    8    9    10    11    24    13    14    15\n";
        let (_root, sysfs) = with(&[("nbd0/stat", stat)]);
        let done = |requests, bytes, milliseconds| DoneRequests { requests, bytes, milliseconds };
        let expected = DoneByKind {
            reads: done(101, 1600 * 512, 33),
            writes: done(4, 64 * 512, 7),
            discards: done(10, 24 * 512, 13),
            flushes: done(14, 0, 15),
        };
        assert_eq!(sysfs.done(0).unwrap(), expected);
        assert_eq!(sysfs.done(1).unwrap(), DoneByKind::default());
    }

    #[test]
    fn an_attached_device() {
        let (_root, sysfs) = with(&[
            ("nbd12/size", "2048\n"),
            ("nbd12/pid", "4711\n"),
            ("nbd12/backend", "somebody's disk\n"),
            ("nbd12/inflight", "  3 4\n"),
            ("nbd12/mq/0/cpu_list", ""),
            ("nbd12/mq/1/cpu_list", ""),
            ("nbd12/queue/logical_block_size", "4096\n"),
            ("nbd12/ro", "1\n"),
            ("nbd2/size", "0\n"),
            ("sda/size", "9\n"),
            ("nbd12p1/size", "9\n"),
        ]);
        let devices = sysfs.devices().unwrap();
        assert_eq!(devices.iter().map(KernelDevice::name).collect::<Vec<_>>(), ["/dev/nbd2", "/dev/nbd12"]);
        let expected = KernelDevice {
            index: 12,
            pid: Some(4711),
            size: 1 << 20,
            in_flight: (3, 4),
            is_held: false,
            identifier: Some("somebody's disk".into()),
            queues: 2,
            block_size: 4096,
            is_read_only: true,
        };
        assert_eq!(devices[1], expected);
    }

    #[test]
    fn odd_contents_are_no_panic() {
        let (_root, sysfs) = with(&[
            ("nbd0/size", "99999999999999999999999\n"),
            ("nbd1/size", "18446744073709551615"),
            ("nbd1/pid", "-1"),
            ("nbd1/inflight", "\u{fffd}\u{fffd}"),
            ("nbd1/backend", ""),
        ]);
        assert_eq!(sysfs.device(0).unwrap(), None);
        let device = sysfs.device(1).unwrap().unwrap();
        assert_eq!((device.size, device.pid, device.identifier), (u64::MAX, None, None));
    }

    #[test]
    fn names_of_devices() {
        assert_eq!(index_of_name("/dev/nbd3"), Some(3));
        assert_eq!(index_of_name("nbd0"), Some(0));
        for name in
            ["nbd", "nbd03", "nbd+3", "/dev/nbd1p1", "/dev/sda", "nbd32768", "nbd://host/", "/dev/nbd/3"]
        {
            assert_eq!(index_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn large_payloads_are_cut() {
        let (root, sysfs) = with(&[("nbd0/queue/max_sectors_kb", "1280\n")]);
        let now = || fs::read_to_string(root.path().join("nbd0/queue/max_sectors_kb")).unwrap();
        sysfs.limit_payload(0, 32 << 20).unwrap();
        assert_eq!(now(), "1280\n");
        sysfs.limit_payload(0, 1 << 20).unwrap();
        assert_eq!(now(), "1024");
    }
}
