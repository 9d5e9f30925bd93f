//! Snapshots of images come into packs while clients use the images.
//!
//! The store's thread reads, names and writes, some steps at a time, so that other jobs get their turn, and
//! it rests between them. Then the catalogue changes, the homes of images that have the layer open follow it,
//! and its file goes.
//!
//! Whoever asks for it is told how far it is after a moment, and asks again: no answer takes long.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cpu_times::CpuTimes;
use super::ingest_work::IngestWork;
use super::offers::Stores;
use super::one::OneStore;
use super::perform::{PerformError, outcome};
use crate::store::catalog::NodeName;
use crate::store::error::StoreError;
use crate::store::ingest::LayerIngest;
use crate::store::ingest_counts::IngestCounts;
use crate::store::layer_copy::CopyProgress;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::request::{CheckpointProgress, StoreAnswer};

/// The store's thread works for so long before others get their turn.
const TURN: Duration = Duration::from_millis(5);
/// How long an answer waits for the end of the work.
const MOMENT: Duration = Duration::from_millis(500);

/// What a turn took.
#[derive(Debug, Clone, Copy)]
pub(super) struct IngestTurn {
    pub(super) took: Duration,
    /// Clients were served since the turn before, or something else was done.
    others_were_busy: bool,
}

/// Works for a turn; how far it is.
fn ingest_some(
    store: &mut OpenStore<MapFiles>,
    ingest: &mut LayerIngest,
) -> Result<CopyProgress, StoreError> {
    let began = Instant::now();
    loop {
        let progress = store.ingest_step(ingest)?;
        if progress.is_done() || began.elapsed() >= TURN {
            return Ok(progress);
        }
    }
}

impl Stores {
    /// Has a snapshot taken, unless it is there, and its contents brought into packs; says how far that is.
    pub(super) async fn checkpoint(
        self: &Rc<Self>,
        at: usize,
        node: NodeName,
    ) -> Result<StoreAnswer, PerformError> {
        let one = &self.all[at];
        let known = one.ingests.borrow().get(&node).cloned();
        let work = match known {
            Some(work) => work,
            None => self.begin_checkpoint(at, &node).await?,
        };
        if work.result.borrow().is_none() {
            let _either = tokio::time::timeout(MOMENT, work.ended.notified()).await;
        }
        let CopyProgress { done, total } = work.progress.get();
        let result = work.result.borrow_mut().take();
        let ingested = result.is_some();
        if let Some(result) = result {
            one.ingests.borrow_mut().remove(&node);
            result?;
        }
        let node = node.to_string();
        Ok(StoreAnswer::Checkpoint(CheckpointProgress { node, ingested, done, total }))
    }

    async fn begin_checkpoint(
        self: &Rc<Self>,
        at: usize,
        node: &NodeName,
    ) -> Result<Rc<IngestWork>, PerformError> {
        let one = &self.all[at];
        let asked = node.clone();
        if !one.ask(move |store| store.has_snapshot(&asked)).await?? {
            let result = self.snapshot_in_turn(one, vec![node.clone()], false).await;
            one.snapshots.borrow_mut().count(outcome(&result), 1);
            result?;
        }
        // Somebody else may have begun it meanwhile.
        if let Some(work) = one.ingests.borrow().get(node) {
            return Ok(Rc::clone(work));
        }
        let work = Rc::new(IngestWork::default());
        one.ingests.borrow_mut().insert(node.clone(), Rc::clone(&work));
        let (stores, node, told) = (Rc::clone(self), node.clone(), Rc::clone(&work));
        tokio_uring::spawn(async move {
            let result = stores.ingest_all(&stores.all[at], &node, &told.progress).await;
            if let Err(error) = &result {
                tracing::warn!(%node, %error, "a snapshot does not come into packs");
            }
            told.result.replace(Some(result));
            told.ended.notify_one();
        });
        Ok(work)
    }

    async fn ingest_all(
        &self,
        one: &OneStore,
        node: &NodeName,
        progress: &Cell<CopyProgress>,
    ) -> Result<(), StoreError> {
        while self.ingest_next(one, node, progress).await? {}
        Ok(())
    }

    /// Ingests the next layer of a snapshot; false if there is none.
    async fn ingest_next(
        &self,
        one: &OneStore,
        node: &NodeName,
        progress: &Cell<CopyProgress>,
    ) -> Result<bool, StoreError> {
        // Layers that are read here must not become one meanwhile.
        let _alone = one.merging.lock().await;
        if self.plane.is_stopping() {
            return Err(StoreError::Interrupted);
        }
        let of = node.clone();
        let begun = one.ask(move |store| store.begin_ingest(&of));
        let Some(ingest) = begun.await?? else { return Ok(false) };
        let mut onward = |ingest: &mut LayerIngest, turn: IngestTurn| {
            // A second thread works only as long as the other processors have nothing to do.
            ingest.write_aside(!turn.others_were_busy);
            progress.set(ingest.progress());
            // Clients have half of the time that this takes, if there are any that do something.
            Ok(if turn.others_were_busy { turn.took } else { Duration::ZERO })
        };
        let ingest = self.ingest_steps(one, ingest, &mut onward).await?;
        let bytes = self.end_ingest(one, ingest).await?;
        tracing::info!(%node, bytes, "a layer came into packs");
        Ok(true)
    }

    /// Goes on until all of a layer was looked at. `onward` is told after each turn how far it is and what
    /// that took; it says how long to rest, and gives the layer up by its error.
    pub(super) async fn ingest_steps(
        &self,
        one: &OneStore,
        mut ingest: LayerIngest,
        onward: &mut dyn FnMut(&mut LayerIngest, IngestTurn) -> Result<Duration, StoreError>,
    ) -> Result<LayerIngest, StoreError> {
        let (mut before, mut last) = (ingest.counts(), None::<CpuTimes>);
        loop {
            let began = Instant::now();
            let turn = one.ask(move |store| {
                let result = ingest_some(store, &mut ingest);
                // Between turns nobody writes: a rest is one, and what others have taken is exactly known.
                let aside = ingest.settle();
                (ingest, result, CpuTimes::now(aside))
            });
            let (back, result, times) = turn.await?;
            ingest = back;
            let others_were_busy = last.is_none_or(|last| times.others_were_busy(&last));
            last = Some(times);
            let counts = ingest.counts();
            one.count_ingested(&counts.since(&before));
            before = counts;
            let rest = result.and_then(|done| {
                let rest = onward(&mut ingest, IngestTurn { took: began.elapsed(), others_were_busy })?;
                match (done.is_done(), self.plane.is_stopping()) {
                    (true, _) => Ok(None),
                    (false, true) => Err(StoreError::Interrupted),
                    (false, false) => Ok(Some(rest)),
                }
            });
            match rest {
                Ok(Some(rest)) => tokio::time::sleep(rest).await,
                Ok(None) => return Ok(ingest),
                Err(error) => {
                    let is_failure = !matches!(error, StoreError::Interrupted);
                    one.packs.borrow_mut().failures += u64::from(is_failure);
                    one.ask(move |store| store.abandon_ingest(ingest)).await?;
                    return Err(error);
                }
            }
        }
    }

    /// The contents of a layer are in packs from now on; says how many bytes that gave back.
    pub(super) async fn end_ingest(&self, one: &OneStore, ingest: LayerIngest) -> Result<u64, StoreError> {
        // No image is opened, closed or sealed until those that are open have followed.
        let _turn = one.turn.lock().await;
        let released = one.ask(move |store| store.finish_ingest(ingest)).await??;
        one.packs.borrow_mut().layers += 1;
        one.follow_catalogue(&self.plane).await?;
        Ok(released.bytes)
    }
}

impl OneStore {
    fn count_ingested(&self, new: &IngestCounts) {
        let mut packs = self.packs.borrow_mut();
        packs.zeroes += new.zeroes;
        packs.known += new.known;
        packs.written += new.written;
        packs.written_bytes += new.written_bytes;
        packs.bytes += new.bytes();
    }
}
