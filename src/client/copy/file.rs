//! A file or a block device as an end of a copy.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::error::CopyError;
use super::jobs::{CopyJob, DataRanges, PIECE};
use super::place::CopyPlace;
use crate::sys::{Access, ImageLock, LockError};

/// A file.
#[derive(Debug)]
pub(super) struct CopyFile {
    file: File,
    path: PathBuf,
    pub(super) size: u64,
    /// It was emptied when it was opened.
    pub(super) is_fresh: bool,
    /// Reads that were begun, in order: nothing happens before they are waited for.
    begun: std::collections::VecDeque<(usize, CopyJob)>,
    /// Keeps servers and guests away from a target, as QEMU's tools do.
    _lock: Option<ImageLock>,
}

/// Locks a target, where the file system can, so that nobody's disk is emptied.
fn locked(path: &Path) -> Result<Option<ImageLock>, CopyError> {
    let own = File::open(path).map_err(|error| CopyError::File(path.to_owned(), error))?;
    let mut lock = ImageLock::new(own);
    match lock.add(Access::new(false, false)) {
        Ok(()) => Ok(Some(lock)),
        Err(LockError::InUse(_)) => Err(CopyError::InUse(path.to_owned())),
        Err(LockError::Impossible(_)) => Ok(None),
    }
}

impl CopyFile {
    fn new(file: File, path: &Path, is_fresh: bool) -> Result<Self, CopyError> {
        let wrong = |error: io::Error| CopyError::File(path.to_owned(), error);
        let kind = file.metadata().map_err(wrong)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(CopyError::Kind(path.to_owned()));
        }
        let size = seek(&file, SeekFrom::End(0)).map_err(|error| wrong(error.into()))?;
        Ok(Self { file, path: path.to_owned(), size, is_fresh, begun: Default::default(), _lock: None })
    }

    pub(super) fn source(path: &Path) -> Result<Self, CopyError> {
        let file = File::open(path).map_err(|error| CopyError::File(path.to_owned(), error))?;
        Self::new(file, path, false)
    }

    /// A regular file is made, or emptied, and gets the size.
    pub(super) fn target(source: &CopyPlace, path: &Path, size: u64) -> Result<Self, CopyError> {
        let wrong = |error: io::Error| CopyError::File(path.to_owned(), error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(wrong)?;
        let found = file.metadata().map_err(wrong)?;
        if let CopyPlace::File(source) = source {
            let other = source.metadata().map_err(|error| CopyError::File(source.clone(), error))?;
            if (found.dev(), found.ino()) == (other.dev(), other.ino()) {
                return Err(CopyError::Same(path.to_owned()));
            }
        }
        let lock = locked(path)?;
        if found.is_file() {
            file.set_len(0).and_then(|()| file.set_len(size)).map_err(wrong)?;
        }
        Ok(Self { _lock: lock, ..Self::new(file, path, found.is_file())? })
    }

    /// A copy that was made before: it keeps what it has, and grows to the size.
    pub(super) fn old_target(path: &Path, size: u64) -> Result<Self, CopyError> {
        let wrong = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => CopyError::NoOldCopy(path.to_owned()),
            _ => CopyError::File(path.to_owned(), error),
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(wrong)?;
        let found = file.metadata().map_err(wrong)?;
        let lock = locked(path)?;
        if found.is_file() && found.len() < size {
            file.set_len(size).map_err(wrong)?;
        }
        Ok(Self { _lock: lock, ..Self::new(file, path, false)? })
    }

    /// The target once more.
    pub(super) fn again(path: &Path) -> Result<Self, CopyError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        Self::new(file.map_err(|error| CopyError::File(path.to_owned(), error))?, path, false)
    }

    pub(super) fn data_ranges(&self, unit: u64) -> Result<DataRanges, CopyError> {
        let (mut ranges, mut at) = (DataRanges::default(), 0);
        while at < self.size {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                // A file system, or a device, that has no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(self.failed(error.into())),
            };
            let end = match seek(&self.file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(self.size),
                Err(_) => self.size,
            };
            if !ranges.add(start, end.max(start), unit) {
                ranges.add(start, self.size, unit);
                break;
            }
            at = end.max(at + 1);
        }
        Ok(ranges)
    }

    pub(super) fn begin_read(&mut self, slot: usize, job: CopyJob) {
        self.begun.push_back((slot, job));
    }

    pub(super) fn finish_read(&mut self, buffers: &mut [Vec<u8>]) -> Result<usize, CopyError> {
        let (slot, job) = self.begun.pop_front().expect("a read was begun");
        let target = &mut buffers[slot][..job.length as usize];
        self.file.read_exact_at(target, job.offset).map_err(|error| self.failed(error))?;
        Ok(slot)
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), CopyError> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed(error))
    }

    pub(super) fn zero(&self, offset: u64, length: u64) -> Result<(), CopyError> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, punch, offset, length).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; PIECE as usize];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let step = (end - at).min(PIECE);
            self.write(at, &zeroes[..step as usize])?;
            at += step;
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), CopyError> {
        match self.file.sync_all() {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            done => done.map_err(|error| self.failed(error)),
        }
    }

    fn failed(&self, error: io::Error) -> CopyError {
        CopyError::Io { place: self.path.clone(), error }
    }
}
