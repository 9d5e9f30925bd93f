//! The file below the database. A simulated one can stand there instead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use redb::StorageBackend;

use crate::store::file_changes::{set_length, sync_data, write_all_at};

/// The catalogue's file. The lock of the store keeps others away, so it has none of its own.
#[derive(Debug)]
pub struct CatalogFile(File);

impl CatalogFile {
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self(file)
    }
}

impl StorageBackend for CatalogFile {
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        set_length(&self.0, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        sync_data(&self.0)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_all_at(&self.0, data, offset)
    }
}
