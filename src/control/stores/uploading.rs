//! Snapshots come to the tier of their store without being asked for: those that are old enough and in packs.
//!
//! It is one after the other, by a thread of its own ([`StorePusher`]), which no client and no FLUSH waits
//! for. A tier that does not answer is asked again later and later. An image whose name another store has
//! taken over stays as it is here, and comes to the tier again when this store has the name back.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::offers::Stores;
use super::one::OneStore;
use crate::stats::{ImageLagStats, UploadStats};
use crate::store::catalog::StoreName;
use crate::store::due_pushes::DuePush;
use crate::store::error::StoreError;
use crate::store::open_store::now_s;
use crate::store::push_notes::PushLag;
use crate::store::push_state::PushState;
use crate::store::pusher::{PushError, PushRemedy, StorePusher, spread, wait_after};
use crate::store::tier_setting::tier_of;

/// Between two looks for snapshots, and so many times as long as a look took.
const PERIOD: Duration = Duration::from_secs(2);
const LOOK_REST: u32 = 20;
/// The lag is counted less often: that looks at all files.
const LAG_PERIOD: Duration = Duration::from_secs(10);
const LAG_REST: u32 = 200;
/// Between two looks whether a push is to end.
const STOP_PERIOD: Duration = Duration::from_millis(200);
/// How long a snapshot or an image is left alone that was refused.
const AFTER_REFUSAL: Duration = Duration::from_secs(600);
/// Images that an answer names.
const MOST_LOST: usize = 100;

impl Stores {
    /// Begins to bring snapshots of all stores to their tiers that are to do so.
    pub(super) fn push_in_background(self: &Rc<Self>) {
        for at in (0..self.all.len()).filter(|at| self.all[*at].of.pusher.is_some()) {
            let stores = Rc::clone(self);
            tokio_uring::spawn(async move {
                let one = &stores.all[at];
                let mut next_lag = Instant::now();
                while !stores.plane.is_stopping() {
                    let rest = stores.push_due(one, &mut next_lag).await.unwrap_or_else(|error| {
                        tracing::warn!(%error, "which snapshots could come to the tier is not known");
                        LAG_PERIOD
                    });
                    let _woken = timeout(rest, one.uploads.wake.notified()).await;
                }
            });
        }
    }

    /// Pushes what is due until something is in the way; says how long to rest.
    async fn push_due(&self, one: &OneStore, next_lag: &mut Instant) -> Result<Duration, StoreError> {
        let age = one.of.all.as_ref().and_then(|all| all.push);
        let (Some(age), Some(pusher)) = (age, &one.of.pusher) else { return Ok(LAG_PERIOD) };
        let work = &one.uploads;
        if self.is_to_stop(one) {
            return Ok(PERIOD);
        }
        let (left, began) = (Arc::clone(&work.left), Instant::now());
        left.forget(began, AFTER_REFUSAL);
        let due = one.ask(move |store| {
            let began = Instant::now();
            left.follow(&tier_of(store.path())?);
            let due = store.due_pushes(age.as_secs(), |node, uuid| left.has(node, uuid, began))?;
            Ok::<_, StoreError>((due, began.elapsed()))
        });
        let (due, took) = due.await??;
        work.queue.set(due.count as u64);
        self.count_lag(one, next_lag).await?;
        let is_more = due.count > due.first.len();
        for due in due.first {
            if work.is_paused.get() || self.is_to_stop(one) {
                return Ok(PERIOD);
            }
            let pushed = self.push_one(one, pusher, &due).await;
            if let Some(wait) = one.note_push_end(&due, pushed) {
                return Ok(wait);
            }
        }
        Ok(if is_more { Duration::ZERO } else { PERIOD.max(took * LOOK_REST) })
    }

    async fn count_lag(&self, one: &OneStore, next: &mut Instant) -> Result<(), StoreError> {
        if Instant::now() < *next {
            return Ok(());
        }
        let counted = one.ask(|store| {
            let began = Instant::now();
            store.push_lag().map(|lag| (lag, began.elapsed()))
        });
        let (lag, took) = counted.await??;
        one.uploads.lag.replace(lag);
        *next = Instant::now() + LAG_PERIOD.max(took * LAG_REST);
        Ok(())
    }

    /// Whether nothing is to be pushed, because the store goes elsewhere or the server ends.
    fn is_to_stop(&self, one: &OneStore) -> bool {
        one.is_lent() || one.uploads.gives_way.get() || self.plane.is_stopping()
    }

    /// Pushes a snapshot, until it is there or is to stop.
    async fn push_one(&self, one: &OneStore, pusher: &StorePusher, due: &DuePush) -> Result<bool, PushError> {
        let node = due.node.clone();
        let contents = one.ask(move |store| store.contents_to_push(&node)).await?;
        let contents =
            contents.map_err(|error| if error.is_refusal() { PushError::Gone } else { error.into() })?;
        if self.is_to_stop(one) {
            return Err(PushError::Stopped);
        }
        one.uploads.pushing.replace(Some(due.node.clone()));
        let (told, mut ended) = oneshot::channel();
        // Nobody waits for it when the server ends.
        pusher.push(due.clone(), contents, move |done| drop(told.send(done)));
        let done = loop {
            match timeout(STOP_PERIOD, &mut ended).await {
                Ok(done) => break done.unwrap_or(Err(PushError::Ended)),
                Err(_later) if one.uploads.is_paused.get() || self.is_to_stop(one) => pusher.stop(),
                Err(_later) => {}
            }
        };
        one.uploads.pushing.replace(None);
        one.uploads.ended.notify_one();
        done
    }

    /// Pauses what is done in the background, or lets it go on; says how it stands.
    pub(super) fn control_pushes(
        &self,
        at: usize,
        pause: Option<bool>,
        rate: Option<NonZeroU64>,
    ) -> PushState {
        let one = &self.all[at];
        let work = &one.uploads;
        if let Some(pause) = pause {
            work.is_paused.set(pause);
        }
        if pause == Some(false) {
            work.left.try_again(Instant::now());
            work.failures.set(0);
        }
        if let (Some(rate), Some(pusher)) = (rate, &one.of.pusher) {
            pusher.set_rate(rate.get());
            // What is under way may wait for a time that the old rate has given it. It goes on with the rest.
            pusher.stop();
        }
        if pause == Some(false) || rate.is_some() {
            work.wake.notify_one();
        }
        one.push_state()
    }
}

impl OneStore {
    /// Ends the upload that is under way, and waits until it has ended: whoever has the store next may begin
    /// the same one.
    pub(super) async fn end_upload(&self) {
        let Some(pusher) = &self.of.pusher else { return };
        while self.uploads.pushing.borrow().is_some() {
            pusher.stop();
            self.uploads.ended.notified().await;
        }
    }

    /// Notes what came of a push. Says how long to rest if others would fail too.
    fn note_push_end(&self, due: &DuePush, pushed: Result<bool, PushError>) -> Option<Duration> {
        let (work, node) = (&self.uploads, &due.node);
        let until = Instant::now() + AFTER_REFUSAL;
        let error = match pushed {
            Ok(was_there) => {
                work.left.push(node, due.uuid);
                work.queue.set(work.queue.get().saturating_sub(1));
                work.pushed.set(work.pushed.get() + 1);
                work.last_success_s.set(Some(now_s()));
                work.failures.set(0);
                work.error.replace(None);
                tracing::info!(%node, was_there, "a snapshot came to the tier");
                return None;
            }
            Err(error) => error,
        };
        let remedy = error.remedy();
        match remedy {
            PushRemedy::GoOn => return Some(PERIOD),
            PushRemedy::LeaveImage => {
                work.refused.set(work.refused.get() + 1);
                if work.left.lose(&node.image, until) {
                    tracing::error!(%node, %error, "an image does not come to the tier any more");
                }
            }
            PushRemedy::LeaveSnapshot => {
                work.failed.set(work.failed.get() + 1);
                work.left.leave(due.uuid, until);
                tracing::warn!(%node, %error, "a snapshot does not come to the tier; it is tried again later");
            }
            PushRemedy::BackOff | PushRemedy::LeaveAndBackOff => {
                work.failed.set(work.failed.get() + 1);
                work.failures.set(work.failures.get().saturating_add(1));
                if remedy == PushRemedy::LeaveAndBackOff {
                    work.left.leave(due.uuid, until);
                }
            }
        }
        let sentence = error.to_string();
        let all_wait = matches!(remedy, PushRemedy::BackOff | PushRemedy::LeaveAndBackOff);
        let wait = all_wait.then(|| spread(wait_after(work.failures.get())));
        if let Some(wait) = wait {
            let seconds = wait.as_secs();
            tracing::warn!(%node, error = sentence, seconds, "nothing comes to the tier; it is tried again");
        }
        work.error.replace(Some(sentence));
        wait
    }

    fn push_state(&self) -> PushState {
        let (work, pusher) = (&self.uploads, self.of.pusher.as_ref());
        let (packs, bytes) = pusher.map_or((0, 0), |pusher| pusher.counts().uploads());
        let age = self.of.all.as_ref().and_then(|all| all.push).filter(|_| pusher.is_some());
        PushState {
            store: self.of.store.path().to_owned(),
            after_seconds: age.map(|age| age.as_secs()),
            paused: work.is_paused.get(),
            rate: pusher.map_or(0, StorePusher::rate),
            queue: work.queue.get(),
            pushing: work.pushing.borrow().as_ref().map(ToString::to_string),
            snapshots: work.pushed.get(),
            packs,
            bytes,
            bytes_sent: pusher.map_or(0, StorePusher::sent_bytes),
            failures: work.failed.get() + work.refused.get(),
            error: work.error.borrow().clone(),
            lost: work.left.lost(MOST_LOST).0,
            last_success: work.last_success_s.get(),
            lag_bytes: work.lag.borrow().all.bytes,
            lag_seconds: work.lag.borrow().all.seconds,
        }
    }

    fn image_lags(&self) -> Vec<ImageLagStats> {
        let lag = self.uploads.lag.borrow();
        let of = |(image, lag): &(StoreName, PushLag)| ImageLagStats {
            image: image.to_string(),
            bytes: lag.bytes,
            seconds: lag.seconds,
        };
        lag.images.iter().map(of).collect()
    }

    /// What the metrics tell; none if nothing comes to the tier without being asked for.
    pub(super) fn upload_stats(&self) -> Option<UploadStats> {
        let (work, pusher) = (&self.uploads, self.of.pusher.as_ref()?);
        let (packs, bytes) = pusher.counts().uploads();
        Some(UploadStats {
            pushed: work.pushed.get(),
            failed: work.failed.get(),
            refused: work.refused.get(),
            packs,
            bytes,
            sent_bytes: pusher.sent_bytes(),
            retries: pusher.counts().retries(),
            requests: pusher.counts().requests().collect(),
            queue: work.queue.get(),
            lost_images: work.left.lost(0).1 as u64,
            is_paused: work.is_paused.get(),
            last_success_s: work.last_success_s.get().unwrap_or_default(),
            lag_bytes: work.lag.borrow().all.bytes,
            lag_s: work.lag.borrow().all.seconds,
            images: self.image_lags(),
        })
    }
}
