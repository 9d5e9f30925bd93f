//! Reads a pack. Its bytes may be anything.

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
    file: F,
    identity: PackIdentity,
    footer: PackFooter,
    /// Slots in the order of their hashes.
    by_hash: Vec<u32>,
}

/// A chunk, for those who copy it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedChunk {
    pub(crate) hash: ChunkHash,
    pub(crate) kind: ChunkKind,
    pub(crate) codec: ChunkCodec,
    /// Bytes in the file.
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
        Ok(Self { file, identity, footer, by_hash })
    }

    #[cfg(test)]
    pub(crate) const fn identity(&self) -> &PackIdentity {
        &self.identity
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
        let PackEntry { hash, kind, codec, payload_bytes, hashed_bytes, .. } =
            *self.footer.entries().get(slot as usize)?;
        Some(PackedChunk { hash, kind, codec, payload_bytes, hashed_bytes })
    }

    /// The slot of the chunk with this hash.
    pub(crate) fn slot(&self, hash: &ChunkHash) -> Option<u32> {
        let hash_of = |slot: &u32| self.footer.entries()[*slot as usize].hash;
        let found = self.by_hash.binary_search_by_key(hash, hash_of).ok()?;
        Some(self.by_hash[found])
    }

    /// The contents of a chunk, verified.
    pub(crate) fn read(&self, slot: u32) -> Result<Vec<u8>, PackError> {
        read_chunk(&self.file, &self.identity, &self.footer, slot)
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
    let pages = payload.chunks(PAGE as usize).zip(footer.checksums(slot as usize));
    for (page, (bytes, checksum)) in pages.enumerate() {
        if crc32c(&[bytes]) != *checksum {
            return Err(PackError::Checksum { slot, offset: entry.offset + page as u64 * PAGE });
        }
    }
    let contents = entry.codec.decompress(payload, entry.bytes as usize);
    let contents = contents.ok_or(PackError::Compressed { slot })?;
    if identity.space.hash(entry.kind, &contents[..entry.hashed_bytes as usize]) != entry.hash {
        return Err(PackError::Renamed { slot });
    }
    Ok(contents)
}
