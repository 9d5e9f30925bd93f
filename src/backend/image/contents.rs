//! The bottom of a chain that is in packs.
//!
//! What has a chunk of the disk is known when the nodes of a manifest above it are in memory. Nodes and
//! chunks are read, verified and decompressed by helper threads: that takes longer than a shard may, and the
//! memory for it is not the shard's. What was read stays with the store, for all of its images, as far as its
//! limit goes.
//!
//! A chunk that was verified as a whole once, since its pack was opened, is not read as a whole again: what
//! is read of it is verified by its checksums. What of it is in the page cache is read by the shard itself,
//! if it is not compressed: with `verify=first` as from any file, without looking at it again, and with
//! `verify=always` verified by its checksums for each read. So is what other stores have written, always.
//!
//! A chunk that cannot be verified is `EIO`, and so is what cannot be found. Nothing but a manifest says that
//! a chunk reads as zeroes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::packs::{ServedPack, ServedPacks, ShardPack, open_on_shard};
use super::places::{PackPlaces, PackSpot};
use crate::backend::context::ShardContext;
use crate::backend::single_read::SingleRead;
use crate::backend::trust::Trust;
use crate::block::{BlockError, ByteRange};
use crate::config::VerifyChunks;
use crate::ring::{Lease, MappedRange};
use crate::store::catalog::LayerId;
use crate::store::collection_pins::HeldContents;
use crate::store::contents::{copy_chunk, way_to};
use crate::store::contents_error::ContentsError;
use crate::store::manifest::{Descent, ManifestEntry, ManifestRoot, NamedChunk};
use crate::store::pack::{PAGE, have_checksums};
use crate::store::pack_shelf::{ChunkBytes, ChunkPlace, KnownPlace, PackShelf};

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
    /// Packs that shards read by themselves; none if nothing is to be sent from the page cache.
    pub(super) files: Option<Arc<ServedPacks>>,
    /// No chunk of it goes while this is there.
    pub(super) _held: Arc<HeldContents>,
}

/// The same at the bottom of a chain.
pub(super) struct ContentsLink {
    pub(super) of: ServedContents,
    /// The one that was used last is the last.
    ways: RefCell<VecDeque<Descent>>,
    places: RefCell<PackPlaces<Rc<ShardPack>>>,
}

/// What a helper thread has read of a chunk, and where the shard can read it by itself from now on.
struct ReadChunk {
    bytes: ChunkBytes,
    place: NextRead,
}

/// Where it is read the next time.
enum NextRead {
    /// By the shard.
    Here(KnownPlace, Arc<ServedPack>),
    /// By a helper thread, if it is not in memory.
    InHelper,
    /// That has to be found out.
    Unknown,
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
        Self { of, ways: RefCell::default(), places: RefCell::default() }
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

    /// What of the disk from a byte on lies in one piece in a pack that is open here, up to `end` at most.
    #[inline]
    pub(super) fn placed(&self, at: u64, end: u64) -> Option<(u64, PackSpot)> {
        let end = end.min(self.of.visible).min(self.of.root.size);
        if at >= end {
            return None;
        }
        self.places.borrow().run(at, end, self.chunk_bytes())
    }

    /// Such a piece, to be sent straight from the page cache; see
    /// [`FileDevice::cached`](crate::backend::file::FileDevice::cached).
    #[inline]
    pub(super) fn cached(
        &self,
        (part, spot): (ByteRange, PackSpot),
        waits: bool,
        trust: &mut Trust,
        now: u64,
    ) -> Option<MappedRange> {
        let places = self.places.borrow();
        let pack = places.pack(spot)?;
        if self.verifies(pack.is_cache()) {
            return None;
        }
        pack.device.cached(spot.range(part), waits, trust, now)
    }

    /// The pack whose page cache a range lies in.
    pub(super) fn pack_of(&self, mapped: &MappedRange) -> Option<Rc<ShardPack>> {
        self.places.borrow().packs().find(|pack| pack.device.has_mapped(mapped)).cloned()
    }

    /// See [`FileDevice::distrust_page_cache`](crate::backend::file::FileDevice::distrust_page_cache).
    pub(super) fn distrust_page_cache(&self) {
        self.places.borrow().packs().for_each(|pack| pack.device.distrust_page_cache());
    }

    /// Forgets packs that are gone: they take room until then.
    pub(super) fn forget_packs(&self, packs: &[u64]) {
        self.places.borrow_mut().forget_packs(packs);
    }

    /// The one operation that a read of such a piece is, if it is verified afterwards. What is not verified
    /// is only read where it is in the page cache, and by a helper thread otherwise.
    pub(super) fn single_read(&self, part: ByteRange, spot: PackSpot) -> Option<SingleRead> {
        let places = self.places.borrow();
        let pack = places.pack(spot)?;
        if !self.verifies(pack.is_cache()) || !part.is_aligned(PAGE as u32) {
            return None;
        }
        pack.used();
        pack.device.single_read(spot.range(part))
    }

    /// Whether each read of a pack is verified. `is_cache`: another store has written it.
    fn verifies(&self, is_cache: bool) -> bool {
        is_cache || self.of.verify == VerifyChunks::Always
    }

    /// Reads such a piece of the disk into `lease[start..]`, if that is possible without a helper thread.
    pub(super) async fn read_placed(
        &self,
        (part, spot): (ByteRange, PackSpot),
        lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, bool) {
        let Some(pack) = self.places.borrow().pack(spot).cloned() else { return (lease, false) };
        let (verifies, range) = (self.verifies(pack.is_cache()), spot.range(part));
        // A part of a page has no checksum, so it would be read in vain.
        let may_read = if verifies { part.is_aligned(PAGE as u32) } else { pack.device.is_cached(range) };
        if !may_read {
            return (lease, false);
        }
        pack.used();
        let (lease, result) = pack.device.read_anyhow(range, lease, start, context).await;
        let is_good = result.is_ok() && (!verifies || self.fits(part, &lease, start as usize));
        (lease, is_good)
    }

    /// Whether whole pages of the disk have the checksums that they should.
    pub(super) fn fits(&self, part: ByteRange, lease: &Lease, start: usize) -> bool {
        let places = self.places.borrow();
        let bytes = lease.bytes(start..start + part.length() as usize);
        let mut at = part.offset();
        while at < part.end() {
            let (chunk, within) = (at / self.chunk_bytes(), at % self.chunk_bytes());
            let end = part.end().min((chunk + 1) * self.chunk_bytes());
            let checksums = places.checksums(chunk).and_then(|all| all.get((within / PAGE) as usize..));
            let Some(checksums) = checksums.filter(|_| within.is_multiple_of(PAGE)) else { return false };
            let piece = &bytes[(at - part.offset()) as usize..(end - part.offset()) as usize];
            if !have_checksums(piece, checksums) {
                return false;
            }
            at = end;
        }
        true
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
        let on_disk = part.offset() / self.chunk_bytes();
        // Whoever finds it in memory does not learn where it lies.
        let may_look = self.of.files.is_none() || self.places.borrow().is_settled(on_disk);
        let kept = if may_look { self.of.shelf.kept(&chunk.hash) } else { None };
        let bytes = match kept {
            Some(bytes) => ChunkBytes::Whole(bytes),
            None => {
                let (shelf, files) = (Arc::clone(&self.of.shelf), self.of.files.clone());
                let far = !shelf.is_near(&chunk);
                let within = (part.offset() % self.chunk_bytes()) as u32;
                let wanted = within..within + part.length() as u32;
                let job = move || read_chunk(&shelf, files.as_deref(), &chunk, wanted);
                let forgotten = self.of.shelf.forgotten();
                let ReadChunk { bytes, place } = self.help(far, context, job).await?;
                match place {
                    // Its pack may be gone meanwhile, and nobody would close it.
                    NextRead::Here(..) if self.of.shelf.forgotten() != forgotten => {}
                    NextRead::Here(place, file) => self.learn(on_disk, place, file, context),
                    NextRead::InHelper => self.places.borrow_mut().learn_nowhere(on_disk),
                    NextRead::Unknown => {}
                }
                bytes
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

    /// Reads a chunk of the disk by itself from now on, as long as it is in the page cache.
    fn learn(&self, chunk: u64, place: KnownPlace, file: Arc<ServedPack>, context: &ShardContext) {
        let mut places = self.places.borrow_mut();
        if u64::from(place.bytes) != self.chunk_bytes() || !file.can_be_mapped() {
            return places.learn_nowhere(chunk);
        }
        let at = (chunk, place.number, place.offset);
        let checksums = self.verifies(file.is_cache()).then(|| place.chunk.checksums().into());
        // Without room for the file there are the helper threads.
        places.learn(at, checksums, || open_on_shard(file, context).ok());
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

/// What is wanted of a chunk, on a helper thread.
fn read_chunk(
    shelf: &PackShelf,
    files: Option<&ServedPacks>,
    chunk: &NamedChunk,
    wanted: Range<u32>,
) -> Result<ReadChunk, ContentsError> {
    let bytes = shelf.read_part(chunk, wanted)?;
    let Some(files) = files else { return Ok(ReadChunk { bytes, place: NextRead::Unknown }) };
    let place = match shelf.place_of(chunk) {
        ChunkPlace::Known(place) => match files.of(&place) {
            Ok(file) => NextRead::Here(place, file),
            // There are too many open files now.
            Err(_) => NextRead::Unknown,
        },
        ChunkPlace::Nowhere => NextRead::InHelper,
        ChunkPlace::Unknown => NextRead::Unknown,
    };
    Ok(ReadChunk { bytes, place })
}
