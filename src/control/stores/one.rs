//! A store: jobs for its thread, and its images as exports that are opened and closed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, oneshot, watch};

use super::collecting_work::GarbageWork;
use super::ingest_work::IngestWork;
use super::opened::OpenedStore;
use super::under_way::Flattening;
use super::upload_work::UploadWork;
use crate::backend::{Export, OpenError};
use crate::config::ImageUri;
use crate::control::catalogue::Entry;
use crate::control::observe::collector::Collector;
use crate::control::plane::Plane;
use crate::control::retire::retire;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::ExportInfo;
use crate::rights::{Asker, Decision, Rights};
use crate::shard::Removal;
use crate::stats::{PackStats, SnapshotStats};
use crate::store::catalog::{NodeName, StoreName};
use crate::store::error::StoreError;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::worker::QUEUE;

/// How long the files of an image stay open without a client.
const LINGER: Duration = Duration::from_secs(10);

/// A store, and what of it has a place among the exports.
pub(super) struct OneStore {
    pub(super) of: OpenedStore,
    /// Jobs that its thread has not answered. There is room for all in its queue.
    room: Semaphore,
    offers: RefCell<BTreeMap<NodeName, Offer>>,
    /// Who may do what with each of its images that has no name of its own.
    rights: RefCell<Rights>,
    /// Held while an image is opened or closed, and while an image changes that must not be open meanwhile.
    pub(super) turn: Mutex<()>,
    /// Since the start.
    pub(super) snapshots: RefCell<SnapshotStats>,
    pub(super) packs: RefCell<PackStats>,
    /// Held while layers become one. It is taken before the turn.
    pub(super) merging: Mutex<()>,
    /// Those who wait for that.
    pub(super) hurries: Cell<usize>,
    /// Images of which layers may be merged when nobody waits.
    pub(super) to_merge: RefCell<BTreeSet<StoreName>>,
    /// There is a task that does so.
    pub(super) merges_idle: Cell<bool>,
    /// Snapshots that are coming into packs.
    pub(super) ingests: RefCell<BTreeMap<NodeName, Rc<IngestWork>>>,
    /// Packs that are being collected.
    pub(super) collection: RefCell<Option<Rc<GarbageWork>>>,
    /// Held meanwhile.
    pub(super) collecting: Mutex<()>,
    /// Who has it.
    pub(super) owner: watch::Sender<StoreOwner>,
    /// Images that are being flattened, or have been, and nobody was told yet.
    pub(super) flattening: RefCell<BTreeMap<StoreName, Rc<Flattening>>>,
    /// What comes to its tier.
    pub(super) uploads: UploadWork,
}

/// An image or a snapshot that has a place among the exports.
struct Offer {
    entry: Rc<Entry>,
    idle_since: Cell<Option<Instant>>,
}

/// Which process has a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreOwner {
    This,
    /// A new one has it, or is about to, and may give it back.
    Borrower,
    /// It is not this one's any more.
    Successor,
}

/// What an image is for its clients.
pub(super) struct FoundImage {
    pub(super) size: u64,
}

impl OneStore {
    pub(super) fn new(of: OpenedStore) -> Self {
        let (room, offers, turn) = (Semaphore::new(QUEUE), RefCell::default(), Mutex::default());
        let rights = RefCell::new(of.rights.clone());
        let (merging, hurries) = (Mutex::default(), Cell::default());
        let (to_merge, merges_idle) = (RefCell::default(), Cell::default());
        let (snapshots, ingests, flattening) = (RefCell::default(), RefCell::default(), RefCell::default());
        let (collection, collecting, packs) = (RefCell::default(), Mutex::default(), RefCell::default());
        Self {
            of,
            room,
            offers,
            rights,
            turn,
            snapshots,
            packs,
            merging,
            hurries,
            to_merge,
            merges_idle,
            ingests,
            collection,
            collecting,
            owner: watch::Sender::new(StoreOwner::This),
            flattening,
            uploads: UploadWork::default(),
        }
    }

    /// Another process has it, or is about to.
    pub(super) fn is_lent(&self) -> bool {
        *self.owner.borrow() != StoreOwner::This
    }

    /// Other rights to its images, from now on.
    pub(super) fn set_rights(&self, rights: &Rights) {
        self.rights.replace(rights.clone());
        self.offers.borrow().values().for_each(|offer| offer.entry.set_rights(rights));
    }

    /// What a client may do with its images.
    pub(super) fn decide(&self, asker: &Asker) -> Decision {
        self.rights.borrow().decide(asker)
    }

    /// Has the thread of the store do something, and waits for it.
    ///
    /// # Errors
    /// The store has failed.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut OpenStore<MapFiles>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self.room.acquire().await.expect("the semaphore is never closed");
        let (answer, answered) = oneshot::channel();
        self.of.store.submit(Box::new(move |store| drop(answer.send(job(store)))))?;
        answered.await.map_err(|_dropped| StoreError::Failed(self.of.store.path().to_owned()))
    }

    /// Whether an image or a snapshot is there, and what it is for clients.
    pub(super) async fn facts(&self, node: &NodeName) -> Result<Option<FoundImage>, StoreError> {
        let node = node.clone();
        self.ask(move |store| {
            let view = store.view()?;
            let image = view.image(&node.image);
            Ok(match &node.snapshot {
                None => image.map(|row| FoundImage { size: row.size }),
                Some(name) => {
                    let row = image.and_then(|image| view.snapshot(image.id, name));
                    // One that keeps changes only is nothing that could be read.
                    row.filter(|row| !row.is_changes_only()).map(|row| FoundImage { size: row.size })
                }
            })
        })
        .await?
    }

    /// What clients are told of an image or a snapshot.
    pub(super) fn info(&self, node: &NodeName, how: &ImageUri, size: u64, plane: &Plane) -> ExportInfo {
        let mut facts = Export::facts_of_image(size, how.read_only || node.snapshot.is_some());
        facts.block_sizes.maximum = plane.limits.longest_request;
        ExportInfo {
            name: node.to_string(),
            description: how.description.clone().unwrap_or_default(),
            facts,
            contexts: vec![MetaContext::BaseAllocation, MetaContext::Instance],
            require_block_size: false,
        }
    }

    /// Where its bytes live, for people.
    pub(super) fn source(&self, node: &NodeName) -> String {
        format!("store:{}/{node}", self.of.store.path().display())
    }

    /// Gives an image a place among the exports; none if its name is taken.
    pub(super) fn offer(&self, node: &NodeName, info: ExportInfo, plane: &Plane) -> Option<Rc<Entry>> {
        let entry = plane.catalogue_mut().add_unopened(info, self.source(node))?;
        entry.set_rights(&self.rights.borrow());
        entry.set_rates(&self.of.rates, &plane.tenants);
        let offer = Offer { entry: Rc::clone(&entry), idle_since: Cell::new(None) };
        self.offers.borrow_mut().insert(node.clone(), offer);
        Some(entry)
    }

    /// The place that an image has, if it has one.
    pub(super) fn entry(&self, node: &NodeName) -> Option<Rc<Entry>> {
        self.offers.borrow().get(node).map(|offer| Rc::clone(&offer.entry))
    }

    /// Takes the place of an image that is open away from the clients that come. The caller closes it.
    pub(super) fn take_place(&self, node: &NodeName) {
        drop(self.offers.borrow_mut().remove(node));
    }

    /// All that have a place.
    pub(super) fn places(&self) -> Vec<NodeName> {
        self.offers.borrow().keys().cloned().collect()
    }

    /// Of an image and its snapshots, those that have a place.
    pub(super) fn entries_of(&self, image: &StoreName) -> Vec<(NodeName, Rc<Entry>)> {
        let offers = self.offers.borrow();
        let of_it = offers.iter().filter(|(node, _)| node.image == *image);
        of_it.map(|(node, offer)| (node.clone(), Rc::clone(&offer.entry))).collect()
    }

    /// Those whose files are open.
    pub(super) fn open_entries(&self, plane: &Plane) -> Vec<Rc<Entry>> {
        let offers = self.offers.borrow();
        let own = offers.values().map(|offer| Rc::clone(&offer.entry));
        let fixed = self.of.fixed.values().filter_map(|name| plane.find(name));
        own.chain(fixed).filter(|entry| entry.export().is_some()).collect()
    }

    /// Opens the files of an image that a client chooses. False when it has lost its place meanwhile.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) async fn open(
        &self,
        node: &NodeName,
        entry: &Entry,
        (plane, collector): (&Plane, Option<&Rc<Collector>>),
    ) -> Result<bool, OpenError> {
        let Some(how) = self.of.all.clone() else { return Ok(false) };
        let _turn = self.turn.lock().await;
        if !plane.catalogue().has(entry.id) {
            return Ok(false);
        }
        if entry.export().is_some() {
            return Ok(true);
        }
        let (served, of) = (std::sync::Arc::clone(&self.of.store), node.clone());
        let opened = self.ask(move |store| Export::open_stored(store, &served, &of, &how)).await;
        let export = opened.map_err(OpenError::Store)??;
        if export.facts().size != entry.info.facts.size || !plane.catalogue().has(entry.id) {
            // It was resized since it has its place.
            self.ask(move |_| drop(export)).await.map_err(OpenError::Store)?;
            self.forget(node, plane);
            return Ok(false);
        }
        entry.set_export(export);
        if let Some(collector) = collector {
            collector.added(entry);
        }
        tracing::debug!(export = %node, "an image was opened");
        Ok(true)
    }

    /// Takes the place away from an image whose files are not open.
    pub(super) fn forget(&self, node: &NodeName, plane: &Plane) {
        let Some(offer) = self.offers.borrow_mut().remove(node) else { return };
        assert!(offer.entry.export().is_none(), "its files are closed first");
        if plane.catalogue_mut().remove(&offer.entry.info.name).is_some() {
            plane.catalogue_mut().release(offer.entry.id);
        }
    }

    /// Closes the files of an image; no client finds it meanwhile. The caller has the turn.
    ///
    /// # Errors
    /// The store has failed.
    pub(super) async fn close(
        &self,
        node: &NodeName,
        how: Removal,
        (plane, collector): (&Plane, Option<&Rc<Collector>>),
    ) -> Result<(), StoreError> {
        let Some(entry) = self.entry(node) else { return Ok(()) };
        if entry.export().is_none() {
            self.forget(node, plane);
            return Ok(());
        }
        self.offers.borrow_mut().remove(node);
        drop(plane.catalogue_mut().remove(&entry.info.name));
        retire(plane, collector, &entry, how).await;
        let export = entry.export().cloned();
        drop(entry);
        // What is not durable yet is made so, which takes its time.
        self.ask(move |_| drop(export)).await?;
        tracing::debug!(export = %node, "an image was closed");
        Ok(())
    }

    /// Closes what no client has used for a while.
    pub(super) async fn close_idle(&self, with: (&Plane, Option<&Rc<Collector>>)) {
        let now = Instant::now();
        let idle: Vec<NodeName> = {
            let offers = self.offers.borrow();
            let is_old = |offer: &Offer| {
                if offer.entry.is_in_use() {
                    offer.idle_since.set(None);
                    return false;
                }
                let since = offer.idle_since.get().unwrap_or(now);
                offer.idle_since.set(Some(since));
                now.duration_since(since) >= LINGER
            };
            offers.iter().filter(|(_, offer)| is_old(offer)).map(|(node, _)| node.clone()).collect()
        };
        for node in idle {
            let _turn = self.turn.lock().await;
            if self.entry(&node).is_some_and(|entry| !entry.is_in_use())
                && let Err(error) = self.close(&node, Removal::WhenUnused, with).await
            {
                tracing::error!(export = %node, %error, "an image could not be closed");
            }
        }
    }
}
