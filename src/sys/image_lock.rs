//! Locks on images, compatible with QEMU's (`block/file-posix.c`), so that each refuses what the other has
//! open for writing.
//!
//! There is a byte for each kind of access. Whoever uses one holds a shared lock of its byte from 100 on, and
//! whoever does not want others to use one holds a shared lock of its byte from 200 on. One that comes takes
//! its locks first and then looks whether anybody holds a lock of the opposite byte. Two that come together
//! may refuse each other, but never both go on.
//!
//! The locks belong to a description of their own: descriptions of one process conflict like those of two.
//!
//! A process that was killed keeps its locks until the kernel has closed its files, which waits for the
//! worker threads of its ring, and those for the disk. Whoever starts it again does not always wait for that,
//! so one that finds an image in use looks again for a while.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Holder, lock_byte, other_holder, unlock_byte};

const USED: u64 = 100;
const NOT_SHARED: u64 = 200;

/// Kinds of access, as bits; QEMU's `BLK_PERM_*`.
const CONSISTENT_READ: u8 = 1;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;
const KINDS: u64 = 4;

/// How often a lock that others hold is tried for again, and the time between two tries.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(25);
/// That in seconds, for people.
pub(crate) const PATIENCE: u64 = PAUSE.as_millis() as u64 * TRIES as u64 / 1000;

/// What an export does with an image, and what others must not do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Access {
    used: u8,
    not_shared: u8,
}

impl Access {
    pub(crate) fn new(read_only: bool, shared: bool) -> Self {
        let used = if read_only { CONSISTENT_READ } else { CONSISTENT_READ | WRITE };
        // A size that changes is no export's.
        let not_shared = if shared { RESIZE } else { WRITE | RESIZE };
        Self { used, not_shared }
    }

    /// The bytes to hold.
    fn bytes(self) -> impl Iterator<Item = u64> {
        let of = |bits: u8, base: u64| {
            (0..KINDS).filter(move |kind| bits >> kind & 1 != 0).map(move |kind| base + kind)
        };
        of(self.used, USED).chain(of(self.not_shared, NOT_SHARED))
    }

    /// The bytes that nobody else may hold.
    fn opposite(self) -> impl Iterator<Item = u64> {
        Self { used: self.not_shared, not_shared: self.used }.bytes()
    }

    fn and(self, other: Self) -> Self {
        Self { used: self.used | other.used, not_shared: self.not_shared | other.not_shared }
    }
}

/// Why an image was not locked.
#[derive(Debug)]
pub(crate) enum LockError {
    InUse(Holder),
    /// The file system has no locks, or they do not work.
    Impossible(io::Error),
}

/// The locks of one image. Whoever gets its description from another process has that process's locks: taking
/// them once more changes nothing.
#[derive(Debug)]
pub(crate) struct ImageLock {
    file: File,
    held: Access,
}

impl ImageLock {
    /// None yet. The file is a description of its own.
    pub(crate) fn new(file: File) -> Self {
        Self { file, held: Access::default() }
    }

    /// Its description, to be given to another process.
    pub(crate) fn description(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Adds what one more export does, and gives whoever is in the way some seconds to go; when it cannot be,
    /// all is as before.
    pub(crate) fn add(&mut self, access: Access) -> Result<(), LockError> {
        // Two servers that start at the same moment refuse each other; with pauses of the same length they
        // would do so for ever.
        let pause = PAUSE + Duration::from_millis(u64::from(std::process::id() % 16));
        self.add_patiently(access, || std::thread::sleep(pause))
    }

    fn add_patiently(&mut self, access: Access, mut pause: impl FnMut()) -> Result<(), LockError> {
        for _ in 0..TRIES {
            match self.add_now(access) {
                Err(LockError::InUse(_)) => pause(),
                ended => return ended,
            }
        }
        self.add_now(access)
    }

    fn add_now(&mut self, access: Access) -> Result<(), LockError> {
        let before: Vec<u64> = self.held.bytes().collect();
        let result = self.try_add(access);
        match result {
            Ok(()) => self.held = self.held.and(access),
            Err(_) => {
                for byte in access.bytes().filter(|byte| !before.contains(byte)) {
                    // What was not locked need not be unlocked, and a lock that stays ends with the
                    // description.
                    let _unlocked = unlock_byte(&self.file, byte);
                }
            }
        }
        result
    }

    fn try_add(&self, access: Access) -> Result<(), LockError> {
        for byte in access.bytes() {
            match lock_byte(&self.file, byte) {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    let holder = other_holder(&self.file, byte).ok().flatten();
                    return Err(LockError::InUse(holder.unwrap_or(Holder::Description)));
                }
                Err(error) => return Err(LockError::Impossible(error)),
            }
        }
        for byte in access.opposite() {
            match other_holder(&self.file, byte) {
                Ok(None) => {}
                Ok(Some(holder)) => return Err(LockError::InUse(holder)),
                Err(error) => return Err(LockError::Impossible(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_pairs() -> [(Access, Access, bool); 7] {
        let (reader, writer) = (Access::new(true, false), Access::new(false, false));
        let (shared_reader, shared_writer) = (Access::new(true, true), Access::new(false, true));
        [
            (reader, reader, true),
            (reader, writer, false),
            (writer, writer, false),
            (writer, shared_writer, false),
            (shared_writer, shared_writer, true),
            (shared_writer, shared_reader, true),
            (shared_writer, reader, false),
        ]
    }

    #[test]
    fn writers_exclude_others_unless_both_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        File::create(&path).unwrap().set_len(1).unwrap();
        let lock = || ImageLock::new(File::open(&path).unwrap());
        for (first, second, both) in all_pairs() {
            for (first, second) in [(first, second), (second, first)] {
                let (mut one, mut other) = (lock(), lock());
                one.add_now(first).unwrap();
                assert_eq!(other.add_now(second).is_ok(), both, "{second:?} beside {first:?}");
                if !both {
                    drop(one);
                    lock().add_now(first).expect("one that was refused holds nothing");
                }
            }
        }
    }

    /// As when a server is started again while the kernel still closes the files of the one that was killed.
    #[test]
    fn one_that_goes_soon_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        File::create(&path).unwrap();
        let lock = || ImageLock::new(File::open(&path).unwrap());
        let (writer, mut killed, mut next) = (Access::new(false, false), lock(), lock());
        killed.add_now(writer).unwrap();
        let (mut killed, mut pauses) = (Some(killed), 0);
        let pause = || {
            pauses += 1;
            killed.take_if(|_| pauses == 3);
        };
        next.add_patiently(writer, pause).unwrap();
        assert_eq!(pauses, 3);
        let mut pauses = 0;
        let refused = lock().add_patiently(writer, || pauses += 1);
        assert!(matches!(refused, Err(LockError::InUse(_))), "{refused:?}");
        assert_eq!(pauses, TRIES, "it gives up");
    }
}
