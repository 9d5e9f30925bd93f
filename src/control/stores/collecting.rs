//! Packs of which little is needed go, while clients use the images.
//!
//! The store's thread marks, counts and copies, some steps at a time, so that other jobs get their turn, and
//! rests between them. No image is closed, and no home has to follow: chunks keep their names, and whoever
//! does not find one where it was looks for it.
//!
//! Whoever asks for it is told how far it is after a moment, and asks again: no answer takes long.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::collecting_work::GarbageWork;
use super::offers::Stores;
use super::one::OneStore;
use super::perform::PerformError;
use crate::backend::HomeTask;
use crate::control::plane::Plane;
use crate::store::collect::PackCollection;
use crate::store::collected::CollectedLost;
use crate::store::error::StoreError;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::request::StoreAnswer;

/// The store's thread works for so long before others get their turn.
const TURN: Duration = Duration::from_millis(5);
/// How long an answer waits for the end of the work.
const MOMENT: Duration = Duration::from_millis(500);

/// Works for a turn.
fn collect_some(store: &mut OpenStore<MapFiles>, collection: &mut PackCollection) -> Result<(), StoreError> {
    let began = Instant::now();
    while !collection.is_done() && began.elapsed() < TURN {
        store.collection_step(collection)?;
    }
    Ok(())
}

impl Stores {
    /// Removes what was lost for so many seconds and what nothing needs of packs; says how far that is.
    pub(super) async fn collect(self: &Rc<Self>, at: usize, grace: u64) -> Result<StoreAnswer, PerformError> {
        let one = &self.all[at];
        let known = one.collection.borrow().clone().filter(|work| !work.is_forgotten());
        let work = known.unwrap_or_else(|| self.begin_collecting(at));
        if work.result.borrow().is_none() {
            let _either = tokio::time::timeout(MOMENT, work.ended.notified()).await;
        }
        let packs = work.found.get();
        let result = work.result.borrow_mut().take();
        let Some(result) = result else {
            let (store, progress) = (one.of.store.path().to_owned(), work.progress.get());
            let (finished, removed, lost) = (false, 0, 0);
            let (done, total) = (progress.done, progress.total);
            let so_far = CollectedLost { store, finished, removed, lost, packs, done, total };
            return Ok(StoreAnswer::Collected(so_far));
        };
        one.collection.borrow_mut().take();
        result?;
        let collected = one.ask(move |store| {
            let removed = store.remove_lost(grace)?;
            let collected = store.garbage_collected(removed, packs);
            // The next time that the disk is full.
            store.keep_reserve();
            collected
        });
        Ok(StoreAnswer::Collected(collected.await??))
    }

    fn begin_collecting(self: &Rc<Self>, at: usize) -> Rc<GarbageWork> {
        let work = Rc::new(GarbageWork::default());
        self.all[at].collection.replace(Some(Rc::clone(&work)));
        let (stores, told) = (Rc::clone(self), Rc::clone(&work));
        tokio_uring::spawn(async move {
            let result = stores.collect_all(&stores.all[at], &told).await;
            let found = told.found.get();
            {
                let mut packs = stores.all[at].packs.borrow_mut();
                packs.removed_packs += found.packs_removed;
                packs.removed_bytes += found.bytes_removed;
            }
            match &result {
                Ok(()) => tracing::info!(
                    removed = found.packs_removed,
                    written = found.packs_written,
                    garbage = found.bytes_garbage,
                    "packs were collected"
                ),
                Err(error) => tracing::warn!(%error, "packs are not collected"),
            }
            told.result.replace(Some(result));
            told.ended_at.set(Some(Instant::now()));
            told.ended.notify_one();
        });
        work
    }

    async fn collect_all(&self, one: &OneStore, told: &GarbageWork) -> Result<(), StoreError> {
        let _alone = one.collecting.lock().await;
        let begun = one.ask(|store| {
            store.make_room_to_remove()?;
            store.begin_collection()
        });
        let Some(mut collection) = begun.await?? else { return Ok(()) };
        loop {
            let began = Instant::now();
            let turn = one.ask(move |store| {
                let result = collect_some(store, &mut collection);
                (collection, result)
            });
            let (back, result) = turn.await?;
            collection = back;
            one.forget_packs(collection.take_gone(), &self.plane);
            told.progress.set(collection.progress());
            told.found.set(collection.found());
            if collection.is_done() && result.is_ok() {
                // What it holds may be much: another thread gives it back.
                return one.ask(move |_| drop(collection)).await;
            }
            let stopped = || if self.plane.is_stopping() { Err(StoreError::Interrupted) } else { Ok(()) };
            if let Err(error) = result.and_then(|()| stopped()) {
                told.found.set(one.ask(move |store| store.abandon_collection(collection)).await?);
                return Err(error);
            }
            // Clients have half of the time that this takes.
            tokio::time::sleep(began.elapsed()).await;
        }
    }
}

impl OneStore {
    /// Has packs closed that are gone, whose room comes back with that.
    fn forget_packs(&self, gone: Vec<u64>, plane: &Plane) {
        if gone.is_empty() {
            return;
        }
        self.of.store.forget_packs(&gone);
        let gone: Arc<[u64]> = gone.into();
        for entry in self.open_entries(plane) {
            let image = entry.export().and_then(|export| export.image());
            if image.is_some_and(|image| image.has_packs_open()) {
                // A shard without room for the message closes them with the image.
                let _sent = plane.visit(&entry, HomeTask::ForgetPacks(Arc::clone(&gone)));
            }
        }
    }
}
