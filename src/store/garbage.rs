//! All that is removed when garbage is collected.

use super::collected::{CollectedLost, CollectedPacks};
use super::error::StoreError;
use super::layer_copy::CopyProgress;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

impl<M: LayerMaps> OpenStore<M> {
    /// Removes what was lost for so many seconds, and what nothing needs of packs.
    ///
    /// # Errors
    /// As of [`OpenStore::collect_packs`]: what was removed by then is gone.
    pub fn collect_garbage(
        &mut self,
        grace_s: u64,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<CollectedLost, StoreError> {
        self.make_room_to_remove()?;
        let removed = self.remove_lost(grace_s)?;
        let packs = self.collect_packs(progress)?;
        self.garbage_collected(removed, packs)
    }

    /// On a full disk the catalogue has no room for any change without this.
    ///
    /// # Errors
    /// The file system's.
    pub fn make_room_to_remove(&self) -> Result<(), StoreError> {
        self.directory.release_reserve()
    }

    /// Keeps room for the next time that the disk is full.
    pub fn keep_reserve(&self) {
        self.directory.keep_reserve();
    }

    /// What a collection is told as that is over.
    ///
    /// # Errors
    /// A sentence.
    pub fn garbage_collected(
        &self,
        removed: usize,
        packs: CollectedPacks,
    ) -> Result<CollectedLost, StoreError> {
        let (store, lost) = (self.path().to_owned(), self.lost()?);
        Ok(CollectedLost { store, finished: true, removed, lost, packs, done: 0, total: 0 })
    }
}
