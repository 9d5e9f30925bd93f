//! Packs that are open, and chunks of them that were read: for all who read contents of one store.
//!
//! A chunk is verified when it is read from its file, by its checksums and its name, and again when it has
//! left memory meanwhile. What does not fit is an error each time.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::contents_error::ContentsError;
use super::manifest::NamedChunk;
use super::moved_chunks::MovedChunks;
use super::pack::{ChunkHash, ChunkHint, PackError, PackReader};

/// Packs whose footers are in memory.
const OPEN_PACKS: usize = 32;
/// Bytes of chunks in memory.
const MOST_BYTES: usize = 16 << 20;

/// Opens a pack by its number.
type PackOpener = Box<dyn Fn(u64) -> Result<PackReader<File>, PackError> + Send + Sync>;

/// Finds a pack that has a chunk, which is not in the one that it was in.
type ChunkFinder = Box<dyn Fn(&ChunkHash) -> Option<u64> + Send + Sync>;

/// Packs of a store, for several threads.
pub(crate) struct PackShelf {
    opener: PackOpener,
    finder: ChunkFinder,
    moved: Mutex<MovedChunks>,
    /// The one that was used last is the last.
    open: Mutex<VecDeque<(u64, Arc<PackReader<File>>)>>,
    chunks: Mutex<KeptChunks>,
}

/// Where a chunk is.
struct FoundChunk {
    number: u64,
    pack: Arc<PackReader<File>>,
    slot: u32,
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

/// What a thread that panicked has left is whole: each change is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is in memory becomes what was used last.
fn touch<K: PartialEq, V: Clone>(kept: &mut VecDeque<(K, V)>, key: &K) -> Option<V> {
    let at = kept.iter().rposition(|(other, _)| other == key)?;
    let found = kept.remove(at)?;
    let value = found.1.clone();
    kept.push_back(found);
    Some(value)
}

impl PackShelf {
    pub(crate) fn new(opener: PackOpener, finder: ChunkFinder) -> Self {
        let (moved, open, chunks) = Default::default();
        Self { opener, finder, moved, open, chunks }
    }

    /// Closes packs that are gone: they take room until then.
    pub(crate) fn forget(&self, packs: &[u64]) {
        locked(&self.open).retain(|(number, _)| !packs.contains(number));
    }

    fn in_pack(&self, number: u64, hash: &ChunkHash) -> Result<FoundChunk, ContentsError> {
        let pack = self.pack(number)?;
        let slot = pack.slot(hash).ok_or(ContentsError::Elsewhere(*hash))?;
        Ok(FoundChunk { number, pack, slot })
    }

    /// Where a chunk is now. It may have been moved since what names it was written.
    fn find(&self, chunk: &NamedChunk) -> Result<FoundChunk, ContentsError> {
        let hash = &chunk.hash;
        let Some(ChunkHint { pack: hinted, .. }) = chunk.hint else {
            let found = (self.finder)(hash).ok_or(ContentsError::Nowhere(*hash))?;
            return self.in_pack(found, hash);
        };
        let takers = locked(&self.moved).takers(hinted);
        if let Some(found) = takers.into_iter().find_map(|taker| self.in_pack(taker, hash).ok()) {
            return Ok(found);
        }
        let error = match self.in_pack(hinted, hash) {
            Err(error) if error.is_elsewhere() => error,
            result => return result,
        };
        let Some(taker) = (self.finder)(hash).filter(|taker| *taker != hinted) else { return Err(error) };
        let found = self.in_pack(taker, hash)?;
        locked(&self.moved).learn(hinted, taker);
        Ok(found)
    }

    fn pack(&self, number: u64) -> Result<Arc<PackReader<File>>, ContentsError> {
        if let Some(pack) = touch(&mut locked(&self.open), &number) {
            return Ok(pack);
        }
        let opened = (self.opener)(number).map_err(|source| ContentsError::Pack { pack: number, source })?;
        let opened = Arc::new(opened);
        let mut open = locked(&self.open);
        while open.len() >= OPEN_PACKS {
            open.pop_front();
        }
        open.push_back((number, Arc::clone(&opened)));
        Ok(opened)
    }

    /// A chunk that is in memory.
    pub(crate) fn kept(&self, hash: &ChunkHash) -> Option<Arc<Vec<u8>>> {
        touch(&mut locked(&self.chunks).chunks, hash)
    }

    /// The bytes of a chunk, which are read if they are not in memory.
    pub(crate) fn read(&self, chunk: &NamedChunk) -> Result<Arc<Vec<u8>>, ContentsError> {
        if let Some(bytes) = self.kept(&chunk.hash) {
            return Ok(bytes);
        }
        let FoundChunk { number, pack, slot } = self.find(chunk)?;
        let bytes = pack.read(slot).map_err(|source| ContentsError::Pack { pack: number, source })?;
        let bytes = Arc::new(bytes);
        locked(&self.chunks).keep(chunk.hash, &bytes);
        Ok(bytes)
    }
}

impl KeptChunks {
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
