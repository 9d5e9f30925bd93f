//! What a block of the export holds, as the client knows it.

use super::wire::pattern;

/// Versions are the seeds of [`pattern`], of which that many differ.
pub(super) const VERSIONS: u64 = 1 << 24;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Anything: it was never written, or trimmed.
    Unknown,
    Zeroes,
    /// What the WRITE of this version wrote.
    Version(u64),
}

impl Holding {
    /// The bytes of a part of the export; nothing when anything may be there.
    pub(super) fn bytes(self, offset: u64, length: usize) -> Option<Vec<u8>> {
        match self {
            Self::Unknown => None,
            Self::Zeroes => Some(vec![0; length]),
            Self::Version(version) => Some(pattern(version % VERSIONS, offset, length)),
        }
    }
}

impl std::fmt::Display for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("anything"),
            Self::Zeroes => f.write_str("zeroes"),
            Self::Version(version) => write!(f, "what WRITE number {version} wrote"),
        }
    }
}
