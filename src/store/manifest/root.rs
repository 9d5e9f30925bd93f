//! Where a tree begins, and who keeps its nodes.

use super::error::ManifestError;
use super::node::{FAN_OUT, ManifestEntry, ManifestNode, NamedChunk};
use crate::store::pack::{ChunkHash, ChunkHint, ChunkSpace};

/// Bits of a chunk's number that a level stands for.
const LEVEL_BITS: u32 = FAN_OUT.trailing_zeros();
/// Bytes of a disk at most.
const MOST_BYTES: u64 = 1 << 63;

/// Who keeps nodes.
pub(crate) trait ManifestNodes {
    type Error;

    /// The bytes of a node, with its hints.
    fn get(&mut self, node: &NamedChunk) -> Result<Vec<u8>, Self::Error>;

    /// Keeps a node, whose name is the hash of its first `hashed` bytes, unless it has one of that name. Says
    /// where it is.
    fn put(
        &mut self,
        hash: &ChunkHash,
        bytes: &[u8],
        hashed: usize,
    ) -> Result<Option<ChunkHint>, Self::Error>;
}

/// A manifest, as what names it has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ManifestRoot {
    pub(crate) space: ChunkSpace,
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// What is below the root: all zeroes, all of the base, or the topmost node.
    pub(crate) top: ManifestEntry,
}

impl ManifestRoot {
    /// Of a disk of zeroes.
    pub(crate) const fn zeroes(space: ChunkSpace, size: u64) -> Self {
        Self { space, size, top: ManifestEntry::Zero }
    }

    pub(super) fn checked<E>(&self) -> Result<(), ManifestError<E>> {
        let is_possible = self.size <= MOST_BYTES && self.space.is_possible();
        let error = ManifestError::Size { size: self.size, chunk_bytes: self.space.chunk_bytes };
        is_possible.then_some(()).ok_or(error)
    }

    /// Chunks of the disk; the last one may be shorter.
    pub(crate) fn chunks(&self) -> u64 {
        self.size.div_ceil(self.space.chunk_bytes.into())
    }

    /// The level of the topmost node: the least that is enough.
    pub(super) fn level(&self) -> u32 {
        let bits = u64::BITS - self.chunks().saturating_sub(1).leading_zeros();
        bits.div_ceil(LEVEL_BITS).saturating_sub(1)
    }
}

/// Chunks of the disk that an entry of a node stands for.
pub(super) const fn span(level: u32) -> u64 {
    1 << (level * LEVEL_BITS)
}

/// Which entry of a node of this level a chunk of the disk is below.
pub(super) const fn entry_of(chunk: u64, level: u32) -> usize {
    (chunk / span(level)) as usize % FAN_OUT
}

/// The node of this level that an entry of the level above stands for.
pub(super) fn load<N: ManifestNodes>(
    nodes: &mut N,
    space: &ChunkSpace,
    entry: &ManifestEntry,
    level: u32,
) -> Result<ManifestNode, ManifestError<N::Error>> {
    match entry {
        ManifestEntry::Named(chunk) => {
            let bytes = nodes.get(chunk).map_err(ManifestError::Nodes)?;
            ManifestNode::decode(&bytes, space, chunk.hash, level)
        }
        plain @ (ManifestEntry::Zero | ManifestEntry::Base) => Ok(ManifestNode::uniform(level, *plain)),
    }
}
