//! Reads a pack. Its bytes may be anything.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::PAGE;
use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::{PackFile, checked_read};
use super::footer::{CheckedEntry, PackTrailer, TRAILER_BYTES};
use super::groups::{EntryGroup, FooterGroups, GROUP_CHUNKS, LocatedChunk, PackedChunk};
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkKey};
use super::order::HashOrder;
use crate::mutex::lock;
use crate::store::crc::crc32c;

/// Groups of entries that are in memory, some 2 KiB each: those of 32 MiB of a disk.
const RECENT_GROUPS: usize = 32;
/// Groups that are read at once by whoever goes through all of them.
const WALK_GROUPS: usize = 64;

/// A finished pack.
#[derive(Debug)]
pub(crate) struct PackReader<F> {
    pub(super) file: F,
    pub(super) identity: PackIdentity,
    groups: FooterGroups,
    /// The one that was used last is the last.
    recent: Mutex<Vec<Arc<EntryGroup>>>,
    /// There as soon as somebody has looked for a chunk that is not where a hint tells.
    order: OnceLock<HashOrder>,
    /// A bit for each slot that was verified as a whole.
    verified: Box<[AtomicU64]>,
}

impl<F: PackFile> PackReader<F> {
    /// Opens the pack that is expected in a file. No payload is read.
    pub(crate) fn open(file: F, expected: &PackIdentity) -> Result<Self, PackError> {
        let length = file.length()?;
        let trailer_at = length.checked_sub(TRAILER_BYTES as u64).filter(|at| *at >= PAGE);
        let trailer_at = trailer_at.ok_or(PackError::Unfinished)?;
        let mut bytes = vec![0; PAGE as usize];
        file.read(&mut bytes, 0)?;
        let identity = PackIdentity::decode(&bytes)?;
        if identity != *expected {
            return Err(PackError::Foreign);
        }
        let mut bytes = [0; TRAILER_BYTES];
        file.read(&mut bytes, trailer_at)?;
        let trailer = PackTrailer::decode(&bytes, length, &identity)?;
        file.prepare(trailer.footer_offset..length)?;
        let groups = FooterGroups::read(&file, &trailer, &identity)?;
        let verified = (0..groups.chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (recent, order) = Default::default();
        Ok(Self { file, identity, groups, recent, order, verified })
    }

    pub(crate) const fn identity(&self) -> &PackIdentity {
        &self.identity
    }

    /// Where its footer begins.
    pub(crate) const fn footer_offset(&self) -> u64 {
        self.groups.offset
    }

    /// How many chunks it has.
    pub(crate) const fn count(&self) -> u32 {
        self.groups.chunks
    }

    /// The file that it is in.
    pub(crate) const fn file(&self) -> &F {
        &self.file
    }

    /// The names of all chunks, by their slots.
    pub(crate) fn keys(&self) -> Result<Vec<ChunkKey>, PackError> {
        let space = self.identity.space;
        self.walk().map(|chunk| Ok(ChunkKey { space, hash: chunk?.entry().entry.hash })).collect()
    }

    /// All chunks, by their slots.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Result<PackedChunk, PackError>> {
        self.walk().map(|chunk| chunk.map(|chunk| chunk.told()))
    }

    /// All chunks, by their slots, with what they are verified by. It ends with an error.
    pub(crate) fn walk(&self) -> impl Iterator<Item = Result<LocatedChunk, PackError>> {
        let mut has_failed = false;
        let starts = (0..self.groups.count()).step_by(WALK_GROUPS);
        let loaded = starts.map_while(move |start| {
            let end = (start + WALK_GROUPS).min(self.groups.count());
            let loaded = self.groups.load((&self.file, self.identity.number), start..end);
            (!std::mem::replace(&mut has_failed, loaded.is_err())).then_some(loaded)
        });
        loaded.flat_map(|loaded| {
            let (groups, error) = match loaded {
                Ok(groups) => (groups, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            groups.into_iter().flat_map(|group| group.chunks()).map(Ok).chain(error)
        })
    }

    /// The chunk of a slot.
    pub(crate) fn chunk(&self, slot: u32) -> Result<LocatedChunk, PackError> {
        if slot >= self.groups.chunks {
            return Err(PackError::NoSlot(slot));
        }
        if let Some(found) = self.chunk_at_hand(slot) {
            return Ok(found);
        }
        let group = slot as usize / GROUP_CHUNKS;
        let loaded = self.groups.load((&self.file, self.identity.number), group..group + 1)?;
        let mut recent = lock(&self.recent);
        if recent.len() >= RECENT_GROUPS {
            recent.remove(0);
        }
        let found = loaded.first().and_then(|group| group.chunk(slot));
        recent.extend(loaded);
        found.ok_or(PackError::NoSlot(slot))
    }

    /// The same, if it is in memory: the file is not asked.
    pub(crate) fn chunk_at_hand(&self, slot: u32) -> Option<LocatedChunk> {
        let mut recent = lock(&self.recent);
        let at = recent.iter().rposition(|group| group.chunk(slot).is_some())?;
        recent[at..].rotate_left(1);
        recent.last().and_then(|group| group.chunk(slot))
    }

    /// A chunk with this name. The slot is where it should be.
    pub(crate) fn find(
        &self,
        hash: &ChunkHash,
        slot: Option<u32>,
    ) -> Result<Option<LocatedChunk>, PackError> {
        if let Some(slot) = slot.filter(|slot| *slot < self.groups.chunks) {
            let chunk = self.chunk(slot)?;
            if chunk.entry().entry.hash == *hash {
                return Ok(Some(chunk));
            }
        }
        let order = match self.order.get() {
            Some(order) => order,
            None => {
                let order = HashOrder::of(self.walk().map(|chunk| Ok(chunk?.entry().entry.hash)))?;
                self.order.get_or_init(|| order)
            }
        };
        order.find(hash, |slot| self.chunk(slot))
    }

    /// The contents of a chunk, verified. What does not fit is read again.
    pub(crate) fn read(&self, chunk: &LocatedChunk) -> Result<Vec<u8>, PackError> {
        let (checked, slot) = (chunk.entry(), chunk.slot());
        let (offset, length) = (checked.entry.offset, checked.entry.payload_bytes as usize);
        let contents = checked_read((&self.file, self.identity.number), offset, length, |payload| {
            verified(&self.identity, &checked, payload)
        })?;
        self.verified[slot as usize / 64].fetch_or(1 << (slot % 64), Ordering::Relaxed);
        Ok(contents)
    }

    /// Bytes of a chunk that was verified as a whole before and is not compressed; otherwise none. They are
    /// verified by the checksums of the pages that they are in.
    pub(crate) fn read_known(
        &self,
        chunk: &LocatedChunk,
        wanted: Range<u32>,
    ) -> Result<Option<Vec<u8>>, PackError> {
        let CheckedEntry { slot, entry, checksums } = chunk.entry();
        if !self.is_verified(slot) || entry.codec != ChunkCodec::Raw || wanted.end > entry.bytes {
            return Ok(None);
        }
        let page = PAGE as u32;
        let first = wanted.start / page;
        let (start, end) = (first * page, wanted.end.next_multiple_of(page).min(entry.bytes));
        let (offset, length) = (entry.offset + u64::from(start), (end - start) as usize);
        let mut pages = checked_read((&self.file, self.identity.number), offset, length, |pages| {
            check_pages(&pages, &checksums[first as usize..], (slot, offset))?;
            Ok(pages)
        })?;
        pages.truncate((wanted.end - start) as usize);
        pages.drain(..(wanted.start - start) as usize);
        Ok(Some(pages))
    }

    /// Where the contents of a chunk lie in the file as they are, if it was verified as a whole before and is
    /// not compressed: an offset, and how many bytes.
    pub(crate) fn known_place(&self, chunk: &LocatedChunk) -> Option<(u64, u32)> {
        let CheckedEntry { slot, entry, .. } = chunk.entry();
        let is_known = self.is_verified(slot) && entry.codec == ChunkCodec::Raw;
        is_known.then_some((entry.offset, entry.bytes))
    }

    fn is_verified(&self, slot: u32) -> bool {
        self.verified[slot as usize / 64].load(Ordering::Relaxed) >> (slot % 64) & 1 == 1
    }

    /// Bytes of memory that it takes for as long as it is open, beside groups that were used lately.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        let order = self.order.get().map_or(0, HashOrder::kept_bytes);
        self.groups.kept_bytes() + size_of_val(&*self.verified) + order
    }
}

impl LocatedChunk {
    /// The checksums of the pages of its payload.
    pub(crate) fn checksums(&self) -> &[u32] {
        self.entry().checksums
    }
}

/// Whether pages have these checksums.
pub(crate) fn have_checksums(pages: &[u8], checksums: &[u32]) -> bool {
    pages.len() <= checksums.len() * PAGE as usize && check_pages(pages, checksums, (0, 0)).is_ok()
}

/// The contents of a chunk of a pack, verified.
pub(super) fn read_chunk<F: PackFile>(
    file: &F,
    identity: &PackIdentity,
    chunk: &CheckedEntry<'_>,
) -> Result<Vec<u8>, PackError> {
    let mut payload = vec![0; chunk.entry.payload_bytes as usize];
    file.read(&mut payload, chunk.entry.offset)?;
    verified(identity, chunk, payload)
}

/// The contents of a chunk, of its bytes in the file.
pub(super) fn verified(
    identity: &PackIdentity,
    chunk: &CheckedEntry<'_>,
    payload: Vec<u8>,
) -> Result<Vec<u8>, PackError> {
    let CheckedEntry { slot, entry, checksums } = *chunk;
    if payload.len() != entry.payload_bytes as usize {
        return Err(PackError::Compressed { slot });
    }
    check_pages(&payload, checksums, (slot, entry.offset))?;
    let contents = entry.codec.decompress(payload, entry.bytes as usize);
    let contents = contents.ok_or(PackError::Compressed { slot })?;
    if identity.space.hash(entry.kind, &contents[..entry.hashed_bytes as usize]) != entry.hash {
        return Err(PackError::Renamed { slot });
    }
    Ok(contents)
}

/// Each page has its checksum. `offset` is where they begin in the file.
fn check_pages(bytes: &[u8], checksums: &[u32], (slot, offset): (u32, u64)) -> Result<(), PackError> {
    for (page, (bytes, checksum)) in bytes.chunks(PAGE as usize).zip(checksums).enumerate() {
        if crc32c(&[bytes]) != *checksum {
            return Err(PackError::Checksum { slot, offset: offset + page as u64 * PAGE });
        }
    }
    Ok(())
}
