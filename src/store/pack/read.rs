//! Reads a pack. Its bytes may be anything.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::PAGE;
use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::PackFile;
use super::footer::{PackEntry, PackFooter, PackTrailer, TRAILER_BYTES};
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkKey, ChunkKind};
use crate::store::crc::crc32c;

/// A finished pack.
#[derive(Debug)]
pub(crate) struct PackReader<F> {
    pub(super) file: F,
    pub(super) identity: PackIdentity,
    pub(super) footer: PackFooter,
    /// Slots in the order of their hashes.
    by_hash: Vec<u32>,
    /// A bit for each slot that was verified as a whole.
    verified: Vec<AtomicU64>,
    footer_offset: u64,
}

/// A chunk, for those who copy it or look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedChunk {
    pub(crate) hash: ChunkHash,
    pub(crate) kind: ChunkKind,
    pub(crate) codec: ChunkCodec,
    /// Where its bytes begin in the file, and how many they are.
    pub(crate) offset: u64,
    pub(crate) payload_bytes: u32,
    /// Bytes that its name is the hash of.
    pub(crate) hashed_bytes: u32,
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
        let mut bytes = vec![0; trailer.footer_bytes as usize];
        file.read(&mut bytes, trailer.footer_offset)?;
        let footer = PackFooter::decode(&bytes, trailer.footer_offset, &identity)?;
        let mut by_hash: Vec<u32> = (0..footer.entries().len() as u32).collect();
        by_hash.sort_by_key(|slot| footer.entries()[*slot as usize].hash);
        let verified = (0..by_hash.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { file, identity, footer, by_hash, verified, footer_offset: trailer.footer_offset })
    }

    pub(crate) const fn identity(&self) -> &PackIdentity {
        &self.identity
    }

    /// Where its footer begins.
    pub(crate) const fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// The file that it is in.
    pub(crate) const fn file(&self) -> &F {
        &self.file
    }

    /// The names of all chunks, by their slots.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ChunkKey> {
        let space = self.identity.space;
        self.footer.entries().iter().map(move |entry| ChunkKey { space, hash: entry.hash })
    }

    /// All chunks, by their slots.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = PackedChunk> {
        (0..).map_while(|slot| self.chunk(slot))
    }

    pub(crate) fn chunk(&self, slot: u32) -> Option<PackedChunk> {
        let PackEntry { hash, kind, codec, offset, payload_bytes, hashed_bytes, .. } =
            *self.footer.entries().get(slot as usize)?;
        Some(PackedChunk { hash, kind, codec, offset, payload_bytes, hashed_bytes })
    }

    /// The slot of the chunk with this hash.
    pub(crate) fn slot(&self, hash: &ChunkHash) -> Option<u32> {
        let hash_of = |slot: &u32| self.footer.entries()[*slot as usize].hash;
        let found = self.by_hash.binary_search_by_key(hash, hash_of).ok()?;
        Some(self.by_hash[found])
    }

    /// The contents of a chunk, verified. What does not fit is read again.
    pub(crate) fn read(&self, slot: u32) -> Result<Vec<u8>, PackError> {
        let entry = self.footer.entries().get(slot as usize).ok_or(PackError::NoSlot(slot))?;
        let contents = self.checked(entry.offset, entry.payload_bytes as usize, |payload| {
            verified(&self.identity, &self.footer, slot, payload)
        })?;
        self.verified[slot as usize / 64].fetch_or(1 << (slot % 64), Ordering::Relaxed);
        Ok(contents)
    }

    /// Bytes of a chunk that was verified as a whole before and is not compressed; otherwise none. They are
    /// verified by the checksums of the pages that they are in.
    pub(crate) fn read_known(&self, slot: u32, wanted: Range<u32>) -> Result<Option<Vec<u8>>, PackError> {
        let entry = self.footer.entries().get(slot as usize).ok_or(PackError::NoSlot(slot))?;
        let is_verified = self.verified[slot as usize / 64].load(Ordering::Relaxed) >> (slot % 64) & 1 == 1;
        if !is_verified || entry.codec != ChunkCodec::Raw || wanted.end > entry.bytes {
            return Ok(None);
        }
        let page = PAGE as u32;
        let first = wanted.start / page;
        let (start, end) = (first * page, wanted.end.next_multiple_of(page).min(entry.bytes));
        let offset = entry.offset + u64::from(start);
        let mut pages = self.checked(offset, (end - start) as usize, |pages| {
            check_pages(&pages, &self.footer.checksums(slot as usize)[first as usize..], (slot, offset))?;
            Ok(pages)
        })?;
        pages.truncate((wanted.end - start) as usize);
        pages.drain(..(wanted.start - start) as usize);
        Ok(Some(pages))
    }

    /// Reads bytes that have to pass a check; if they do not, again from where the file has them.
    fn checked(
        &self,
        offset: u64,
        length: usize,
        check: impl Fn(Vec<u8>) -> Result<Vec<u8>, PackError>,
    ) -> Result<Vec<u8>, PackError> {
        let mut bytes = vec![0; length];
        let first = self.file.read(&mut bytes, offset).map_err(PackError::from).and_then(|()| check(bytes));
        let Err(error) = first else { return first };
        let mut last = None;
        for _ in 0..self.file.further_reads() {
            let mut bytes = vec![0; length];
            self.file.read_again(&mut bytes, offset)?;
            match check(bytes) {
                Ok(good) => {
                    self.file.told_differs(self.identity.number, &error);
                    return Ok(good);
                }
                Err(other) => last = Some(other),
            }
        }
        Err(last.unwrap_or(error))
    }
}

/// The contents of a chunk of a pack, verified.
pub(super) fn read_chunk<F: PackFile>(
    file: &F,
    identity: &PackIdentity,
    footer: &PackFooter,
    slot: u32,
) -> Result<Vec<u8>, PackError> {
    let entry = footer.entries().get(slot as usize).ok_or(PackError::NoSlot(slot))?;
    let mut payload = vec![0; entry.payload_bytes as usize];
    file.read(&mut payload, entry.offset)?;
    verified(identity, footer, slot, payload)
}

/// The contents of a chunk, of its bytes in the file.
pub(super) fn verified(
    identity: &PackIdentity,
    footer: &PackFooter,
    slot: u32,
    payload: Vec<u8>,
) -> Result<Vec<u8>, PackError> {
    let entry = footer.entries().get(slot as usize).ok_or(PackError::NoSlot(slot))?;
    if payload.len() != entry.payload_bytes as usize {
        return Err(PackError::Compressed { slot });
    }
    check_pages(&payload, footer.checksums(slot as usize), (slot, entry.offset))?;
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
