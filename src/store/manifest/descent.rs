//! The way from a root down to a chunk of the disk, for those who read nodes when they can.

use super::error::ManifestError;
use super::node::{FAN_OUT, ManifestEntry, ManifestNode, NamedChunk};
use super::root::{ManifestRoot, entry_of, span};
use crate::store::pack::ChunkSpace;

/// A way that leads to a chunk. At its end it knows the neighbours of the chunk too.
#[derive(Debug, Clone)]
pub(crate) struct Descent {
    space: ChunkSpace,
    chunk: u64,
    /// Chunks of the disk.
    chunks: u64,
    /// The node that is wanted is of this level.
    level: u32,
    state: DescentState,
}

#[derive(Debug, Clone)]
enum DescentState {
    Wants(NamedChunk),
    /// All chunks from the first up to the second one have this.
    Uniform(u64, u64, ManifestEntry),
    /// The leaf that begins with this chunk.
    Leaf(u64, Box<[ManifestEntry; FAN_OUT]>),
}

impl Descent {
    /// The way to a chunk from a root on.
    pub(crate) fn new<E>(root: &ManifestRoot, chunk: u64) -> Result<Self, ManifestError<E>> {
        root.checked()?;
        let chunks = root.chunks();
        if chunk >= chunks {
            return Err(ManifestError::Order { chunk, chunks });
        }
        let state = match root.top {
            ManifestEntry::Named(node) => DescentState::Wants(node),
            plain @ (ManifestEntry::Zero | ManifestEntry::Base) => DescentState::Uniform(0, chunks, plain),
        };
        Ok(Self { space: root.space, chunk, chunks, level: root.level(), state })
    }

    /// The node that has to be read next; none at the end.
    pub(crate) fn wanted(&self) -> Option<NamedChunk> {
        if let DescentState::Wants(node) = self.state { Some(node) } else { None }
    }

    /// Goes on with the bytes of the node that was wanted.
    pub(crate) fn take<E>(&mut self, bytes: &[u8]) -> Result<(), ManifestError<E>> {
        let DescentState::Wants(wanted) = self.state else { return Ok(()) };
        let node = ManifestNode::decode(bytes, &self.space, wanted.hash, self.level)?;
        let at = entry_of(self.chunk, self.level);
        self.state = match node.entries[at] {
            _ if self.level == 0 => DescentState::Leaf(self.chunk / span(1) * span(1), node.entries),
            ManifestEntry::Named(next) => {
                self.level -= 1;
                DescentState::Wants(next)
            }
            plain => {
                let start = self.chunk / span(self.level) * span(self.level);
                DescentState::Uniform(start, (start + span(self.level)).min(self.chunks), plain)
            }
        };
        Ok(())
    }

    /// Whether it is at its end and knows this chunk.
    pub(crate) fn is_for(&self, chunk: u64) -> bool {
        self.known().is_some_and(|(start, end)| (start..end).contains(&chunk))
    }

    /// The chunks that are known at the end of the way.
    pub(crate) fn known(&self) -> Option<(u64, u64)> {
        match &self.state {
            DescentState::Wants(_) => None,
            DescentState::Leaf(start, _) => Some((*start, (start + span(1)).min(self.chunks))),
            DescentState::Uniform(start, end, _) => Some((*start, *end)),
        }
    }

    /// What a chunk has that is known, and the end of the chunks behind it that have the same. A named one
    /// stands alone.
    pub(crate) fn run(&self, chunk: u64) -> (u64, ManifestEntry) {
        let (start, end) = self.known().expect("it is at its end");
        match &self.state {
            DescentState::Leaf(_, entries) => {
                let at = (chunk - start) as usize;
                let entry = entries[at];
                let same = match entry {
                    ManifestEntry::Named(_) => 1,
                    _ => entries[at..].iter().take_while(|other| **other == entry).count() as u64,
                };
                ((chunk + same).min(end), entry)
            }
            DescentState::Uniform(_, _, entry) => (end, *entry),
            DescentState::Wants(_) => unreachable!("it is at its end"),
        }
    }
}
