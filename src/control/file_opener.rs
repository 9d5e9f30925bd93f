//! What opens files for a server that can open none itself.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;

/// A file that a server needs a descriptor of which it cannot open itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileToOpen {
    /// Where it is.
    pub path: PathBuf,
    /// It is written, too.
    pub is_written: bool,
    /// Past the page cache.
    pub is_direct: bool,
}

/// A descriptor, or a sentence, some time later.
pub type OpeningFile = Pin<Box<dyn Future<Output = Result<OwnedFd, String>>>>;

/// Opens files for a server that can open none itself.
pub trait OpenFiles {
    /// Begins with it.
    fn open(&self, file: FileToOpen) -> OpeningFile;
}
