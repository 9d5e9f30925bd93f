//! Chunks that come to a store: those that it has are found, and the others are written to packs.
//!
//! The order, for each pack:
//!
//! 1. one transaction of the catalogue reserves a number
//! 2. the file is made, chunks are appended, the pack is finished and synced, and `packs/`
//! 3. one transaction of the index has its chunks
//! 4. one transaction of the catalogue lists it
//!
//! Nothing names a pack before 4, and from then on chunks of it are found. An interruption before that leaves
//! a file that is removed the next time; the number is not used again.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::catalog::{CatalogChange, CatalogView, PackRow};
use super::collection_bug::{CollectionBug, is_planted};
use super::collection_pins::HeldPacks;
use super::contents_error::ContentsError;
use super::damage_notes::DamageNotes;
use super::error::StoreError;
use super::index::ChunkIndex;
use super::ingest_counts::IngestCounts;
use super::manifest::{ManifestNodes, NamedChunk};
use super::maps::LayerMaps;
use super::open_store::{OpenStore, now_s};
use super::pack::{
    AsideTime, ChunkCodec, ChunkHash, ChunkHint, ChunkKey, ChunkKind, ChunkSpace, PackError, PackIdentity,
    PackWriter, PackedChunk,
};
use super::pack_shelf::PackShelf;
use super::packs::{PackPlace, index_failure, pack_failure};
use super::step_sizes::{StepSizes, step_sizes};

/// A pack that is being written.
#[derive(Debug)]
struct OpenPack {
    number: u64,
    writer: PackWriter<File>,
    /// Where its chunks are.
    slots: HashMap<ChunkHash, u32>,
}

/// Where chunks go.
#[derive(Debug)]
pub(super) struct PackFilling {
    place: PackPlace,
    shelf: Arc<PackShelf>,
    codec: ChunkCodec,
    space: ChunkSpace,
    open: Option<OpenPack>,
    /// Packs that have chunks which were asked for.
    named: HeldPacks,
    counts: IngestCounts,
    /// Chunks that nothing new may rely on.
    damage: DamageNotes,
    has_restored: bool,
    /// Time of another thread that writes. None while none is to.
    aside: Option<Arc<AsideTime>>,
    aside_time: Arc<AsideTime>,
}

/// Chunks on their way into a store whose pack has room, for whoever makes manifests.
pub(super) struct NodeSink<'a> {
    filling: &'a mut PackFilling,
    index: &'a ChunkIndex,
    view: &'a CatalogView,
}

/// Why nodes are not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error("{0}")]
    Contents(#[from] ContentsError),
    #[error("{0}")]
    Pack(#[from] PackError),
    #[error("{0}")]
    Index(#[from] super::index::ChunkIndexError),
}

impl PackFilling {
    pub(super) fn new(place: PackPlace, space: ChunkSpace, codec: ChunkCodec) -> Self {
        let shelf = place.shelf(space);
        let named = HeldPacks::new(Arc::clone(&place.pins));
        let (counts, damage, has_restored, aside_time) = Default::default();
        let (open, aside) = (None, None);
        Self { place, shelf, codec, space, open, named, counts, damage, has_restored, aside, aside_time }
    }

    /// The same, which knows what is damaged.
    pub(super) fn with_damage(self, damage: DamageNotes) -> Self {
        Self { damage, ..self }
    }

    /// What is still damaged, if some of it was restored.
    pub(super) fn left_damage(&self) -> Option<&DamageNotes> {
        self.has_restored.then_some(&self.damage)
    }

    /// Packs that have the chunks which came, when all of them are finished.
    pub(super) const fn named(&self) -> &BTreeSet<u64> {
        self.named.packs()
    }

    /// Chunks of disks that came.
    pub(super) const fn counts(&self) -> IngestCounts {
        self.counts
    }

    /// Where a chunk of a disk is, which was appended if no pack had it. There is a pack with room.
    pub(super) fn put(
        &mut self,
        contents: &[u8],
        (index, view): (&ChunkIndex, &CatalogView),
    ) -> Result<NamedChunk, FillError> {
        let hash = self.space.hash(ChunkKind::Data, contents);
        if let Some(hint) = self.known(hash, contents, (index, view))? {
            self.counts.known += 1;
            return Ok(NamedChunk { hash, hint: Some(hint) });
        }
        let open = self.open.as_mut().ok_or(PackError::Full)?;
        let before = open.writer.bytes();
        let hint = open.writer.append_named(hash, contents, self.codec)?;
        self.counts.written += 1;
        self.counts.written_bytes += open.writer.bytes() - before;
        open.slots.insert(hash, hint.slot);
        self.named.hold(hint.pack);
        Ok(NamedChunk { hash, hint: Some(hint) })
    }

    /// Where a chunk is that a pack has already, and has whole.
    fn known(
        &mut self,
        hash: ChunkHash,
        contents: &[u8],
        (index, view): (&ChunkIndex, &CatalogView),
    ) -> Result<Option<ChunkHint>, FillError> {
        if let Some(open) = &self.open
            && let Some(slot) = open.slots.get(&hash)
        {
            return Ok(Some(ChunkHint { pack: open.number, slot: *slot }));
        }
        let key = ChunkKey { space: self.space, hash };
        let is_listed = |pack| view.has_pack(pack) || is_planted(CollectionBug::DedupAgainstDeadPack);
        let found = index.find(&key, is_listed)?;
        let found = found.filter(|at| !self.damage.has(at) || self.is_restored(at, contents));
        found.iter().for_each(|hint| self.named.hold(hint.pack));
        Ok(found)
    }

    /// What is damaged is written again when the same contents come.
    fn is_restored(&mut self, at: &ChunkHint, contents: &[u8]) -> bool {
        let pack = self.place.open_to_restore(at.pack, self.space);
        match pack.and_then(|pack| pack.restore(at.slot, contents)) {
            Ok(()) => {
                tracing::info!(pack = at.pack, chunk = at.slot, "a damaged chunk was written again");
                self.damage.remove(at);
                self.has_restored = true;
                true
            }
            Err(error) => {
                tracing::warn!(pack = at.pack, chunk = at.slot, %error, "a damaged chunk gets a second place");
                false
            }
        }
    }

    /// Appends a chunk that another pack has too. There is a pack with room.
    pub(super) fn put_copy(&mut self, chunk: &PackedChunk, contents: &[u8]) -> Result<(), FillError> {
        let open = self.open.as_mut().ok_or(PackError::Full)?;
        let (hash, hint) = match chunk.kind {
            ChunkKind::Data => open.writer.append(contents, chunk.codec)?,
            ChunkKind::Node => open.writer.append_node(contents, chunk.hashed_bytes as usize, chunk.codec)?,
        };
        open.slots.insert(hash, hint.slot);
        self.named.hold(hint.pack);
        Ok(())
    }

    /// Whether another thread is to write packs, while this one reads and names what comes next.
    pub(super) fn write_aside(&mut self, is_wanted: bool) {
        self.aside = is_wanted.then(|| Arc::clone(&self.aside_time));
        if let Some(open) = &mut self.open {
            open.writer.write_aside(self.aside.as_ref());
        }
    }

    /// Waits until no other thread writes; says what time of processors such threads have taken so far.
    pub(super) fn settle(&mut self) -> Duration {
        if let Some(open) = &mut self.open {
            open.writer.settle();
        }
        self.aside_time.told()
    }

    /// Whether a pack is being written.
    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the pack that is being written has got enough.
    pub(super) fn is_full(&self) -> bool {
        let StepSizes { pack_bytes, pack_chunks, .. } = step_sizes();
        let is_full = |open: &OpenPack| open.writer.bytes() >= pack_bytes || open.slots.len() >= pack_chunks;
        self.open.as_ref().is_some_and(is_full)
    }

    pub(super) fn nodes<'a>(&'a mut self, (index, view): (&'a ChunkIndex, &'a CatalogView)) -> NodeSink<'a> {
        NodeSink { filling: self, index, view }
    }

    /// Gives up what is not finished.
    pub(super) fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            // What cannot be removed goes the next time that the store is opened.
            let _removed = self.place.remove(open.number);
        }
    }
}

impl ManifestNodes for NodeSink<'_> {
    type Error = FillError;

    fn get(&mut self, node: &NamedChunk) -> Result<Vec<u8>, FillError> {
        if let Some(open) = &mut self.filling.open
            && let Some(slot) = open.slots.get(&node.hash)
        {
            return Ok(open.writer.read(*slot)?);
        }
        Ok(self.filling.shelf.read(node)?.to_vec())
    }

    fn put(&mut self, hash: &ChunkHash, bytes: &[u8], hashed: usize) -> Result<Option<ChunkHint>, FillError> {
        if let Some(hint) = self.filling.known(*hash, bytes, (self.index, self.view))? {
            return Ok(Some(hint));
        }
        let open = self.filling.open.as_mut().ok_or(PackError::Full)?;
        let (hash, hint) = open.writer.append_node(bytes, hashed, self.filling.codec)?;
        open.slots.insert(hash, hint.slot);
        self.filling.named.hold(hint.pack);
        Ok(Some(hint))
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Begins a pack, if none is being written.
    pub(super) fn begin_pack(&mut self, filling: &mut PackFilling) -> Result<(), StoreError> {
        if filling.open.is_some() {
            return Ok(());
        }
        self.commit(&CatalogChange::reserve_pack())?;
        let place = &filling.place;
        let number = match is_planted(CollectionBug::PackNumberUsedAgain) {
            true => (1..).find(|number| !place.path_of(*number).exists()).expect("there are many"),
            false => self.last_reserved(),
        };
        let file = place.create(number)?;
        let identity = PackIdentity { store: self.header().store, number, space: filling.space };
        let mut writer = PackWriter::create(file, identity).map_err(pack_failure(place.path_of(number)))?;
        writer.write_aside(filling.aside.as_ref());
        filling.open = Some(OpenPack { number, writer, slots: HashMap::new() });
        Ok(())
    }

    /// Finishes the pack that is being written, durably: its chunks are found from now on.
    pub(super) fn finish_pack(
        &mut self,
        filling: &mut PackFilling,
        index: &ChunkIndex,
    ) -> Result<(), StoreError> {
        let Some(OpenPack { number, writer, .. }) = filling.open.take() else { return Ok(()) };
        let place = &filling.place;
        let keys = writer.keys();
        if keys.is_empty() {
            return place.remove(number);
        }
        let path = || place.path_of(number);
        let file = match writer.finish() {
            Ok(file) => file,
            Err(error) => {
                // What a full disk has no room for must not take the rest of it. What cannot be removed
                // goes the next time that the store is opened.
                let _removed = place.remove(number);
                return Err(pack_failure(path())(error));
            }
        };
        let bytes = file.metadata().map_err(StoreError::at("look at", &path()))?.len();
        if !is_planted(CollectionBug::PackNameNotSynced) {
            place.sync()?;
        }
        let chunks = keys.len() as u32;
        index.add(number, keys).map_err(index_failure)?;
        let row = PackRow { number, space: filling.space, bytes, chunks, created_s: now_s() };
        self.commit(&CatalogChange::list_pack(row)).map(drop)
    }
}
