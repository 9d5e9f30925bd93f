//! An image that is served, as the control plane knows it.

use std::path::Path;
use std::sync::Arc;

use super::layer_files::NextHead;
use super::shortening::ShorterChain;
use super::store::ImageStore;
use crate::backend::open_error::OpenError;
#[cfg(test)]
use crate::store::catalog::NewSnapshot;
use crate::store::catalog::NodeName;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
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
        self.0.head_options().is_some()
    }

    /// Whether a shard has packs open for it.
    pub(crate) fn has_packs_open(&self) -> bool {
        self.0.is_on_a_shard() && self.0.links().contents.is_some()
    }

    /// Opens the files of its next head, which are durable; this may wait for the disk.
    ///
    /// # Errors
    /// They cannot be opened, or do not fit.
    pub fn next_head(&self, files: ChainFiles) -> Result<NextHead, OpenError> {
        self.0.next_head(files)
    }

    /// Whether the catalogue has another chain for it than the one that is open.
    ///
    /// # Errors
    /// The store cannot be looked at.
    pub fn is_behind(&self, store: &OpenStore<MapFiles>) -> Result<bool, OpenError> {
        self.0.is_behind(store)
    }

    /// Opens what it needs to go on with that chain; this may wait for the disk.
    ///
    /// # Errors
    /// Its files cannot be opened.
    pub fn shorter_chain(&self, store: &OpenStore<MapFiles>) -> Result<ShorterChain, OpenError> {
        self.0.shorter_chain(store)
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
        let new = NewSnapshot { image, snapshot, next_head: Some(files.id), is_changes_only: false };
        (self.next_head(files).unwrap(), new)
    }

    /// Removes a snapshot, and merges two layers; what it takes to go on with the result.
    pub(crate) fn remove_and_merge(&self, snapshot: &NodeName) -> ShorterChain {
        self.0.served().expect("it belongs to one").with_store(|store| {
            store.remove(snapshot, false).unwrap();
            let pair =
                store.cheapest_merge(&self.name().image).unwrap().expect("a layer has lost its snapshot");
            let mut copy = store.begin_merge(pair).unwrap();
            while !copy.step().unwrap().is_done() {}
            store.finish_copy(copy).unwrap();
            assert!(self.is_behind(store).unwrap());
            self.shorter_chain(store).unwrap()
        })
    }

    /// Brings all that is sealed below it into packs; what it takes to go on with the result.
    pub(crate) fn ingest(&self) -> ShorterChain {
        self.0.served().expect("it belongs to one").with_store(|store| {
            assert!(store.ingest(self.name(), &mut |_| Ok(())).unwrap() > 0);
            assert!(self.is_behind(store).unwrap());
            self.shorter_chain(store).unwrap()
        })
    }

    pub(crate) fn record_snapshot(&self, new: &NewSnapshot, is_over: bool) {
        let store = self.0.served().expect("it belongs to one");
        let group = std::slice::from_ref(new);
        store
            .with_store(|store| match is_over {
                true => store.record_snapshots(group),
                false => store.begin_snapshots(group),
            })
            .unwrap();
    }
}
