//! The layers of an image and its base, open on a shard.
//!
//! A chain never changes: when an image gets another head, or fewer layers below it, requests that come get
//! another chain. Those that are under way end on the one that they began with, which goes with the last of
//! them. Two chains of an image share the layers that are in both.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use super::contents::ContentsLink;
use super::head_commits::HeadCommits;
use super::layer_files::LayerFiles;
use super::store::ImageStore;
use crate::backend::context::ShardContext;
use crate::backend::file::FileDevice;
use crate::backend::registered::Registered;
use crate::backend::remote::Remote;
use crate::ring::FileIndex;
use crate::store::catalog::LayerId;
use crate::store::map::LayerMap;

/// Where an image's bytes are, as one request sees it.
pub(super) struct Chain {
    pub(super) store: Arc<ImageStore>,
    /// The head first; at least one.
    pub(super) layers: Vec<ChainLink>,
    /// What is below them in packs.
    pub(super) contents: Option<Rc<ContentsLink>>,
    pub(super) base: Option<BaseLink>,
}

/// A layer at its place in a chain.
#[derive(Clone)]
pub(super) struct ChainLink {
    pub(super) layer: Rc<OpenLayer>,
    /// Bytes of it that are seen from above.
    pub(super) visible: u64,
}

impl Deref for ChainLink {
    type Target = OpenLayer;

    #[inline]
    fn deref(&self) -> &OpenLayer {
        &self.layer
    }
}

/// The base below a chain.
#[derive(Clone)]
pub(super) struct BaseLink {
    pub(super) device: BaseDevice,
    /// Bytes of it that are seen from above; what lies beyond reads as zeroes.
    pub(super) visible: u64,
}

/// What it is on a shard.
#[derive(Clone)]
pub(super) enum BaseDevice {
    File(Rc<FileDevice>),
    Remote(Rc<Remote>),
}

/// A layer of it.
pub(super) struct OpenLayer {
    /// None: it is no layer of a store.
    pub(super) id: Option<LayerId>,
    pub(super) map: RefCell<LayerMap>,
    pub(super) data: FileDevice,
    /// None for a map that lives in memory only.
    pub(super) map_file: Option<FileIndex>,
    /// The log of changes is half full.
    pub(super) commit_is_due: Cell<bool>,
    pub(super) commits: Arc<HeadCommits>,
    registered: Registered,
}

/// The files of a layer among those of a ring.
pub(super) struct RegisteredLayer {
    id: Option<LayerId>,
    data: FileDevice,
    map_file: Option<FileIndex>,
    commits: Arc<HeadCommits>,
    registered: Registered,
}

impl Chain {
    pub(super) fn head(&self) -> &OpenLayer {
        &self.layers[0]
    }

    /// The file or device below all layers.
    #[inline]
    pub(super) fn base_file(&self) -> Option<&FileDevice> {
        match &self.base.as_ref()?.device {
            BaseDevice::File(file) => Some(file),
            BaseDevice::Remote(_) => None,
        }
    }

    /// The export of another server below all layers.
    pub(super) fn remote_base(&self) -> Option<&Remote> {
        match &self.base.as_ref()?.device {
            BaseDevice::File(_) => None,
            BaseDevice::Remote(remote) => Some(remote),
        }
    }

    /// Descriptors that the ring has.
    pub(super) fn files(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.registered.count() + layer.data.files());
        let base = self.base_file().map(FileDevice::files).or_else(|| Some(self.remote_base()?.files()));
        layers.sum::<usize>() + base.unwrap_or_default()
    }

    /// The same image with a new head: what was the head is a sealed layer.
    pub(super) fn with_head(&self, head: OpenLayer) -> Self {
        let head = ChainLink { layer: Rc::new(head), visible: self.store.size() };
        let layers = std::iter::once(head).chain(self.layers.iter().cloned());
        let (contents, base) = (self.contents.clone(), self.base.clone());
        Self { store: Arc::clone(&self.store), layers: layers.collect(), contents, base }
    }
}

impl RegisteredLayer {
    pub(super) fn new(files: &LayerFiles, store: &ImageStore, context: &ShardContext) -> io::Result<Self> {
        let mut registered = Registered::new(&context.ring);
        let map_file = files.map.as_ref().map(|map| registered.add(map)).transpose()?;
        let data = FileDevice::new(Arc::clone(&files.data), store.data_bytes(), context)?;
        Ok(Self { id: files.id, data, map_file, commits: Arc::clone(&files.commits), registered })
    }

    pub(super) fn open(self, map: LayerMap) -> OpenLayer {
        let Self { id, data, map_file, commits, registered } = self;
        let commit_is_due = Cell::new(false);
        OpenLayer { id, map: RefCell::new(map), data, map_file, commit_is_due, commits, registered }
    }
}
