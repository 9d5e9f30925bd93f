//! A sealed layer comes into packs: [`finish_ingest`](super::catalog::finish_ingest), with its files.
//!
//! An ingest runs in steps, and other things may be done to the store between them: what it reads does not
//! change, and whether its result still fits is decided in the end. The order:
//!
//! 1. each chunk of the disk that the layer has a part of is composed, and found in a pack or appended to one
//! 2. the packs are finished, durable and listed; the manifest's nodes are in them
//! 3. one transaction of the catalogue: the contents of the layer are in packs
//! 4. the file of the layer's data is removed; whoever has it open reads on
//!
//! An interruption before 3 costs the work on the last pack: chunks of packs that are listed are found the
//! next time, and not written again. After it the file goes when the store is opened.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::catalog::{self, ChainNode, IngestPlan, LayerId, NodeName};
use super::contents::ContentsReader;
use super::copy::{MAP_BLOCK, is_zero};
use super::error::StoreError;
use super::index::ChunkIndex;
use super::layer_copy::CopyProgress;
use super::manifest::{ManifestEntry, ManifestRoot, updated};
use super::map::BlockState;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, Released};
use super::pack::{ChunkCodec, ChunkSpace, HashAlgorithm, PackError};
use super::pack_filling::{FillError, PackFilling};
use super::packs::PackPlace;

/// How disks are cut.
const CHUNK_BYTES: u32 = 64 << 10;
/// Chunks of a step that are read and hashed.
const STEP_CHUNKS: usize = 32;
/// Chunks of a step that are looked at.
const STEP_LOOKS: usize = 8192;
/// Changes that are kept until the manifest takes them in.
const MOST_CHANGES: usize = 4096;

/// How chunks are named in a store without any setting.
pub(super) const SPACE: ChunkSpace =
    ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: CHUNK_BYTES, domain: Uuid::nil() };

/// A layer that is on its way into packs.
pub struct LayerIngest {
    plan: IngestPlan,
    from: ComposedLayer,
    filling: PackFilling,
    index: ChunkIndex,
    /// The contents as far as they were taken in.
    root: ManifestRoot,
    /// What comes next, in order.
    changes: Vec<(u64, ManifestEntry)>,
    /// The next chunk.
    at: u64,
}

/// A layer, and what is read through it.
struct ComposedLayer {
    layer: LayerId,
    size: u64,
    map: MapReader,
    data: File,
    /// Bytes of what is below that are seen through the layer.
    seen: u64,
    below: Option<ContentsReader>,
    base: Option<ComposedBase>,
}

struct ComposedBase {
    path: PathBuf,
    file: File,
    visible: u64,
}

impl ComposedLayer {
    /// The state of a block, and up to where it is the same.
    fn run(&mut self, block: u64, end: u64) -> Result<(BlockState, u64), StoreError> {
        let run = self.map.run(block, end - block).map_err(unreadable_map(self.layer))?;
        Ok((run.state, run.end()))
    }

    /// Fills `bytes` with what the disk has from a byte on.
    fn compose(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
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

fn unreadable(layer: LayerId) -> impl FnOnce(super::contents::ContentsError) -> StoreError {
    move |why| StoreError::Contents { layer, why: why.to_string() }
}

fn unreadable_map(layer: LayerId) -> impl FnOnce(MapFileError) -> StoreError {
    move |why| StoreError::Map { layer, what: "read", why: why.to_string() }
}

fn not_made(layer: LayerId) -> impl Fn(FillError) -> StoreError {
    move |why| StoreError::Contents { layer, why: why.to_string() }
}

impl LayerIngest {
    /// The layer.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        self.plan.layer
    }

    fn chunks(&self) -> u64 {
        self.plan.size.div_ceil(CHUNK_BYTES.into())
    }

    #[must_use]
    pub fn progress(&self) -> CopyProgress {
        let done = self.at.saturating_mul(CHUNK_BYTES.into()).min(self.plan.size);
        CopyProgress { done, total: self.plan.size }
    }

    /// The next chunk, from the one at `at` on, that the layer has a part of. None: only `at` was moved.
    fn next_touched(&mut self) -> Result<Option<TouchedChunk>, StoreError> {
        let blocks_a_chunk = u64::from(CHUNK_BYTES) / MAP_BLOCK;
        let blocks = self.plan.size.div_ceil(MAP_BLOCK);
        let first = self.at * blocks_a_chunk;
        let (state, end) = self.from.run(first, blocks)?;
        let whole = end / blocks_a_chunk;
        match state {
            // What is below ends within a chunk: behind that it reads as zeroes.
            BlockState::Absent if self.at == self.cut_chunk() => Ok(Some(TouchedChunk::Composed)),
            BlockState::Absent if end == blocks || whole > self.at => {
                let next = if end == blocks { self.chunks() } else { whole };
                let cut = self.cut_chunk();
                self.at = if (self.at..next).contains(&cut) { cut } else { next };
                Ok(None)
            }
            BlockState::Zero | BlockState::ZeroReserved if end == blocks || whole > self.at => {
                Ok(Some(TouchedChunk::Zero))
            }
            _ => Ok(Some(TouchedChunk::Composed)),
        }
    }

    /// The chunk within which what is below ends; one behind all others if there is none.
    fn cut_chunk(&self) -> u64 {
        let (seen, bytes) = (self.from.seen, u64::from(CHUNK_BYTES));
        if seen < self.plan.size && !seen.is_multiple_of(bytes) { seen / bytes } else { u64::MAX }
    }
}

enum TouchedChunk {
    Zero,
    Composed,
}

impl<M: LayerMaps> OpenStore<M> {
    /// The layer of an image or a snapshot that is to be ingested next; none if all that is sealed was.
    fn ingest_plan(&self, node: &NodeName) -> Result<Option<IngestPlan>, StoreError> {
        let from = match &node.snapshot {
            None => self.image(&node.image)?.below,
            Some(name) => self.snapshot_row(&node.image, name)?.below,
        };
        Ok(self.view()?.next_ingest(from))
    }

    /// Begins to ingest the next layer of an image or a snapshot.
    ///
    /// # Errors
    /// A sentence; its base is another file than it was.
    pub fn begin_ingest(&mut self, node: &NodeName) -> Result<Option<LayerIngest>, StoreError> {
        let Some(plan) = self.ingest_plan(node)? else { return Ok(None) };
        let place = self.directory.make_packs(self.header().store)?;
        let from = self.composed(&plan, &place)?;
        let index = self.directory.index(&place, self.view()?)?;
        let filling = PackFilling::new(place, SPACE, ChunkCodec::Lz4);
        let root = plan.older.unwrap_or(ManifestRoot::zeroes(SPACE, 0));
        let mut ingest = LayerIngest { plan, from, filling, index, root, changes: Vec::new(), at: 0 };
        // What is not seen of what is below reads as zeroes, even where the disk has grown again.
        let seen = ingest.from.seen;
        let of_base = match (&ingest.plan.older, &ingest.from.base) {
            (None, Some(_)) => seen.div_ceil(CHUNK_BYTES.into()),
            _ => 0,
        };
        let seen = if ingest.plan.older.is_some() { seen.min(ingest.root.size) } else { seen };
        let begun = self.take_in(&mut ingest, seen, (0..of_base).map(|chunk| (chunk, ManifestEntry::Base)));
        match begun {
            Ok(()) => Ok(Some(ingest)),
            Err(error) => {
                self.abandon_ingest(ingest);
                Err(error)
            }
        }
    }

    fn composed(&self, plan: &IngestPlan, place: &PackPlace) -> Result<ComposedLayer, StoreError> {
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

    /// Goes on a little: a few MiB at most.
    ///
    /// # Errors
    /// A sentence. Then it is to be given up, by [`OpenStore::abandon_ingest`].
    pub fn ingest_step(&mut self, ingest: &mut LayerIngest) -> Result<CopyProgress, StoreError> {
        let mut bytes = vec![0; CHUNK_BYTES as usize];
        let (mut composed, mut looks) = (0, 0);
        while ingest.at < ingest.chunks() && composed < STEP_CHUNKS && looks < STEP_LOOKS {
            looks += 1;
            let entry = match ingest.next_touched()? {
                None => continue,
                Some(TouchedChunk::Zero) => ManifestEntry::Zero,
                Some(TouchedChunk::Composed) => {
                    composed += 1;
                    ingest.from.compose(ingest.at * u64::from(CHUNK_BYTES), &mut bytes)?;
                    self.put_chunk(ingest, &bytes)?
                }
            };
            ingest.changes.push((ingest.at, entry));
            ingest.at += 1;
            if ingest.changes.len() >= MOST_CHANGES {
                self.take_in_changes(ingest)?;
            }
        }
        if ingest.filling.is_full() {
            self.take_in_changes(ingest)?;
            self.finish_pack(&mut ingest.filling, &mut ingest.index)?;
        }
        Ok(ingest.progress())
    }

    fn put_chunk(&mut self, ingest: &mut LayerIngest, bytes: &[u8]) -> Result<ManifestEntry, StoreError> {
        if is_zero(bytes) {
            return Ok(ManifestEntry::Zero);
        }
        loop {
            self.begin_pack(&mut ingest.filling)?;
            match ingest.filling.put(bytes, (&ingest.index, self.view()?)) {
                Ok(chunk) => return Ok(ManifestEntry::Named(chunk)),
                Err(FillError::Pack(PackError::Full)) => {
                    self.finish_pack(&mut ingest.filling, &mut ingest.index)?;
                }
                Err(error) => return Err(not_made(ingest.plan.layer)(error)),
            }
        }
    }

    /// The manifest takes in what has changed.
    fn take_in_changes(&mut self, ingest: &mut LayerIngest) -> Result<(), StoreError> {
        let (changes, size) = (std::mem::take(&mut ingest.changes), ingest.plan.size);
        self.take_in(ingest, size, changes.into_iter())
    }

    /// The manifest takes changes in, as one of a disk of `size` bytes.
    fn take_in(
        &mut self,
        ingest: &mut LayerIngest,
        size: u64,
        changes: impl Iterator<Item = (u64, ManifestEntry)> + Clone,
    ) -> Result<(), StoreError> {
        if changes.clone().next().is_none() && size == ingest.root.size {
            return Ok(());
        }
        loop {
            self.begin_pack(&mut ingest.filling)?;
            let mut nodes = ingest.filling.nodes((&ingest.index, self.view()?));
            match updated(&mut nodes, &ingest.root, size, changes.clone().map(Ok)) {
                Ok(root) => {
                    ingest.root = root;
                    return Ok(());
                }
                Err(super::manifest::ManifestError::Nodes(FillError::Pack(PackError::Full))) => {
                    self.finish_pack(&mut ingest.filling, &mut ingest.index)?;
                }
                Err(error) => {
                    return Err(StoreError::Contents { layer: ingest.plan.layer, why: error.to_string() });
                }
            }
        }
    }

    /// The contents of the layer are in packs from now on, durably. If the layer has changed its place so
    /// that they do not fit any more, they are given up.
    ///
    /// # Errors
    /// A sentence.
    pub fn finish_ingest(&mut self, mut ingest: LayerIngest) -> Result<Released, StoreError> {
        assert!(ingest.progress().is_done(), "all of it was looked at");
        self.take_in_changes(&mut ingest)?;
        self.finish_pack(&mut ingest.filling, &mut ingest.index)?;
        let LayerIngest { plan, filling, root, .. } = ingest;
        let change = self.decide(|view, _| catalog::finish_ingest(view, &plan, root, filling.named()))?;
        let bytes = self.directory.layer_usage(plan.layer).map_or(0, |usage| usage.data);
        self.commit(&change)?;
        self.directory.remove_data(plan.layer)?;
        Ok(Released { layers: 1, bytes })
    }

    /// Gives an ingest up: nothing has changed. What was written of whole packs is found the next time.
    pub fn abandon_ingest(&mut self, mut ingest: LayerIngest) {
        if self.finish_pack(&mut ingest.filling, &mut ingest.index).is_err() {
            ingest.filling.abandon();
        }
    }

    /// Ingests all that is sealed of an image or a snapshot, the oldest layer first, and says how many layers
    /// that were. `progress` is told how far each is, may wait, and ends the work by its error.
    ///
    /// # Errors
    /// A sentence, or what `progress` says: what was ingested stays so.
    pub fn ingest(
        &mut self,
        node: &NodeName,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        let mut layers = 0;
        while let Some(mut ingest) = self.begin_ingest(node)? {
            loop {
                let stepped = self.ingest_step(&mut ingest).and_then(|done| progress(done).map(|()| done));
                match stepped {
                    Ok(done) if done.is_done() => break,
                    Ok(_) => {}
                    Err(error) => {
                        self.abandon_ingest(ingest);
                        return Err(error);
                    }
                }
            }
            self.finish_ingest(ingest)?;
            layers += 1;
        }
        Ok(layers)
    }

    /// Takes a snapshot unless it is there, and ingests it: it can be called again after an interruption.
    ///
    /// # Errors
    /// As of [`OpenStore::snapshot`] and [`OpenStore::ingest`]; an image is no snapshot.
    pub fn checkpoint(
        &mut self,
        node: &NodeName,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        if !self.has_snapshot(node)? {
            self.snapshot(vec![node.clone()])?;
        }
        self.ingest(node, progress)
    }

    /// Whether a snapshot is there.
    ///
    /// # Errors
    /// Its image is missing, or this is the name of an image.
    pub fn has_snapshot(&self, node: &NodeName) -> Result<bool, StoreError> {
        let (image, snapshot) = node.clone().into_snapshot()?;
        Ok(self.view()?.snapshot(self.image(&image)?.id, &snapshot).is_some())
    }
}

#[cfg(test)]
mod tests;
