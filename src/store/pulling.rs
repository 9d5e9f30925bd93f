//! All that an image or a snapshot has on tiers is fetched.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::catalog::NodeName;
use super::chunk_set::ChunkSet;
use super::contents_error::ContentsError;
use super::error::StoreError;
use super::manifest::{ManifestError, ManifestRoot, NamedChunk, ReachedChunk, ReachedNode};
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use super::pack_shelf::PackShelf;
use crate::mutex::lock;

/// Chunks that are read at once.
const WIDTH: usize = 16;

/// What a pull has done. Its keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PulledNode {
    /// Chunks that are here now, each verified by its name, and their bytes on the disk of the image.
    pub chunks: u64,
    pub bytes: u64,
    /// Bytes that came from tiers.
    pub fetched_bytes: u64,
}

/// How far it is: bytes of chunks that are here, of so many that are known to be needed.
type OnPulled<'a> = &'a mut dyn FnMut(u64, u64) -> Result<(), StoreError>;

/// Does something with each item, several at once. `progress` is called meanwhile. The first error ends it.
fn each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), StoreError> + Sync,
    progress: &mut dyn FnMut() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let fail = |error| {
        next.store(items.len(), Ordering::Relaxed);
        lock(&failed).get_or_insert(error);
    };
    std::thread::scope(|scope| {
        let (done, ends) = std::sync::mpsc::channel();
        for _ in 0..WIDTH.min(items.len()) {
            let (done, fail, next, work) = (done.clone(), &fail, &next, &work);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item).unwrap_or_else(fail);
                    let _nobody_listens_any_more = done.send(());
                }
            });
        }
        drop(done);
        while ends.recv().is_ok() {
            if let Err(error) = progress() {
                fail(error);
                break;
            }
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// What a manifest names, each once.
#[derive(Default)]
struct FoundChunks {
    seen: ChunkSet,
    /// Those that are to be gone through.
    nodes: Vec<ReachedNode>,
    data: Vec<NamedChunk>,
}

impl FoundChunks {
    fn add(&mut self, reached: ReachedChunk) {
        match reached {
            ReachedChunk::Node(node) if self.seen.insert(&node.chunk.hash) => self.nodes.push(node),
            ReachedChunk::Data(chunk) if self.seen.insert(&chunk.hash) => self.data.push(chunk),
            _ => {}
        }
    }
}

struct PullWalk<'a> {
    node: &'a NodeName,
    shelf: &'a PackShelf,
}

impl PullWalk<'_> {
    fn unreadable(&self, why: impl std::fmt::Display) -> StoreError {
        StoreError::Unreadable { node: self.node.to_string(), why: why.to_string() }
    }

    /// All chunks of a disk, level by level, in the order of the packs: what is read in order is fetched in
    /// large pieces.
    fn chunks(&self, root: &ManifestRoot) -> Result<Vec<NamedChunk>, StoreError> {
        let unreachable = |error: ManifestError<ContentsError>| self.unreadable(ContentsError::from(error));
        let mut nodes: Vec<ReachedNode> = ReachedNode::top(root).map_err(unreachable)?.into_iter().collect();
        let found = Mutex::new(FoundChunks::default());
        while !nodes.is_empty() {
            let visit = |node: &ReachedNode| {
                let bytes = self.shelf.read(&node.chunk).map_err(|error| self.unreadable(error))?;
                let below = node.below(&bytes).map_err(unreachable)?;
                let mut found = lock(&found);
                below.into_iter().for_each(|reached| found.add(reached));
                Ok(())
            };
            each(&nodes, visit, &mut || Ok(()))?;
            nodes = std::mem::take(&mut lock(&found).nodes);
        }
        let mut data = std::mem::take(&mut lock(&found).data);
        data.sort_by_key(|chunk| chunk.hint.map(|hint| (hint.pack, hint.slot)));
        Ok(data)
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Fetches all that a node has on tiers and that is not here, and verifies each chunk of it.
    ///
    /// # Errors
    /// A tier does not give it; the caches may not take that much. What came stays.
    pub fn pull(&self, node: &NodeName, on: OnPulled<'_>) -> Result<PulledNode, StoreError> {
        let shape = self.shape(node)?;
        let Some(contents) = shape.contents else { return Ok(PulledNode::default()) };
        let place = self.pack_place()?;
        let shelf = place.shelf(contents.root.space);
        let walk = PullWalk { node, shelf: &shelf };
        let foreign = self.foreign_packs();
        let before = foreign.figures();
        let chunks = walk.chunks(&contents.root)?;
        let chunk_bytes = u64::from(contents.root.space.chunk_bytes);
        let total = chunks.len() as u64 * chunk_bytes;
        let done = AtomicU64::new(0);
        let read = |chunk: &NamedChunk| {
            shelf.read(chunk).map_err(|error| walk.unreadable(error))?;
            done.fetch_add(chunk_bytes, Ordering::Relaxed);
            Ok(())
        };
        each(&chunks, read, &mut || on(done.load(Ordering::Relaxed), total))?;
        let after = foreign.figures();
        if after.evicted_bytes > before.evicted_bytes {
            return Err(StoreError::CacheTooSmall(node.to_string()));
        }
        let fetched_bytes = after.fetched_bytes - before.fetched_bytes;
        Ok(PulledNode { chunks: chunks.len() as u64, bytes: total, fetched_bytes })
    }
}
