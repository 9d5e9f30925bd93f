//! What comes into packs of a store, and what goes, since the start.

/// Counts of one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackStats {
    /// Layers that came into packs.
    pub(crate) layers: u64,
    /// Layers that did not, though they were to.
    pub(crate) failures: u64,
    /// Bytes of chunks that were read and named.
    pub(crate) bytes: u64,
    /// Chunks of them, by what became of them.
    pub(crate) zeroes: u64,
    pub(crate) known: u64,
    pub(crate) written: u64,
    /// Bytes of packs that were written.
    pub(crate) written_bytes: u64,
    /// Layers that wait, as they were counted last.
    pub(crate) queue: u64,
    pub(crate) is_paused: bool,
    /// Packs that a collection removed, and their bytes.
    pub(crate) removed_packs: u64,
    pub(crate) removed_bytes: u64,
    /// Bytes that disks have in packs, and what of packs is needed for them, as they were known last.
    pub(crate) packed_bytes: u64,
    pub(crate) needed_bytes: u64,
}
