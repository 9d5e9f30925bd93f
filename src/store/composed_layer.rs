//! A sealed layer with all that is read through it from below: other contents in packs, and a base.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::catalog::{ChainNode, IngestPlan, LayerId};
use super::contents::ContentsReader;
use super::contents_error::ContentsError;
use super::copy::MAP_BLOCK;
use super::error::StoreError;
use super::manifest::ManifestEntry;
use super::map::BlockState;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use super::packs::PackPlace;

/// A layer, and what is read through it.
pub(super) struct ComposedLayer {
    layer: LayerId,
    size: u64,
    map: MapReader,
    data: File,
    /// Bytes of what is below that are seen through the layer.
    pub(super) seen: u64,
    below: Option<ContentsReader>,
    pub(super) base: Option<ComposedBase>,
}

pub(super) struct ComposedBase {
    path: PathBuf,
    file: File,
    visible: u64,
}

impl ComposedLayer {
    /// The state of a block, and up to where it is the same.
    pub(super) fn run(&mut self, block: u64, end: u64) -> Result<(BlockState, u64), StoreError> {
        let run = self.map.run(block, end - block).map_err(unreadable_map(self.layer))?;
        Ok((run.state, run.end()))
    }

    /// Fills `bytes` with what the disk has from a byte on.
    pub(super) fn compose(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        bytes.fill(0);
        let end = (start + bytes.len() as u64).min(self.size);
        let mut at = start;
        while at < end {
            let (state, until) = self.run(at / MAP_BLOCK, end.div_ceil(MAP_BLOCK))?;
            let until = (until * MAP_BLOCK).min(end);
            let piece = &mut bytes[(at - start) as usize..(until - start) as usize];
            match state {
                BlockState::Absent => self.fill_from_below(at, piece)?,
                BlockState::Data => {
                    let name = format!("the data of layer {}", self.layer);
                    self.data.read_exact_at(piece, at).map_err(StoreError::at("read", Path::new(&name)))?;
                }
                BlockState::Zero | BlockState::ZeroReserved => {}
            }
            at = until;
        }
        Ok(())
    }

    /// The same of what is below the layer; `bytes` are zero.
    fn fill_from_below(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        let end = (start + bytes.len() as u64).min(self.seen);
        let mut at = start;
        while at < end {
            let (until, entry) = match &mut self.below {
                None => (end, ManifestEntry::Base),
                Some(below) if at >= below.size() => (end, ManifestEntry::Zero),
                Some(below) => {
                    let end = end.min(below.size());
                    below.part(at, end).map_err(unreadable(self.layer))?
                }
            };
            let piece = &mut bytes[(at - start) as usize..(until - start) as usize];
            match entry {
                ManifestEntry::Zero => {}
                ManifestEntry::Named(chunk) => {
                    let below = self.below.as_ref().expect("it told of the chunk");
                    below.read(&chunk, at, piece).map_err(unreadable(self.layer))?;
                }
                ManifestEntry::Base => {
                    let Some(base) = self.base.as_ref().filter(|base| at < base.visible) else {
                        at = until;
                        continue;
                    };
                    let length = (until.min(base.visible) - at) as usize;
                    let read = base.file.read_exact_at(&mut piece[..length], at);
                    read.map_err(StoreError::at("read", &base.path))?;
                }
            }
            at = until;
        }
        Ok(())
    }
}

fn unreadable(layer: LayerId) -> impl FnOnce(ContentsError) -> StoreError {
    move |why| StoreError::Contents { layer, why: why.to_string() }
}

fn unreadable_map(layer: LayerId) -> impl FnOnce(MapFileError) -> StoreError {
    move |why| StoreError::Map { layer, what: "read", why: why.to_string() }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Opens a layer that is to be ingested, and what is below it.
    pub(super) fn composed(&self, plan: &IngestPlan, place: &PackPlace) -> Result<ComposedLayer, StoreError> {
        let (data, map) = self.directory.open_layer(plan.layer)?;
        let map = MapReader::open_synced(&data, map).map_err(unreadable_map(plan.layer))?;
        let hidden = map.hidden_from().saturating_mul(MAP_BLOCK);
        let seen = plan.below.bytes.min(plan.size).min(map.size()).min(hidden);
        let (rows, end) = self.view()?.chain(plan.below);
        let visible = rows.iter().fold(plan.below.bytes, |seen, row| seen.min(row.below.bytes));
        let base = match end {
            ChainNode::Base(id) => {
                let path = self.unchanged_base(id)?;
                let file = File::open(&path).map_err(StoreError::named("open", &path))?;
                Some(ComposedBase { path, file, visible })
            }
            ChainNode::Nothing | ChainNode::Layer(_) => None,
        };
        let below = plan.older.map(|root| ContentsReader::new(place.shelf(root.space), root));
        Ok(ComposedLayer { layer: plan.layer, size: plan.size, map, data, seen, below, base })
    }
}
