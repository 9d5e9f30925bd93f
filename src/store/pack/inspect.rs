//! What a pack has is looked at as a whole, and put right.

use std::ops::Range;

use super::PAGE;
use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::PackFile;
use super::read::{PackReader, read_chunk, verified};

/// Bytes of a gap that are read at once.
const GAP_PIECE: u64 = 64 << 10;

impl<F: PackFile> PackReader<F> {
    /// Verifies a chunk, by all that is known of it.
    pub(crate) fn verify(&self, slot: u32) -> Result<(), PackError> {
        read_chunk(&self.file, &self.identity, &self.footer, slot).map(drop)
    }

    /// What nobody has between a chunk and the one before it is zero, as it was written.
    pub(crate) fn verify_gap(&self, slot: u32) -> Result<(), PackError> {
        let Range { mut start, end } = self.gap(slot).ok_or(PackError::NoSlot(slot))?;
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

    fn gap(&self, slot: u32) -> Option<Range<u64>> {
        let entries = self.footer.entries();
        let end = entries.get(slot as usize)?.offset;
        let before = (slot as usize).checked_sub(1).map(|before| &entries[before]);
        Some(before.map_or(PAGE, |entry| entry.offset + u64::from(entry.payload_bytes))..end)
    }

    /// Writes the payload of a damaged chunk again, of a copy of its contents, durably. It has to be the same
    /// bytes as before, so whoever reads meanwhile finds these or what is damaged, and nothing else.
    pub(crate) fn restore(&self, slot: u32, contents: &[u8]) -> Result<(), PackError> {
        let entry = self.footer.entries().get(slot as usize).ok_or(PackError::NoSlot(slot))?;
        let payload = match entry.codec {
            ChunkCodec::Raw => contents.to_vec(),
            codec => codec.compress(contents).ok_or(PackError::OtherPayload { slot })?,
        };
        let same = verified(&self.identity, &self.footer, slot, payload.clone());
        same.map_err(|_| PackError::OtherPayload { slot })?;
        self.file.write(&payload, entry.offset)?;
        self.file.sync()?;
        Ok(())
    }
}
