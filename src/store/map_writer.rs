//! A new map of any states, written from the first block to the last with little memory.

use std::fs::File;

use super::copy::MAP_BLOCK;
use super::map::{BlockState, Geometry, LayerIdentity};
use super::map_medium::{MapFileError, OpenMap, UnsyncedMap, create_map_with, identity, open_map};
use super::maps::LayerDescription;

/// Leaves that may be in memory before they are written.
const MOST_LEAVES: usize = 256;

/// The map of a layer that is being made. Nothing of it is synced.
pub(super) struct MapWriter {
    open: OpenMap<UnsyncedMap<File>>,
    /// It tells of its place when it is complete.
    identity: LayerIdentity,
}

impl MapWriter {
    /// Of a layer that is sealed from the beginning.
    pub(super) fn create(file: File, layer: &LayerDescription) -> Result<Self, MapFileError> {
        // Its journal is used while the map is made, and never again.
        let geometry = Geometry { ring_room_bytes: Geometry::RING_BYTES, ..Geometry::default() };
        Self::create_with(file, layer, geometry)
    }

    pub(super) fn create_with(
        file: File,
        layer: &LayerDescription,
        geometry: Geometry,
    ) -> Result<Self, MapFileError> {
        assert_eq!(u64::from(geometry.block_bytes), MAP_BLOCK);
        let identity = identity(layer);
        create_map_with(&file, &LayerIdentity { base: None, ..identity.clone() }, geometry)?;
        let open = OpenMap { map: open_map(&file, &file)?, files: UnsyncedMap(file) };
        Ok(Self { open, identity })
    }

    /// Gives blocks a state.
    pub(super) fn set(&mut self, start: u64, end: u64, state: BlockState) -> Result<(), MapFileError> {
        let leaf = u64::from(Geometry::default().page_blocks);
        let mut at = start;
        // A run may have any number of leaves.
        while at < end {
            let step = end.min((at / leaf + MOST_LEAVES as u64) * leaf);
            self.open.set(at, step - at, state)?;
            if self.open.map.leaves_in_ram() >= MOST_LEAVES {
                self.write()?;
            }
            at = step;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), MapFileError> {
        self.open.commit()?;
        self.open.checkpoint()?;
        self.open.map.evict_clean(0);
        Ok(())
    }

    /// Writes the rest. The caller syncs the file.
    pub(super) fn finish(mut self) -> Result<(), MapFileError> {
        self.open.map.set_identity(self.identity.clone())?;
        self.write()
    }
}
