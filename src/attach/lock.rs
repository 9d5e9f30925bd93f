//! One supervisor a device: who has the lock of its file in `/run`.
//!
//! ```text
//! 4711                    its process
//! 00000000000067108864    bytes of the export when it connected last, once it has done so again
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::AttachError;

const DIRECTORY: &str = "/run/ringnbd-attach";
/// Of both lines.
const LONGEST: u64 = 64;

/// The right to attach a device and to supervise it. It ends with the process.
#[derive(Debug)]
pub(crate) struct DeviceLock {
    file: File,
    /// Where the second line begins.
    second_line: u64,
}

/// What is known of the process that has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockHolder {
    pub(super) process: u32,
    /// Bytes of the export, as far as it knows.
    pub(super) export_size: Option<u64>,
}

impl DeviceLock {
    /// `None` while another process has it. The file stays, because another process may be about to lock it.
    pub(super) fn take(index: u32) -> Result<Option<Self>, AttachError> {
        Self::take_in(Path::new(DIRECTORY), index)
    }

    /// The process that has it.
    pub(super) fn holder(index: u32) -> Option<u32> {
        Self::holder_in(Path::new(DIRECTORY), index).map(|holder| holder.process)
    }

    /// The same, and what it says.
    pub(super) fn described_holder(index: u32) -> Option<LockHolder> {
        Self::holder_in(Path::new(DIRECTORY), index)
    }

    /// Notes the size of the export. All such notes have the same length, so none is read in part.
    pub(super) fn note_size(&self, bytes: u64) -> io::Result<()> {
        self.file.write_all_at(format!("{bytes:020}\n").as_bytes(), self.second_line)
    }

    fn take_in(directory: &Path, index: u32) -> Result<Option<Self>, AttachError> {
        let path = path(directory, index);
        let locked = || -> io::Result<Option<Self>> {
            fs::create_dir_all(directory)?;
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                other => other?,
            }
            file.set_len(0)?;
            file.rewind()?;
            let first_line = format!("{}\n", std::process::id());
            file.write_all(first_line.as_bytes())?;
            Ok(Some(Self { file, second_line: first_line.len() as u64 }))
        };
        locked().map_err(|error| AttachError::Lock { path: path.clone(), error })
    }

    fn holder_in(directory: &Path, index: u32) -> Option<LockHolder> {
        let file = File::open(path(directory, index)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => {}
            _ => return None,
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        let mut lines = text.lines();
        let process = lines.next()?.trim().parse().ok()?;
        Some(LockHolder { process, export_size: lines.next().and_then(|line| line.parse().ok()) })
    }
}

fn path(directory: &Path, index: u32) -> PathBuf {
    directory.join(format!("nbd{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("below");
        assert_eq!(DeviceLock::holder_in(&place, 3), None);
        let lock = DeviceLock::take_in(&place, 3).unwrap().unwrap();
        assert!(DeviceLock::take_in(&place, 3).unwrap().is_none());
        assert!(DeviceLock::take_in(&place, 4).unwrap().is_some());
        let holder = |export_size| Some(LockHolder { process: std::process::id(), export_size });
        assert_eq!(DeviceLock::holder_in(&place, 3), holder(None));
        for size in [1 << 40, 512, u64::MAX] {
            lock.note_size(size).unwrap();
            assert_eq!(DeviceLock::holder_in(&place, 3), holder(Some(size)));
        }
        drop(lock);
        assert_eq!(DeviceLock::holder_in(&place, 3), None);
        let _again = DeviceLock::take_in(&place, 3).unwrap().unwrap();
        assert_eq!(DeviceLock::holder_in(&place, 3), holder(None), "nothing of the one before is left");
    }
}
