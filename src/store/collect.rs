//! Packs of which little is needed go: what is needed of them is copied into new ones.
//!
//! A collection runs in steps, and other things may be done to the store between them. The order:
//!
//! 1. *Mark*: all chunks that contents name which somebody reads. A node that several of them have is looked
//!    at once, so the number of clones and snapshots does not matter.
//! 2. *Count*: how much of each pack is alive. Of a chunk that is in several packs the latest one counts.
//! 3. *Copy*: the chunks that are alive of packs that are to go ([`worst`]), into packs that are made as
//!    those of an ingest.
//! 4. *Release*: when all copies are durable and listed, one transaction of the catalogue takes packs away
//!    whose chunks were copied. Then their files are removed.
//!
//! Chunks keep their names and lose their places. Whoever finds one no more in the pack that a hint tells
//! looks for it elsewhere ([`PackShelf`]), so a file can go at once: whoever has it open reads on.
//!
//! What comes to be needed meanwhile is safe: a pack that was not listed when the collection began is not
//! looked at, and one in which an ingest has found a chunk since then stays
//! ([`CollectionPins`](super::collection_pins::CollectionPins)). So does what is read by those who opened
//! contents that have no row any more.
//!
//! An interruption costs the copies of the last pack. What was copied and not released is there twice, and
//! goes the next time.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::catalog::{PackRow, release_packs};
use super::collected::CollectedPacks;
use super::collection_bug::{CollectionBug, is_planted};
use super::collection_pins::NotedPacks;
use super::error::StoreError;
use super::foreign::PlacedFile;
use super::index::ChunkIndex;
use super::ingest_counts::SPACE;
use super::layer_copy::CopyProgress;
use super::maps::LayerMaps;
use super::marking::ContentsMark;
use super::open_store::OpenStore;
use super::pack::{ChunkCodec, ChunkHash, ChunkKey, PackError, PackReader, PackedChunk};
use super::pack_filling::{FillError, PackFilling};
use super::pack_life::{PackLife, worst};
use super::pack_shelf::PackShelf;
use super::packs::{PackPlace, index_failure};
use super::space_notes::contents_name;
use super::step_sizes::step_sizes;

/// A pack that is being copied.
#[derive(Debug)]
struct PackCopy {
    life: PackLife,
    reader: PackReader<PlacedFile>,
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CollectionStage {
    Marking,
    Counting,
    Copying,
    Done,
}

/// A collection that is under way.
#[derive(Debug)]
pub struct PackCollection {
    place: PackPlace,
    index: Arc<ChunkIndex>,
    shelf: Arc<PackShelf>,
    noted: NotedPacks,
    stage: CollectionStage,
    /// Chunks that are needed; while it counts, those of them that no pack was found to have yet.
    mark: ContentsMark,
    /// Which contents are marked.
    marked: [u8; 32],
    /// Packs that were not counted yet, the latest last.
    rows: Vec<PackRow>,
    counted: Vec<PackLife>,
    /// Packs of other stores that nothing needs.
    unneeded: BTreeSet<u64>,
    /// Packs that are to go, the one that is next last.
    going: Vec<PackLife>,
    copy: Option<PackCopy>,
    filling: PackFilling,
    /// Packs whose chunks are copied, to a pack that is not listed yet or only to listed ones.
    copied: BTreeSet<u64>,
    /// Packs whose copies are all listed.
    released: BTreeSet<u64>,
    /// Packs that are gone, until somebody has asked.
    gone: Vec<u64>,
    progress: CopyProgress,
    found: CollectedPacks,
}

impl PackCollection {
    /// Bytes of packs that were looked at or copied, of all that are to be.
    #[must_use]
    pub const fn progress(&self) -> CopyProgress {
        self.progress
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == CollectionStage::Done
    }

    /// What it has done so far.
    #[must_use]
    pub const fn found(&self) -> CollectedPacks {
        self.found
    }

    /// Packs that are gone since this was asked last.
    pub(crate) fn take_gone(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.gone)
    }

    /// Packs that stay whatever is alive of them.
    fn held(&self) -> BTreeSet<u64> {
        if is_planted(CollectionBug::GcIgnoresPins) { BTreeSet::new() } else { self.noted.packs() }
    }

    /// Looks at some nodes.
    fn mark(&mut self) -> Result<(), StoreError> {
        if self.mark.step(&self.shelf, step_sizes().nodes)? {
            self.stage = CollectionStage::Counting;
        }
        self.found.chunks_needed = self.mark.chunks();
        Ok(())
    }

    /// Counts the next pack.
    fn count(&mut self) {
        let Some(row) = self.rows.pop() else {
            self.choose();
            return;
        };
        let is_foreign = self.place.foreign.origin(row.number).is_some();
        self.progress.done += if is_foreign { 0 } else { row.bytes };
        // All of them before one counts: what is in a pack that cannot be read is needed of others.
        let opened = self.place.open(row.number, row.space);
        let chunks = match opened.and_then(|pack| pack.chunks().collect::<Result<Vec<_>, _>>()) {
            Ok(chunks) => chunks,
            Err(error) => {
                tracing::warn!(pack = row.number, %error, "a pack cannot be read, so it stays");
                self.found.packs_unreadable += 1;
                return;
            }
        };
        let mut life = PackLife::new(row.number);
        for (slot, chunk) in (0..).zip(chunks) {
            let bytes = chunk.payload_bytes;
            life.add(slot, bytes, self.mark.count(&chunk.hash, bytes));
        }
        // What others have written is not copied: it goes, or stays as a whole.
        if is_foreign {
            if life.alive == 0 {
                self.unneeded.insert(row.number);
            }
            return;
        }
        self.found.bytes_needed += life.alive;
        self.counted.push(life);
    }

    /// Chooses the packs that are to go.
    fn choose(&mut self) {
        let still_held = self.held();
        let (held, free): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.counted).into_iter().partition(|life| still_held.contains(&life.number));
        let (mut going, staying) = worst(free);
        let stays = held.iter().chain(&staying);
        self.found.bytes_garbage = stays.map(|life| life.bytes - life.alive).sum();
        self.progress.total += going.iter().map(|life| life.alive).sum::<u64>();
        // Those that need no copying make room first: the disk may be full.
        let dead = going.iter().take_while(|life| life.alive == 0).count();
        self.released = going.drain(..dead).map(|life| life.number).collect();
        self.released.extend(self.unneeded.difference(&still_held));
        going.reverse();
        (self.going, self.stage) = (going, CollectionStage::Copying);
    }

    /// A pack that was to go stays.
    fn keep(&mut self, life: &PackLife, error: &PackError) {
        tracing::warn!(pack = life.number, %error, "a pack cannot be copied, so it stays");
        self.found.packs_unreadable += 1;
        self.found.bytes_garbage += life.bytes - life.alive;
    }

    /// The next chunk that has to be copied; none if there are no more packs.
    fn next_copy(&mut self) -> Option<(PackedChunk, Vec<u8>)> {
        loop {
            if let Some(mut copy) = self.copy.take() {
                let Some(slot) = copy.life.next_alive(copy.next) else {
                    self.copied.insert(copy.life.number);
                    continue;
                };
                let located = copy.reader.chunk(slot);
                match located.and_then(|chunk| Ok((chunk.told(), copy.reader.read(&chunk)?))) {
                    Ok(read) => {
                        copy.next = slot + 1;
                        self.copy = Some(copy);
                        return Some(read);
                    }
                    Err(error) => self.keep(&copy.life, &error),
                }
                continue;
            }
            let life = self.going.pop()?;
            match self.place.open(life.number, SPACE) {
                Ok(reader) => self.copy = Some(PackCopy { life, reader, next: 0 }),
                Err(error) => self.keep(&life, &error),
            }
        }
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Begins to collect packs; none if there are no packs.
    ///
    /// # Errors
    /// A sentence; another one is under way.
    pub fn begin_collection(&mut self) -> Result<Option<PackCollection>, StoreError> {
        let Some(place) = self.directory.packs(self.header().store)? else { return Ok(None) };
        let index = self.chunk_index(&place)?;
        let noted = place.pins.note_packs().ok_or(StoreError::Collecting)?;
        let view = self.view()?;
        let of_space = |row: &&PackRow| row.space == SPACE;
        // Own ones are looked at first: what they have is not needed of others.
        let foreign = view.foreign_packs().filter_map(|row| view.pack(row.number));
        let rows: Vec<PackRow> = foreign.chain(view.own_packs()).filter(of_space).cloned().collect();
        let own = view.own_packs().filter(of_space);
        let total = own.map(|row| row.bytes).fold(0, u64::saturating_add);
        let listed = view.read_contents().map(|row| (row.layer, row.root));
        let held = match is_planted(CollectionBug::HeldContentsForgotten) {
            true => Vec::new(),
            false => place.pins.held_contents(),
        };
        let mark = ContentsMark::new(listed, &held)?;
        let (shelf, filling) = (place.shelf(SPACE), PackFilling::new(place.clone(), SPACE, ChunkCodec::Lz4));
        Ok(Some(PackCollection {
            place,
            index,
            shelf,
            noted,
            stage: CollectionStage::Marking,
            mark,
            marked: contents_name(view),
            rows,
            counted: Vec::new(),
            unneeded: BTreeSet::new(),
            going: Vec::new(),
            copy: None,
            filling,
            copied: BTreeSet::new(),
            released: BTreeSet::new(),
            gone: Vec::new(),
            progress: CopyProgress { done: 0, total },
            found: CollectedPacks::default(),
        }))
    }

    /// Goes on a little: a few MiB at most.
    ///
    /// # Errors
    /// A sentence. Then it is to be given up, by [`OpenStore::abandon_collection`].
    pub fn collection_step(&mut self, collection: &mut PackCollection) -> Result<CopyProgress, StoreError> {
        match collection.stage {
            CollectionStage::Marking => collection.mark()?,
            CollectionStage::Counting => {
                collection.count();
                if collection.stage == CollectionStage::Copying {
                    self.note_counted(collection);
                }
            }
            CollectionStage::Copying if !collection.released.is_empty() => self.release_some(collection)?,
            CollectionStage::Copying => self.copy_some(collection)?,
            CollectionStage::Done => {}
        }
        Ok(collection.progress)
    }

    /// Keeps what each contents take, for those who ask.
    fn note_counted(&mut self, collection: &mut PackCollection) {
        let layers = std::mem::take(&mut collection.mark).counted();
        let exact_for = Some(collection.marked).filter(|_| collection.found.packs_unreadable == 0);
        self.change_space_notes(|notes| {
            notes.take_counted(exact_for, layers, collection.found.bytes_needed);
        });
    }

    fn copy_some(&mut self, collection: &mut PackCollection) -> Result<(), StoreError> {
        for _ in 0..step_sizes().chunks {
            let Some((chunk, bytes)) = collection.next_copy() else {
                if is_planted(CollectionBug::CatalogBeforePack) && !collection.copied.is_empty() {
                    collection.released.append(&mut collection.copied);
                    return Ok(());
                }
                self.list_copies(collection)?;
                if collection.released.is_empty() {
                    collection.stage = CollectionStage::Done;
                }
                return Ok(());
            };
            self.copy_chunk(collection, &chunk, &bytes)?;
        }
        if collection.filling.is_full() {
            self.list_copies(collection)?;
        }
        Ok(())
    }

    fn copy_chunk(
        &mut self,
        collection: &mut PackCollection,
        chunk: &PackedChunk,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        loop {
            self.begin_pack(&mut collection.filling)?;
            match collection.filling.put_copy(chunk, bytes) {
                Ok(()) => break,
                Err(FillError::Pack(PackError::Full)) => self.list_copies(collection)?,
                Err(error) => return Err(StoreError::Reach(error.to_string())),
            }
        }
        let bytes = u64::from(chunk.payload_bytes);
        collection.progress.done += bytes;
        collection.found.bytes_copied += bytes;
        Ok(())
    }

    /// Finishes the pack that copies go to. Whatever was copied as a whole can go after that.
    fn list_copies(&mut self, collection: &mut PackCollection) -> Result<(), StoreError> {
        collection.found.packs_written += u64::from(collection.filling.is_open());
        self.finish_pack(&mut collection.filling, &collection.index)?;
        collection.released.append(&mut collection.copied);
        Ok(())
    }

    /// Takes some packs away whose copies are listed.
    fn release_some(&mut self, collection: &mut PackCollection) -> Result<(), StoreError> {
        let some: BTreeSet<u64> = collection.released.iter().copied().take(step_sizes().packs).collect();
        let held = collection.held();
        let copies = match is_planted(CollectionBug::CatalogBeforePack) {
            true => &BTreeSet::new(),
            false => collection.filling.named(),
        };
        let (change, going) = release_packs(self.view()?, &some, &held, copies);
        let own = going.iter().filter(|row| collection.place.foreign.origin(row.number).is_none());
        let is_own: BTreeSet<u64> = own.map(|row| row.number).collect();
        if !going.is_empty() {
            // Their names are not known any more when the files are gone.
            let own = going.iter().filter(|row| is_own.contains(&row.number));
            let keys: Vec<_> = own.map(|row| (row.number, self.keys_of(collection, row))).collect();
            if is_planted(CollectionBug::PackDeletedEarly) {
                is_own.iter().try_for_each(|number| collection.place.remove(*number))?;
            }
            self.commit(&change)?;
            for (number, keys) in keys {
                if let Err(error) = collection.index.forget(number, keys) {
                    // It counts for nothing: the catalogue does not list the pack.
                    tracing::warn!(pack = number, %error, "the index of a store still tells of a pack that is gone");
                }
            }
        }
        for row in going {
            collection.gone.push(row.number);
            if !is_own.contains(&row.number) {
                collection.place.remove_cache(row.number)?;
                continue;
            }
            collection.found.packs_removed += 1;
            collection.found.bytes_removed += row.bytes;
            if !is_planted(CollectionBug::PackDeletedEarly) {
                collection.place.remove(row.number)?;
            }
        }
        collection.released.retain(|pack| !some.contains(pack));
        collection.place.sync()
    }

    fn keys_of(&self, collection: &PackCollection, row: &PackRow) -> Vec<ChunkKey> {
        let opened = collection.place.open(row.number, row.space);
        opened.and_then(|pack| pack.keys()).unwrap_or_default()
    }

    /// A pack that has a chunk now.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn find_chunk(&mut self, hash: &ChunkHash) -> Result<Option<u64>, StoreError> {
        let index = self.chunk_index(&self.pack_place()?)?;
        let (view, key) = (self.view()?, ChunkKey { space: SPACE, hash: *hash });
        let found = index.find(&key, |pack| view.has_pack(pack)).map_err(index_failure)?;
        Ok(found.map(|hint| hint.pack))
    }

    /// Gives a collection up. What it has copied so far is there twice until the next one.
    pub fn abandon_collection(&mut self, mut collection: PackCollection) -> CollectedPacks {
        if self.list_copies(&mut collection).is_err() {
            collection.filling.abandon();
        }
        collection.found
    }

    /// Collects packs, and says what that came to. `progress` is told how far it is, may wait, and ends the
    /// work by its error.
    ///
    /// # Errors
    /// A sentence, or what `progress` says: what was removed by then is gone.
    pub fn collect_packs(
        &mut self,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<CollectedPacks, StoreError> {
        let Some(mut collection) = self.begin_collection()? else { return Ok(CollectedPacks::default()) };
        while !collection.is_done() {
            let stepped = self.collection_step(&mut collection).and_then(&mut *progress);
            if let Err(error) = stepped {
                self.abandon_collection(collection);
                return Err(error);
            }
        }
        Ok(collection.found)
    }
}

#[cfg(test)]
mod tests;
