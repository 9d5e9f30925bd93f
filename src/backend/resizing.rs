//! A file that gets another size, or a device that has got one, while it is served.
//!
//! Sessions keep the size that they were told, so the export with the new size is another one of the same
//! file. Both share what is known of the inode: its locks, and syncs that failed.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};

use rustix::fs::{SeekFrom, ftruncate, seek};

use super::export::{Export, Store};
use super::file_store::{DirectFile, FileStore};
use crate::block::{BlockSizes, DeviceFacts};

/// Why an export has no other size; each a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResizeError {
    #[error("only files, block devices and images can be resized: change the URI of others")]
    Kind,
    #[error(
        "it is served read-only, and so is its file: resize the file by other means, then ask without a size"
    )]
    ReadOnly,
    #[error(
        "a block device has the size that it has, {0} bytes now: resize it by its own means, then ask without a size"
    )]
    Device(u64),
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Export {
    /// Whether it is a file or device, whose size may change.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// What its file or device has now.
    ///
    /// # Errors
    /// [`ResizeError`].
    pub(crate) fn size_found(&self) -> Result<u64, ResizeError> {
        let Store::File(store) = &self.store else { return Err(ResizeError::Kind) };
        Ok(seek(&store.buffered, SeekFrom::End(0)).map_err(io::Error::from)?)
    }

    /// Gives its file a size. Nothing of it is allocated. It may take its time.
    ///
    /// # Errors
    /// [`ResizeError`].
    pub(crate) fn set_file_size(&self, size: u64) -> Result<(), ResizeError> {
        let Store::File(store) = &self.store else { return Err(ResizeError::Kind) };
        if store.is_block_device {
            let now = self.size_found()?;
            return if size == now { Ok(()) } else { Err(ResizeError::Device(now)) };
        }
        let file = store.durable.as_ref().ok_or(ResizeError::ReadOnly)?;
        ftruncate(file, size).map_err(io::Error::from)?;
        // The size is promised to clients that come.
        Ok(file.sync_all()?)
    }

    /// The same bytes with another size.
    ///
    /// # Errors
    /// [`ResizeError`].
    pub(crate) fn with_size(&self, size: u64) -> Result<Self, ResizeError> {
        let Store::File(store) = &self.store else { return Err(ResizeError::Kind) };
        let store = store.again()?;
        let minimum = match &store.direct {
            Some(direct) if size.is_multiple_of(u64::from(direct.alignment)) => direct.alignment,
            _ => BlockSizes::default().minimum,
        };
        let block_sizes = BlockSizes { minimum, ..self.facts().block_sizes };
        let facts = DeviceFacts { size, block_sizes, ..self.facts().clone() };
        Ok(Self::of_file(facts, store, self.faults.clone()))
    }
}

impl FileStore {
    /// The same file by the same descriptions, its mapping made anew.
    fn again(&self) -> io::Result<Self> {
        let again = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose();
        let direct = match &self.direct {
            None => None,
            Some(DirectFile { file, alignment, memory_alignment }) => {
                let (alignment, memory_alignment) = (*alignment, *memory_alignment);
                Some(DirectFile { file: file.try_clone()?, alignment, memory_alignment })
            }
        };
        Ok(Self {
            buffered: self.buffered.try_clone()?,
            durable: again(&self.durable)?,
            direct,
            inode: Arc::clone(&self.inode),
            mapping: OnceLock::new(),
            is_block_device: self.is_block_device,
            disk: self.disk,
            allocation_unit: self.allocation_unit,
            can_be_mapped: self.can_be_mapped,
            always_blocks: self.always_blocks,
            read_ahead: self.read_ahead,
            allocation_step: self.allocation_step,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_and_its_old_export_stays_as_it_was() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let path = directory.path().join("a");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let export =
            Export::open(&format!("fault:delay=1ms:file:{}", path.display()).parse().unwrap(), false);
        let export = export.unwrap();
        export.set_file_size(3 << 20).unwrap();
        let larger = export.with_size(export.size_found().unwrap()).unwrap();
        assert_eq!((export.size(), larger.size(), larger.faults.len()), (1 << 20, 3 << 20, 1));
        let (Store::File(before), Store::File(now)) = (&export.store, &larger.store) else { panic!() };
        assert!(Arc::ptr_eq(&before.inode, &now.inode), "locks and failed syncs are those of the file");
        drop(export);
        // Its lock is still held.
        let other = Export::open(&format!("file:{}", path.display()).parse().unwrap(), false);
        assert!(other.is_ok(), "exports of one process share the lock");
    }

    #[test]
    fn what_has_no_size_of_its_own_is_refused() {
        let memory = Export::open(&"mem:1M".parse().unwrap(), false).unwrap();
        assert!(matches!(memory.set_file_size(1), Err(ResizeError::Kind)) && !memory.is_file());
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let path = directory.path().join("a");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let export = Export::open(&format!("file:{}?readonly=true", path.display()).parse().unwrap(), false);
        assert!(matches!(export.unwrap().set_file_size(1), Err(ResizeError::ReadOnly)));
    }
}
