//! The bottom of a chain that is in packs.
//!
//! What has a chunk of the disk is known when the nodes of a manifest above it are in memory. Nodes and
//! chunks are read, verified and decompressed by helper threads: that takes longer than a shard may, and the
//! memory for it is not the shard's. What was read stays with the store, for all of its images, as far as its
//! limit goes.
//!
//! With `verify=first` a chunk that was verified as a whole once, since its pack was opened, is not read as a
//! whole again: what is read of it is verified by its checksums. With `verify=always` all of it is, whenever
//! it comes into memory.
//!
//! A chunk that cannot be verified is `EIO`, and so is what cannot be found. Nothing but a manifest says that
//! a chunk reads as zeroes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange};
use crate::config::VerifyChunks;
use crate::ring::Lease;
use crate::store::catalog::LayerId;
use crate::store::collection_pins::HeldContents;
use crate::store::contents::{copy_chunk, way_to};
use crate::store::contents_error::ContentsError;
use crate::store::manifest::{Descent, ManifestEntry, ManifestRoot, NamedChunk};
use crate::store::pack_shelf::{ChunkBytes, PackShelf};

/// Ways that a chain keeps: each knows 256 chunks at its end, in 12 KiB.
const MOST_WAYS: usize = 64;

/// Contents in packs, for the whole server.
#[derive(Debug, Clone)]
pub(in crate::backend) struct ServedContents {
    pub(super) layer: LayerId,
    pub(super) root: ManifestRoot,
    /// Bytes of it that are seen from above.
    pub(super) visible: u64,
    pub(super) shelf: Arc<PackShelf>,
    /// How much of a chunk is verified for a read.
    pub(super) verify: VerifyChunks,
    /// No chunk of it goes while this is there.
    pub(super) _held: Arc<HeldContents>,
}

/// The same at the bottom of a chain.
pub(super) struct ContentsLink {
    pub(super) of: ServedContents,
    /// The one that was used last is the last.
    ways: RefCell<VecDeque<Descent>>,
}

/// What contents have at the beginning of a range.
pub(super) enum KnownContents {
    /// Nothing is seen of them there.
    Hidden,
    /// A chunk of the disk, or several that are alike, which end here.
    Known(u64, ManifestEntry),
    /// A node has to be read first.
    Unknown(u64),
}

impl ContentsLink {
    pub(super) fn new(of: ServedContents) -> Self {
        Self { of, ways: RefCell::default() }
    }

    fn chunk_bytes(&self) -> u64 {
        self.of.root.space.chunk_bytes.into()
    }

    /// What the disk has at a byte, up to `end` at most.
    pub(super) fn look(&self, at: u64, end: u64) -> KnownContents {
        let seen = self.of.visible.min(self.of.root.size);
        if at >= seen {
            return KnownContents::Hidden;
        }
        let chunk = at / self.chunk_bytes();
        let mut ways = self.ways.borrow_mut();
        let Some(found) = ways.iter().rposition(|way| way.is_for(chunk)) else {
            return KnownContents::Unknown(chunk);
        };
        let way = ways.remove(found).expect("it was found");
        let (until, entry) = way.run(chunk);
        ways.push_back(way);
        KnownContents::Known(until.saturating_mul(self.chunk_bytes()).min(end).min(seen), entry)
    }

    /// Reads the nodes that tell what a chunk of the disk has.
    pub(super) async fn load(&self, chunk: u64, context: &ShardContext) -> Result<(), BlockError> {
        let (shelf, root) = (Arc::clone(&self.of.shelf), self.of.root);
        let far = self.of.shelf.has_far();
        let way = self.help(far, context, move || way_to(&shelf, &root, chunk)).await?;
        let mut ways = self.ways.borrow_mut();
        while ways.len() >= MOST_WAYS {
            ways.pop_front();
        }
        ways.push_back(way);
        Ok(())
    }

    /// Reads a part of one chunk of the disk into `lease[start..]`.
    pub(super) async fn read(
        &self,
        chunk: NamedChunk,
        part: ByteRange,
        lease: &mut Lease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let bytes = match self.of.shelf.kept(&chunk.hash) {
            Some(bytes) => ChunkBytes::Whole(bytes),
            None => {
                let shelf = Arc::clone(&self.of.shelf);
                let far = !shelf.is_near(&chunk);
                let within = (part.offset() % self.chunk_bytes()) as u32;
                let wanted = within..within + part.length() as u32;
                match self.of.verify {
                    VerifyChunks::First => {
                        self.help(far, context, move || shelf.read_part(&chunk, wanted)).await?
                    }
                    VerifyChunks::Always => {
                        ChunkBytes::Whole(self.help(far, context, move || shelf.read(&chunk)).await?)
                    }
                }
            }
        };
        let start = start as usize;
        let to = lease.bytes_mut(start..start + part.length() as usize);
        match bytes {
            ChunkBytes::Whole(bytes) => {
                self.told(copy_chunk(&self.of.root, &chunk, &bytes, part.offset(), to))
            }
            ChunkBytes::Part(bytes) => {
                to.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Has chunks brought near that are far away, without waiting for them. No thread is asked if none is.
    pub(super) async fn bring_near(
        &self,
        mut chunks: Vec<NamedChunk>,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        chunks.retain(|chunk| !self.of.shelf.is_near(chunk));
        if chunks.is_empty() {
            return Ok(());
        }
        let shelf = Arc::clone(&self.of.shelf);
        let asked = move || {
            shelf.ask_ahead(&chunks);
            Ok(())
        };
        self.help(true, context, asked).await
    }

    /// Whether chunks may have to be fetched from far away.
    pub(super) fn has_far(&self) -> bool {
        self.of.shelf.has_far()
    }

    /// What is far away keeps as many threads busy as one key may have, and none of the others.
    async fn help<T: Send + 'static>(
        &self,
        is_far: bool,
        context: &ShardContext,
        job: impl FnOnce() -> Result<T, ContentsError> + Send + 'static,
    ) -> Result<T, BlockError> {
        let key = Arc::as_ptr(&self.of.shelf) as usize + usize::from(is_far);
        self.told(context.helpers.run(key, 0, job).await.map_err(|_panicked| BlockError::Io)?)
    }

    fn told<T>(&self, result: Result<T, ContentsError>) -> Result<T, BlockError> {
        result.map_err(|error| {
            tracing::error!(layer = %self.of.layer, %error, "a part of an image cannot be read from its packs");
            BlockError::Io
        })
    }
}
