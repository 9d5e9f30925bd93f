//! Small files of a store that are replaced as a whole.

use std::fs::File;

use rustix::fs::{Mode, OFlags};

use super::directory::{StoreDirectory, below};
use super::error::StoreError;
use super::file_changes::{rename, sync_all, sync_directory, write_all_at};

impl StoreDirectory {
    /// Replaces a file at the top of the store, durably. Until it is complete it has another name, which ends
    /// with `.new`.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let new = format!("{name}.new");
        let path = self.path().join(&new);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let file = below(self.root(), &new, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(StoreError::at("make", &path))?);
        let written = write_all_at(&file, bytes, 0).and_then(|()| sync_all(&file));
        written.map_err(StoreError::at("write", &path))?;
        let named =
            rename((self.root(), &new), (self.root(), name)).and_then(|()| sync_directory(self.root()));
        named.map_err(StoreError::at("replace", &self.path().join(name)))
    }
}
