//! Packs that are open, and chunks of them that were read: for all who read contents of one store.
//!
//! A chunk is verified when it is read from its file, by its checksums and its name, and again when it has
//! left memory meanwhile; of one that was verified before it may be the part that is read, by its checksums.
//! What does not fit is read once more from the medium, and then it is an error, each time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::contents_error::ContentsError;
use super::manifest::NamedChunk;
use super::pack::{ChunkHash, ChunkHint, PackError, PackReader};

/// Packs whose footers are in memory.
const OPEN_PACKS: usize = 32;
/// Bytes of chunks in memory.
const MOST_BYTES: usize = 16 << 20;
/// Damaged chunks that are told of: a check finds the others.
const MOST_TOLD: usize = 1024;

/// Opens a pack by its number.
type PackOpener = Box<dyn Fn(u64) -> Result<PackReader<File>, PackError> + Send + Sync>;

/// Told once of each chunk that does not verify.
pub(crate) type OnDamage = Box<dyn Fn(ChunkHint, ChunkHash) + Send + Sync>;

/// Packs of a store, for several threads.
pub(crate) struct PackShelf {
    opener: PackOpener,
    /// The one that was used last is the last.
    open: Mutex<VecDeque<(u64, Arc<PackReader<File>>)>>,
    chunks: Mutex<KeptChunks>,
    /// Reads that failed, because of a pack or a chunk of one.
    failed: Arc<AtomicU64>,
    on_damage: Option<OnDamage>,
    /// Chunks that were told of.
    told: Mutex<BTreeSet<(u64, u32)>>,
}

/// Verified bytes of a chunk.
#[derive(Debug)]
pub(crate) enum ChunkBytes {
    Whole(Arc<Vec<u8>>),
    /// Those that were wanted.
    Part(Vec<u8>),
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
    pub(crate) fn new(opener: PackOpener) -> Self {
        let (open, chunks, failed, on_damage, told) = Default::default();
        Self { opener, open, chunks, failed, on_damage, told }
    }

    /// The same, which counts the reads that failed, and tells of damaged chunks.
    pub(crate) fn telling(self, failed: &Arc<AtomicU64>, on_damage: OnDamage) -> Self {
        Self { failed: Arc::clone(failed), on_damage: Some(on_damage), ..self }
    }

    fn pack(&self, number: u64) -> Result<Arc<PackReader<File>>, ContentsError> {
        if let Some(pack) = touch(&mut locked(&self.open), &number) {
            return Ok(pack);
        }
        let opened = self.counted(number, (self.opener)(number))?;
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
        let (pack, slot, reader) = self.find(chunk)?;
        self.read_whole(chunk.hash, (pack, slot, &reader))
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
        let (pack, slot, reader) = self.find(chunk)?;
        let at = ChunkHint { pack, slot };
        match self.verified(at, chunk.hash, reader.read_known(slot, wanted))? {
            Some(part) => Ok(ChunkBytes::Part(part)),
            None => self.read_whole(chunk.hash, (pack, slot, &reader)).map(ChunkBytes::Whole),
        }
    }

    /// The pack that has a chunk.
    fn find(&self, chunk: &NamedChunk) -> Result<(u64, u32, Arc<PackReader<File>>), ContentsError> {
        let ChunkHint { pack, .. } = chunk.hint.ok_or(ContentsError::Nowhere(chunk.hash))?;
        let reader = self.pack(pack)?;
        let slot = reader.slot(&chunk.hash).ok_or(ContentsError::Elsewhere(chunk.hash))?;
        Ok((pack, slot, reader))
    }

    fn read_whole(
        &self,
        hash: ChunkHash,
        (pack, slot, reader): (u64, u32, &PackReader<File>),
    ) -> Result<Arc<Vec<u8>>, ContentsError> {
        let bytes = Arc::new(self.verified(ChunkHint { pack, slot }, hash, reader.read(slot))?);
        locked(&self.chunks).keep(hash, &bytes);
        Ok(bytes)
    }

    /// Tells of a chunk that is damaged.
    fn verified<T>(
        &self,
        at: ChunkHint,
        hash: ChunkHash,
        result: Result<T, PackError>,
    ) -> Result<T, ContentsError> {
        if result.is_err()
            && let Some(on_damage) = &self.on_damage
        {
            let mut told = locked(&self.told);
            let is_new = told.len() < MOST_TOLD && told.insert((at.pack, at.slot));
            drop(told);
            if is_new {
                on_damage(at, hash);
            }
        }
        self.counted(at.pack, result)
    }

    fn counted<T>(&self, pack: u64, result: Result<T, PackError>) -> Result<T, ContentsError> {
        result.map_err(|source| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            ContentsError::Pack { pack, source }
        })
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
