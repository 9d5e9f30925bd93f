//! Finds a chunk of the disk in a manifest, and goes through all of them.

use super::error::ManifestError;
use super::node::ManifestEntry;
use super::root::{ManifestNodes, ManifestRoot, entry_of, load, span};
use crate::store::pack::ChunkSpace;

/// What a chunk of the disk has.
pub(crate) fn find<N: ManifestNodes>(
    nodes: &mut N,
    root: &ManifestRoot,
    chunk: u64,
) -> Result<ManifestEntry, ManifestError<N::Error>> {
    root.checked()?;
    let chunks = root.chunks();
    if chunk >= chunks {
        return Err(ManifestError::Order { chunk, chunks });
    }
    let mut entry = root.top;
    for level in (0..=root.level()).rev() {
        if !matches!(entry, ManifestEntry::Named(_)) {
            break;
        }
        entry = load(nodes, &root.space, &entry, level)?.entries[entry_of(chunk, level)];
    }
    Ok(entry)
}

/// Chunks of the disk side by side: the first, how many, and what all of them have.
type VisitChunks<'a, E> = dyn FnMut(u64, u64, &ManifestEntry) -> Result<(), E> + 'a;

/// Visits all chunks of the disk, in their order. Chunks of zeroes or of the base are visited several at a
/// time, a named one alone.
pub(crate) fn walk<N: ManifestNodes>(
    nodes: &mut N,
    root: &ManifestRoot,
    visit: &mut VisitChunks<'_, N::Error>,
) -> Result<(), ManifestError<N::Error>> {
    root.checked()?;
    let mut walk = Walk { nodes, space: root.space, chunks: root.chunks(), visit };
    walk.below(&root.top, root.level() + 1, 0)
}

struct Walk<'a, 'b, N: ManifestNodes> {
    nodes: &'a mut N,
    space: ChunkSpace,
    chunks: u64,
    visit: &'a mut VisitChunks<'b, N::Error>,
}

impl<N: ManifestNodes> Walk<'_, '_, N> {
    /// What is below an entry of a node of this level, which begins with chunk `start`.
    fn below(
        &mut self,
        entry: &ManifestEntry,
        level: u32,
        start: u64,
    ) -> Result<(), ManifestError<N::Error>> {
        if start >= self.chunks {
            return Ok(());
        }
        if level == 0 || !matches!(entry, ManifestEntry::Named(_)) {
            let count = span(level).min(self.chunks - start);
            return (self.visit)(start, count, entry).map_err(ManifestError::Nodes);
        }
        let node = load(self.nodes, &self.space, entry, level - 1)?;
        let starts = (start..).step_by(span(level - 1) as usize);
        node.entries.iter().zip(starts).try_for_each(|(entry, start)| self.below(entry, level - 1, start))
    }
}
