//! Names of chunks, and where a chunk may be.

use std::fmt;

use uuid::Uuid;

/// What the names of nodes are derived with. Bytes of a disk never have the name of a node, though a guest
/// can foresee one of its own manifest and write it as data.
const NODES: &str = "ringnbd 2026-11-28 node of a manifest";

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkKind {
    /// Bytes of a disk. Its name is the hash of all of them.
    Data = 0,
    /// A node of a manifest. Its name is the hash of its first bytes, without its hints.
    Node = 1,
}

impl ChunkKind {
    pub(super) fn of_number(number: u32) -> Option<Self> {
        [Self::Data, Self::Node].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// How contents become a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HashAlgorithm {
    /// Without a key.
    Blake3 = 1,
}

impl HashAlgorithm {
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        (number == Self::Blake3 as u32).then_some(Self::Blake3)
    }
}

/// Within which equal contents are the same chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkSpace {
    pub(crate) algorithm: HashAlgorithm,
    /// How the disk is cut.
    pub(crate) chunk_bytes: u32,
    /// Nothing is shared across domains. All zeroes: the one that a store has without any setting.
    pub(crate) domain: Uuid,
}

impl ChunkSpace {
    /// The name of contents of a kind.
    pub(crate) fn hash(&self, kind: ChunkKind, contents: &[u8]) -> ChunkHash {
        match (self.algorithm, kind) {
            (HashAlgorithm::Blake3, ChunkKind::Data) => ChunkHash(*blake3::hash(contents).as_bytes()),
            (HashAlgorithm::Blake3, ChunkKind::Node) => {
                ChunkHash(*blake3::Hasher::new_derive_key(NODES).update(contents).finalize().as_bytes())
            }
        }
    }

    /// Bytes of a payload at most, after it was decompressed.
    pub(super) fn most_bytes(&self) -> u32 {
        self.chunk_bytes.max(super::MOST_NODE_BYTES)
    }

    pub(crate) fn is_possible(&self) -> bool {
        self.chunk_bytes.is_power_of_two() && (512..=1 << 20).contains(&self.chunk_bytes)
    }
}

/// The hash of a chunk's contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkHash(pub(crate) [u8; Self::BYTES]);

impl ChunkHash {
    pub(crate) const BYTES: usize = 32;
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The whole name of a chunk: two chunks are equal if their keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkKey {
    pub(crate) space: ChunkSpace,
    pub(crate) hash: ChunkHash,
}

/// Where a chunk was when something that names it was written. It may have moved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChunkHint {
    /// The number of a pack. Numbers begin with 1 and are never used again.
    pub(crate) pack: u64,
    /// Which chunk of it.
    pub(crate) slot: u32,
}
