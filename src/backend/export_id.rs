//! How shards and the control plane name an export, and what it takes of a ring.

/// Names an export for as long as the server runs. An index is given to another export once this one is gone;
/// a generation is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportId {
    /// Its place, by which it is counted.
    pub index: u32,
    /// How many exports had that place before.
    pub generation: u32,
}

/// The most descriptors that a [`Device`](super::Device) registers with its ring.
pub(crate) const FILES_PER_EXPORT: usize = 3;
