//! The map of a layer that nobody changes, gone through from its beginning to its end.

use std::fs::File;

use super::map::{BlockRun, LayerIdentity, LayerMap, Lookup};
use super::map_medium::{FEW_LEAVES, LayerPair, MapFileError, load_each_node, load_node, open_map};

/// A map that is read. Few of its leaves are in memory.
#[derive(Debug)]
pub(super) struct LayerMapReader {
    map: LayerMap,
    file: File,
}

impl LayerMapReader {
    pub(super) fn open(data: &File, file: File) -> Result<Self, MapFileError> {
        let map = open_map(data, &file)?;
        Ok(Self { map, file })
    }

    /// Reads every node once.
    pub(super) fn verified(mut self) -> Result<Self, MapFileError> {
        load_each_node(&mut self.map, &LayerPair { data: &self.file, map: &self.file })?;
        Ok(self)
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.map.size()
    }

    /// ABSENT blocks from this one on read as zeroes.
    pub(super) fn hidden_from(&self) -> u64 {
        self.map.hidden_from()
    }

    pub(super) fn identity(&self) -> &LayerIdentity {
        self.map.identity()
    }

    /// The first of these blocks that have one state.
    pub(super) fn run(&mut self, start: u64, length: u64) -> Result<BlockRun, MapFileError> {
        loop {
            match self.map.lookup(start, length) {
                Lookup::Run(run) => {
                    self.map.evict_clean(FEW_LEAVES);
                    return Ok(run);
                }
                Lookup::Load(node) => {
                    let files = LayerPair { data: &self.file, map: &self.file };
                    load_node(&mut self.map, &files, node)?;
                }
            }
        }
    }
}
