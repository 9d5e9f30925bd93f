//! The open files of layers and bases, for the whole server.

use std::fs::File;
use std::sync::Arc;

use super::head_commits::HeadCommits;
use crate::backend::file_store::FileStore;
use crate::backend::remote::RemoteStore;
use crate::store::catalog::LayerId;
use crate::store::map::LayerMap;

/// The files of a layer.
#[derive(Debug, Clone)]
pub(in crate::backend) struct LayerFiles {
    /// None: it is no layer of a store.
    pub(in crate::backend) id: Option<LayerId>,
    pub(in crate::backend) data: Arc<FileStore>,
    /// None: what the head has is forgotten at the end.
    pub(in crate::backend) map: Option<Arc<File>>,
    /// Bytes of it that are seen from above.
    pub(in crate::backend) visible: u64,
    /// How what is written to it becomes durable, if anything is.
    pub(in crate::backend) commits: Arc<HeadCommits>,
}

/// What is read where no layer has a block.
#[derive(Debug, Clone)]
pub(in crate::backend) struct BaseFile {
    pub(in crate::backend) file: Arc<FileStore>,
    /// Bytes of it when it was opened; what lies beyond reads as zeroes.
    pub(in crate::backend) size: u64,
}

/// What is read where no layer has a block, wherever it is.
#[derive(Debug, Clone)]
pub(in crate::backend) enum OpenBase {
    File(BaseFile),
    /// An export of another server, of so many bytes.
    Remote(Arc<RemoteStore>, u64),
}

impl OpenBase {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Remote(_, size) => *size,
        }
    }

    /// Of which no more than so many bytes are seen.
    pub(super) fn seen(self, visible: u64) -> Self {
        match self {
            Self::File(file) => Self::File(BaseFile { size: file.size.min(visible), ..file }),
            Self::Remote(store, size) => Self::Remote(store, size.min(visible)),
        }
    }

    /// What reads of it are multiples of.
    pub(super) fn minimum_block(&self) -> u32 {
        match self {
            Self::File(_) => 1,
            Self::Remote(store, _) => store.minimum_block(),
        }
    }

    /// As many files as take as many places in a ring.
    pub(super) fn files(&self) -> usize {
        match self {
            Self::File(_) => 1,
            Self::Remote(store, _) => store.files(),
        }
    }
}

/// The files of a head that is to take over, durable, and its map, in which there is nothing.
#[derive(Debug)]
pub struct NextHead {
    pub(super) files: Arc<LayerFiles>,
    pub(super) map: LayerMap,
}
