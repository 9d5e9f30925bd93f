//! Space that is kept for the catalogue, so that removing works when the disk is full.

use std::io;

use rustix::fs::{Mode, OFlags, fstatvfs};
use rustix::io::Errno;

use super::directory::{RESERVE, StoreDirectory, below};
use super::error::StoreError;
use super::file_changes::{allocate, set_length};

pub(super) const RESERVE_BYTES: u64 = 4 << 20;

impl StoreDirectory {
    /// Takes the space back that is kept for a full disk, if there is enough of it. Without it, nothing is
    /// worse than it was.
    pub fn keep_reserve(&self) {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        if let Ok(file) = below(self.root(), RESERVE, flags, Mode::RUSR | Mode::WUSR)
            && self.free_bytes().is_some_and(|free| free >= 2 * RESERVE_BYTES)
        {
            let _kept = allocate(&file, RESERVE_BYTES);
        }
    }

    /// Gives the reserve away if the disk is full: what follows makes room.
    ///
    /// # Errors
    /// The file system's.
    pub fn release_reserve(&self) -> Result<(), StoreError> {
        if self.free_bytes().is_none_or(|free| free >= RESERVE_BYTES) {
            return Ok(());
        }
        self.empty_reserve().map_err(StoreError::at("make room with", &self.path().join(RESERVE)))
    }

    pub(super) fn empty_reserve(&self) -> io::Result<()> {
        match below(self.root(), RESERVE, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => set_length(&file, 0),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        fstatvfs(self.root()).ok().map(|status| status.f_bavail.saturating_mul(status.f_frsize))
    }
}
