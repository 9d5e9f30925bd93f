//! A change of a store takes place: first in its catalogue, then on the disk, where something goes.

use std::sync::atomic::Ordering;

use super::catalog::CatalogChange;
use super::collection_bug::{CollectionBug, is_planted};
use super::commit_cut::{CommitCut, is_cut};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, Released};
use super::pending::forget_log;

impl<M: LayerMaps> OpenStore<M> {
    /// Makes a change durable, then removes the layers that nothing needs any more.
    pub(super) fn commit(&mut self, change: &CatalogChange) -> Result<Released, StoreError> {
        if is_planted(CollectionBug::LayerDeletedEarly) {
            let _released = self.release(change)?;
        }
        if is_cut(CommitCut::BeforeCatalog) {
            return Err(StoreError::Interrupted);
        }
        let committed = self.catalog.commit(change);
        self.changes.fetch_add(1, Ordering::Release);
        committed.map_err(|source| StoreError::Commit { path: self.directory.path().to_owned(), source })?;
        if change.has_foreign() {
            self.directory.foreign.follow(self.view()?);
        }
        if is_cut(CommitCut::BehindCatalog) {
            return Err(StoreError::Interrupted);
        }
        self.release(change)
    }

    /// Removes the layers that nothing needs any more, as the catalogue says.
    fn release(&mut self, change: &CatalogChange) -> Result<Released, StoreError> {
        let mut released = Released::default();
        for layer in change.released_layers() {
            released.layers += 1;
            if let Ok((_, map)) = self.directory.open_layer(layer) {
                forget_log(&map, (self.header().store, layer.0));
            }
            released.bytes += self.directory.layer_usage(layer).map_or(0, |usage| usage.data + usage.map);
            self.directory.remove_layer(layer)?;
            self.forget_changes(layer)?;
        }
        Ok(released)
    }
}
