//! The file below the database. A simulated one can stand there instead.

use std::fs::File;
use std::io;

use redb::StorageBackend;

use crate::store::file_changes::{DatabaseBytes, set_length, sync_data};

/// The catalogue's file. The lock of the store keeps others away, so it has none of its own.
#[derive(Debug)]
pub struct CatalogFile {
    file: File,
    bytes: DatabaseBytes,
}

impl CatalogFile {
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, bytes: DatabaseBytes::default() }
    }
}

impl StorageBackend for CatalogFile {
    fn len(&self) -> io::Result<u64> {
        self.bytes.length(&self.file)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(&self.file, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        set_length(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        sync_data(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes.write(&self.file, offset, data)
    }
}
