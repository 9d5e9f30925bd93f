//! An image becomes larger while clients use it.
//!
//! ```text
//! the store's thread   the head's data is longer, durably; then the catalogue has the new size
//! the home             changes wait; zeroes behind the old end, where it cuts a block
//!                      a record of the new size, requests that come see the larger disk
//! the control plane    the next handshakes are told the new size
//! ```
//!
//! So no client is told of a size before it is durable. An interruption between the steps leaves a map that
//! is smaller than the catalogue says: whoever opens the head next gives it that size.
//!
//! Changes wait because the last block of the old disk may be cut by its end. A TRIM up to the old end has
//! that block as a whole, and must not reach what a client of the larger disk writes behind it. What the
//! file has in the rest of that block may be old, of the time before the disk shrank: so zeroes are written
//! there if the block is DATA. If it becomes DATA later, it gets them with that write. That may be before
//! the disk is larger: whoever cannot make the record durable goes on with the old size, and a server that
//! is killed then leaves a record that the next one finds.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::ImageDevice;
use super::chain::{Chain, ChainLink};
use super::layer_files::LayerFiles;
use super::store::{Blocks, ImageStore, StoreLinks};
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange};
use crate::store::catalog::LayerId;
use crate::store::map::{BlockState, CutBlock};

/// What became of an image that was to be larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrowOutcome {
    /// It is.
    Larger,
    /// Its head is another than the one that the catalogue had.
    OtherHead,
    /// Something else is done to it, or what was under way did not end in time: try again.
    Busy,
    /// The record of the new size, or the zeroes that it shows, are not durable.
    NotDurable,
}

/// Told once, on the thread of the home: it must not wait. It is dropped if nothing was done.
type TellGrown = Box<dyn FnOnce(GrowOutcome) + Send>;

/// Has an image go on with a larger size, which the catalogue has, and the data of its head.
pub struct GrowTask {
    head: LayerId,
    size: u64,
    told: TellGrown,
}

impl fmt::Debug for GrowTask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "GrowTask of {} to {}", self.head, self.size)
    }
}

impl GrowTask {
    /// A task; `told` is called on the thread of the home and must not wait.
    pub fn new(head: LayerId, size: u64, told: impl FnOnce(GrowOutcome) + Send + 'static) -> Self {
        Self { head, size, told: Box::new(told) }
    }
}

impl ImageDevice {
    /// Goes on with a larger size. Changes wait for at most `limit` for others that are under way.
    pub(super) async fn grow(&self, task: GrowTask, limit: Duration, context: &ShardContext) {
        let GrowTask { head, size, told } = task;
        // A snapshot does more with the entrance than one at a time could.
        if self.is_being_sealed.replace(true) {
            return told(GrowOutcome::Busy);
        }
        let outcome = self.try_to_grow(head, size, limit, context).await;
        self.is_being_sealed.set(false);
        told(outcome);
    }

    async fn try_to_grow(
        &self,
        head: LayerId,
        size: u64,
        limit: Duration,
        context: &ShardContext,
    ) -> GrowOutcome {
        let before = self.chain();
        if before.head().id != Some(head) {
            return GrowOutcome::OtherHead;
        }
        if size <= self.store.size() {
            return GrowOutcome::Larger;
        }
        let closed = self.entrance.close();
        if !canary!(GrowthWithoutDrain) && !is_in_time(closed.drained(), limit, context).await {
            return GrowOutcome::Busy;
        }
        if before.zero_behind_end(context).await.is_err() {
            return GrowOutcome::NotDurable;
        }
        // FLUSHes do not wait at the entrance. Those that share this commit are answered by its first part.
        let commit = async || {
            before.commit(context).await?;
            before.commit_size(size, context).await
        };
        if before.head().commits.syncs.lead(commit).await.is_err() {
            return GrowOutcome::NotDurable;
        }
        self.store.grows(size);
        before.head().data.grow(self.store.data_bytes());
        self.chain.replace(Rc::new(before.grown(size)));
        GrowOutcome::Larger
    }

    /// Bytes of the disk now.
    pub(in crate::backend) fn size(&self) -> u64 {
        self.store.size()
    }
}

impl Chain {
    /// What the head's data has behind the end of the disk is going to be seen, and may be old. No change is
    /// under way; the next commit makes it durable.
    async fn zero_behind_end(&self, context: &ShardContext) -> Result<(), BlockError> {
        let head = self.head();
        let cut = head.map.borrow().cut_block();
        let Some(CutBlock { block, end, rest }) = cut else { return Ok(()) };
        head.know(Blocks { start: block, length: 1 }, context).await?;
        let is_data = head.map.borrow().uniform(block, 1) == Some(Some(BlockState::Data));
        if !is_data || canary!(RestShownByGrowth) {
            return Ok(());
        }
        let rest = ByteRange::new(end, rest).expect("within the last block");
        head.data.write_from(rest, context.zeroes.clone(), 0, false, context).await
    }

    /// The same layers, of which the head shows so much.
    fn grown(&self, size: u64) -> Self {
        let head = ChainLink { visible: size, ..self.layers[0].clone() };
        let layers = std::iter::once(head).chain(self.layers[1..].iter().cloned());
        let mut base = self.base.clone();
        if let Some(base) = &mut base
            && canary!(BaseShownByGrowth)
        {
            base.visible = size;
        }
        Self {
            store: Arc::clone(&self.store),
            layers: layers.collect(),
            contents: self.contents.clone(),
            base,
        }
    }
}

impl ImageStore {
    /// It is larger from now on, durably.
    fn grows(&self, size: u64) {
        let StoreLinks { mut layers, contents, base_bytes } = self.links();
        layers[0] = Arc::new(LayerFiles { visible: size, ..(*layers[0]).clone() });
        self.gets_links(StoreLinks { layers, contents, base_bytes });
        self.gets_size(size);
    }
}

/// Whether something ends within a time.
async fn is_in_time(wanted: impl Future<Output = ()>, limit: Duration, context: &ShardContext) -> bool {
    let mut wanted = pin!(wanted);
    let mut too_late = pin!(async { context.ring.sleep(limit).await });
    poll_fn(|waker| match wanted.as_mut().poll(waker) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => too_late.as_mut().poll(waker).map(|_slept| false),
    })
    .await
}
