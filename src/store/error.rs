//! Why something is not done with a store.

use std::io;
use std::path::{Path, PathBuf};

use super::catalog::{CatalogError, ImageRefusal, LayerId, NameError};
use super::delta::DeltaError;
use super::shuru::ShuruError;

/// A sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {}: {source}", .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// Of a file outside of the store, which the user has named.
    #[error("cannot {what} {}: {source}", .path.display())]
    Named { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a store: make one with `ringnbd store init {}`", .0.display(), .0.display())]
    NotAStore(PathBuf),
    #[error("{} is a store already", .0.display())]
    IsAStore(PathBuf),
    #[error("{} is not empty: a store begins in an empty directory, or in one that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("the store {} is in use by {holder}: stop it, or start that server with --control unix:PATH, and try again", .path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(
        "the store {} cannot be read by this user: while a server has it, root can read its snapshots, and the user whom the \
         directory belongs to", .0.display()
    )]
    NotReadable(PathBuf),
    #[error(
        "{0} may be written while a server has the store: take a snapshot of it, and use that; or read it through NBD"
    )]
    Live(String),
    #[error(
        "the store {} cannot be locked: {source}; put it on a local file system, which has locks", .path.display()
    )]
    NoLocks { path: PathBuf, source: io::Error },
    #[error("the store {}: {source}", .path.display())]
    Catalog { path: PathBuf, source: CatalogError },
    #[error("the store {}: {source}; look whether the change took place", .path.display())]
    Commit { path: PathBuf, source: CatalogError },
    #[error("the catalogue of {} can be read: there is nothing to make again", .0.display())]
    CatalogIsWhole(PathBuf),
    #[error("no layer in {} tells which store it belongs to: restore the store from a backup", .0.display())]
    NoLayers(PathBuf),
    #[error(
        "{0} is not a snapshot whose contents are all in packs: make it one with `ringnbd image checkpoint`; what stands on a \
         base outside of the store cannot be"
    )]
    NotPacked(String),
    #[error("{0}")]
    Refused(#[from] ImageRefusal),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{} is neither a file nor a block device: name one of these", .0.display())]
    NotABase(PathBuf),
    #[error("{} is empty: there is nothing to begin with", .0.display())]
    EmptyBase(PathBuf),
    #[error(
        "the base {0} is an export of another server, which no command reads: serve the image and copy what its clients see, as in ringnbd copy nbd://… FILE"
    )]
    RemoteBase(String),
    /// Its sentence.
    #[error("{0}")]
    NoRemoteBase(String),
    #[error("{} has a path that is not UTF-8: rename it", .0.display())]
    Path(PathBuf),
    #[error("the layer {layer} is in the catalogue and not on the disk: restore {} from a backup", .path.display())]
    LayerMissing { layer: LayerId, path: PathBuf },
    #[error(
        "{} is not the file that it was when images began with it ({how} differs): put it back, or restore it", .path.display()
    )]
    BaseDiffers { path: PathBuf, how: String },
    #[error(
        "{} is not the base: its {what} differs. Name a copy of the base; --unsafe takes one with other contents and the same size", .path.display()
    )]
    OtherBase { path: PathBuf, what: &'static str },
    #[error("the layer {layer} cannot be {what}: {why}")]
    Map { layer: LayerId, what: &'static str, why: String },
    #[error(
        "{} has {length} bytes and does not fit into {size}: leave the size away, or write a larger one", .path.display()
    )]
    TooSmall { path: PathBuf, length: u64, size: u64 },
    #[error("a snapshot stays with its image: rename \"{from}\" to {image}@NAME")]
    OtherImage { from: String, image: String },
    #[error("the next head of an image cannot be opened: {0}")]
    NoNextHead(String),
    #[error("the store {} has too much to do: try again", .0.display())]
    Busy(PathBuf),
    #[error(
        "the store {} failed, see the log of its server: restart the server, and look whether the change took place", .0.display()
    )]
    Failed(PathBuf),
    #[error(
        "{} is no base that the server has open: create the image while the server is stopped, or on a base that images of \
         this store have already", .0.display()
    )]
    UnknownBase(PathBuf),
    #[error(
        "{} has other contents than the base, from which the server would read on until it ends: stop it, and try again", .0.display()
    )]
    RebaseServed(PathBuf),
    #[error(
        "only a server that has the store open is asked for this, and none has: start \
         `ringnbd serve store:STORE`"
    )]
    NeedsServer,
    #[error("interrupted: nothing was made")]
    Interrupted,
    #[error("{source} (removed before that: {removed})")]
    RemovedPartly { removed: String, source: Box<StoreError> },
    #[error("{node} is not {to}, which the delta makes: write the one, or the image alone")]
    OtherSnapshot { node: String, to: String },
    #[error(
        "the record {} of what was changed cannot be used: {why}; take a new snapshot, and count changes from there", .path.display()
    )]
    ChangeRecord { path: PathBuf, why: String },
    #[error("{node} cannot be read: {why}")]
    Unreadable { node: String, why: String },
    #[error("what has changed in {0} cannot be known: take a new snapshot, and count changes from there")]
    ChangesUnknown(String),
    #[error("the pack {} cannot be used: {why}", .path.display())]
    Pack { path: PathBuf, why: String },
    #[error("the contents of the layer {layer} cannot be read: {why}")]
    Contents { layer: LayerId, why: String },
    #[error("{0}")]
    Index(String),
    #[error(
        "which chunks are needed cannot be told, so no pack was removed: {0}; `ringnbd store check` lists what is damaged"
    )]
    Reach(String),
    #[error("the packs of the store are being collected already: ask again when that is over")]
    Collecting,
    #[error("{0} and {1} have no history in common: compare two of one image, or export all of it")]
    Unrelated(String, String),
    #[error("this is no delta that can be applied: {0}")]
    Delta(#[from] DeltaError),
    #[error("the layer {0} is one that no import has begun, or that has ended: import the delta again")]
    NotArriving(LayerId),
    #[error("{0}")]
    Shuru(#[from] ShuruError),
    #[error("the tier: {0}")]
    Tier(String),
    #[error(
        "the server opens tiers when it starts, and this store has nothing of {0} yet: make the first clone while the server is \
         stopped"
    )]
    NewTier(String),
    #[error("{0} is no snapshot that an image of a tier began as: name one, as `ringnbd image ls` shows it")]
    NotOfTier(String),
    #[error("{0} is all zeroes: a boot of it reads nothing from a tier")]
    AllZeroes(String),
    #[error(
        "{0} has more on tiers than the caches of the store may take: raise cache_bytes in its file `tiers`, and pull it again"
    )]
    CacheTooSmall(String),
    #[error("{} exists already: name another file, or write --force", .0.display())]
    FileExists(PathBuf),
    #[error("{} belongs to the store, or images stand on it: name another file", .0.display())]
    Needed(PathBuf),
}

impl StoreError {
    /// A failure of the kernel's, for `map_err`.
    pub(super) fn at<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::File { what, path: path.to_owned(), source: error.into() }
    }

    /// A failure with a file that the user has named, for `map_err`.
    pub(super) fn named<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::Named { what, path: path.to_owned(), source: error.into() }
    }

    /// A file went away: those who have the lock may have removed it since they told of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::LayerMissing { .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Nothing was changed: what was asked for is not possible, or not possible now.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::File { .. } | Self::Commit { .. } | Self::LayerMissing { .. } | Self::Map { .. } => false,
            Self::Interrupted | Self::RemovedPartly { .. } | Self::Failed(_) => false,
            Self::NoNextHead(_) | Self::CacheTooSmall(_) => false,
            Self::Busy(_) | Self::UnknownBase(_) | Self::NotReadable(_) | Self::Live(_) => true,
            Self::ChangeRecord { .. } | Self::Unreadable { .. } => false,
            Self::Pack { .. } | Self::Contents { .. } | Self::Index(_) | Self::Reach(_) => false,
            Self::Named { .. } | Self::NotAStore(_) | Self::IsAStore(_) | Self::NotEmpty(_) => true,
            Self::InUse { .. } | Self::NoLocks { .. } | Self::Catalog { .. } | Self::Refused(_) => true,
            Self::Name(_) | Self::NotABase(_) | Self::EmptyBase(_) | Self::Path(_) => true,
            Self::ChangesUnknown(_) | Self::Unrelated(..) | Self::Delta(_) | Self::FileExists(_) => true,
            Self::Needed(_)
            | Self::RebaseServed(_)
            | Self::NeedsServer
            | Self::Collecting
            | Self::Shuru(_) => true,
            Self::OtherSnapshot { .. } | Self::CatalogIsWhole(_) | Self::NoLayers(_) => true,
            Self::TooSmall { .. } | Self::OtherImage { .. } | Self::BaseDiffers { .. } => true,
            Self::OtherBase { .. } | Self::NotArriving(_) | Self::Tier(_) | Self::NewTier(_) => true,
            Self::NotPacked(_) | Self::RemoteBase(_) | Self::NoRemoteBase(_) | Self::NotOfTier(_) => true,
            Self::AllZeroes(_) => true,
        }
    }
}
