//! Marks what contents reach: which chunks are needed at all, and which of them by one contents alone.
//!
//! A node is looked at once however many name it. When other contents reach it, what is below it is theirs as
//! well, so it is looked at once more to say so: the number of clones and snapshots does not matter.
//!
//! Contents that are equal are one: neither has a chunk alone.

use std::collections::{BTreeMap, HashMap};
use std::vec::IntoIter;

use super::catalog::LayerId;
use super::chunk_owners::{ChunkName, ChunkOwner, ChunkOwners, ChunkReach, chunk_name};
use super::contents_error::ContentsError;
use super::error::StoreError;
use super::manifest::{ManifestError, ManifestRoot, ReachedChunk, ReachedNode};
use super::pack::ChunkHash;
use super::pack_shelf::PackShelf;
use super::space_notes::NotedSpace;

/// Contents, or several that are equal.
#[derive(Debug)]
struct MarkedContents {
    /// None: they are held, and have no row.
    layers: Vec<LayerId>,
    space: NotedSpace,
}

/// A node that is being looked at.
#[derive(Debug)]
struct OpenNode {
    name: ChunkName,
    below: IntoIter<ReachedChunk>,
    /// Chunks of the disk below it so far, each place on its own.
    places: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ContentsMark {
    owners: ChunkOwners,
    /// Chunks of the disk below each node that was looked at.
    places: HashMap<ChunkName, u64>,
    contents: Vec<MarkedContents>,
    /// The topmost nodes that come next, the last one first.
    waiting: Vec<(ReachedNode, ChunkOwner)>,
    /// Whose nodes are looked at now.
    current: Option<ChunkOwner>,
    /// From the topmost node down.
    open: Vec<OpenNode>,
    /// Nodes below which all is shared.
    shared: Vec<ReachedNode>,
    chunks: u64,
}

fn unreachable_below(error: ManifestError<ContentsError>) -> StoreError {
    StoreError::Reach(ContentsError::from(error).to_string())
}

fn read_below(shelf: &PackShelf, node: &ReachedNode) -> Result<IntoIter<ReachedChunk>, StoreError> {
    let bytes = shelf.read(&node.chunk).map_err(|error| StoreError::Reach(error.to_string()))?;
    Ok(node.below(&bytes).map_err(unreachable_below)?.into_iter())
}

impl ContentsMark {
    /// Contents by their layers, and those that are held without having a row.
    pub(super) fn new(
        listed: impl Iterator<Item = (LayerId, ManifestRoot)>,
        held: &[ManifestRoot],
    ) -> Result<Self, StoreError> {
        let mut mark = Self::default();
        let mut numbers: BTreeMap<ChunkHash, usize> = BTreeMap::new();
        for (layer, root) in listed {
            let Some(top) = ReachedNode::top(&root).map_err(unreachable_below)? else {
                mark.contents.push(MarkedContents { layers: vec![layer], space: NotedSpace::default() });
                continue;
            };
            if let Some(number) = numbers.get(&top.chunk.hash) {
                mark.contents[*number].layers.push(layer);
                continue;
            }
            let number = mark.contents.len();
            numbers.insert(top.chunk.hash, number);
            mark.contents.push(MarkedContents { layers: vec![layer], space: NotedSpace::default() });
            mark.waiting.push((top, ChunkOwner::of(number)));
        }
        for root in held {
            let top = ReachedNode::top(root).map_err(unreachable_below)?;
            mark.waiting.extend(top.map(|top| (top, ChunkOwner::HELD)));
        }
        mark.waiting.reverse();
        Ok(mark)
    }

    /// Chunks that were reached, nodes among them.
    pub(super) const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Looks at so many nodes; whether that was all.
    pub(super) fn step(&mut self, shelf: &PackShelf, nodes: usize) -> Result<bool, StoreError> {
        let mut looked_at = 0;
        while looked_at < nodes {
            if let Some(node) = self.open.last_mut() {
                match node.below.next() {
                    Some(ReachedChunk::Data(chunk)) => {
                        node.places += 1;
                        self.reach(&chunk.hash);
                    }
                    Some(ReachedChunk::Node(node)) => looked_at += usize::from(self.visit(shelf, node)?),
                    None => self.close(),
                }
            } else if let Some(node) = self.shared.pop() {
                looked_at += 1;
                self.share_below(shelf, &node)?;
            } else if let Some((top, owner)) = self.waiting.pop() {
                self.current = Some(owner);
                looked_at += usize::from(self.visit(shelf, top)?);
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn reach(&mut self, hash: &ChunkHash) -> ChunkReach {
        let reached = self.owners.reach(hash, self.current.unwrap_or(ChunkOwner::HELD));
        self.chunks += u64::from(reached == ChunkReach::First);
        reached
    }

    /// The contents that are looked at name a node; whether it has to be read.
    fn visit(&mut self, shelf: &PackShelf, node: ReachedNode) -> Result<bool, StoreError> {
        let (reached, name) = (self.reach(&node.chunk.hash), chunk_name(&node.chunk.hash));
        if reached == ChunkReach::First {
            let below = read_below(shelf, &node)?;
            self.open.push(OpenNode { name, below, places: 0 });
            return Ok(true);
        }
        if reached == ChunkReach::NowShared {
            self.shared.push(node);
        }
        self.add_places(self.places.get(&name).copied().unwrap_or_default());
        Ok(false)
    }

    /// To the node that is being looked at, or to the contents if that was the topmost.
    fn add_places(&mut self, places: u64) {
        let contents = self.current.and_then(ChunkOwner::number);
        match (self.open.last_mut(), contents) {
            (Some(node), _) => node.places = node.places.saturating_add(places),
            (None, Some(number)) => self.contents[number].space.places = places,
            (None, None) => {}
        }
    }

    fn close(&mut self) {
        if let Some(node) = self.open.pop() {
            self.places.insert(node.name, node.places);
            self.add_places(node.places);
        }
    }

    /// What is below a node is not of one contents alone: the second one reaches it by another node.
    fn share_below(&mut self, shelf: &PackShelf, node: &ReachedNode) -> Result<(), StoreError> {
        for reached in read_below(shelf, node)? {
            match reached {
                ReachedChunk::Data(chunk) => {
                    self.reach(&chunk.hash);
                }
                ReachedChunk::Node(node) => {
                    if self.reach(&node.chunk.hash) == ChunkReach::NowShared {
                        self.shared.push(node);
                    }
                }
            }
        }
        Ok(())
    }

    /// A pack has a chunk: whether that is needed. It is counted for the contents that have it alone.
    pub(super) fn count(&mut self, hash: &ChunkHash, bytes: u32) -> bool {
        let Some(owner) = self.owners.take(hash) else { return false };
        if let Some(number) = owner.number() {
            let space = &mut self.contents[number].space;
            space.own_bytes += u64::from(bytes);
            space.own_chunks += u64::from(!self.places.contains_key(&chunk_name(hash)));
        }
        true
    }

    /// What was counted, by layers.
    pub(super) fn counted(self) -> BTreeMap<LayerId, NotedSpace> {
        let mut counted = BTreeMap::new();
        for MarkedContents { layers, space } in self.contents {
            let is_alone = layers.len() == 1;
            let space =
                if is_alone { space } else { NotedSpace { places: space.places, ..Default::default() } };
            counted.extend(layers.into_iter().map(|layer| (layer, space)));
        }
        counted
    }
}
