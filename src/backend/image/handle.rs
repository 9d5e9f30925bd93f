//! An image that is served, as the control plane knows it.

use std::path::Path;
use std::sync::Arc;

use super::layer_files::NextHead;
use super::store::ImageStore;
use crate::backend::open_error::OpenError;
#[cfg(test)]
use crate::store::catalog::NewSnapshot;
use crate::store::catalog::NodeName;
use crate::store::serving::ChainFiles;

/// An image or a snapshot of a store of which there is an export.
#[derive(Debug, Clone)]
pub struct ImageHandle(Arc<ImageStore>);

impl ImageHandle {
    /// None for what belongs to no store.
    pub(in crate::backend) fn of(store: &Arc<ImageStore>) -> Option<Self> {
        store.served().map(|_| Self(Arc::clone(store)))
    }

    /// Its name in its store.
    pub fn name(&self) -> &NodeName {
        self.0.served().expect("it belongs to one").name()
    }

    /// The directory of its store, without links.
    pub fn store_path(&self) -> &Path {
        self.0.served().expect("it belongs to one").store_path()
    }

    /// Whether it has a head here, which a snapshot has to seal. What is only read stays as it is.
    pub fn is_written(&self) -> bool {
        self.0.head_options.is_some()
    }

    /// Opens the files of its next head, which are durable; this may wait for the disk.
    ///
    /// # Errors
    /// They cannot be opened, or do not fit.
    pub fn next_head(&self, files: ChainFiles) -> Result<NextHead, OpenError> {
        self.0.next_head(files)
    }
}

#[cfg(test)]
impl ImageHandle {
    /// A next head, and the snapshot that needs it.
    pub(crate) fn begin_snapshot(&self, name: &str) -> (NextHead, NewSnapshot) {
        let image = self.name().image.clone();
        let store = self.0.served().expect("it belongs to one");
        let files = store.with_store(|store| store.make_next_head(&image)).unwrap();
        let snapshot = name.parse().unwrap();
        let new = NewSnapshot { image, snapshot, next_head: Some(files.id) };
        (self.next_head(files).unwrap(), new)
    }

    pub(crate) fn record_snapshot(&self, new: &NewSnapshot) {
        let store = self.0.served().expect("it belongs to one");
        store.with_store(|store| store.record_snapshots(std::slice::from_ref(new))).unwrap();
    }
}
