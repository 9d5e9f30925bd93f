//! The file of a pack, as reading and writing need it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};

use super::error::PackError;

use crate::store::file_changes::{is_told, set_length, sync_all, write_all_at};
use crate::sys::begin_writeback;

/// A file that a pack is in.
pub(crate) trait PackFile {
    fn length(&self) -> io::Result<u64>;

    /// Fills `bytes` with what is from `offset` on; less is an error.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// The same, of what the medium has: what is in memory may be damaged, and the medium not.
    fn read_again(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(bytes, offset)
    }

    /// All of a range is about to be read, in pieces.
    fn prepare(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
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

    /// What was written of a range may go to the medium now. Nothing is durable by it: a sync that follows
    /// has less to wait for.
    fn begin_writeback(&self, _range: Range<u64>) {}

    /// The same file, for another thread that writes to it. None: whoever has this one writes.
    fn aside(&self) -> Option<File> {
        None
    }

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

    fn begin_writeback(&self, range: Range<u64>) {
        // Where that is not possible the sync takes longer.
        let _begun = begin_writeback(self, range);
    }

    fn aside(&self) -> Option<File> {
        // Whoever notes changes notes those of one thread.
        if is_told() { None } else { self.try_clone().ok() }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        set_length(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        sync_all(self)
    }
}

/// Reads bytes that have to pass a check; if they do not, again from where the file has them. The number of
/// the pack is for whoever is told of that.
pub(super) fn checked_read<F: PackFile, T>(
    (file, pack): (&F, u64),
    offset: u64,
    length: usize,
    check: impl Fn(Vec<u8>) -> Result<T, PackError>,
) -> Result<T, PackError> {
    let mut bytes = vec![0; length];
    let first = file.read(&mut bytes, offset).map_err(PackError::from).and_then(|()| check(bytes));
    let Err(error) = first else { return first };
    let mut last = None;
    for _ in 0..file.further_reads() {
        let mut bytes = vec![0; length];
        file.read_again(&mut bytes, offset)?;
        match check(bytes) {
            Ok(good) => {
                file.told_differs(pack, &error);
                return Ok(good);
            }
            Err(other) => last = Some(other),
        }
    }
    Err(last.unwrap_or(error))
}

/// The page cache drops what it has of a range, as far as nobody else uses it.
pub(super) fn forget_cached(file: &File, offset: u64, length: u64) {
    let _advice = fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed);
}
