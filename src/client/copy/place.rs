//! What can be copied.

use std::path::PathBuf;

use crate::client::uri::NbdUri;

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyPlace {
    /// A regular file or a block device.
    File(PathBuf),
    /// An export of a server.
    Nbd(NbdUri),
}

impl std::fmt::Display for CopyPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Nbd(uri) => write!(f, "{uri}"),
        }
    }
}
