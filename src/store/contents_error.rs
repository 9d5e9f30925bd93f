//! Why contents cannot be read from packs.

use std::io::ErrorKind;

use super::manifest::ManifestError;
use super::pack::{ChunkHash, PackError};

/// Why contents cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentsError {
    #[error("pack {pack}: {source}")]
    Pack { pack: u64, source: PackError },
    #[error("the chunk {0} is in no pack that is known: restore the packs of the store from a backup")]
    Nowhere(ChunkHash),
    #[error("the chunk {0} is not where it was written: restore the packs of the store from a backup")]
    Elsewhere(ChunkHash),
    #[error("{0}")]
    Manifest(String),
}

impl ContentsError {
    /// Whether the chunk may be in another pack than it was.
    pub(super) fn is_elsewhere(&self) -> bool {
        match self {
            Self::Pack { source: PackError::Io(error), .. } => error.kind() == ErrorKind::NotFound,
            Self::Elsewhere(_) => true,
            Self::Pack { .. } | Self::Nowhere(_) | Self::Manifest(_) => false,
        }
    }
}

impl From<ManifestError<Self>> for ContentsError {
    fn from(error: ManifestError<Self>) -> Self {
        match error {
            ManifestError::Nodes(error) => error,
            error => Self::Manifest(error.to_string()),
        }
    }
}
