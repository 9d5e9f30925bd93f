//! The map of a layer that nobody writes meanwhile, to be looked at.

use std::fs::File;

use super::map::{BlockRun, BlockState, LayerIdentity, LayerMap, Lookup};
use super::map_medium::{MapFileError, UnsyncedMap, load_each_node, load_node, open_map, open_map_of};

/// A map that is read. Few of its leaves are in memory.
#[derive(Debug)]
pub(crate) struct MapReader {
    map: LayerMap,
    file: File,
}

impl MapReader {
    /// Leaves of a map that are kept in memory, and how many may come before the rest is dropped.
    const LEAVES: (usize, usize) = (64, 256);

    pub(crate) fn open(file: File) -> Result<Self, MapFileError> {
        Ok(Self { map: open_map_of(&UnsyncedMap(&file))?, file })
    }

    /// What it says is on the medium: for those who make something of it that lasts.
    pub(super) fn open_synced(data: &File, file: File) -> Result<Self, MapFileError> {
        Ok(Self { map: open_map(data, &file)?, file })
    }

    /// Reads every node once.
    pub(super) fn verified(mut self) -> Result<Self, MapFileError> {
        load_each_node(&mut self.map, &UnsyncedMap(&self.file))?;
        Ok(self)
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
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
                Lookup::Run(run) => return Ok(run),
                Lookup::Load(node) => {
                    if self.map.leaves_in_ram() > Self::LEAVES.1 {
                        self.map.evict_clean(Self::LEAVES.0);
                    }
                    load_node(&mut self.map, &UnsyncedMap(&self.file), node)?;
                }
            }
        }
    }

    /// The state of the block at a place of the disk, and the end of a part, up to `end`, that has it.
    pub(crate) fn state_at(&mut self, at: u64, end: u64) -> Result<(BlockState, u64), MapFileError> {
        let block = u64::from(self.map.geometry().block_bytes);
        let start = at / block;
        let run = self.run(start, end.div_ceil(block) - start)?;
        Ok((run.state, (run.end() * block).min(end)))
    }
}
