//! What an image is for the whole server: its files, and its maps while it is open nowhere.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::contents::ServedContents;
use super::counts::{ImageCounts, ImageStatus, status};
use super::layer_files::{LayerFiles, OpenBase};
use super::places::MOST_PACKS;
use super::served_store::{ServedImage, SinceError};
use crate::backend::FILES_PER_EXPORT;
use crate::backend::file_store::FileOptions;
use crate::backend::remote::RemoteStatus;
use crate::block::ByteRange;
use crate::config::VerifyChunks;
use crate::exec::{RangeLock, lock};
use crate::store::catalog::{LayerId, MOST_LAYERS};
use crate::store::map::LayerMap;
use crate::store::map_medium::commit_map;
use crate::store::pending::log_directory;
use crate::store::tracking::OtherChanges;

/// An open image.
#[derive(Debug)]
pub(in crate::backend) struct ImageStore {
    links: Mutex<StoreLinks>,
    /// The base that it was opened with.
    pub(super) base: Option<OpenBase>,
    /// Bytes of the disk. It [grows](super::growing) on the thread of the home.
    size: AtomicU64,
    /// Bytes of a block.
    block: u32,
    /// Its maps, in the order of the layers; none while a shard has it open.
    pub(super) parked: Mutex<Option<Vec<LayerMap>>>,
    /// Its place among the images of its store.
    served: Option<ServedImage>,
    /// How what it has in packs is verified, now or later.
    verify: VerifyChunks,
    /// How its layers are opened; none for an image that gets no other ones.
    options: Option<FileOptions>,
    /// Blocks that are being merged are locked alone, blocks that are being written with others.
    pub(super) locks: RangeLock,
    pub(super) counts: ImageCounts,
}

/// What its bytes are in.
#[derive(Debug, Clone)]
pub(super) struct StoreLinks {
    /// The head first; at least one.
    pub(super) layers: Vec<Arc<LayerFiles>>,
    /// What is below them in packs.
    pub(super) contents: Option<ServedContents>,
    /// Bytes of the base that are seen from above; none if it stands on no base.
    pub(super) base_bytes: Option<u64>,
}

/// Neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// What of a range lies behind a part of it.
pub(super) fn behind(part: ByteRange, range: ByteRange) -> ByteRange {
    ByteRange::new(part.end(), range.end() - part.end()).expect("a part of the range")
}

impl ImageStore {
    /// An image of layers, the head first, each with its map. One of a store says how they were opened.
    pub(in crate::backend) fn new(
        layers: Vec<(LayerFiles, LayerMap)>,
        base: Option<OpenBase>,
        served: Option<(ServedImage, FileOptions)>,
    ) -> Self {
        let (served, options) = served.unzip();
        let (layers, maps): (Vec<_>, Vec<_>) =
            layers.into_iter().map(|(layer, map)| (Arc::new(layer), map)).unzip();
        let (size, block) = (maps[0].size(), maps[0].geometry().block_bytes);
        Self {
            links: Mutex::new(StoreLinks {
                layers,
                contents: None,
                base_bytes: base.as_ref().map(OpenBase::size),
            }),
            base,
            size: AtomicU64::new(size),
            block,
            parked: Mutex::new(Some(maps)),
            served,
            verify: VerifyChunks::default(),
            options,
            locks: RangeLock::default(),
            counts: ImageCounts::default(),
        }
    }

    /// The same image, which goes on in packs below its layers.
    pub(super) fn with_contents(mut self, contents: Option<ServedContents>, verify: VerifyChunks) -> Self {
        lock(&self.links).contents = contents;
        self.verify = verify;
        self
    }

    /// How what it has in packs is verified.
    pub(super) fn verify(&self) -> VerifyChunks {
        self.verify
    }

    /// Whether a shard has it open.
    pub(super) fn is_on_a_shard(&self) -> bool {
        lock(&self.parked).is_none()
    }

    /// The disk that its head is on.
    pub(in crate::backend) fn disk(&self) -> u64 {
        lock(&self.links).layers[0].data.disk
    }

    /// The layers that it has now.
    pub(super) fn layers(&self) -> Vec<Arc<LayerFiles>> {
        lock(&self.links).layers.clone()
    }

    /// The same, and what it has of its base.
    pub(super) fn links(&self) -> StoreLinks {
        lock(&self.links).clone()
    }

    /// What it stands on has become others of the same contents.
    pub(super) fn gets_links(&self, links: StoreLinks) {
        *lock(&self.links) = links;
    }

    /// How a head of it is opened; none for an image that gets no other one.
    pub(super) fn head_options(&self) -> Option<FileOptions> {
        self.options.filter(|options| !options.read_only)
    }

    /// How a layer of it is opened that nobody writes; none for an image that gets no other ones.
    pub(super) fn sealed_options(&self) -> Option<FileOptions> {
        self.options.map(|options| FileOptions { read_only: true, ..options })
    }

    /// Its place in its store; none for one that is thrown away at the end.
    pub(in crate::backend) fn served(&self) -> Option<&ServedImage> {
        self.served.as_ref()
    }

    /// Another head takes the writes.
    pub(super) fn gets_head(&self, files: Arc<LayerFiles>) {
        lock(&self.links).layers.insert(0, files);
    }

    /// Bytes of the disk.
    #[inline]
    pub(in crate::backend) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// The disk is larger from now on.
    pub(super) fn gets_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Files that it has open, of which each has as many places in a ring as an export of a file: those of
    /// data, of maps, and the base, and the packs that it reads by itself.
    pub(in crate::backend) fn files(&self) -> usize {
        let layers = match self.head_options() {
            // Snapshots add layers, and one is open beside those whose place it takes.
            Some(_) => MOST_LAYERS + 1,
            None => lock(&self.links).layers.len() + usize::from(self.options.is_some()),
        };
        let maps = layers.div_ceil(FILES_PER_EXPORT);
        let packs = if self.served.is_some() { MOST_PACKS.div_ceil(FILES_PER_EXPORT) } else { 0 };
        layers + maps + packs + self.base.as_ref().map_or(0, OpenBase::files)
    }

    /// What is told of the other server that has its base; nothing when it has none there.
    pub(in crate::backend) fn remote_status(&self) -> Option<RemoteStatus> {
        match &self.base {
            Some(OpenBase::Remote(store, _)) => Some(store.status()),
            _ => None,
        }
    }

    /// Where changes of the head are noted for the time after a kill.
    pub(in crate::backend) fn log_directory(&self) -> Option<PathBuf> {
        log_directory(self.layers()[0].map.as_ref()?)
    }

    /// Whether no layer of a store is there: all of it is the base's.
    pub(super) fn has_no_layers(&self) -> bool {
        self.served.is_some() && lock(&self.links).layers.iter().all(|layer| layer.id.is_none())
    }

    /// Grows with each change of the store's catalogue.
    pub(super) fn change_counter(&self) -> u64 {
        self.served.as_ref().map_or(0, ServedImage::change_counter)
    }

    /// What has changed since a snapshot: those of the open layers whose maps count, and what else there is.
    /// It reads files, so it is for a thread that may wait.
    pub(super) fn changes_since(
        &self,
        open: &[LayerId],
        since: &str,
    ) -> Result<(Vec<LayerId>, OtherChanges), SinceError> {
        self.served.as_ref().ok_or(SinceError::Gone)?.changes_since(open, since)
    }

    /// What it did since it was opened, and what its layers take.
    pub(in crate::backend) fn status(&self) -> ImageStatus {
        status(&self.layers(), &self.counts)
    }

    /// Bytes of the files of data: whole blocks.
    pub(super) fn data_bytes(&self) -> u64 {
        self.size().next_multiple_of(u64::from(self.block))
    }

    /// Bytes of a block.
    pub(super) fn block(&self) -> u64 {
        u64::from(self.block)
    }

    /// The blocks that a range touches.
    pub(super) fn touched(&self, range: ByteRange) -> Blocks {
        let start = range.offset() / self.block();
        Blocks { start, length: range.end().div_ceil(self.block()) - start }
    }

    /// The blocks that a range covers. The last block of the disk is covered by what lies within the disk.
    pub(super) fn covered(&self, range: ByteRange) -> Blocks {
        let start = range.offset().div_ceil(self.block());
        let end = if range.end() == self.size() { self.data_bytes() } else { range.end() } / self.block();
        Blocks { start, length: end.saturating_sub(start) }
    }

    /// The blocks of which a write gives every byte: not a last one that the end of the disk cuts.
    pub(super) fn written(&self, range: ByteRange) -> Blocks {
        let start = range.offset().div_ceil(self.block());
        Blocks { start, length: (range.end() / self.block()).saturating_sub(start) }
    }

    /// The bytes of blocks.
    pub(super) fn bytes(&self, blocks: Blocks) -> ByteRange {
        let bytes = ByteRange::new(blocks.start * self.block(), blocks.length * self.block());
        bytes.expect("blocks of the disk")
    }
}

/// What was answered and not flushed must not go with the memory that knows of it: a raw file would keep it.
/// Of a layer that could not be made durable when it was sealed, the log tells whoever opens the store next.
impl Drop for ImageStore {
    fn drop(&mut self) {
        let Some(mut map) = lock(&self.parked).take().and_then(|maps| maps.into_iter().next()) else {
            return;
        };
        let layers = self.layers();
        let head = &layers[0];
        let (Some(file), Some(served)) = (&head.map, &self.served) else { return };
        if !map.has_pending() {
            map.finish_log();
        } else if let Err(error) = commit_map(map, &head.data.buffered, file) {
            let what = "what was written to an image and not flushed is not durable";
            tracing::error!(image = %served.name(), %error, "{what}");
        }
    }
}

impl Blocks {
    pub(super) fn end(self) -> u64 {
        self.start + self.length
    }

    pub(super) fn is_empty(self) -> bool {
        self.length == 0
    }
}
