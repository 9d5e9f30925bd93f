//! The contents of an image or a snapshot that nobody has open, from all of its layers and its base.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::contents::ContentsReader;
use super::contents_error::ContentsError;
use super::copy::next_data;
use super::manifest::{ManifestEntry, NamedChunk};
use super::map::BlockState;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::open_store::OpenStore;
use super::serving::ImageFiles;
use super::{catalog::NodeName, error::StoreError, maps::LayerMaps};

/// An image or a snapshot as a disk.
#[derive(Debug)]
pub(crate) struct WholeNode {
    size: u64,
    layers: Vec<WholeLayer>,
    contents: Option<(ContentsReader, u64)>,
    /// The chunk that the last part was in.
    chunk: Option<NamedChunk>,
    base: Option<(File, u64)>,
}

#[derive(Debug)]
struct WholeLayer {
    map: MapReader,
    data: File,
    visible: u64,
}

/// A part of a disk that is in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePart {
    pub start: u64,
    pub end: u64,
    /// 1 for the newest layer, the others and the base next, 0 for nowhere.
    pub depth: u32,
    /// Layers that there are, without the base.
    pub layers: u32,
    /// Its bytes are in a file; otherwise they are zeroes.
    pub has_data: bool,
}

impl<M: LayerMaps> OpenStore<M> {
    /// Opens all that an image or a snapshot consists of.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn whole(&self, node: &NodeName) -> Result<WholeNode, StoreError> {
        let ImageFiles { size, layers, contents, base } = self.files(node)?;
        let mut opened = Vec::with_capacity(layers.len());
        for layer in layers {
            let map = MapReader::open(layer.map).map_err(|error| StoreError::Map {
                layer: layer.id,
                what: "read",
                why: error.to_string(),
            })?;
            opened.push(WholeLayer { map, data: layer.data, visible: layer.visible });
        }
        let base = base.map(|base| {
            let path = self.unchanged_base(base.id)?;
            let file = File::open(&path).map_err(StoreError::named("open", &path))?;
            Ok::<_, StoreError>((file, base.visible))
        });
        let contents = contents.map(|contents| {
            Ok::<_, StoreError>((
                ContentsReader::new(self.pack_place()?.shelf(contents.root.space), contents.root),
                contents.visible,
            ))
        });
        Ok(WholeNode {
            size,
            layers: opened,
            contents: contents.transpose()?,
            chunk: None,
            base: base.transpose()?,
        })
    }
}

fn unreadable(error: ContentsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl WholeNode {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The part that a byte is in, as far as it is the same up to `end`. A hole of the base has no data.
    pub(crate) fn part(&mut self, start: u64, end: u64) -> Result<NodePart, MapFileError> {
        let mut end = end.min(self.size);
        let layers = self.layers.len() as u32 + u32::from(self.contents.is_some());
        self.chunk = None;
        let zeroes = |end, depth| NodePart { start, end, depth, layers, has_data: false };
        for (depth, layer) in (1..).zip(&mut self.layers) {
            let visible = layer.visible.min(layer.map.size());
            if visible <= start {
                return Ok(zeroes(end, depth));
            }
            let (state, until) = layer.map.state_at(start, end.min(visible))?;
            end = until;
            match state {
                BlockState::Absent => {}
                BlockState::Data => return Ok(NodePart { has_data: true, ..zeroes(end, depth) }),
                BlockState::Zero | BlockState::ZeroReserved => return Ok(zeroes(end, depth)),
            }
        }
        if let Some((contents, visible)) = &mut self.contents {
            let visible = (*visible).min(contents.size());
            if visible <= start {
                return Ok(zeroes(end, layers));
            }
            let (until, entry) = contents.part(start, end.min(visible)).map_err(unreadable)?;
            end = until;
            match entry {
                ManifestEntry::Zero => return Ok(zeroes(end, layers)),
                ManifestEntry::Named(chunk) => {
                    self.chunk = Some(chunk);
                    return Ok(NodePart { has_data: true, ..zeroes(end, layers) });
                }
                ManifestEntry::Base => {}
            }
        }
        let Some((base, visible)) = &self.base else { return Ok(zeroes(end, 0)) };
        if *visible <= start {
            return Ok(zeroes(end, 0));
        }
        let depth = layers + 1;
        end = end.min(*visible);
        Ok(match next_data(base, start, end)? {
            Some((data, until)) if data == start => NodePart { has_data: true, ..zeroes(until, depth) },
            Some((data, _)) => zeroes(data, depth),
            None => zeroes(end, depth),
        })
    }

    /// Reads bytes from anywhere.
    pub(crate) fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), MapFileError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = at + done as u64;
            let part = self.part(at, at + (bytes.len() - done) as u64)?;
            let piece = &mut bytes[done..done + (part.end - at) as usize];
            if part.has_data {
                self.read(&part, at, piece)?
            } else {
                piece.fill(0)
            }
            done += (part.end - at) as usize;
        }
        Ok(())
    }

    /// Reads bytes of one part that has data.
    fn read(&self, part: &NodePart, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        if let (Some(chunk), Some((contents, _))) = (self.chunk, &self.contents) {
            return contents.read(&chunk, at, bytes).map_err(unreadable);
        }
        let layer = self.layers.get((part.depth as usize).wrapping_sub(1)).map(|layer| &layer.data);
        let file = layer.or(self.base.as_ref().map(|(base, _)| base));
        file.expect("a part with data is in a file").read_exact_at(bytes, at)
    }
}
