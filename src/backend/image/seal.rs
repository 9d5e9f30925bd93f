//! The head of an image becomes a sealed layer, and another one takes its writes, while clients go on.
//!
//! ```text
//! prepare   the next head is opened; what can be becomes durable                 requests go on
//!           the catalogue notes that the next head may take over                 requests go on
//! close     no change begins, those under way end                                changes wait
//! switch    the next head takes the writes                                       all go on
//! settle    the sealed head becomes durable                                      FLUSH and FUA wait
//!           the catalogue is changed                                             FLUSH and FUA wait
//! release   what is durable of the next head counts                              all go on
//! ```
//!
//! Nothing has changed before the switch, so until then it is given up by opening the entrance. After it the
//! next head stays, whatever happens. If the sealed one cannot be made durable, or nobody knows whether the
//! catalogue leads to the next one, FLUSH fails until the image is opened again.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::ImageDevice;
use super::chain::{Chain, OpenLayer, RegisteredLayer};
use super::entrance::ClosedEntrance;
use super::head_commits::HeadCommits;
use super::layer_files::{LayerFiles, NextHead};
use super::sealing::{SealFailure, SealOrder, SealProgress, SealTask};
use crate::backend::context::ShardContext;
use crate::block::BlockError;

/// How often a commit is tried of which nothing was lost.
const TRIES: usize = 10;

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
        let commits = Arc::clone(&head.commits);
        let sealed = self.switch(files, head);
        drop(closed);
        task.reach(SealProgress::Switched(context.ring.now() - since));
        let settled = settle(&sealed, context).await;
        release(task, settled, &commits).await
    }

    /// Opens the next head here, and leaves little to be done after the switch.
    async fn prepare(
        &self,
        NextHead { files, map }: NextHead,
        context: &ShardContext,
    ) -> Result<(Arc<LayerFiles>, OpenLayer), SealFailure> {
        let head = RegisteredLayer::new(&files, &self.store, context);
        let head = head.map_err(|error| SealFailure::NoRoom(error.to_string()))?.open(map);
        let chain = self.chain();
        let sure = chain.head().commits.is_sure();
        sure.await.map_err(SealFailure::NotDurable)?;
        let syncs = &chain.head().commits.syncs;
        let ahead = syncs.flush(async || chain.commit_and_checkpoint(context).await);
        ahead.await.map_err(SealFailure::NotDurable)?;
        Ok((files, head))
    }

    /// Keeps changes out, and waits for those under way; `None` if that is not wanted any more.
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
        let halt = async { given_up.await.err().unwrap_or(Halt::GivenUp) };
        let drained = async {
            if !canary!(SealWithoutDrain) {
                closed.drained().await;
            }
        };
        let drained = unless(pin!(drained), pin!(halt)).await;
        match drained {
            Ok(()) => Ok(Some(closed)),
            Err(Halt::GivenUp) => Ok(None),
            Err(Halt::TooLate) => Err(SealFailure::TooSlow(limit)),
        }
    }

    /// The next head takes the writes; the chain that had them.
    fn switch(&self, files: Arc<LayerFiles>, head: OpenLayer) -> Rc<Chain> {
        head.commits.take_over();
        let chain = self.chain();
        let next = chain.with_head(head);
        self.store.gets_head(files);
        self.chain.replace(Rc::new(next))
    }
}

/// Makes a head durable that takes no writes any more.
async fn settle(sealed: &Chain, context: &ShardContext) -> Result<(), BlockError> {
    let commits = &sealed.head().commits;
    let mut result = sealed.share_commit(context).await;
    for _ in 1..TRIES {
        if result.is_ok() || commits.syncs.has_failed() {
            break;
        }
        result = sealed.share_commit(context).await;
    }
    result?;
    // All that it noted is durable.
    sealed.head().map.borrow_mut().finish_log();
    Ok(())
}

/// Waits for the catalogue, and says what became of the next head.
async fn release(
    task: &SealTask,
    settled: Result<(), BlockError>,
    commits: &HeadCommits,
) -> Result<(), SealFailure> {
    if let Err(error) = settled {
        commits.fail();
        return Err(SealFailure::NotDurable(error));
    }
    task.reach(SealProgress::Settled);
    match task.ordered(SealOrder::Release).await {
        true => commits.become_sure(),
        false => {
            commits.fail();
            let what = "an image has a head that the catalogue of its store may not lead to: FLUSH fails until the server is started again";
            tracing::error!("{what}");
        }
    }
    task.reach(SealProgress::Over);
    Ok(())
}
