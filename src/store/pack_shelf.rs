//! Packs that are open, and chunks of them that were read: for all who read contents of one store.
//!
//! A chunk is verified when it is read from its file, by its checksums and its name, and again when it has
//! left memory meanwhile; of one that was verified before it may be the part that is read, by its checksums.
//! What does not fit is read once more from the medium, and then it is an error, each time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::collection_bug::{CollectionBug, is_planted};
use super::contents_error::ContentsError;
use super::foreign::{ForeignPacks, PartialPack, PlacedFile, PlacedPack};
use super::manifest::{NamedChunk, translate_hints};
use super::moved_chunks::MovedChunks;
use super::pack::{ChunkCodec, ChunkHash, ChunkHint, ChunkKind, LocatedChunk, PackError, PackReader};
use crate::mutex::lock;

/// Packs that are open at once.
const OPEN_PACKS: usize = 32;
/// Bytes of chunks in memory.
const MOST_BYTES: usize = 16 << 20;
/// Bytes between chunks that are fetched at once: payloads begin at multiples of that, or follow each other.
const SIDE_BY_SIDE: u64 = 4096;
/// Damaged chunks that are told of: a check finds the others.
const MOST_TOLD: usize = 1024;

/// Opens a pack by its number.
type PackOpener = Box<dyn Fn(u64) -> Result<PlacedPack, PackError> + Send + Sync>;

/// Told once of each chunk that does not verify.
pub(crate) type OnDamage = Box<dyn Fn(ChunkHint, ChunkHash) + Send + Sync>;

/// Finds a pack that has a chunk, which is not in the one that it was in.
type ChunkFinder = Box<dyn Fn(&ChunkHash) -> Option<u64> + Send + Sync>;

/// Packs of a store, for several threads.
pub(crate) struct PackShelf {
    opener: PackOpener,
    finder: ChunkFinder,
    moved: Mutex<MovedChunks>,
    /// The one that was used last is the last.
    open: Mutex<VecDeque<(u64, Arc<PackReader<PlacedFile>>)>>,
    /// How often packs were closed because they are gone.
    forgotten: AtomicU64,
    /// Packs that other stores have written.
    foreign: Arc<ForeignPacks>,
    chunks: Mutex<KeptChunks>,
    /// Reads that failed, because of a pack or a chunk of one.
    failed: Arc<AtomicU64>,
    on_damage: Option<OnDamage>,
    /// Damaged chunks that were told of, and other packs that have them.
    damaged: Mutex<BTreeMap<(u64, u32), Option<u64>>>,
}

/// Verified bytes of a chunk.
#[derive(Debug)]
pub(crate) enum ChunkBytes {
    Whole(Arc<Vec<u8>>),
    /// Those that were wanted.
    Part(Vec<u8>),
}

/// Where a chunk lies as it is.
#[derive(Debug)]
pub(crate) enum ChunkPlace {
    Known(KnownPlace),
    /// It is compressed.
    Nowhere,
    /// It cannot be told now.
    Unknown,
}

/// Where a chunk lies as it is in the file of a pack.
#[derive(Debug)]
pub(crate) struct KnownPlace {
    /// The number of the pack.
    pub(crate) number: u64,
    /// Where it begins in the file, and how many bytes it has.
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    pub(crate) chunk: LocatedChunk,
    pack: Arc<PackReader<PlacedFile>>,
}

/// Where a chunk is.
struct FoundChunk {
    number: u64,
    pack: Arc<PackReader<PlacedFile>>,
    chunk: LocatedChunk,
}

#[derive(Default)]
struct KeptChunks {
    /// The one that was used last is the last.
    chunks: VecDeque<(ChunkHash, Arc<Vec<u8>>)>,
    bytes: usize,
}

impl fmt::Debug for PackShelf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PackShelf").finish_non_exhaustive()
    }
}

/// What is in memory becomes what was used last.
fn touch<K: PartialEq, V: Clone>(kept: &mut VecDeque<(K, V)>, key: &K) -> Option<V> {
    let at = kept.iter().rposition(|(other, _)| other == key)?;
    let found = kept.remove(at)?;
    let value = found.1.clone();
    kept.push_back(found);
    Some(value)
}

/// What a planted bug makes of a damaged chunk.
fn zeroes_instead(found: &FoundChunk) -> Vec<u8> {
    vec![0; found.chunk.told().hashed_bytes as usize]
}

impl PackShelf {
    pub(crate) fn new(opener: PackOpener, finder: ChunkFinder) -> Self {
        let (moved, open, forgotten, foreign, chunks, failed, on_damage, damaged) = Default::default();
        Self { opener, finder, moved, open, forgotten, foreign, chunks, failed, on_damage, damaged }
    }

    /// The same, which counts the reads that failed, and tells of damaged chunks.
    pub(crate) fn telling(self, failed: &Arc<AtomicU64>, on_damage: OnDamage) -> Self {
        Self { failed: Arc::clone(failed), on_damage: Some(on_damage), ..self }
    }

    /// The same, which knows packs that other stores have written.
    pub(crate) fn with_foreign(self, foreign: &Arc<ForeignPacks>) -> Self {
        Self { foreign: Arc::clone(foreign), ..self }
    }

    /// Closes packs that are gone: they take room until then.
    pub(crate) fn forget(&self, packs: &[u64]) {
        lock(&self.open).retain(|(number, _)| !packs.contains(number));
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// How often packs were closed because they are gone: what was found before may be in one of them.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    fn in_pack(&self, number: u64, hash: &ChunkHash) -> Result<FoundChunk, ContentsError> {
        self.at(number, hash, None)
    }

    /// A chunk of a pack, which should have it in this slot.
    fn at(&self, number: u64, hash: &ChunkHash, slot: Option<u32>) -> Result<FoundChunk, ContentsError> {
        let pack = self.pack(number)?;
        let found = pack.find(hash, slot);
        let found = found.map_err(|source| ContentsError::Pack { pack: number, source })?;
        let chunk = found.ok_or(ContentsError::Elsewhere(*hash))?;
        Ok(FoundChunk { number, pack, chunk })
    }

    /// Where a chunk is now. It may have been moved since what names it was written.
    fn find(&self, chunk: &NamedChunk) -> Result<FoundChunk, ContentsError> {
        let hash = &chunk.hash;
        let Some(ChunkHint { pack: hinted, slot }) = chunk.hint else {
            let found = self.look_for(hash, None).ok_or(ContentsError::Nowhere(*hash))?;
            return self.in_pack(found, hash);
        };
        let takers = lock(&self.moved).takers(hinted);
        if let Some(found) = takers.into_iter().find_map(|taker| self.in_pack(taker, hash).ok()) {
            return Ok(found);
        }
        let error = match self.at(hinted, hash, Some(slot)) {
            Err(error) if error.is_elsewhere() && !is_planted(CollectionBug::MovedChunksLost) => error,
            result => return result,
        };
        let Some(taker) = self.look_for(hash, Some(hinted)) else { return Err(error) };
        let found = self.in_pack(taker, hash)?;
        lock(&self.moved).learn(hinted, taker);
        Ok(found)
    }

    /// Another pack that has a chunk than the one that should. Packs of other stores are in no index: their
    /// footers are read, the latest pack's first.
    fn look_for(&self, hash: &ChunkHash, instead_of: Option<u64>) -> Option<u64> {
        let other = |number: &u64| Some(*number) != instead_of;
        (self.finder)(hash).filter(other).or_else(|| {
            let mut foreign = self.foreign.numbers().into_iter().filter(other);
            foreign.find(|number| self.in_pack(*number, hash).is_ok())
        })
    }

    fn pack(&self, number: u64) -> Result<Arc<PackReader<PlacedFile>>, ContentsError> {
        if let Some(pack) = touch(&mut lock(&self.open), &number) {
            return Ok(pack);
        }
        let opened = (self.opener)(number).and_then(PlacedPack::read);
        let opened = opened.map_err(|source| ContentsError::Pack { pack: number, source })?;
        let opened = Arc::new(opened);
        let mut open = lock(&self.open);
        while open.len() >= OPEN_PACKS {
            open.pop_front();
        }
        open.push_back((number, Arc::clone(&opened)));
        Ok(opened)
    }

    /// A chunk that is in memory.
    pub(crate) fn kept(&self, hash: &ChunkHash) -> Option<Arc<Vec<u8>>> {
        touch(&mut lock(&self.chunks).chunks, hash)
    }

    /// The bytes of a chunk, which are read if they are not in memory.
    pub(crate) fn read(&self, chunk: &NamedChunk) -> Result<Arc<Vec<u8>>, ContentsError> {
        if let Some(bytes) = self.kept(&chunk.hash) {
            return Ok(bytes);
        }
        self.read_whole(chunk.hash, &self.counted(self.find(chunk))?)
    }

    /// Bytes of a chunk. If it was verified as a whole before, and is not compressed, nothing but these bytes
    /// is read, and verified by checksums.
    pub(crate) fn read_part(
        &self,
        chunk: &NamedChunk,
        wanted: Range<u32>,
    ) -> Result<ChunkBytes, ContentsError> {
        if let Some(bytes) = self.kept(&chunk.hash) {
            return Ok(ChunkBytes::Whole(bytes));
        }
        let found = self.counted(self.find(chunk))?;
        match found.pack.read_known(&found.chunk, wanted) {
            Ok(Some(part)) => Ok(ChunkBytes::Part(part)),
            // What is damaged may be somewhere else too.
            Ok(None) | Err(_) => self.read_whole(chunk.hash, &found).map(ChunkBytes::Whole),
        }
    }

    /// Where a chunk can be read by whoever takes what is in the page cache for good, or verifies it by its
    /// checksums. It is verified as a whole for that, unless it was before.
    pub(crate) fn place_of(&self, chunk: &NamedChunk) -> ChunkPlace {
        let Ok(FoundChunk { number, pack, chunk }) = self.find(chunk) else { return ChunkPlace::Unknown };
        let told = chunk.told();
        if told.codec != ChunkCodec::Raw {
            return ChunkPlace::Nowhere;
        }
        let known = || pack.known_place(&chunk);
        // Nothing is fetched for it.
        let is_here = || pack.file().has(told.offset..told.offset + u64::from(told.payload_bytes));
        let verified = || if is_here() { pack.read(&chunk).ok() } else { None };
        match known().or_else(|| verified().and_then(|_verified| known())) {
            Some((offset, bytes)) => ChunkPlace::Known(KnownPlace { number, offset, bytes, chunk, pack }),
            None => ChunkPlace::Unknown,
        }
    }

    fn read_whole(&self, hash: ChunkHash, found: &FoundChunk) -> Result<Arc<Vec<u8>>, ContentsError> {
        let bytes = match found.pack.read(&found.chunk) {
            Ok(bytes) => bytes,
            Err(error) => {
                let second = self.second_place(hash, found);
                let second = second.and_then(|other| self.in_pack(other, &hash).ok());
                match second.and_then(|other| other.pack.read(&other.chunk).ok()) {
                    Some(bytes) => bytes,
                    None if is_planted(CollectionBug::DamageReadsAsZeroes) => zeroes_instead(found),
                    None => self.counted(Err(ContentsError::Pack { pack: found.number, source: error }))?,
                }
            }
        };
        let bytes = Arc::new(self.with_own_hints(bytes, found));
        lock(&self.chunks).keep(hash, &bytes);
        Ok(bytes)
    }

    /// Nodes of packs of other stores have hints in the numbers of those.
    fn with_own_hints(&self, mut bytes: Vec<u8>, found: &FoundChunk) -> Vec<u8> {
        if self.foreign.origin(found.number).is_none() {
            return bytes;
        }
        let chunk = found.chunk.told();
        if chunk.kind == ChunkKind::Node {
            let store = found.pack.identity().store;
            let own = |number| self.foreign.translate(store, number);
            translate_hints(&mut bytes, chunk.hashed_bytes as usize, own);
        }
        bytes
    }

    /// Has chunks fetched that are not here, without waiting for them. What lies side by side in a pack comes
    /// at once. One that cannot be found ends it: a read gets no further than there, and where a tier is out
    /// each of the others might take as long as a read may wait.
    pub(crate) fn ask_ahead(&self, chunks: &[NamedChunk]) {
        let mut places = Vec::new();
        for chunk in chunks.iter().filter(|chunk| self.kept(&chunk.hash).is_none()) {
            let Ok(found) = self.find(chunk) else { break };
            let place = found.chunk.told();
            let range = place.offset..place.offset + u64::from(place.payload_bytes);
            if !found.pack.file().has(range.clone()) {
                places.push((found.number, found.pack, range));
            }
        }
        places.sort_by_key(|(number, _, range)| (*number, range.start));
        let mut places = places.into_iter().peekable();
        while let Some((number, pack, mut range)) = places.next() {
            while let Some((_, _, next)) =
                places.next_if(|(other, _, next)| *other == number && next.start <= range.end + SIDE_BY_SIDE)
            {
                range.end = range.end.max(next.end);
            }
            pack.file().ask_ahead(range);
        }
    }

    /// Whether some packs may have to be fetched from far away.
    pub(crate) fn has_far(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// Whether a chunk can be read without a request to a tier, as far as that is known at once.
    pub(crate) fn is_near(&self, chunk: &NamedChunk) -> bool {
        if !self.has_far() {
            return true;
        }
        let Some(hint) = chunk.hint else { return false };
        if self.foreign.origin(hint.pack).is_none() || lock(&self.chunks).has(&chunk.hash) {
            return true;
        }
        let pack = touch(&mut lock(&self.open), &hint.pack);
        pack.is_some_and(|pack| {
            let place = pack.chunk_at_hand(hint.slot).map(|found| found.told());
            let place = place.filter(|place| place.hash == chunk.hash);
            place.is_some_and(|place| {
                pack.file().has_now(place.offset..place.offset + u64::from(place.payload_bytes))
            })
        })
    }

    /// Another pack that has a damaged chunk, which is told of.
    fn second_place(&self, hash: ChunkHash, found: &FoundChunk) -> Option<u64> {
        let key = (found.number, found.chunk.slot());
        let known = lock(&self.damaged).get(&key).copied();
        if let Some(known) = known {
            return known;
        }
        if lock(&self.damaged).len() >= MOST_TOLD {
            return None;
        }
        let second = (self.finder)(&hash).filter(|other| *other != found.number);
        if lock(&self.damaged).insert(key, second).is_some() || self.foreign.origin(found.number).is_some() {
            return second;
        }
        if let Some(on_damage) = &self.on_damage {
            on_damage(ChunkHint { pack: found.number, slot: found.chunk.slot() }, hash);
        }
        second
    }

    fn counted<T>(&self, result: Result<T, ContentsError>) -> Result<T, ContentsError> {
        result.inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })
    }
}

impl KnownPlace {
    /// The file of the pack, or of its cache.
    pub(crate) fn file(&self) -> &File {
        match self.pack.file() {
            PlacedFile::Whole(file) => file,
            PlacedFile::Partial(cache) => cache.file(),
        }
    }

    /// The cache, if another store has written the pack: what is read of it must be verified each time.
    pub(crate) fn cache(&self) -> Option<Arc<PartialPack>> {
        match self.pack.file() {
            PlacedFile::Whole(_) => None,
            PlacedFile::Partial(cache) => Some(Arc::clone(cache)),
        }
    }
}

impl KeptChunks {
    fn has(&self, hash: &ChunkHash) -> bool {
        self.chunks.iter().any(|(kept, _)| kept == hash)
    }

    fn keep(&mut self, hash: ChunkHash, bytes: &Arc<Vec<u8>>) {
        self.bytes += bytes.len();
        self.chunks.push_back((hash, Arc::clone(bytes)));
        while self.bytes > MOST_BYTES
            && let Some((_, gone)) = self.chunks.pop_front()
        {
            self.bytes -= gone.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A tier that is out keeps each question waiting: a read of many chunks asks once more than it would,
    /// and not once for each of them.
    #[test]
    fn what_cannot_be_found_ends_what_is_asked_ahead() {
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        let opener = move |_number| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(PackError::Io(io::Error::from(io::ErrorKind::TimedOut)))
        };
        let shelf = PackShelf::new(Box::new(opener), Box::new(|_hash| None));
        let chunk = |number: u8| NamedChunk {
            hash: ChunkHash([number; 32]),
            hint: Some(ChunkHint { pack: number.into(), slot: 0 }),
        };
        shelf.ask_ahead(&(1..=64).map(chunk).collect::<Vec<_>>());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
