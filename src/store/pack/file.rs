//! The file of a pack, as reading and writing need it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};

use super::error::PackError;

use crate::store::file_changes::{set_length, sync_all, write_all_at};

/// A file that a pack is in.
pub(crate) trait PackFile {
    fn length(&self) -> io::Result<u64>;

    /// Fills `bytes` with what is from `offset` on; less is an error.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// The same, of what the medium has: what is in memory may be damaged, and the medium not.
    fn read_again(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(bytes, offset)
    }

    /// How often it is read again when it does not fit; once at least.
    fn further_reads(&self) -> usize {
        1
    }

    /// What was read first did not fit, and what was read again does.
    fn told_differs(&self, pack: u64, error: &PackError) {
        let what =
            "memory had other bytes of a pack than its medium, which are good: test this machine's memory";
        tracing::warn!(pack, %error, "{what}");
    }
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts off what is behind `length`.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
}

impl PackFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn read_again(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        forget_cached(self, offset, bytes.len() as u64);
        self.read(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self, bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        set_length(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        sync_all(self)
    }
}

/// The page cache drops what it has of a range, as far as nobody else uses it.
pub(super) fn forget_cached(file: &File, offset: u64, length: u64) {
    let _advice = fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed);
}
