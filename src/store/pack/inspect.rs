//! What a pack has is looked at as a whole, and put right.

use super::PAGE;
use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::PackFile;
use super::groups::LocatedChunk;
use super::read::{PackReader, read_chunk, verified};

/// Bytes of a gap that are read at once.
const GAP_PIECE: u64 = 64 << 10;

impl<F: PackFile> PackReader<F> {
    /// Verifies a chunk, by all that is known of it.
    pub(crate) fn verify(&self, chunk: &LocatedChunk) -> Result<(), PackError> {
        read_chunk(&self.file, &self.identity, &chunk.entry()).map(drop)
    }

    /// What nobody has between the end of a chunk and the next one, or in front of the first, is zero, as it
    /// was written.
    pub(crate) fn verify_gap(&self, before: Option<u64>, chunk: &LocatedChunk) -> Result<(), PackError> {
        let (mut start, end) = (before.unwrap_or(PAGE), chunk.entry().entry.offset);
        while start < end {
            let mut piece = vec![0; GAP_PIECE.min(end - start) as usize];
            self.file.read(&mut piece, start)?;
            if let Some(at) = piece.iter().position(|byte| *byte != 0) {
                return Err(PackError::Gap { offset: start + at as u64 });
            }
            start += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes the payload of a damaged chunk again, of a copy of its contents, durably. It has to be the same
    /// bytes as before, so whoever reads meanwhile finds these or what is damaged, and nothing else.
    pub(crate) fn restore(&self, slot: u32, contents: &[u8]) -> Result<(), PackError> {
        let chunk = self.chunk(slot)?;
        let checked = chunk.entry();
        let payload = match checked.entry.codec {
            ChunkCodec::Raw => contents.to_vec(),
            codec => codec.compress(contents).ok_or(PackError::OtherPayload { slot })?,
        };
        let same = verified(&self.identity, &checked, payload.clone());
        same.map_err(|_| PackError::OtherPayload { slot })?;
        self.file.write(&payload, checked.entry.offset)?;
        self.file.sync()?;
        Ok(())
    }
}
