//! The files of change records: `changed/<layer>`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::catalog::{LayerId, RecordHeads};
use super::changed::{ChangeRecord, ChangeRecordError};
use super::collection_bug::{CollectionBug, is_planted};
use super::directory::{StoreDirectory, below, names, unlink};
use super::error::StoreError;
use super::file_changes::{make_directory, rename, sync_all, sync_directory, write_all_at};

const CHANGED: &str = "changed";
/// The end of a name that is not complete yet.
const NEW: &str = ".new";

impl StoreDirectory {
    fn changed_path(&self, name: &str) -> PathBuf {
        self.path().join(CHANGED).join(name)
    }

    /// The records that there are.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn change_heads(&self) -> Result<RecordHeads, StoreError> {
        let path = self.path().join(CHANGED);
        let directory = match below(self.root(), CHANGED, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(RecordHeads::new()),
            Err(error) => return Err(StoreError::at("open", &path)(error)),
        };
        let mut found = RecordHeads::new();
        for name in names(&directory).map_err(StoreError::at("list", &path))? {
            let Some(layer) = Uuid::try_parse(&name).ok().map(LayerId) else { continue };
            let head = self.read_changed(layer, ChangeRecord::MOST_HEAD);
            let head = head.ok().and_then(|bytes| ChangeRecord::head_of(layer, &bytes).ok());
            if head.is_none() {
                let record = self.changed_path(&name);
                tracing::warn!(record = %record.display(), "a record of changes cannot be read");
            }
            found.insert(layer, head);
        }
        Ok(found)
    }

    fn read_changed(&self, layer: LayerId, most: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.changed_path(&layer.to_string());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = below(self.root(), format!("{CHANGED}/{layer}"), flags, Mode::empty());
        let file = File::from(file.map_err(StoreError::at("open", &path))?);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(StoreError::at("read", &path))?;
        Ok(bytes)
    }

    /// The record of a layer.
    ///
    /// # Errors
    /// The file system's; it is damaged.
    pub(super) fn change_record(&self, layer: LayerId) -> Result<ChangeRecord, StoreError> {
        let bytes = self.read_changed(layer, ChangeRecord::MOST_BYTES + 1)?;
        let record = ChangeRecord::decode(layer, &bytes);
        record.map_err(|error| self.bad_record(layer, error))
    }

    fn bad_record(&self, layer: LayerId, error: ChangeRecordError) -> StoreError {
        StoreError::ChangeRecord { path: self.changed_path(&layer.to_string()), why: error.to_string() }
    }

    /// Writes a record, durably, in place of an older one of the same layer.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn write_change_record(&self, record: &ChangeRecord) -> Result<(), StoreError> {
        let name = record.layer.to_string();
        let path = self.changed_path(&name);
        let bytes = record.encode().map_err(|error| self.bad_record(record.layer, error))?;
        match make_directory(self.root(), CHANGED, Mode::RWXU) {
            Ok(()) => sync_directory(self.root()).map_err(StoreError::at("sync", self.path()))?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(StoreError::at("make", &self.path().join(CHANGED))(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = below(self.root(), CHANGED, flags, Mode::empty());
        let directory = directory.map_err(StoreError::at("open", &self.path().join(CHANGED)))?;
        let new = format!("{name}{NEW}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = below(&directory, &*new, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(StoreError::at("make", &path))?);
        let sync = |()| if is_planted(CollectionBug::ChangesNotSynced) { Ok(()) } else { sync_all(&file) };
        let written = write_all_at(&file, &bytes, 0).and_then(sync);
        written.map_err(StoreError::at("write", &path))?;
        let named = rename((&directory, &new), (&directory, &name)).and_then(|()| sync_directory(&directory));
        named.map_err(StoreError::at("make", &path))
    }

    /// Removes the record of a layer, if there is one.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn remove_change_record(&self, layer: LayerId) -> Result<(), StoreError> {
        let path = self.changed_path(&layer.to_string());
        match below(self.root(), CHANGED, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => unlink(&directory, &layer.to_string(), AtFlags::empty()),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(StoreError::at("remove", &path))
    }
}
