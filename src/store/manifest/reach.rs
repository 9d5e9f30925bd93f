//! What a manifest names, a node at a time: for those who go through many manifests, and look at a node that
//! is in several of them once.

use super::error::ManifestError;
use super::node::{ManifestEntry, ManifestNode, NamedChunk};
use super::root::ManifestRoot;
use crate::store::pack::ChunkSpace;

/// A node that a root or another node names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReachedNode {
    pub(crate) chunk: NamedChunk,
    space: ChunkSpace,
    level: u32,
}

/// What a node names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReachedChunk {
    Node(ReachedNode),
    /// A chunk of the disk.
    Data(NamedChunk),
}

impl ReachedNode {
    /// The topmost node; none if the disk is all zeroes or all of the base.
    pub(crate) fn top<E>(root: &ManifestRoot) -> Result<Option<Self>, ManifestError<E>> {
        root.checked()?;
        let ManifestEntry::Named(chunk) = root.top else { return Ok(None) };
        Ok(Some(Self { chunk, space: root.space, level: root.level() }))
    }

    /// What it names, of its bytes. Names that are there several times come several times.
    pub(crate) fn below<E>(&self, bytes: &[u8]) -> Result<Vec<ReachedChunk>, ManifestError<E>> {
        let node = ManifestNode::decode(bytes, &self.space, self.chunk.hash, self.level)?;
        let named = node.entries.iter().filter_map(|entry| match entry {
            ManifestEntry::Named(chunk) if self.level == 0 => Some(ReachedChunk::Data(*chunk)),
            ManifestEntry::Named(chunk) => {
                Some(ReachedChunk::Node(Self { chunk: *chunk, level: self.level - 1, ..*self }))
            }
            ManifestEntry::Zero | ManifestEntry::Base => None,
        });
        Ok(named.collect())
    }
}
