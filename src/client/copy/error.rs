//! Why a disk could not be copied.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::sys::PATIENCE;

/// What went wrong, for people.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A server cannot be asked, or not for this export.
    #[error("{place}: {error}")]
    Open {
        /// Which one.
        place: String,
        error: ClientError,
    },
    /// A file that cannot be opened or made.
    #[error("cannot open {0}: {1}")]
    File(PathBuf, io::Error),
    /// Neither file nor block device.
    #[error("{0} is neither a regular file nor a block device")]
    Kind(PathBuf),
    /// Source and target are one file.
    #[error("{0} is both source and target")]
    Same(PathBuf),
    /// A server or a guest has the target.
    #[error(
        "{0} is in use by a server or a guest, and still was after {PATIENCE} s: stop that one, or copy to its URI"
    )]
    InUse(PathBuf),
    /// The target has no room.
    #[error("the target has {target} bytes, fewer than the {source_size} of the source; make it larger")]
    TooSmall {
        /// Bytes.
        source_size: u64,
        target: u64,
    },
    /// The target cannot be written.
    #[error("the target {0} is read-only")]
    ReadOnly(String),
    /// A last piece that cannot be asked for.
    #[error("{size} bytes are no multiple of the block size {unit} that a server insists on")]
    Unaligned {
        /// Bytes.
        size: u64,
        unit: u64,
    },
    /// A source that cannot say what has changed.
    #[error(
        "{0} is a file, which does not know what has changed: --delta needs a server's URI as the source"
    )]
    NoBitmaps(String),
    /// The server does not have that bitmap.
    #[error(
        "{place} does not offer qemu:dirty-bitmap:{bitmap}; `ringnbd info` shows what it offers, such as its snapshots"
    )]
    NoBitmap {
        /// Of the source.
        place: String,
        bitmap: String,
    },
    /// There is nothing that changes could be added to.
    #[error(
        "{0} does not exist, and only changes are to be copied: make a whole copy first, without --delta"
    )]
    NoOldCopy(PathBuf),
    /// A server failed meanwhile.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file failed meanwhile.
    #[error("{place}: {error}")]
    Io {
        /// Which one.
        place: PathBuf,
        error: io::Error,
    },
    /// Whoever watches has given it up.
    #[error("the copy was interrupted")]
    Interrupted,
    /// The two differ afterwards.
    #[error("source and target differ at {0}")]
    Differs(u64),
}

impl CopyError {
    /// Nothing was copied: what was asked for cannot be done.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Client(_) | Self::Io { .. } | Self::Interrupted | Self::Differs(_))
    }
}
