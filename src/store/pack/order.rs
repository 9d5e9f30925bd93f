//! Finds the chunks of a pack by their names, in 4 bytes a chunk.

use super::MOST_CHUNKS;
use super::error::PackError;
use super::groups::LocatedChunk;
use super::key::ChunkHash;

// A slot is a number of 16 bits.
const _: () = assert!(MOST_CHUNKS == 1 << 16);

/// The slots of a pack, in the order of the names of their chunks. It has two bytes of each name; the rest is
/// in the file.
#[derive(Debug)]
pub(super) struct HashOrder {
    prefixes: Box<[u16]>,
    slots: Box<[u16]>,
}

fn prefix(hash: &ChunkHash) -> u16 {
    u16::from_be_bytes(*hash.0.first_chunk().expect("two of more bytes"))
}

impl HashOrder {
    /// Of the names of all chunks, by their slots.
    pub(super) fn of(names: impl Iterator<Item = Result<ChunkHash, PackError>>) -> Result<Self, PackError> {
        let numbered = (0..=u16::MAX).zip(names).map(|(slot, name)| Ok((name?, slot)));
        let mut numbered = numbered.collect::<Result<Vec<_>, PackError>>()?;
        numbered.sort_unstable();
        let prefixes = numbered.iter().map(|(name, _)| prefix(name)).collect();
        Ok(Self { prefixes, slots: numbered.iter().map(|(_, slot)| *slot).collect() })
    }

    /// A chunk with this name. `look` tells what is in a slot; it is asked rarely more than once, and 17
    /// times at most, whatever names there are.
    pub(super) fn find(
        &self,
        hash: &ChunkHash,
        look: impl Fn(u32) -> Result<LocatedChunk, PackError>,
    ) -> Result<Option<LocatedChunk>, PackError> {
        let wanted = prefix(hash);
        let mut start = self.prefixes.partition_point(|prefix| *prefix < wanted);
        let mut end = start + self.prefixes[start..].partition_point(|prefix| *prefix == wanted);
        while start < end {
            let middle = start.midpoint(end);
            let chunk = look(self.slots[middle].into())?;
            match chunk.entry().entry.hash.cmp(hash) {
                std::cmp::Ordering::Less => start = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Some(chunk)),
                std::cmp::Ordering::Greater => end = middle,
            }
        }
        Ok(None)
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        size_of_val(&*self.prefixes) + size_of_val(&*self.slots)
    }
}
