//! Which contents reach each chunk, in little memory.

use std::collections::HashMap;

use super::pack::ChunkHash;

/// Names that are long enough to tell chunks apart, and short enough to have all of them in memory.
pub(super) type ChunkName = [u8; 16];

pub(super) fn chunk_name(hash: &ChunkHash) -> ChunkName {
    *hash.0.first_chunk().expect("a hash is longer")
}

/// The only contents that reach a chunk, by their number, or one of the two below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkOwner(u32);

impl ChunkOwner {
    /// Several contents reach it.
    const MANY: Self = Self(u32::MAX);
    /// Only contents that have no row any more reach it.
    pub(super) const HELD: Self = Self(u32::MAX - 1);

    pub(super) fn of(number: usize) -> Self {
        Self(u32::try_from(number).expect("a catalogue has fewer rows"))
    }

    /// The number of the only contents; none if there are several, or none with a row.
    pub(super) const fn number(self) -> Option<usize> {
        if self.0 >= Self::HELD.0 { None } else { Some(self.0 as usize) }
    }
}

/// What is new when contents reach a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkReach {
    /// Nothing has reached it before.
    First,
    /// Others have: it was theirs alone until now.
    NowShared,
    Known,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ChunkOwners(HashMap<ChunkName, ChunkOwner>);

impl ChunkOwners {
    /// Contents reach a chunk. Those that are held come last, and share nothing.
    pub(super) fn reach(&mut self, hash: &ChunkHash, by: ChunkOwner) -> ChunkReach {
        let mut is_first = false;
        let owner = self.0.entry(chunk_name(hash)).or_insert_with(|| {
            is_first = true;
            by
        });
        if is_first {
            return ChunkReach::First;
        }
        if by == ChunkOwner::HELD || *owner == by || *owner == ChunkOwner::MANY {
            return ChunkReach::Known;
        }
        *owner = ChunkOwner::MANY;
        ChunkReach::NowShared
    }

    /// The owner of a chunk, which is forgotten; none if nothing reaches it, or it was asked for before.
    pub(super) fn take(&mut self, hash: &ChunkHash) -> Option<ChunkOwner> {
        self.0.remove(&chunk_name(hash))
    }
}
