//! Stores that this server has open: each once, however many of its images are served.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::backend::open_error::OpenError;
use crate::config::ImageUri;
use crate::exec::lock;
use crate::store::base::look_at_base;
use crate::store::catalog::NodeName;
use crate::store::error::StoreError;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::serving::ImageFiles;

/// A store with its lock, as long as an export of it is there.
#[derive(Debug)]
pub(super) struct ServedStore {
    /// Without links.
    path: PathBuf,
    store: Mutex<OpenStore<MapFiles>>,
    /// Images and snapshots that are exported.
    served: Mutex<BTreeSet<NodeName>>,
}

/// An image or a snapshot of which there is an export. There is no other of the same.
#[derive(Debug)]
pub(in crate::backend) struct ServedImage {
    store: Arc<ServedStore>,
    node: NodeName,
}

static OPEN: Mutex<Vec<Weak<ServedStore>>> = Mutex::new(Vec::new());

impl ServedStore {
    /// The store at a path, opened now or by an earlier export.
    pub(super) fn at(path: &Path) -> Result<Arc<Self>, OpenError> {
        Self::with(path, OpenStore::open_to_change)
    }

    /// The same, made if nothing is there yet.
    pub(super) fn at_or_new(path: &Path) -> Result<Arc<Self>, OpenError> {
        Self::with(path, |path, maps| match OpenStore::open_to_change(path, maps) {
            Err(StoreError::NotAStore(_)) => OpenStore::init(path, maps),
            // The directory is not there.
            Err(StoreError::File { source, .. } | StoreError::Named { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                OpenStore::init(path, maps)
            }
            opened => opened,
        })
    }

    fn with(
        path: &Path,
        open: impl Fn(&Path, MapFiles) -> Result<OpenStore<MapFiles>, StoreError>,
    ) -> Result<Arc<Self>, OpenError> {
        let mut known = lock(&OPEN);
        known.retain(|store| store.strong_count() > 0);
        let real = || std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = real();
        if let Some(store) = known.iter().filter_map(Weak::upgrade).find(|store| store.path == before) {
            return Ok(store);
        }
        let store = Mutex::new(open(path, MapFiles).map_err(OpenError::Store)?);
        let store = Arc::new(Self { path: real(), store, served: Mutex::default() });
        known.push(Arc::downgrade(&store));
        Ok(store)
    }

    /// Opens the files of an image or a snapshot; one that is to be written gets a head.
    pub(super) fn open(
        self: &Arc<Self>,
        node: &NodeName,
        writes: bool,
    ) -> Result<(ImageFiles, ServedImage), OpenError> {
        if !lock(&self.served).insert(node.clone()) {
            return Err(OpenError::ServedTwice(node.to_string()));
        }
        let served = ServedImage { store: Arc::clone(self), node: node.clone() };
        let mut store = lock(&self.store);
        if writes {
            store.give_head(&node.image).map_err(OpenError::Store)?;
        }
        let files = store.files(node).map_err(OpenError::Store)?;
        drop(store);
        Ok((files, served))
    }

    /// Makes the one image of an overlay, unless it is there.
    pub(super) fn make_overlay(&self, node: &NodeName, uri: &ImageUri) -> Result<(), OpenError> {
        let mut store = lock(&self.store);
        let known = store.view().map_err(OpenError::Store)?.image(&node.image);
        if let Some(row) = known {
            return match uri.size {
                Some(size) if size != row.size => {
                    Err(OpenError::Image("has another size already: leave size= away"))
                }
                _ => Ok(()),
            };
        }
        let made = match (&uri.base, uri.size) {
            (Some(base), size) => {
                let base = look_at_base(base).map_err(OpenError::Store)?;
                store.create_on_base(&node.image, size, base)
            }
            (None, Some(size)) => store.create_empty(&node.image, size),
            (None, None) => return Err(OpenError::Image("is new: give it a base= or a size=")),
        };
        made.map_err(OpenError::Store)
    }
}

impl ServedImage {
    /// Its name in the store.
    pub(super) fn name(&self) -> &NodeName {
        &self.node
    }
}

impl Drop for ServedImage {
    fn drop(&mut self) {
        lock(&self.store.served).remove(&self.node);
    }
}
