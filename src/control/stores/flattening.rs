//! Images that get a layer of their own with all that they stand on, while clients use them.
//!
//! It may take hours, so whoever asks is told how far it is, and asks again. It goes on when nobody asks any
//! more. The copy is made as those of [merges](super::merging) are, and clients go first.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::offers::Stores;
use super::one::OneStore;
use super::perform::PerformError;
use super::under_way::Flattening;
use crate::store::catalog::StoreName;
use crate::store::error::StoreError;
use crate::store::layer_copy::CopyProgress;
use crate::store::request::FlattenProgress;

/// How long whoever asks waits for the end of it before it is told how far it is.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// How often it is begun anew when what the image stands on has changed meanwhile.
const TRIES: usize = 3;

impl Stores {
    /// Begins to flatten an image, or tells how far it is.
    pub(super) async fn flatten_some(
        self: &Rc<Self>,
        at: usize,
        image: StoreName,
        stop: bool,
    ) -> Result<FlattenProgress, PerformError> {
        let all = &self.all[at].flattening;
        let known = all.borrow().get(&image).cloned();
        let under_way = match known {
            Some(known) => known,
            None if stop => return Err(StoreError::Interrupted.into()),
            None => self.begin_to_flatten(at, &image),
        };
        under_way.is_stopped.set(under_way.is_stopped.get() || stop);
        if under_way.outcome.borrow().is_none() {
            let _it_may_have_ended = tokio::time::timeout(ANSWER_TIME, under_way.ended.notified()).await;
        }
        let CopyProgress { done, total } = under_way.progress.get();
        let outcome = under_way.outcome.borrow_mut().take();
        let is_new = match outcome {
            None => None,
            Some(outcome) => {
                all.borrow_mut().remove(&image);
                Some(outcome?)
            }
        };
        Ok(FlattenProgress { image, done, total, is_new })
    }

    fn begin_to_flatten(self: &Rc<Self>, at: usize, image: &StoreName) -> Rc<Flattening> {
        let mut all = self.all[at].flattening.borrow_mut();
        // Whoever had asked for those does not ask any more.
        all.retain(|_, other| other.outcome.borrow().is_none());
        let new = Rc::new(Flattening::new());
        all.insert(image.clone(), Rc::clone(&new));
        let (stores, under_way, image) = (Rc::clone(self), Rc::clone(&new), image.clone());
        tokio_uring::spawn(async move {
            let outcome = stores.flatten(&stores.all[at], &image, &under_way).await;
            match &outcome {
                Ok(_) => tracing::info!(%image, "an image stands on a layer of its own"),
                Err(error) => tracing::info!(%image, %error, "an image was not flattened"),
            }
            under_way.outcome.replace(Some(outcome));
            under_way.ended.notify_one();
        });
        new
    }

    /// False: it was flat already.
    async fn flatten(
        &self,
        one: &OneStore,
        image: &StoreName,
        under_way: &Flattening,
    ) -> Result<bool, StoreError> {
        let mut refused = StoreError::Interrupted;
        for _ in 0..TRIES {
            let _alone = one.merging.lock().await;
            if self.plane.is_stopping() {
                return Err(StoreError::Interrupted);
            }
            let (name, served) = (image.clone(), Arc::clone(&one.of.store));
            let begun =
                one.ask(move |store| store.begin_flatten_with(&name, true, &|id| served.base_reader(id)));
            let Some(copy) = begun.await?? else { return Ok(false) };
            let goes_on = |progress| {
                under_way.progress.set(progress);
                !under_way.is_stopped.get()
            };
            let Some(copy) = self.copied(one, copy, &goes_on).await? else {
                return Err(StoreError::Interrupted);
            };
            let _turn = one.turn.lock().await;
            match one.ask(move |store| store.finish_copy(copy)).await? {
                Ok(_released) => {
                    one.follow_catalogue(&self.plane).await?;
                    return Ok(true);
                }
                // A snapshot of it was taken meanwhile, or layers were merged.
                Err(error) if error.is_refusal() => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }
}
