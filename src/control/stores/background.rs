//! Layers come into packs without being asked for: those that have been sealed for a while.
//!
//! It is one layer after the other, slowly, and whoever asks for something comes first: then the layer is
//! given up. What was written of it by then is found the next time, and not written again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::ingesting::IngestTurn;
use super::offers::Stores;
use super::one::OneStore;
use crate::store::catalog::LayerId;
use crate::store::collected::IngestState;
use crate::store::error::StoreError;
use crate::store::ingest::LayerIngest;
use crate::store::pace::owed;

/// Between two looks for layers.
const PERIOD: Duration = Duration::from_secs(2);
/// So many times as long as a look took, the store's thread is left alone.
const LOOK_REST: u32 = 20;
/// The store's thread rests for so many times as long as it has worked.
const RESTS: u32 = 3;
/// However slow it is to be, it looks so often whether somebody asks for something.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How long a layer is left alone that could not be ingested.
const AFTER_FAILURE: Duration = Duration::from_secs(600);
/// Layers that are remembered for that.
const MOST_FAILED: usize = 1024;

/// When layers come into packs, and how fast.
#[derive(Debug, Clone, Copy)]
struct IngestPace {
    age: Duration,
    bytes_a_second: u64,
}

impl Stores {
    /// Begins to bring layers of all stores into packs whose images are written.
    pub(super) fn ingest_in_background(self: &Rc<Self>) {
        for at in 0..self.all.len() {
            let Some(pace) = self.all[at].pace() else { continue };
            let stores = Rc::clone(self);
            tokio_uring::spawn(async move {
                let mut failed = BTreeMap::new();
                while !stores.plane.is_stopping() {
                    if stores.all[at].is_lent() {
                        tokio::time::sleep(PERIOD).await;
                        continue;
                    }
                    let began = Instant::now();
                    let looked = stores.ingest_due(&stores.all[at], pace, &mut failed).await;
                    if let Err(error) = &looked {
                        tracing::warn!(%error, "which layers could come into packs is not known");
                    }
                    let took = looked.unwrap_or_else(|_| began.elapsed());
                    tokio::time::sleep(PERIOD.max(took * LOOK_REST)).await;
                }
            });
        }
    }

    /// Ingests what is due until somebody asks for something; says how long it took to look for it.
    async fn ingest_due(
        &self,
        one: &OneStore,
        pace: IngestPace,
        failed: &mut BTreeMap<LayerId, Instant>,
    ) -> Result<Duration, StoreError> {
        let age_s = pace.age.as_secs();
        let asked = one.ask(move |store| {
            let began = Instant::now();
            store.due_layers(age_s).map(|due| (due, began.elapsed()))
        });
        let (due, took) = asked.await??;
        one.packs.borrow_mut().queue = due.count as u64;
        failed.retain(|_, since| since.elapsed() < AFTER_FAILURE);
        for layer in due.first.into_iter().filter(|layer| !failed.contains_key(layer)).collect::<Vec<_>>() {
            if one.comes_first().is_err() || self.plane.is_stopping() {
                break;
            }
            match self.ingest_one(one, layer, pace).await {
                Ok(()) => {
                    let mut packs = one.packs.borrow_mut();
                    packs.queue = packs.queue.saturating_sub(1);
                }
                Err(StoreError::Interrupted) => break,
                Err(error) => {
                    tracing::warn!(%layer, %error, "a layer does not come into packs");
                    if failed.len() < MOST_FAILED {
                        failed.insert(layer, Instant::now());
                    }
                }
            }
        }
        Ok(took)
    }

    /// Ingests the oldest layer below one, or that itself.
    async fn ingest_one(&self, one: &OneStore, layer: LayerId, pace: IngestPace) -> Result<(), StoreError> {
        let _alone = one.merging.lock().await;
        one.comes_first()?;
        let Some(ingest) = one.ask(move |store| store.begin_layer_ingest(layer)).await?? else {
            return Ok(());
        };
        let mut before = ingest.looked_at();
        let mut onward = |ingest: &mut LayerIngest, turn: IngestTurn| {
            one.comes_first()?;
            let bytes = ingest.looked_at() - std::mem::replace(&mut before, ingest.looked_at());
            let least = owed(bytes, Some(pace.bytes_a_second), Duration::ZERO);
            Ok(least.max(turn.took * RESTS).min(LONGEST_REST))
        };
        let ingest = self.ingest_steps(one, ingest, &mut onward).await?;
        let released = self.end_ingest(one, ingest).await?;
        tracing::info!(%layer, bytes = released, "a layer came into packs that was sealed for a while");
        Ok(())
    }

    /// Pauses what is done in the background, or lets it go on; says how it stands.
    pub(super) fn pause_ingest(&self, at: usize, pause: Option<bool>) -> IngestState {
        let one = &self.all[at];
        let mut packs = one.packs.borrow_mut();
        packs.is_paused = pause.unwrap_or(packs.is_paused);
        IngestState {
            store: one.of.store.path().to_owned(),
            after_seconds: one.pace().map(|pace| pace.age.as_secs()),
            paused: packs.is_paused,
            queue: packs.queue,
            layers: packs.layers,
            bytes: packs.bytes,
            chunks_zero: packs.zeroes,
            chunks_known: packs.known,
            chunks_written: packs.written,
            bytes_written: packs.written_bytes,
        }
    }
}

impl OneStore {
    /// None if nothing is ingested in the background.
    fn pace(&self) -> Option<IngestPace> {
        let all = self.of.all.as_ref().filter(|all| !all.read_only)?;
        Some(IngestPace { age: all.ingest?, bytes_a_second: all.ingest_rate })
    }

    /// Whether nobody asks for what would wait for work in the background.
    fn comes_first(&self) -> Result<(), StoreError> {
        let is_asked = self.hurries.get() > 0
            || self.ingests.borrow().values().any(|work| work.result.borrow().is_none())
            || self.flattening.borrow().values().any(|work| work.outcome.borrow().is_none());
        if is_asked || self.packs.borrow().is_paused { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}
