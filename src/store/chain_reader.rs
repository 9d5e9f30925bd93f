//! What a chain of layers says of each block, from above: for those who copy it.

use std::fs::File;
use std::path::PathBuf;

use super::catalog::LayerId;
use super::collection_pins::HeldContents;
use super::contents::ContentsReader;
use super::contents_error::ContentsError;
use super::copy::MAP_BLOCK;
use super::error::StoreError;
use super::manifest::{ManifestEntry, NamedChunk};
use super::map::BlockState;
use super::map_reader::MapReader;

/// A layer that nobody changes.
#[derive(Debug)]
pub(super) struct SealedLayer {
    pub(super) id: LayerId,
    pub(super) data: File,
    pub(super) map: MapReader,
    /// Bytes of it that are seen from above; nothing beyond is seen of what is below it either.
    pub(super) visible: u64,
}

/// What is below the layers in packs.
#[derive(Debug)]
pub(super) struct SealedContents {
    /// The layer that was ingested.
    pub(super) id: LayerId,
    pub(super) reader: ContentsReader,
    /// Bytes of it that are seen from above; nothing beyond is seen of the bottom either.
    pub(super) visible: u64,
    pub(super) _held: HeldContents,
}

/// A file or device below all layers.
#[derive(Debug)]
pub(super) struct BottomFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes of it that are seen from above.
    pub(super) visible: u64,
}

/// Layers on each other, the newest first.
#[derive(Debug)]
pub(super) struct ChainReader {
    /// A layer above them: what it has is not asked for.
    pub(super) above: Option<(LayerId, MapReader)>,
    pub(super) layers: Vec<SealedLayer>,
    pub(super) contents: Option<SealedContents>,
    pub(super) bottom: Option<BottomFile>,
}

/// What has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockSource {
    /// None of the layers says anything of it, and there is no bottom.
    Nothing,
    /// It reads as zeroes, or is not asked for.
    Zeroes,
    /// The layer with this number.
    Layer(usize),
    /// This chunk of the disk, in packs.
    Chunk(NamedChunk),
    Bottom,
}

fn read_error(layer: LayerId) -> impl Fn(super::map_medium::MapFileError) -> StoreError {
    move |why| StoreError::Map { layer, what: "read", why: why.to_string() }
}

fn contents_error(layer: LayerId) -> impl Fn(ContentsError) -> StoreError {
    move |why| StoreError::Contents { layer, why: why.to_string() }
}

impl SealedContents {
    /// What has a block; none if that is the bottom.
    fn source(&mut self, start: u64, end: u64) -> Result<(u64, Option<BlockSource>), StoreError> {
        let visible = self.visible.min(self.reader.size());
        let (at, to) = (start * MAP_BLOCK, end.saturating_mul(MAP_BLOCK).min(visible));
        if at >= visible {
            return Ok((end, Some(BlockSource::Zeroes)));
        }
        let (until, entry) = self.reader.part(at, to).map_err(contents_error(self.id))?;
        let source = match entry {
            ManifestEntry::Zero => Some(BlockSource::Zeroes),
            ManifestEntry::Named(chunk) => Some(BlockSource::Chunk(chunk)),
            ManifestEntry::Base => None,
        };
        Ok((until.div_ceil(MAP_BLOCK), source))
    }
}

impl ChainReader {
    /// What has the first of the blocks `start..end`, and up to where that is the same.
    pub(super) fn source(&mut self, start: u64, end: u64) -> Result<(u64, BlockSource), StoreError> {
        let mut end = end;
        if let Some((id, map)) = &mut self.above {
            let blocks = map.size().div_ceil(MAP_BLOCK);
            if start >= blocks {
                return Ok((end, BlockSource::Zeroes));
            }
            let run = map.run(start, end.min(blocks) - start).map_err(read_error(*id))?;
            end = run.end();
            if run.state != BlockState::Absent {
                return Ok((end, BlockSource::Zeroes));
            }
        }
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let blocks = layer.visible.min(layer.map.size()).div_ceil(MAP_BLOCK);
            if start >= blocks {
                return Ok((end, BlockSource::Zeroes));
            }
            let run = layer.map.run(start, end.min(blocks) - start).map_err(read_error(layer.id))?;
            end = run.end();
            match run.state {
                BlockState::Absent => {}
                BlockState::Data => return Ok((end, BlockSource::Layer(number))),
                BlockState::Zero | BlockState::ZeroReserved => return Ok((end, BlockSource::Zeroes)),
            }
        }
        if let Some(contents) = &mut self.contents {
            let (until, source) = contents.source(start, end)?;
            end = until;
            if let Some(source) = source {
                return Ok((end, source));
            }
        }
        let Some(bottom) = &self.bottom else { return Ok((end, BlockSource::Nothing)) };
        match bottom.visible.div_ceil(MAP_BLOCK) {
            blocks if start < blocks => Ok((end.min(blocks), BlockSource::Bottom)),
            _ => Ok((end, BlockSource::Zeroes)),
        }
    }

    /// A source's file, its bytes that are seen, and its path for people.
    pub(super) fn file(&self, source: BlockSource) -> Option<(&File, u64, String)> {
        match source {
            BlockSource::Nothing | BlockSource::Zeroes | BlockSource::Chunk(_) => None,
            BlockSource::Layer(number) => {
                let layer = &self.layers[number];
                let visible = layer.visible.min(layer.map.size());
                Some((&layer.data, visible, format!("the data of layer {}", layer.id)))
            }
            BlockSource::Bottom => {
                let bottom = self.bottom.as_ref()?;
                Some((&bottom.file, bottom.visible, bottom.path.display().to_string()))
            }
        }
    }

    /// Bytes of the disk, from the beginning of a block on, that are within one chunk. What is not seen of
    /// the chunk is zeroes.
    pub(super) fn read_chunk(
        &self,
        chunk: &NamedChunk,
        (start, end): (u64, u64),
    ) -> Result<Vec<u8>, StoreError> {
        let contents = self.contents.as_ref().expect("they told of the chunk");
        let (first, last) = (start * MAP_BLOCK, end * MAP_BLOCK);
        let seen = last.min(contents.visible).min(contents.reader.size());
        let mut bytes = vec![0; (last - first) as usize];
        let read = contents.reader.read(chunk, first, &mut bytes[..(seen - first) as usize]);
        read.map_err(contents_error(contents.id))?;
        Ok(bytes)
    }

    /// Bytes of what is below all layers that are seen through them, of which `below` bytes are shown by the
    /// last one.
    pub(super) fn seen(&self, below: u64) -> u64 {
        self.layers.iter().fold(below, |seen, layer| {
            let hidden = layer.map.hidden_from().saturating_mul(MAP_BLOCK);
            seen.min(layer.visible).min(layer.map.size()).min(hidden)
        })
    }
}
