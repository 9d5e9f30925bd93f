//! Goes through all of a manifest of which parts cannot be read.

use super::error::ManifestError;
use super::node::{ManifestEntry, ManifestNode, NamedChunk};
use super::root::{ManifestRoot, span};
use crate::store::pack::ChunkSpace;

/// Who looks at what a manifest has.
pub(crate) trait ManifestSurveyor {
    /// Chunks of the disk that are one named chunk, or all that a node stands for: the first of them, and how
    /// many. The bytes of a node, or none: nothing below it is looked at.
    fn look(&mut self, chunk: &NamedChunk, first: u64, count: u64, is_node: bool) -> Option<Vec<u8>>;

    /// What is below a node was looked at: all of it, unless its bytes are no node.
    fn end(&mut self, node: &NamedChunk, is_all: bool);
}

/// Looks at each named chunk of a manifest and at each node, in the order of the disk.
///
/// # Errors
/// The root is not possible. A node whose bytes are not its own counts as one that cannot be read.
pub(crate) fn survey<E>(
    root: &ManifestRoot,
    surveyor: &mut impl ManifestSurveyor,
) -> Result<(), ManifestError<E>> {
    root.checked()?;
    let mut tour = Tour { space: root.space, chunks: root.chunks(), surveyor };
    tour.below(&root.top, root.level() + 1, 0);
    Ok(())
}

struct Tour<'a, S> {
    space: ChunkSpace,
    chunks: u64,
    surveyor: &'a mut S,
}

impl<S: ManifestSurveyor> Tour<'_, S> {
    /// An entry of a node of this level, which begins with chunk `first`.
    fn below(&mut self, entry: &ManifestEntry, level: u32, first: u64) {
        let ManifestEntry::Named(chunk) = entry else { return };
        if first >= self.chunks {
            return;
        }
        // The root of the largest disks stands for more chunks than there are numbers.
        let whole = 1_u64.checked_shl(level * 8).unwrap_or(u64::MAX);
        let count = whole.min(self.chunks - first);
        let Some(bytes) = self.surveyor.look(chunk, first, count, level > 0) else { return };
        if level == 0 {
            return;
        }
        let node =
            ManifestNode::decode::<std::convert::Infallible>(&bytes, &self.space, chunk.hash, level - 1);
        if let Ok(node) = &node {
            for (entry, first) in node.entries.iter().zip((first..).step_by(span(level - 1) as usize)) {
                self.below(entry, level - 1, first);
            }
        }
        self.surveyor.end(chunk, node.is_ok());
    }
}
