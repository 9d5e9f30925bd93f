//! Makes a manifest of an older one and of what changed since. Only nodes above something that changed are
//! read and written.

use std::iter::Peekable;

use super::error::ManifestError;
use super::node::{FAN_OUT, ManifestEntry, ManifestNode, NamedChunk};
use super::root::{ManifestNodes, ManifestRoot, load, span};
use crate::store::pack::{ChunkKind, ChunkSpace};

/// The manifest of a disk of `size` bytes that is the older one's, but for `changes`: chunks of the disk in
/// their order, with what each of them has now. What an older disk did not have reads as zeroes.
///
/// When it fails nodes may have been put that nothing names.
pub(crate) fn updated<N: ManifestNodes>(
    nodes: &mut N,
    older: &ManifestRoot,
    size: u64,
    changes: impl IntoIterator<Item = Result<(u64, ManifestEntry), N::Error>>,
) -> Result<ManifestRoot, ManifestError<N::Error>> {
    let mut root = ManifestRoot { size, ..*older };
    older.checked()?;
    root.checked()?;
    let shrunk = (root.chunks() < older.chunks()).then_some(root.chunks());
    let changes = ChunkChanges { left: changes.into_iter().peekable(), next: 0, chunks: root.chunks() };
    let mut update = Update { nodes, space: older.space, changes, shrunk };
    let top = update.cut(older, root.level())?;
    root.top = update.grown(top, root.level().min(older.level()) + 1, root.level() + 1)?;
    // A change that does not follow the one before it was not taken.
    update.changes.peek()?;
    Ok(root)
}

/// What changed, of which nobody knows yet that it is in order.
struct ChunkChanges<I: Iterator> {
    left: Peekable<I>,
    /// The least chunk that may come.
    next: u64,
    chunks: u64,
}

impl<E, I: Iterator<Item = Result<(u64, ManifestEntry), E>>> ChunkChanges<I> {
    /// The next changed chunk.
    fn peek(&mut self) -> Result<Option<u64>, ManifestError<E>> {
        match self.left.peek() {
            None => Ok(None),
            Some(Ok((chunk, _))) if (self.next..self.chunks).contains(chunk) => Ok(Some(*chunk)),
            Some(Ok((chunk, _))) => Err(ManifestError::Order { chunk: *chunk, chunks: self.chunks }),
            Some(Err(_)) => self.take().map(|_| None),
        }
    }

    fn take(&mut self) -> Result<Option<ManifestEntry>, ManifestError<E>> {
        let Some(change) = self.left.next() else { return Ok(None) };
        let (chunk, entry) = change.map_err(ManifestError::Nodes)?;
        self.next = chunk + 1;
        Ok(Some(entry))
    }
}

struct Update<'a, N, I: Iterator> {
    nodes: &'a mut N,
    space: ChunkSpace,
    changes: ChunkChanges<I>,
    /// From which chunk on nothing is left, if the disk became smaller.
    shrunk: Option<u64>,
}

impl<N, I> Update<'_, N, I>
where
    N: ManifestNodes,
    I: Iterator<Item = Result<(u64, ManifestEntry), N::Error>>,
{
    /// The top of the older tree, without the levels that the new one has not.
    fn cut(&mut self, older: &ManifestRoot, level: u32) -> Result<ManifestEntry, ManifestError<N::Error>> {
        let mut top = older.top;
        for level in (level + 1..=older.level()).rev() {
            top = load(self.nodes, &self.space, &top, level)?.entries[0];
        }
        Ok(top)
    }

    /// What becomes of the top of a tree that is an entry of a node of level `from`, and has to be one of
    /// `level`.
    fn grown(
        &mut self,
        top: ManifestEntry,
        from: u32,
        level: u32,
    ) -> Result<ManifestEntry, ManifestError<N::Error>> {
        if level == from {
            return self.below(top, level, 0);
        }
        let mut node = ManifestNode::uniform(level - 1, ManifestEntry::Zero);
        node.entries[0] = self.grown(top, from, level - 1)?;
        for (at, entry) in (0..).zip(node.entries.iter_mut()).skip(1) {
            *entry = self.below(*entry, level - 1, at * span(level - 1))?;
        }
        self.kept(node)
    }

    /// What becomes of an entry of a node of this level, which begins with chunk `start`.
    fn below(
        &mut self,
        entry: ManifestEntry,
        level: u32,
        start: u64,
    ) -> Result<ManifestEntry, ManifestError<N::Error>> {
        let end = start + span(level);
        let has_changes = self.changes.peek()?.is_some_and(|chunk| chunk < end);
        if self.shrunk.is_some_and(|chunks| start >= chunks) {
            return Ok(ManifestEntry::Zero);
        }
        let is_cut = self.shrunk.is_some_and(|chunks| chunks < end) && entry != ManifestEntry::Zero;
        if level == 0 {
            return if has_changes { self.changes.take().map(|new| new.unwrap_or(entry)) } else { Ok(entry) };
        }
        if !has_changes && !is_cut {
            return Ok(entry);
        }
        let old = load(self.nodes, &self.space, &entry, level - 1)?;
        let mut new = old.clone();
        for (at, entry) in (0..FAN_OUT as u64).zip(new.entries.iter_mut()) {
            *entry = self.below(*entry, level - 1, start + at * span(level - 1))?;
        }
        // With what it had, a node stays as it was written, with its hints.
        if new == old { Ok(entry) } else { self.kept(new) }
    }

    /// The entry that stands for a node.
    fn kept(&mut self, node: ManifestNode) -> Result<ManifestEntry, ManifestError<N::Error>> {
        kept(self.nodes, &self.space, &node)
    }
}

/// The entry that stands for a node.
fn kept<N: ManifestNodes>(
    nodes: &mut N,
    space: &ChunkSpace,
    node: &ManifestNode,
) -> Result<ManifestEntry, ManifestError<N::Error>> {
    if let Some(plain) = node.as_uniform() {
        return Ok(plain);
    }
    let (bytes, hashed) = node.encode();
    let hash = space.hash(ChunkKind::Node, &bytes[..hashed]);
    let hint = nodes.put(&hash, &bytes, hashed).map_err(ManifestError::Nodes)?;
    Ok(ManifestEntry::Named(NamedChunk { hash, hint }))
}

/// The manifest of a disk that is the base's as a whole.
pub(crate) fn all_of_base<N: ManifestNodes>(
    nodes: &mut N,
    space: ChunkSpace,
    size: u64,
) -> Result<ManifestRoot, ManifestError<N::Error>> {
    let mut root = ManifestRoot::zeroes(space, size);
    root.checked()?;
    root.top = first_of_base(nodes, &space, root.level() + 1, root.chunks())?;
    Ok(root)
}

/// An entry of a node of this level whose first `chunks` are the base's.
fn first_of_base<N: ManifestNodes>(
    nodes: &mut N,
    space: &ChunkSpace,
    level: u32,
    chunks: u64,
) -> Result<ManifestEntry, ManifestError<N::Error>> {
    if chunks == 0 {
        return Ok(ManifestEntry::Zero);
    }
    // A disk of the most chunks has no more of them than the root.
    if level * FAN_OUT.trailing_zeros() < u64::BITS && chunks >= span(level) {
        return Ok(ManifestEntry::Base);
    }
    let mut node = ManifestNode::uniform(level - 1, ManifestEntry::Zero);
    for (at, entry) in (0..).zip(node.entries.iter_mut()) {
        let left = chunks.saturating_sub(at * span(level - 1));
        *entry = first_of_base(nodes, space, level - 1, left.min(span(level - 1)))?;
    }
    kept(nodes, space, &node)
}
