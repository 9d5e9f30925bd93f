//! Many chunks by their names, in little memory.

use std::collections::HashSet;

use super::pack::ChunkHash;

/// Names that are long enough to tell chunks apart, and short enough to have all of them in memory.
#[derive(Debug, Default)]
pub(super) struct ChunkSet(HashSet<u128>);

impl ChunkSet {
    fn key(hash: &ChunkHash) -> u128 {
        u128::from_le_bytes(*hash.0.first_chunk().expect("a hash is longer"))
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, hash: &ChunkHash) -> bool {
        self.0.insert(Self::key(hash))
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, hash: &ChunkHash) -> bool {
        self.0.remove(&Self::key(hash))
    }
}
