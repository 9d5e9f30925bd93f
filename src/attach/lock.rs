//! One supervisor a device: who has the lock of its file in `/run`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::AttachError;

const DIRECTORY: &str = "/run/ringnbd-attach";

/// The right to attach a device and to supervise it. It ends with the process.
#[derive(Debug)]
pub(crate) struct DeviceLock {
    _file: File,
}

impl DeviceLock {
    /// `None` while another process has it. The file stays, because another process may be about to lock it.
    pub(super) fn take(index: u32) -> Result<Option<Self>, AttachError> {
        Self::take_in(Path::new(DIRECTORY), index)
    }

    /// The process that has it.
    pub(super) fn holder(index: u32) -> Option<u32> {
        Self::holder_in(Path::new(DIRECTORY), index)
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
            writeln!(file, "{}", std::process::id())?;
            Ok(Some(Self { _file: file }))
        };
        locked().map_err(|error| AttachError::Lock { path: path.clone(), error })
    }

    fn holder_in(directory: &Path, index: u32) -> Option<u32> {
        let file = File::open(path(directory, index)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => {}
            _ => return None,
        }
        let mut text = String::new();
        file.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
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
        assert_eq!(DeviceLock::holder_in(&place, 3), Some(std::process::id()));
        drop(lock);
        assert_eq!(DeviceLock::holder_in(&place, 3), None);
        assert!(DeviceLock::take_in(&place, 3).unwrap().is_some());
    }
}
