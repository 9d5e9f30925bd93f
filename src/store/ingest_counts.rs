//! What an ingest has done so far.

use super::pack::{ChunkSpace, HashAlgorithm};

/// How chunks are named in a store without any setting.
pub(super) const SPACE: ChunkSpace =
    ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 64 << 10, domain: uuid::Uuid::nil() };

/// Chunks of a disk that were composed, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestCounts {
    pub zeroes: u64,
    /// A pack had them already.
    pub known: u64,
    pub written: u64,
    /// Bytes of packs that were written, after they were compressed.
    pub written_bytes: u64,
}

impl IngestCounts {
    /// Bytes of all of them.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.zeroes + self.known + self.written) * SPACE.chunk_bytes as u64
    }

    /// What there is now and was not there before.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            zeroes: self.zeroes - before.zeroes,
            known: self.known - before.known,
            written: self.written - before.written,
            written_bytes: self.written_bytes - before.written_bytes,
        }
    }
}
