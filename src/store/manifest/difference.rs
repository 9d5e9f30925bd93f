//! What two manifests have not in common. Below equal names nothing is looked at.

use super::error::ManifestError;
use super::node::ManifestEntry;
use super::root::{ManifestNodes, ManifestRoot, load, span};
use crate::store::pack::ChunkSpace;

/// Chunks of the disk side by side: the first, how many, and what they have in each manifest.
type VisitDifference<'a, E> = dyn FnMut(u64, u64, &ManifestEntry, &ManifestEntry) -> Result<(), E> + 'a;

/// Visits the chunks of the disk that differ, in their order. Behind the end of the smaller disk are zeroes.
pub(crate) fn differences<N: ManifestNodes>(
    nodes: &mut N,
    one: &ManifestRoot,
    other: &ManifestRoot,
    visit: &mut VisitDifference<'_, N::Error>,
) -> Result<(), ManifestError<N::Error>> {
    one.checked()?;
    other.checked()?;
    if one.space != other.space {
        return Err(ManifestError::Spaces);
    }
    let chunks = one.chunks().max(other.chunks());
    let mut comparison = Comparison { nodes, space: one.space, chunks, visit };
    let (mut tops, level) = ([one.top, other.top], one.level().min(other.level()));
    // What one of them has beside the first part of its levels more comes last.
    let mut behind = Vec::new();
    for (side, root) in [one, other].into_iter().enumerate() {
        for level in (level + 1..=root.level()).rev() {
            let node = load(comparison.nodes, &root.space, &tops[side], level)?;
            tops[side] = node.entries[0];
            behind.push((side, node));
        }
    }
    comparison.below(tops[0], tops[1], level + 1, 0)?;
    for (side, node) in behind.iter().rev() {
        for (at, entry) in (0..).zip(node.entries.iter()).skip(1) {
            let mut entries = [ManifestEntry::Zero; 2];
            entries[*side] = *entry;
            comparison.below(entries[0], entries[1], node.level, at * span(node.level))?;
        }
    }
    Ok(())
}

struct Comparison<'a, 'b, N: ManifestNodes> {
    nodes: &'a mut N,
    space: ChunkSpace,
    chunks: u64,
    visit: &'a mut VisitDifference<'b, N::Error>,
}

impl<N: ManifestNodes> Comparison<'_, '_, N> {
    /// What differs below two entries of nodes of this level, which begin with chunk `start`.
    fn below(
        &mut self,
        one: ManifestEntry,
        other: ManifestEntry,
        level: u32,
        start: u64,
    ) -> Result<(), ManifestError<N::Error>> {
        if one == other || start >= self.chunks {
            return Ok(());
        }
        let is_named = |entry| matches!(entry, ManifestEntry::Named(_));
        if level == 0 || !(is_named(one) || is_named(other)) {
            let count = span(level).min(self.chunks - start);
            return (self.visit)(start, count, &one, &other).map_err(ManifestError::Nodes);
        }
        let one = load(self.nodes, &self.space, &one, level - 1)?;
        let other = load(self.nodes, &self.space, &other, level - 1)?;
        let starts = (start..).step_by(span(level - 1) as usize);
        for ((one, other), start) in one.entries.iter().zip(other.entries.iter()).zip(starts) {
            self.below(*one, *other, level - 1, start)?;
        }
        Ok(())
    }
}
