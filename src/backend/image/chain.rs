//! The layers of an image and its base, open on a shard.
//!
//! A chain never changes: when an image gets another head, requests that come get another chain. Reads that
//! are under way end on the one that they began with, which goes with the last of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::layer_files::LayerFiles;
use super::store::ImageStore;
use crate::backend::context::ShardContext;
use crate::backend::file::FileDevice;
use crate::backend::registered::Registered;
use crate::ring::FileIndex;
use crate::store::catalog::LayerId;
use crate::store::map::LayerMap;

/// Where an image's bytes are, as one request sees it.
pub(super) struct Chain {
    pub(super) store: Arc<ImageStore>,
    /// The head first; at least one.
    pub(super) layers: Vec<Rc<OpenLayer>>,
    pub(super) base: Option<Rc<FileDevice>>,
}

/// A layer of it.
pub(super) struct OpenLayer {
    /// None: it is no layer of a store.
    pub(super) id: Option<LayerId>,
    pub(super) map: RefCell<LayerMap>,
    pub(super) data: FileDevice,
    /// Bytes of it that are seen from above.
    pub(super) visible: u64,
    /// None for a map that lives in memory only.
    pub(super) map_file: Option<FileIndex>,
    /// The log of changes is half full.
    pub(super) commit_is_due: Cell<bool>,
    registered: Registered,
}

/// The files of a layer among those of a ring.
pub(super) struct RegisteredLayer {
    id: Option<LayerId>,
    data: FileDevice,
    visible: u64,
    map_file: Option<FileIndex>,
    registered: Registered,
}

impl Chain {
    pub(super) fn head(&self) -> &OpenLayer {
        &self.layers[0]
    }

    /// Descriptors that the ring has.
    pub(super) fn files(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.registered.count() + layer.data.files());
        layers.sum::<usize>() + self.base.as_ref().map_or(0, |base| base.files())
    }

    /// The same image with a new head: what was the head is a sealed layer.
    pub(super) fn with_head(&self, head: OpenLayer) -> Self {
        let layers = std::iter::once(Rc::new(head)).chain(self.layers.iter().map(Rc::clone));
        Self { store: Arc::clone(&self.store), layers: layers.collect(), base: self.base.clone() }
    }
}

impl RegisteredLayer {
    pub(super) fn new(files: &LayerFiles, store: &ImageStore, context: &ShardContext) -> io::Result<Self> {
        let mut registered = Registered::new(&context.ring);
        let map_file = files.map.as_ref().map(|map| registered.add(map)).transpose()?;
        let data = FileDevice::new(Arc::clone(&files.data), store.data_bytes(), context)?;
        Ok(Self { id: files.id, data, visible: files.visible, map_file, registered })
    }

    pub(super) fn open(self, map: LayerMap) -> OpenLayer {
        let Self { id, data, visible, map_file, registered } = self;
        let commit_is_due = Cell::new(false);
        OpenLayer { id, map: RefCell::new(map), data, visible, map_file, commit_is_due, registered }
    }
}
