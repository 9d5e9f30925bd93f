//! Writes a pack, from its header to its trailer.

use std::sync::Arc;

use super::aside::AsideTime;
use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::PackFile;
use super::footer::{PackEntry, PackFooter, PackTrailer};
use super::gather::GatheredFile;
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkHint, ChunkKey, ChunkKind};
use super::read::verified;
use super::{MOST_CHUNKS, MOST_PACK_BYTES, PAGE};
use crate::store::collection_bug::{CollectionBug, is_planted};

/// A pack that is being written, in a file that was empty.
#[derive(Debug)]
pub(crate) struct PackWriter<F> {
    file: GatheredFile<F>,
    identity: PackIdentity,
    footer: PackFooter,
    /// Where the payloads end.
    end: u64,
}

/// A chunk that is to be appended.
#[derive(Debug, Clone, Copy)]
struct NewChunk<'a> {
    kind: ChunkKind,
    hash: ChunkHash,
    contents: &'a [u8],
    hashed_bytes: usize,
}

impl<F: PackFile> PackWriter<F> {
    pub(crate) fn create(file: F, identity: PackIdentity) -> Result<Self, PackError> {
        if !identity.space.is_possible() {
            return Err(PackError::ChunkBytes(identity.space.chunk_bytes));
        }
        let mut file = GatheredFile::new(file);
        file.append(&identity.encode(), 0)?;
        Ok(Self { file, identity, footer: PackFooter::default(), end: PAGE })
    }

    /// Adds a chunk whose name is the hash of all of it.
    pub(crate) fn append(
        &mut self,
        contents: &[u8],
        codec: ChunkCodec,
    ) -> Result<(ChunkHash, ChunkHint), PackError> {
        let hash = self.identity.space.hash(ChunkKind::Data, contents);
        Ok((hash, self.append_named(hash, contents, codec)?))
    }

    /// The same of whoever knows its name: to compute it takes a quarter of the time that all of it takes.
    pub(crate) fn append_named(
        &mut self,
        hash: ChunkHash,
        contents: &[u8],
        codec: ChunkCodec,
    ) -> Result<ChunkHint, PackError> {
        debug_assert_eq!(hash, self.identity.space.hash(ChunkKind::Data, contents));
        let chunk = NewChunk { kind: ChunkKind::Data, hash, contents, hashed_bytes: contents.len() };
        self.append_chunk(chunk, codec)
    }

    /// Adds a node, whose name is the hash of its first bytes only: hints follow.
    pub(crate) fn append_node(
        &mut self,
        bytes: &[u8],
        hashed_bytes: usize,
        codec: ChunkCodec,
    ) -> Result<(ChunkHash, ChunkHint), PackError> {
        let hashed = bytes.get(..hashed_bytes).unwrap_or_default();
        let hash = self.identity.space.hash(ChunkKind::Node, hashed);
        let chunk = NewChunk { kind: ChunkKind::Node, hash, contents: bytes, hashed_bytes };
        Ok((hash, self.append_chunk(chunk, codec)?))
    }

    /// When it fails the pack is as it was, but for bytes behind its end, and the call can be made again;
    /// unless another thread writes: then each further call fails, and the pack does not become complete.
    fn append_chunk(&mut self, chunk: NewChunk<'_>, codec: ChunkCodec) -> Result<ChunkHint, PackError> {
        let NewChunk { kind, hash, contents, hashed_bytes } = chunk;
        let most = self.identity.space.most_bytes();
        if !(1..=most as usize).contains(&contents.len()) || !(1..=contents.len()).contains(&hashed_bytes) {
            return Err(PackError::Length { length: contents.len(), most });
        }
        let compressed = codec.compress(contents);
        let codec = if compressed.is_some() { codec } else { ChunkCodec::Raw };
        let payload = compressed.as_deref().unwrap_or(contents);
        let offset = if codec == ChunkCodec::Raw { self.end.next_multiple_of(PAGE) } else { self.end };
        let end = offset + payload.len() as u64;
        if end > MOST_PACK_BYTES || self.footer.entries().len() == MOST_CHUNKS {
            return Err(PackError::Full);
        }
        self.file.append(payload, offset)?;
        let entry = PackEntry {
            hash,
            offset,
            payload_bytes: payload.len() as u32,
            bytes: contents.len() as u32,
            hashed_bytes: hashed_bytes as u32,
            codec,
            kind,
        };
        let slot = self.footer.entries().len() as u32;
        self.footer.push(entry, payload);
        self.end = end;
        Ok(ChunkHint { pack: self.identity.number, slot })
    }

    /// The contents of a chunk that it has already.
    pub(crate) fn read(&mut self, slot: u32) -> Result<Vec<u8>, PackError> {
        let chunk = self.footer.entry(slot).ok_or(PackError::NoSlot(slot))?;
        let mut payload = vec![0; chunk.entry.payload_bytes as usize];
        self.file.read(&mut payload, chunk.entry.offset)?;
        verified(&self.identity, &chunk, payload)
    }

    /// Another thread writes from now on, if there is one, and notes the time that it takes; or none does.
    pub(crate) fn write_aside(&mut self, time: Option<&Arc<AsideTime>>) {
        self.file.write_aside(time);
    }

    /// Waits until no other thread writes. What has failed is told by the next call.
    pub(crate) fn settle(&mut self) {
        let _told_later = self.file.settle();
    }

    /// The names of all chunks that it has so far, by their slots.
    pub(crate) fn keys(&self) -> Vec<ChunkKey> {
        let space = self.identity.space;
        self.footer.entries().iter().map(|entry| ChunkKey { space, hash: entry.hash }).collect()
    }

    /// Bytes that it has so far, without its footer.
    pub(crate) const fn bytes(&self) -> u64 {
        self.end
    }

    /// Bytes in memory that are not in the file, nor on their way there.
    #[cfg(test)]
    pub(super) const fn gathered_bytes(&self) -> usize {
        self.file.gathered_bytes()
    }

    /// Completes the pack, and makes it durable:
    ///
    /// 1. the payloads are synced,
    /// 2. footer and trailer are written,
    /// 3. and synced.
    ///
    /// So a trailer that is there tells of payloads that are durable. What follows is the caller's: it syncs
    /// the directory of packs, then commits the index, then the catalogue. Nothing names the pack before.
    ///
    /// When it fails the file is to be thrown away: what of it is durable is not known.
    pub(crate) fn finish(self) -> Result<F, PackError> {
        // All of it is written, and nothing is behind it: the trailer has to be the end.
        let file = self.file.finish()?;
        if !is_planted(CollectionBug::PackNotSynced) {
            file.sync()?;
        }
        let mut bytes = self.footer.encode(&self.identity);
        let trailer = PackTrailer { footer_offset: self.end, footer_bytes: bytes.len() as u64 };
        bytes.extend(trailer.encode(&self.identity));
        file.write(&bytes, self.end)?;
        if !is_planted(CollectionBug::PackNotSynced) {
            file.sync()?;
        }
        Ok(file)
    }
}
