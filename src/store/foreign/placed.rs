//! The bytes of a pack, all here or not.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::partial::PartialPack;
use crate::store::pack::{PackError, PackFile, PackIdentity, PackReader};

/// How often bytes are fetched again that do not verify: what spoils them on their way may do so twice.
const FETCHED_AGAIN: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) enum PlacedFile {
    Whole(File),
    Partial(Arc<PartialPack>),
}

impl PlacedFile {
    /// Whether all of a range is here.
    pub(crate) fn has(&self, range: Range<u64>) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Partial(pack) => pack.has(range),
        }
    }

    /// The same for whoever must not wait: no if that cannot be told at once.
    pub(crate) fn has_now(&self, range: Range<u64>) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Partial(pack) => pack.has_now(range),
        }
    }

    /// Has a range fetched by other threads, unless it is here.
    pub(crate) fn ask_ahead(&self, range: Range<u64>) {
        if let Self::Partial(pack) = self {
            pack.ask_ahead(range);
        }
    }

    /// What is here of a range is wrong: it is fetched again when somebody reads it.
    pub(crate) fn drop_range(&self, range: Range<u64>) {
        if let Self::Partial(pack) = self {
            pack.drop_range(range);
        }
    }
}

impl PackFile for PlacedFile {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::Whole(file) => file.length(),
            Self::Partial(pack) => Ok(pack.bytes()),
        }
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Whole(file) => PackFile::read(file, bytes, offset),
            Self::Partial(pack) => pack.read(bytes, offset),
        }
    }

    fn read_again(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.read_again(bytes, offset),
            Self::Partial(pack) => pack.read_again(bytes, offset),
        }
    }

    fn prepare(&self, range: Range<u64>) -> io::Result<()> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Partial(pack) => pack.bring_footer(range),
        }
    }

    fn further_reads(&self) -> usize {
        match self {
            Self::Whole(file) => file.further_reads(),
            Self::Partial(_) => FETCHED_AGAIN,
        }
    }

    fn told_differs(&self, pack: u64, error: &PackError) {
        match self {
            Self::Whole(file) => file.told_differs(pack, error),
            // A hole of the cache does not fit either.
            Self::Partial(_) => tracing::debug!(pack, %error, "a part of a pack was fetched again"),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Whole(file) => PackFile::write(file, bytes, offset),
            Self::Partial(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.set_length(length),
            Self::Partial(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.sync(),
            Self::Partial(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

/// A pack that is open, of which nothing was read.
#[derive(Debug)]
pub(crate) struct PlacedPack {
    pub(in crate::store) file: PlacedFile,
    pub(in crate::store) identity: PackIdentity,
}

impl PlacedPack {
    /// Whether what tells where its chunks are is here. `bytes` is the length of the pack.
    pub(in crate::store) fn is_readable(&self, bytes: u64) -> bool {
        let footer_at = match &self.file {
            PlacedFile::Whole(_) => bytes,
            PlacedFile::Partial(pack) => pack.footer_offset(),
        };
        self.file.has(0..1) && self.file.has(footer_at..bytes)
    }

    /// Reads where its chunks are.
    pub(crate) fn read(self) -> Result<PackReader<PlacedFile>, PackError> {
        let PlacedFile::Partial(pack) = &self.file else {
            return PackReader::open(self.file, &self.identity);
        };
        let pack = Arc::clone(pack);
        let open = || {
            let opened = PackReader::open(PlacedFile::Partial(Arc::clone(&pack)), &self.identity);
            // What is here does not fit: it is fetched again, now or the next time.
            if matches!(&opened, Err(error) if !matches!(error, PackError::Io(_))) {
                pack.drop_ends();
            }
            opened
        };
        let mut opened = open();
        for _ in 0..FETCHED_AGAIN {
            match &opened {
                Err(error) if !matches!(error, PackError::Io(_)) => opened = open(),
                _ => break,
            }
        }
        let read = opened?;
        pack.learn_footer(read.footer_offset());
        Ok(read)
    }
}
