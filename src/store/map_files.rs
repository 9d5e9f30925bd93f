//! The maps of a store as files: how one is made, sealed, and given another size.

use std::fs::File;

use super::copy::BlockSpan;
use super::map::BlockState;
use super::map_medium::{
    LayerPair, MapFileError, OpenMap, create_map, head_geometry, identity, open_head_map,
};
use super::map_writer::MapWriter;
use super::maps::{LayerDescription, LayerMaps};

/// Maps as files.
#[derive(Debug, Clone, Copy)]
pub struct MapFiles;

impl LayerMaps for MapFiles {
    fn create(&self, map: &File, layer: &LayerDescription, data: &[BlockSpan]) -> Result<(), String> {
        let made = || -> Result<(), MapFileError> {
            if data.is_empty() {
                return create_map(map, &identity(layer));
            }
            let mut writer = MapWriter::create_with(map.try_clone()?, layer, head_geometry())?;
            for span in data {
                writer.set(span.start, span.start + span.blocks, BlockState::Data)?;
            }
            writer.finish()
        };
        made().map_err(|error| error.to_string())
    }

    fn seal(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let sealed = || -> Result<(), MapFileError> {
            let files = LayerPair { data, map };
            let mut open = OpenMap { map: open_head_map(&files)?, files };
            open.change_size(size)?;
            open.checkpoint()
        };
        sealed().map_err(|error| error.to_string())
    }

    fn resize(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let resized = || -> Result<(), MapFileError> {
            let files = LayerPair { data, map };
            OpenMap { map: open_head_map(&files)?, files }.change_size(size)
        };
        resized().map_err(|error| error.to_string())
    }
}

/// Gives blocks of a head a state, durably, as a server does that writes them.
#[cfg(test)]
pub(super) fn change_states(data: &File, map: &File, start: u64, blocks: u64, state: BlockState) {
    try_change_states(data, map, start, blocks, state).unwrap();
}

/// The same, which may fail.
#[cfg(test)]
pub(super) fn try_change_states(
    data: &File,
    map: &File,
    start: u64,
    blocks: u64,
    state: BlockState,
) -> Result<(), MapFileError> {
    let files = LayerPair { data, map };
    let mut open = OpenMap { map: super::map_medium::open_map_of(&files)?, files };
    open.set(start, blocks, state)?;
    open.commit()
}

#[cfg(test)]
mod dense_tests;
#[cfg(test)]
mod killed_tests;
