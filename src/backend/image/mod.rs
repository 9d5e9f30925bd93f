//! An image on its home shard: a head, which takes the writes, sealed layers below it, and a base.
//!
//! ```text
//! read       head ► layers, newest first ► base ► zeroes: the first that has a block is where it is read
//! write      to the head's data, then the block's state in memory, then the answer
//! flush      the head's data, then one record of the states that are new
//! ```
//!
//! A layer is a file of data, in which a block lies where it lies on the disk, and a map
//! ([`LayerMap`]), which knows for each block whether the layer has it. The data is never read where the map
//! does not say so. Each file of data is a [`FileDevice`]: what it can send from the page cache leaves the
//! same way as from a raw file.
//!
//! What one request sees of all that is a [`Chain`]. When the head is [sealed](seal), or the chain becomes
//! [shorter](shortening), requests that come get another chain.
//!
//! The maps live with the store while no shard has the image open, so nothing that was answered is forgotten
//! when an idle device is closed.

mod below;
mod chain;
mod changed;
mod commit;
mod contents;
mod counts;
mod depths;
mod discard;
mod entrance;
mod extents;
mod growing;
mod handle;
mod head_commits;
mod home_task;
mod layer_files;
mod lending;
mod nodes;
mod open;
mod packs;
mod places;
mod plans;
mod read;
mod remote_base;
mod seal;
mod sealing;
mod served_store;
mod shortening;
#[cfg(feature = "sim")]
mod simulated;
mod snapshot;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::abandon::Abandon;
use super::context::ShardContext;
use super::file::{FileDevice, ReadFailure};
use super::page_cache::Standing;
use super::remote::Remote;
use super::single_read::SingleRead;
use super::trust::Trust;
use crate::block::{BlockError, ByteRange, Extent, IoFlags, NumberedExtent};
use crate::exec::lock;
use crate::ring::{Lease, MappedRange, Operation, SharedLease};
use chain::{BaseDevice, BaseLink, Chain, ChainLink, RegisteredLayer};
use contents::ContentsLink;
pub(crate) use counts::ImageStatus;
use entrance::Entrance;
pub use growing::{GrowOutcome, GrowTask};
pub use handle::ImageHandle;
pub use home_task::HomeTask;
pub use layer_files::NextHead;
use layer_files::OpenBase;
pub(super) use open::facts as image_facts;
use plans::ChangePlans;
pub use remote_base::look_at_remote_base;
pub use sealing::{SealFailure, SealMember, SealTask, sealing};
pub(crate) use served_store::ServedStore;
pub use shortening::{ShortenOutcome, ShortenTask, ShorterChain};
#[cfg(feature = "sim")]
pub use simulated::{SimulatedBlock, SimulatedImage, SimulatedLayer};
pub use snapshot::{RecordOutcome, SnapshotError, SnapshotRecord, seal_group};
pub(super) use store::ImageStore;
use store::StoreLinks;

/// An image, open on its home shard.
pub(super) struct ImageDevice {
    store: Arc<ImageStore>,
    /// What requests that come now see.
    chain: RefCell<Rc<Chain>>,
    /// Where changes wait while the head is being sealed.
    entrance: Entrance,
    is_being_sealed: Cell<bool>,
    plans: ChangePlans,
}

impl ImageDevice {
    /// Opens it here.
    ///
    /// # Errors
    /// `EBUSY` while another shard has it open; no room for its files.
    pub(super) fn open(store: &Arc<ImageStore>, context: &ShardContext) -> io::Result<Self> {
        let StoreLinks { layers: files, contents, base_bytes } = store.links();
        let layers = files.iter().map(|files| RegisteredLayer::new(files, store, context));
        let layers: Vec<_> = layers.collect::<io::Result<_>>()?;
        let base = store.base.as_ref().zip(base_bytes).map(|(base, visible)| {
            let device = match base {
                OpenBase::File(base) => {
                    let file = FileDevice::new(Arc::clone(&base.file), base.size, context)?;
                    BaseDevice::File(Rc::new(file))
                }
                OpenBase::Remote(store, _) => BaseDevice::Remote(Rc::new(Remote::open(store, context)?)),
            };
            Ok::<_, io::Error>(BaseLink { device, visible })
        });
        let base = base.transpose()?;
        let maps = lock(&store.parked).take().ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
        let layers = layers.into_iter().zip(maps).zip(&files).map(|((layer, map), files)| ChainLink {
            layer: Rc::new(layer.open(map)),
            visible: files.visible,
        });
        let contents = contents.map(|of| Rc::new(ContentsLink::new(of)));
        let chain = Chain { store: Arc::clone(store), layers: layers.collect(), contents, base };
        Ok(Self {
            store: Arc::clone(store),
            chain: RefCell::new(Rc::new(chain)),
            entrance: Entrance::default(),
            is_being_sealed: Cell::new(false),
            plans: ChangePlans::default(),
        })
    }

    /// Descriptors that the ring has.
    pub(super) fn files(&self) -> usize {
        self.chain.borrow().files()
    }

    fn chain(&self) -> Rc<Chain> {
        Rc::clone(&self.chain.borrow())
    }

    /// Reads `range` into `lease[start..]`.
    pub(super) async fn read(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        self.chain().read(range, lease, start, context).await
    }

    /// Writes `lease[0..]` to `range`; durable before it returns when `fua` is asked for.
    pub(super) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        fua: bool,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let inside = self.entrance.enter().await;
        let chain = self.chain();
        let is_durable = chain.write(range, lease, fua, context).await?;
        // The rest changes nothing, and whatever it takes over from, it ends there.
        drop(inside);
        match (fua, is_durable) {
            (true, true) => chain.is_found_again().await,
            (true, false) => Box::pin(chain.make_durable(context)).await,
            (false, _) => {
                chain.commit_early(context).await;
                Ok(())
            }
        }
    }

    /// Makes everything durable that was answered. It changes nothing, so it does not wait at the entrance:
    /// all that was answered before it came is in its chain, whatever takes over later.
    pub(super) async fn flush(&self, context: &ShardContext) -> Result<(), BlockError> {
        let chain = self.chain();
        chain.make_durable(context).await
    }

    /// Gives the blocks of a range back. Parts of blocks at its ends are zeroed.
    pub(super) async fn trim(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let _inside = self.entrance.enter().await;
        self.chain().trim(range, abandon, context).await
    }

    /// Makes a range read as zeroes, by the cheapest way that keeps the promises of the flags.
    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let _inside = self.entrance.enter().await;
        self.chain().write_zeroes(range, flags, abandon, context).await
    }

    /// See [`Chain::extents`].
    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        self.chain().extents(range, limit, client, context).await
    }

    /// See [`Chain::depths`].
    pub(super) async fn depths(
        &self,
        range: ByteRange,
        limit: usize,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        self.chain().depths(range, limit, context).await
    }

    /// See [`Chain::changed`].
    pub(super) async fn changed(
        &self,
        range: ByteRange,
        since: &Arc<str>,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        let chain = self.chain();
        let plan = chain.plan(since, client, &self.plans, context).await?;
        chain.changed(range, &plan, limit, context).await
    }

    /// See [`Chain::extents_for_read`].
    pub(super) async fn extents_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        self.chain().extents_for_read(range, limit, client, context).await
    }

    /// Brings a range into the page cache, as far as that disturbs nobody.
    pub(super) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.chain().cache(range, abandon, context).await
    }

    /// See [`Chain::read_at_once`].
    #[inline]
    pub(super) fn read_at_once(
        &self,
        range: ByteRange,
        waits: bool,
        trust: &mut Trust,
        now: u64,
    ) -> Option<Option<MappedRange>> {
        self.chain.borrow().read_at_once(range, waits, trust, now)
    }

    /// The one operation that a read is, if it is.
    #[inline]
    pub(super) fn single_read(&self, range: ByteRange) -> Option<SingleRead> {
        self.chain.borrow().single_read(range)
    }

    /// Whether a range is still where it was read from, and that is what it should be.
    pub(super) fn still_holds(&self, range: ByteRange, read: SingleRead, lease: &Lease) -> bool {
        self.chain.borrow().still_holds(range, read, lease)
    }

    /// Reads a range that was in the page cache into memory in one operation, which may be short.
    pub(super) fn copying(&self, mapped: &MappedRange, lease: Lease) -> Option<Operation> {
        self.chain.borrow().copying(mapped, lease)
    }

    /// What has become of a range that was in the page cache.
    pub(super) fn standing(&self, mapped: &MappedRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        self.chain.borrow().standing(mapped, trust, now)
    }

    /// See [`FileDevice::distrust_page_cache`].
    pub(super) fn distrust_page_cache(&self) {
        self.chain.borrow().distrust_page_cache();
    }

    /// See [`FileDevice::is_known_data`].
    pub(super) fn is_known_data(&self, range: ByteRange) -> bool {
        self.chain.borrow().is_known_data(range)
    }
}

impl Drop for ImageDevice {
    fn drop(&mut self) {
        // Its requests are over, and with them what they saw of it.
        let Some(chain) = Rc::get_mut(self.chain.get_mut()) else { return };
        let links = std::mem::take(&mut chain.layers).into_iter();
        let layers = links.map(|link| Rc::into_inner(link.layer));
        let maps: Option<Vec<_>> = layers.map(|layer| layer.map(|layer| layer.map.into_inner())).collect();
        *lock(&self.store.parked) = maps;
    }
}
