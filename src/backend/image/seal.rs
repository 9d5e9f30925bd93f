//! The head of an image becomes a sealed layer, and another one takes its writes, while clients go on.
//!
//! ```text
//! prepare   the next head is opened; what can be becomes durable       requests go on
//! close     no change begins, those under way end, a commit            changes wait
//!           the catalogue is changed                                   changes wait
//! switch    the next head takes the writes                             all go on
//! ```
//!
//! Nothing has changed before the switch, so until then it is given up by opening the entrance.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::ImageDevice;
use super::chain::{OpenLayer, RegisteredLayer};
use super::entrance::ClosedEntrance;
use super::layer_files::{LayerFiles, NextHead};
use super::sealing::{SealFailure, SealOrder, SealProgress, SealTask};
use crate::backend::context::ShardContext;

/// Why the home does not go on to wait.
enum Halt {
    TooLate,
    GivenUp,
}

/// One at a time.
struct SealTurn<'a>(&'a Cell<bool>);

impl Drop for SealTurn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What something gives, or what halts it before it has ended.
async fn unless<T>(
    mut wanted: Pin<&mut impl Future<Output = T>>,
    mut halt: Pin<&mut impl Future<Output = Halt>>,
) -> Result<T, Halt> {
    poll_fn(|context| match wanted.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => halt.as_mut().poll(context).map(Err),
    })
    .await
}

impl ImageDevice {
    /// Does what it is ordered to. Changes wait for at most `limit` for others that are under way.
    pub(in crate::backend) async fn seal(&self, mut task: SealTask, limit: Duration, context: &ShardContext) {
        if let Err(failure) = self.try_to_seal(&mut task, limit, context).await {
            task.fail(failure);
        }
    }

    async fn try_to_seal(
        &self,
        task: &mut SealTask,
        limit: Duration,
        context: &ShardContext,
    ) -> Result<(), SealFailure> {
        if self.is_being_sealed.replace(true) {
            return Err(SealFailure::Busy);
        }
        let _turn = SealTurn(&self.is_being_sealed);
        if self.chain().head().map_file.is_none() {
            return Err(SealFailure::NotWritten);
        }
        let (files, head) = self.prepare(task.take_next(), context).await?;
        task.reach(SealProgress::Prepared);
        if !task.ordered(SealOrder::Close).await {
            return Ok(());
        }
        let since = context.ring.now();
        let Some(closed) = self.close(task, limit, context).await? else { return Ok(()) };
        task.reach(SealProgress::Closed);
        if !task.ordered(SealOrder::Switch).await {
            return Ok(());
        }
        self.switch(files, head);
        drop(closed);
        task.reach(SealProgress::Over(context.ring.now() - since));
        Ok(())
    }

    /// Opens the next head here, and leaves little to be done while changes wait.
    async fn prepare(
        &self,
        NextHead { files, map }: NextHead,
        context: &ShardContext,
    ) -> Result<(Arc<LayerFiles>, OpenLayer), SealFailure> {
        let head = RegisteredLayer::new(&files, &self.store, context);
        let head = head.map_err(|error| SealFailure::NoRoom(error.to_string()))?.open(map);
        let chain = self.chain();
        let ahead = self.store.commits.flush(async || chain.commit_and_checkpoint(context).await);
        ahead.await.map_err(SealFailure::NotDurable)?;
        Ok((files, head))
    }

    /// Keeps changes out, waits for those under way, and makes all of them durable; `None` if that is not
    /// wanted any more.
    async fn close(
        &self,
        task: &SealTask,
        limit: Duration,
        context: &ShardContext,
    ) -> Result<Option<ClosedEntrance<'_>>, SealFailure> {
        let closed = self.entrance.close();
        let too_late = async {
            context.ring.sleep(limit).await;
            Halt::TooLate
        };
        let given_up = async { unless(pin!(task.given_up()), pin!(too_late)).await };
        let mut halt = pin!(async { given_up.await.err().unwrap_or(Halt::GivenUp) });
        let drained = async {
            if !canary!(SealWithoutDrain) {
                closed.drained().await;
            }
        };
        if let Err(why) = unless(pin!(drained), halt.as_mut()).await {
            return failure(&why, limit).map_or(Ok(None), Err);
        }
        let chain = self.chain();
        let mut commit = pin!(self.store.commits.flush(async || chain.commit(context).await));
        match unless(commit.as_mut(), halt.as_mut()).await {
            Ok(result) => result.map(|()| Some(closed)).map_err(SealFailure::NotDurable),
            Err(why) => {
                drop(closed);
                if let Some(failure) = failure(&why, limit) {
                    task.fail(failure);
                }
                // A commit that is dropped counts as one that has failed.
                let _result = commit.await;
                failure(&why, limit).map_or(Ok(None), Err)
            }
        }
    }

    fn switch(&self, files: Arc<LayerFiles>, head: OpenLayer) {
        let chain = self.chain();
        // All that it noted is durable.
        chain.head().map.borrow_mut().finish_log();
        let next = chain.with_head(head);
        self.store.gets_head(files);
        self.chain.replace(Rc::new(next));
    }
}

fn failure(why: &Halt, limit: Duration) -> Option<SealFailure> {
    match why {
        Halt::TooLate => Some(SealFailure::TooSlow(limit)),
        Halt::GivenUp => None,
    }
}
