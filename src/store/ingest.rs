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

use std::sync::Arc;
use std::time::Duration;

use super::catalog::{
    self, Below, CatalogHeader, ChainNode, ChunkCompression, ImageRefusal, IngestPlan, LayerId, NodeName,
};
use super::collection_bug::{CollectionBug, is_planted};
use super::collection_pins::HeldContents;
use super::composed_layer::ComposedLayer;
use super::copy::{MAP_BLOCK, is_zero};
use super::error::StoreError;
use super::index::ChunkIndex;
use super::ingest_counts::{IngestCounts, SPACE};
use super::layer_copy::CopyProgress;
use super::manifest::{ManifestEntry, ManifestError, ManifestRoot, all_of_base, updated};
use super::map::BlockState;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, Released, now_s};
use super::pack::{ChunkCodec, PackError};
use super::pack_filling::{FillError, PackFilling};
use super::step_sizes::step_sizes;

/// How disks are cut.
const CHUNK_BYTES: u32 = SPACE.chunk_bytes;
/// Chunks of a step that are looked at.
const STEP_LOOKS: usize = 8192;
/// Changes that are kept until the manifest takes them in.
const MOST_CHANGES: usize = 4096;

/// Layers that are told of at once.
const MOST_DUE: usize = 64;

/// Layers that may come into packs without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueLayers {
    /// Those that have been sealed for the longest.
    pub first: Vec<LayerId>,
    /// All of them.
    pub count: usize,
}

/// A layer that is on its way into packs.
pub struct LayerIngest {
    plan: IngestPlan,
    from: ComposedLayer,
    filling: PackFilling,
    /// What it reads below the layer stays, also when somebody else has ingested or removed the layer.
    _held: Option<HeldContents>,
    index: Arc<ChunkIndex>,
    /// The contents as far as they were taken in.
    root: ManifestRoot,
    /// What comes next, in order.
    changes: Vec<(u64, ManifestEntry)>,
    /// The next chunk.
    at: u64,
    /// Chunks that read as zeroes.
    zeroes: u64,
}

/// How the chunks of a store are compressed.
fn codec(header: &CatalogHeader) -> ChunkCodec {
    match header.compression() {
        ChunkCompression::None => ChunkCodec::Raw,
        ChunkCompression::Lz4 => ChunkCodec::Lz4,
        ChunkCompression::Zstd => ChunkCodec::Zstd,
    }
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

    /// Whether another thread is to write packs, while the store's reads and names what comes next: that is
    /// faster, and needs a second processor.
    pub fn write_aside(&mut self, is_wanted: bool) {
        self.filling.write_aside(is_wanted);
    }

    /// Waits until no other thread writes; says what time of processors such threads have taken so far.
    pub fn settle(&mut self) -> Duration {
        self.filling.settle()
    }

    /// What it has done so far.
    #[must_use]
    pub const fn counts(&self) -> IngestCounts {
        IngestCounts { zeroes: self.zeroes, ..self.filling.counts() }
    }

    /// Bytes that it has read and named so far.
    #[must_use]
    pub const fn looked_at(&self) -> u64 {
        self.counts().bytes()
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
            Some(name) => {
                let row = self.snapshot_row(&node.image, name)?;
                if row.is_changes_only() {
                    return Err(ImageRefusal::ChangesOnly(node.to_string()).into());
                }
                row.below
            }
        };
        Ok(self.view()?.next_ingest(from))
    }

    /// Begins to ingest the next layer of an image or a snapshot.
    ///
    /// # Errors
    /// A sentence; its base is another file than it was.
    pub fn begin_ingest(&mut self, node: &NodeName) -> Result<Option<LayerIngest>, StoreError> {
        match self.ingest_plan(node)? {
            Some(plan) => self.begin_planned(plan).map(Some),
            None => Ok(None),
        }
    }

    /// The same of the oldest layer below a sealed layer, or that itself.
    ///
    /// # Errors
    /// As of [`OpenStore::begin_ingest`].
    pub fn begin_layer_ingest(&mut self, layer: LayerId) -> Result<Option<LayerIngest>, StoreError> {
        let view = self.view()?;
        // It may be gone since it was found.
        let Some(row) = view.layer(layer) else { return Ok(None) };
        match view.next_ingest(Below { node: ChainNode::Layer(layer), bytes: row.size }) {
            Some(plan) => self.begin_planned(plan).map(Some),
            None => Ok(None),
        }
    }

    /// The first layers that have been sealed for so many seconds and are not in packs, and how many.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn due_layers(&self, age_s: u64) -> Result<DueLayers, StoreError> {
        let mut first = self.view()?.due_layers(now_s(), age_s);
        let count = first.len();
        first.truncate(MOST_DUE);
        Ok(DueLayers { first, count })
    }

    fn begin_planned(&mut self, plan: IngestPlan) -> Result<LayerIngest, StoreError> {
        let place = self.directory.make_packs(self.header().store)?;
        let from = self.composed(&plan, &place)?;
        let index = self.chunk_index(&place)?;
        let damage = self.directory.damage_notes(self.header().store);
        let filling = PackFilling::new(place, SPACE, codec(self.header())).with_damage(damage);
        let root = plan.older.unwrap_or(ManifestRoot::zeroes(SPACE, 0));
        let _held = plan.older.as_ref().map(|older| self.directory.pins.hold_contents(older));
        let mut ingest =
            LayerIngest { plan, from, filling, _held, index, root, changes: Vec::new(), at: 0, zeroes: 0 };
        // What is not seen of what is below reads as zeroes, even where the disk has grown again.
        let seen = ingest.from.seen;
        let begun = match (&ingest.plan.older, &ingest.from.base) {
            (None, Some(_)) => self.begin_on_base(&mut ingest, seen),
            (Some(older), _) => {
                let seen = match is_planted(CollectionBug::CutContentsReappear) {
                    true => older.size,
                    false => seen.min(older.size),
                };
                self.take_in(&mut ingest, seen, std::iter::empty())
            }
            (None, None) => Ok(()),
        };
        match begun {
            Ok(()) => Ok(ingest),
            Err(error) => {
                self.abandon_ingest(ingest);
                Err(error)
            }
        }
    }

    /// What is seen of the base is what there is so far.
    fn begin_on_base(&mut self, ingest: &mut LayerIngest, seen: u64) -> Result<(), StoreError> {
        self.begin_pack(&mut ingest.filling)?;
        let mut nodes = ingest.filling.nodes((&ingest.index, self.view()?));
        let root = all_of_base(&mut nodes, SPACE, seen);
        let unmade = |error: ManifestError<FillError>| StoreError::Contents {
            layer: ingest.plan.layer,
            why: error.to_string(),
        };
        ingest.root = root.map_err(unmade)?;
        Ok(())
    }

    /// Goes on a little: a few MiB at most.
    ///
    /// # Errors
    /// A sentence. Then it is to be given up, by [`OpenStore::abandon_ingest`].
    pub fn ingest_step(&mut self, ingest: &mut LayerIngest) -> Result<CopyProgress, StoreError> {
        let mut bytes = vec![0; CHUNK_BYTES as usize];
        let (most, mut composed, mut looks) = (step_sizes().chunks, 0, 0);
        while ingest.at < ingest.chunks() && composed < most && looks < STEP_LOOKS {
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
            self.finish_pack(&mut ingest.filling, &ingest.index)?;
        }
        Ok(ingest.progress())
    }

    fn put_chunk(&mut self, ingest: &mut LayerIngest, bytes: &[u8]) -> Result<ManifestEntry, StoreError> {
        if is_zero(bytes) {
            ingest.zeroes += 1;
            return Ok(ManifestEntry::Zero);
        }
        loop {
            self.begin_pack(&mut ingest.filling)?;
            match ingest.filling.put(bytes, (&ingest.index, self.view()?)) {
                Ok(chunk) => return Ok(ManifestEntry::Named(chunk)),
                Err(FillError::Pack(PackError::Full)) => {
                    self.finish_pack(&mut ingest.filling, &ingest.index)?;
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
                Err(ManifestError::Nodes(FillError::Pack(PackError::Full))) => {
                    self.finish_pack(&mut ingest.filling, &ingest.index)?;
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
        self.finish_pack(&mut ingest.filling, &ingest.index)?;
        let counts = ingest.counts();
        let LayerIngest { plan, filling, root, .. } = ingest;
        let change = self.decide(|view, _| catalog::finish_ingest(view, &plan, root, filling.named()))?;
        let bytes = self.directory.layer_usage(plan.layer).map_or(0, |usage| usage.data);
        if is_planted(CollectionBug::LayerDeletedEarly) {
            self.directory.remove_data(plan.layer)?;
        }
        self.commit(&change)?;
        self.directory.remove_data(plan.layer)?;
        if let Some(damage) = filling.left_damage() {
            self.directory.keep_damage_notes(self.header().store, damage)?;
        }
        let older = match plan.below.node {
            ChainNode::Layer(older) if plan.older.is_some() => Some(older),
            _ => None,
        };
        self.change_space_notes(|notes| notes.add_ingested(plan.layer, older, &counts));
        Ok(Released { layers: 1, bytes })
    }

    /// Gives an ingest up: nothing has changed. What was written of whole packs is found the next time.
    pub fn abandon_ingest(&mut self, mut ingest: LayerIngest) {
        if self.finish_pack(&mut ingest.filling, &ingest.index).is_err() {
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
            ingest.write_aside(true);
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
