//! An image is closed because its store goes to another process, and may come back.

use super::store::ImageStore;
use crate::exec::lock;
use crate::store::map_files::MapFiles;
use crate::store::map_medium::commit_map;
use crate::store::open_store::OpenStore;

impl ImageStore {
    /// Writes back what is in the data of the head. False if writes were lost, now or before.
    pub(in crate::backend) fn sync_ahead(&self) -> bool {
        let layers = self.layers();
        let data = &layers[0].data;
        if self.head_options().is_some() && data.buffered.sync_data().is_err() {
            // The kernel tells this description of it once.
            self.note_lost_writes();
        }
        !self.has_lost_writes()
    }

    fn has_lost_writes(&self) -> bool {
        let layers = self.layers();
        layers.iter().any(|layer| layer.data.inode.syncs.has_failed() || layer.commits.syncs.has_failed())
    }

    /// Its next FLUSH fails, and each after it.
    pub(in crate::backend) fn note_lost_writes(&self) {
        let layers = self.layers();
        layers[0].data.inode.syncs.set_failed();
        layers[0].commits.syncs.set_failed();
    }

    /// Makes what is pending durable, as its end would; false if that fails.
    pub(in crate::backend) fn commit_parked(&self) -> bool {
        if self.has_lost_writes() {
            return false;
        }
        let mut parked = lock(&self.parked);
        let layers = self.layers();
        let Some(file) = &layers[0].map else { return true };
        if !parked.as_ref().is_some_and(|maps| maps[0].has_pending()) {
            return true;
        }
        let head = parked.take().and_then(|maps| maps.into_iter().next()).expect("there is one");
        let committed = commit_map(head, &layers[0].data.buffered, file);
        committed.inspect_err(|error| tracing::error!(%error, "an image is not durable")).is_ok()
    }

    /// Keeps its base open for the time after: whoever is confined cannot open it again.
    pub(in crate::backend) fn keep_base(&self, store: &OpenStore<MapFiles>) {
        let (Some(base), Some(served)) = (&self.base, self.served()) else { return };
        let of = store.shape(served.name()).ok().and_then(|shape| shape.base);
        if let Some(of) = of.filter(|of| served.store().base(of.id).is_none()) {
            served.store().keep_base(of.id, base.clone());
        }
    }
}
