//! What contents in packs take, as a store tells it.

use std::sync::Arc;

use super::catalog::{LayerId, PackedSpace};
use super::error::StoreError;
use super::ingest_counts::SPACE;
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use super::packed_gauges::PackedGauges;
use super::space_notes::SpaceNotes;

const CHUNK_BYTES: u64 = SPACE.chunk_bytes as u64;

/// All that disks have in packs, and what that takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackedStore {
    /// Bytes that disks have in packs. Contents of several images or snapshots count once.
    pub(crate) data: u64,
    /// Bytes of packs that something needs.
    pub(crate) needed: u64,
    pub(crate) is_exact: bool,
}

impl<M: LayerMaps> OpenStore<M> {
    /// What is known now, and from now on.
    pub(crate) fn packed_gauges(&self) -> Arc<PackedGauges> {
        self.tell_packed();
        Arc::clone(&self.packed)
    }

    fn tell_packed(&self) {
        if let Ok(now) = self.packed_store() {
            self.packed.tell(now.data, now.needed);
        }
    }

    /// The contents of a layer, if their space is known.
    pub(super) fn packed_space(&self, layer: LayerId) -> Option<PackedSpace> {
        let noted = self.space.of(layer)?;
        Some(PackedSpace {
            data: noted.places.saturating_mul(CHUNK_BYTES),
            own_data: noted.own_chunks.saturating_mul(CHUNK_BYTES),
            own_bytes: noted.own_bytes,
        })
    }

    /// Everything in packs.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub(crate) fn packed_store(&self) -> Result<PackedStore, StoreError> {
        let view = self.view()?;
        let data =
            view.read_contents().filter_map(|row| self.packed_space(row.layer)).map(|space| space.data);
        Ok(PackedStore {
            data: data.fold(0, u64::saturating_add),
            needed: self.space.needed_bytes(),
            is_exact: self.space.is_exact(view),
        })
    }

    /// Changes what is known, and keeps it in a file. These are figures: if they cannot be kept, nothing else
    /// fails.
    pub(super) fn change_space_notes(&mut self, change: impl FnOnce(&mut SpaceNotes)) {
        let mut notes = std::mem::take(&mut self.space);
        change(&mut notes);
        if let Ok(view) = self.view() {
            notes.keep_layers(view);
        }
        if let Err(error) = self.directory.keep_space_notes(self.header().store, &notes) {
            tracing::warn!(%error, "what images take in packs is not kept: `store gc` counts it again");
        }
        self.space = notes;
        self.tell_packed();
    }
}
