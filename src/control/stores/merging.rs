//! Chains of images become shorter while clients use them: two layers become one.
//!
//! The copy is made by the store's thread, some steps at a time, so that other jobs get their turn. Then the
//! catalogue changes, and the homes of the images that have the old layers open follow it.
//!
//! A snapshot of an image that is as deep as it may be waits for that; its clients do not. When snapshots are
//! removed, and when a server starts, layers are merged that nobody needs any more, slowly.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::offers::Stores;
use super::one::OneStore;
use crate::backend::{HomeTask, ImageHandle, OpenError, ShortenOutcome, ShortenTask};
use crate::control::catalogue::Entry;
use crate::control::plane::Plane;
use crate::store::catalog::{MergePair, StoreName};
use crate::store::error::StoreError;
use crate::store::layer_copy::CopyProgress;
use crate::store::map_files::MapFiles;
use crate::store::merging::ChainCopy;
use crate::store::open_store::OpenStore;
use crate::store::request::StoreRequest;

/// The store's thread copies for so long before others get their turn.
const TURN: Duration = Duration::from_millis(5);
/// If nobody waits for it, it rests for so many times as long as it has copied.
const RESTS: u32 = 3;

/// Which layers of an image become one.
type ChoosePair = fn(&OpenStore<MapFiles>, &StoreName) -> Result<Option<MergePair>, StoreError>;

/// Somebody waits for a merge while this is there.
struct Hurry<'a>(&'a OneStore);

impl<'a> Hurry<'a> {
    fn new(one: &'a OneStore) -> Self {
        one.hurries.set(one.hurries.get() + 1);
        Self(one)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurries.set(self.0.hurries.get() - 1);
    }
}

/// Copies for a turn.
fn copy_some(copy: &mut ChainCopy) -> Result<CopyProgress, StoreError> {
    let began = Instant::now();
    loop {
        let progress = copy.step()?;
        if progress.is_done() || began.elapsed() >= TURN {
            return Ok(progress);
        }
    }
}

impl Stores {
    /// Merges layers of those of these images that are as deep as they may be, until each can have one more
    /// or none is left that can be merged.
    pub(super) async fn make_room(
        &self,
        one: &OneStore,
        images: &BTreeSet<StoreName>,
    ) -> Result<(), StoreError> {
        let _hurry = Hurry::new(one);
        for image in images {
            while one.needs_merge(image).await? && self.merge(one, image, OpenStore::needed_merge).await? {}
        }
        Ok(())
    }

    /// Begins to merge what the removal of snapshots has left to be merged.
    pub(super) fn merge_when_idle(self: &Rc<Self>, at: usize, request: &StoreRequest) {
        let StoreRequest::Remove { nodes, .. } = request else { return };
        let images = nodes.iter().filter(|node| node.snapshot.is_some()).map(|node| node.image.clone());
        self.merge_later(at, images);
    }

    /// Begins to merge what an earlier server or a command has left to be merged.
    pub(super) fn merge_what_was_left(self: &Rc<Self>) {
        for at in 0..self.all.len() {
            if self.all[at].of.all.as_ref().is_some_and(|all| all.read_only) {
                continue;
            }
            let stores = Rc::clone(self);
            tokio_uring::spawn(async move {
                match stores.all[at].ask(|store| store.mergeable_images()).await {
                    Ok(Ok(images)) => stores.merge_later(at, images),
                    Ok(Err(error)) | Err(error) => {
                        tracing::warn!(%error, "whether layers of a store could become fewer is not known");
                    }
                }
            });
        }
    }

    /// Merges layers of images when nobody waits.
    pub(super) fn merge_later(self: &Rc<Self>, at: usize, images: impl IntoIterator<Item = StoreName>) {
        let one = &self.all[at];
        one.to_merge.borrow_mut().extend(images);
        if one.to_merge.borrow().is_empty() || one.merges_idle.replace(true) {
            return;
        }
        let stores = Rc::clone(self);
        tokio_uring::spawn(async move {
            let one = &stores.all[at];
            loop {
                let next = one.to_merge.borrow_mut().pop_first();
                let Some(image) = next.filter(|_| !stores.plane.is_stopping()) else { break };
                if let Err(error) = stores.merge_all(one, &image).await {
                    tracing::warn!(%image, %error, "layers of an image that could become fewer do not");
                }
            }
            one.merges_idle.set(false);
        });
    }

    async fn merge_all(&self, one: &OneStore, image: &StoreName) -> Result<(), StoreError> {
        let idle: ChoosePair = |store, name| match store.view()?.image(name) {
            Some(_) => store.idle_merge(name),
            // It was removed or has another name.
            None => Ok(None),
        };
        while self.merge(one, image, idle).await? {}
        Ok(())
    }

    /// Merges two layers of an image, if there are such; false if there are none, or the server ends.
    async fn merge(&self, one: &OneStore, image: &StoreName, choose: ChoosePair) -> Result<bool, StoreError> {
        let _alone = one.merging.lock().await;
        if self.plane.is_stopping() {
            return Ok(false);
        }
        let name = image.clone();
        let begun = one.ask(move |store| match choose(store, &name)? {
            Some(pair) => store.begin_merge(pair).map(Some),
            None => Ok(None),
        });
        let Some(copy) = begun.await?? else { return Ok(false) };
        let Some(copy) = self.copied(one, copy, &|_| true).await? else { return Ok(false) };
        // No image is opened, closed or sealed until those that are open have followed.
        let _turn = one.turn.lock().await;
        match one.ask(move |store| store.finish_copy(copy)).await? {
            Ok(released) => {
                tracing::info!(%image, bytes = released.bytes, "two layers of an image became one");
            }
            // Its chain has changed meanwhile: what there is to merge now is looked for again.
            Err(error) if error.is_refusal() => return Ok(true),
            Err(error) => return Err(error),
        }
        one.follow_catalogue(&self.plane).await?;
        Ok(true)
    }

    /// Copies all; none if the server ends before, or `goes_on`, which is told how far it is, says no.
    pub(super) async fn copied(
        &self,
        one: &OneStore,
        mut copy: ChainCopy,
        goes_on: &dyn Fn(CopyProgress) -> bool,
    ) -> Result<Option<ChainCopy>, StoreError> {
        loop {
            let began = Instant::now();
            let turn = one.ask(move |_| {
                let result = copy_some(&mut copy);
                (copy, result)
            });
            let (back, result) = turn.await?;
            copy = back;
            match result {
                Ok(progress) if progress.is_done() => return Ok(Some(copy)),
                Ok(progress) if goes_on(progress) && !self.plane.is_stopping() => {}
                Ok(_) => {
                    one.ask(move |store| store.abandon_copy(copy)).await?;
                    return Ok(None);
                }
                Err(error) => {
                    one.ask(move |store| store.abandon_copy(copy)).await?;
                    return Err(error);
                }
            }
            if one.hurries.get() == 0 {
                tokio::time::sleep(began.elapsed() * RESTS).await;
            }
        }
    }

    /// Waits until nothing is merged and no snapshot is taken any more; the shards have ended. What their end
    /// has cut off of a snapshot is done here: after the next start of the machine it would be too late.
    pub(in crate::control) async fn settle(&self) {
        for one in self.all.iter().filter(|one| !one.is_lent()) {
            drop(one.merging.lock().await);
            drop(one.collecting.lock().await);
            let _turn = one.turn.lock().await;
            if let Err(error) = one.ask(OpenStore::finish_left_snapshots).await.and_then(|done| done) {
                tracing::error!(%error, "snapshots that were being taken are not finished");
            }
        }
    }
}

impl OneStore {
    /// Whether layers of an image have to become one before it can have a snapshot, and can.
    pub(super) async fn needs_merge(&self, image: &StoreName) -> Result<bool, StoreError> {
        let name = image.clone();
        self.ask(move |store| store.needed_merge(&name).map(|pair| pair.is_some())).await?
    }

    /// Has the homes of images go on with the chains that the catalogue has for them. The caller has the
    /// turn.
    pub(super) async fn follow_catalogue(&self, plane: &Plane) -> Result<(), StoreError> {
        let open = self.open_entries(plane);
        let handle = |entry: &Rc<Entry>| entry.export().and_then(|export| export.image());
        let open: Vec<(Rc<Entry>, ImageHandle)> =
            open.into_iter().filter_map(|entry| Some((Rc::clone(&entry), handle(&entry)?))).collect();
        let handles: Vec<ImageHandle> = open.iter().map(|(_, handle)| handle.clone()).collect();
        let behind = self.ask(move |store| {
            handles.iter().map(|handle| handle.is_behind(store)).collect::<Vec<Result<bool, OpenError>>>()
        });
        for ((entry, handle), is_behind) in open.into_iter().zip(behind.await?) {
            let followed = match is_behind {
                Ok(true) => self.follow(plane, &entry, handle).await?,
                Ok(false) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = followed {
                let what =
                    "an image reads on from layers that were merged: their room comes back when it is closed";
                tracing::warn!(export = entry.info.name, reason, "{what}");
            }
        }
        Ok(())
    }

    /// Has the home of an image go on with the chain that the catalogue has for it; why it does not.
    async fn follow(
        &self,
        plane: &Plane,
        entry: &Entry,
        handle: ImageHandle,
    ) -> Result<Result<(), String>, StoreError> {
        let chain = match self.ask(move |store| handle.shorter_chain(store)).await? {
            Ok(chain) => chain,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (told, outcome) = oneshot::channel();
        let task = ShortenTask::new(chain, move |outcome| drop(told.send(outcome)));
        // A shard without room for the message drops the task.
        let _sent = plane.visit(entry, HomeTask::Shorten(task));
        Ok(match outcome.await {
            Ok(ShortenOutcome::Shorter) => Ok(()),
            Ok(ShortenOutcome::OtherHead) => Err("an earlier snapshot of it failed".to_owned()),
            Ok(ShortenOutcome::NoRoom(why)) => Err(why),
            Err(_dropped) => Err("the shard that serves it has too much to do, or has ended".to_owned()),
        })
    }
}
