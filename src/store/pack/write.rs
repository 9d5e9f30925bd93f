//! Writes a pack, from its header to its trailer.

use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::PackFile;
use super::footer::{PackEntry, PackFooter, PackTrailer};
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkHint, ChunkKey, ChunkKind};
use super::read::read_chunk;
use super::{MOST_CHUNKS, MOST_PACK_BYTES, PAGE};
use crate::store::collection_bug::{CollectionBug, is_planted};

/// Bytes that go to the medium while the next ones are gathered: otherwise the medium has nothing to do
/// until the pack is complete, and the writer nothing until it is durable.
const WRITEBACK_PIECE: u64 = 8 << 20;

/// A pack that is being written, in a file that was empty.
#[derive(Debug)]
pub(crate) struct PackWriter<F> {
    file: F,
    identity: PackIdentity,
    footer: PackFooter,
    /// Where the payloads end.
    end: u64,
    /// What is in front of it was told to go to the medium.
    on_its_way: u64,
}

impl<F: PackFile> PackWriter<F> {
    pub(crate) fn create(file: F, identity: PackIdentity) -> Result<Self, PackError> {
        if !identity.space.is_possible() {
            return Err(PackError::ChunkBytes(identity.space.chunk_bytes));
        }
        file.write(&identity.encode(), 0)?;
        Ok(Self { file, identity, footer: PackFooter::default(), end: PAGE, on_its_way: 0 })
    }

    /// Adds a chunk whose name is the hash of all of it.
    pub(crate) fn append(
        &mut self,
        contents: &[u8],
        codec: ChunkCodec,
    ) -> Result<(ChunkHash, ChunkHint), PackError> {
        self.append_chunk((ChunkKind::Data, contents), contents.len(), codec)
    }

    /// Adds a node, whose name is the hash of its first bytes only: hints follow.
    pub(crate) fn append_node(
        &mut self,
        bytes: &[u8],
        hashed_bytes: usize,
        codec: ChunkCodec,
    ) -> Result<(ChunkHash, ChunkHint), PackError> {
        self.append_chunk((ChunkKind::Node, bytes), hashed_bytes, codec)
    }

    /// When it fails the pack is as it was, but for bytes behind its end, and the call can be made again.
    fn append_chunk(
        &mut self,
        (kind, contents): (ChunkKind, &[u8]),
        hashed_bytes: usize,
        codec: ChunkCodec,
    ) -> Result<(ChunkHash, ChunkHint), PackError> {
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
        self.file.write(payload, offset)?;
        let entry = PackEntry {
            hash: self.identity.space.hash(kind, &contents[..hashed_bytes]),
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
        if end - self.on_its_way >= WRITEBACK_PIECE {
            self.file.begin_writeback(self.on_its_way..end);
            self.on_its_way = end;
        }
        Ok((entry.hash, ChunkHint { pack: self.identity.number, slot }))
    }

    /// The contents of a chunk that it has already.
    pub(crate) fn read(&self, slot: u32) -> Result<Vec<u8>, PackError> {
        let chunk = self.footer.entry(slot).ok_or(PackError::NoSlot(slot))?;
        read_chunk(&self.file, &self.identity, &chunk)
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
        // A write that failed may have left a part of itself, and the trailer has to be the end.
        self.file.set_length(self.end)?;
        if !is_planted(CollectionBug::PackNotSynced) {
            self.file.sync()?;
        }
        let mut bytes = self.footer.encode(&self.identity);
        let trailer = PackTrailer { footer_offset: self.end, footer_bytes: bytes.len() as u64 };
        bytes.extend(trailer.encode(&self.identity));
        self.file.write(&bytes, self.end)?;
        if !is_planted(CollectionBug::PackNotSynced) {
            self.file.sync()?;
        }
        Ok(self.file)
    }
}
