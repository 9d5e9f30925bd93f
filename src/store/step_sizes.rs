//! How much an ingest or a collection does at once, and how large packs and journals become.

use super::map::Geometry;

#[cfg(test)]
pub(super) use super::tests::small::step_sizes;

/// What a step takes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepSizes {
    /// Chunks that are read and hashed, or copied.
    pub(super) chunks: usize,
    /// Nodes of manifests that are looked at.
    pub(super) nodes: usize,
    /// Packs that are removed.
    pub(super) packs: usize,
    /// Bytes after which a pack is finished: it can be written in one go, and removed alone.
    pub(super) pack_bytes: u64,
    /// The same of its chunks.
    pub(super) pack_chunks: usize,
    /// Bytes of a pack that are written at once; such pieces begin at multiples of it. The page cache's
    /// folios become no larger. The kernel copies a folio in one go, and a client's thread may have to wait
    /// for that.
    pub(super) piece_bytes: usize,
    /// Bytes of the journal of a new layer.
    pub(super) ring_bytes: u64,
    /// Bytes that it grows to.
    pub(super) ring_room_bytes: u64,
}

impl StepSizes {
    pub(super) const ORDINARY: Self = Self {
        chunks: 32,
        nodes: 16,
        packs: 8,
        pack_bytes: 128 << 20,
        pack_chunks: 1 << 15,
        piece_bytes: 256 << 10,
        ring_bytes: Geometry::RING_BYTES,
        ring_room_bytes: Geometry::RING_ROOM_BYTES,
    };
}

#[cfg(not(test))]
pub(super) const fn step_sizes() -> StepSizes {
    StepSizes::ORDINARY
}
