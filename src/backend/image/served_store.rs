//! Stores that this server has open: each once, however many of its images are served.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::contents::ServedContents;
use super::layer_files::OpenBase;
use super::packs::ServedPacks;
use super::remote_base::open_remote_base;
use crate::backend::open_error::OpenError;
use crate::config::{BasePlace, ImageUri, VerifyChunks};
use crate::exec::lock;
use crate::store::base::look_at_base;
use crate::store::catalog::{BaseId, LayerId, NodeName};
use crate::store::collection_pins::CollectionPins;
use crate::store::error::StoreError;
use crate::store::foreign::{ForeignPacks, TierFigures};
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::pack::{ChunkHash, ChunkHint, PackError};
use crate::store::pack_shelf::PackShelf;
use crate::store::packed_gauges::PackedGauges;
use crate::store::serving::ChainContents;
use crate::store::tracking::OtherChanges;
use crate::store::worker::{StoreJob, StoreLoan, StoreWorker};

/// A store with its lock, as long as an export of it is there.
#[derive(Debug)]
pub struct ServedStore {
    /// Without links.
    path: PathBuf,
    seat: Mutex<StoreSeat>,
    /// Grows with each change of its catalogue.
    counter: Arc<AtomicU64>,
    /// Images and snapshots that are open.
    served: Mutex<BTreeSet<NodeName>>,
    /// What is below images and was opened at the start, because later nothing can be.
    bases: Mutex<BTreeMap<BaseId, OpenBase>>,
    /// Its packs, for all of its images.
    shelf: Mutex<Weak<PackShelf>>,
    /// Those that shards read by themselves.
    pack_files: Arc<ServedPacks>,
    /// Reads of packs that failed.
    failed_reads: Arc<AtomicU64>,
    packed: Arc<PackedGauges>,
    /// What a collection of its packs leaves alone.
    pins: Arc<CollectionPins>,
    /// Packs that other stores have written.
    foreign: Arc<ForeignPacks>,
    /// Bytes of its images come over the network.
    fetches: bool,
}

/// Who uses the store.
#[derive(Debug)]
enum StoreSeat {
    /// Whoever has this, while the server starts.
    Here(Box<OpenStore<MapFiles>>),
    /// A thread of its own.
    Thread(StoreWorker),
    /// It is on its way to the thread, or did not get there.
    Moving,
}

/// An image or a snapshot that is open. It is open once.
#[derive(Debug)]
pub(in crate::backend) struct ServedImage {
    store: Arc<ServedStore>,
    node: NodeName,
}

static OPEN: Mutex<Vec<Weak<ServedStore>>> = Mutex::new(Vec::new());

impl ServedStore {
    /// The store at a path, opened now or by an earlier export.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn at(path: &Path) -> Result<Arc<Self>, OpenError> {
        Self::opened_by(path, OpenStore::open_to_change)
    }

    /// The same, made if nothing is there yet.
    pub(super) fn at_or_new(path: &Path) -> Result<Arc<Self>, OpenError> {
        Self::opened_by(path, |path, maps| match OpenStore::open_to_change(path, maps) {
            Err(StoreError::NotAStore(_)) => OpenStore::init(path, maps),
            // The directory is not there.
            Err(StoreError::File { source, .. } | StoreError::Named { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                OpenStore::init(path, maps)
            }
            opened => opened,
        })
    }

    fn opened_by(
        path: &Path,
        open: impl Fn(&Path, MapFiles) -> Result<OpenStore<MapFiles>, StoreError>,
    ) -> Result<Arc<Self>, OpenError> {
        let mut known = lock(&OPEN);
        known.retain(|store| store.strong_count() > 0);
        let real = || std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = real();
        if let Some(store) = known.iter().filter_map(Weak::upgrade).find(|store| store.path == before) {
            return Ok(store);
        }
        let store = open(path, MapFiles).map_err(OpenError::Store)?;
        // What an earlier server has left there would lead nowhere, or to another server.
        store.set_control(None).map_err(OpenError::Store)?;
        let (counter, pins, packed) =
            (store.change_counter(), store.collection_pins(), store.packed_gauges());
        let (foreign, fetches) = (store.foreign_packs(), store.fetches().map_err(OpenError::Store)?);
        // Before the process is confined.
        foreign.look();
        store.fetch_traced();
        let seat = Mutex::new(StoreSeat::Here(Box::new(store)));
        let (served, bases, shelf, pack_files, failed_reads) = Default::default();
        let path = real();
        let store = Arc::new(Self {
            path,
            seat,
            counter,
            served,
            bases,
            shelf,
            pack_files,
            failed_reads,
            packed,
            pins,
            foreign,
            fetches,
        });
        known.push(Arc::downgrade(&store));
        Ok(store)
    }

    /// Where it is, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a thread that it has started connects to a tier.
    pub(crate) const fn fetches(&self) -> bool {
        self.fetches
    }

    /// Gives the store to a thread of its own, which has the rights of the calling one.
    ///
    /// # Errors
    /// No thread.
    pub fn start_thread(&self) -> Result<(), StoreError> {
        let mut seat = lock(&self.seat);
        *seat = match std::mem::replace(&mut *seat, StoreSeat::Moving) {
            StoreSeat::Here(store) => StoreSeat::Thread(StoreWorker::start(*store)?),
            other => other,
        };
        Ok(())
    }

    /// Hands a job to the thread of the store, without waiting. A job that cannot be done is dropped.
    ///
    /// # Errors
    /// There is too much to do, or the store has failed.
    pub fn submit(&self, job: StoreJob) -> Result<(), StoreError> {
        match &mut *lock(&self.seat) {
            StoreSeat::Thread(worker) => worker.submit(job),
            StoreSeat::Here(store) => {
                job(store);
                Ok(())
            }
            StoreSeat::Moving => Err(StoreError::Failed(self.path.clone())),
        }
    }

    /// Closes the store for another process, and calls `closed` then, on another thread.
    ///
    /// # Errors
    /// An image of it is open; or as [`ServedStore::submit`].
    pub(crate) fn lend(&self, closed: impl FnOnce() + Send + 'static) -> Result<StoreLoan, StoreError> {
        match &*lock(&self.seat) {
            // What is open would be read and written beside the other process.
            StoreSeat::Thread(_) if !lock(&self.served).is_empty() => {
                Err(StoreError::Busy(self.path.clone()))
            }
            StoreSeat::Thread(worker) => worker.lend(self.path.clone(), closed),
            StoreSeat::Here(_) | StoreSeat::Moving => Err(StoreError::Failed(self.path.clone())),
        }
    }

    /// Has something done with the store, and waits for it.
    ///
    /// # Errors
    /// The store has failed.
    pub fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut OpenStore<MapFiles>) -> T + Send + 'static,
    ) -> Result<T, OpenError> {
        let result = match &mut *lock(&self.seat) {
            StoreSeat::Here(store) => Ok(call(store)),
            StoreSeat::Thread(worker) => worker.call(call),
            StoreSeat::Moving => Err(StoreError::Failed(self.path.clone())),
        };
        result.map_err(OpenError::Store)
    }

    /// Notes that an image or a snapshot is open.
    pub(super) fn note_open(self: &Arc<Self>, node: &NodeName) -> Result<ServedImage, OpenError> {
        if !lock(&self.served).insert(node.clone()) {
            return Err(OpenError::ServedTwice(node.to_string()));
        }
        Ok(ServedImage { store: Arc::clone(self), node: node.clone() })
    }

    /// A base that was opened at the start.
    pub(super) fn base(&self, id: BaseId) -> Option<OpenBase> {
        lock(&self.bases).get(&id).cloned()
    }

    /// Whether some base of it is an export of another server, to which its images connect.
    pub fn has_remote_base(&self) -> bool {
        lock(&self.bases).values().any(|base| matches!(base, OpenBase::Remote(..)))
    }

    /// Contents of an image, read by whoever may wait. Packs are opened by the thread of the store: nobody
    /// else can open files of it. That thread calls this, so that nothing is collected before it is held.
    /// `mapped`: what is in the page cache may be sent from there.
    pub(super) fn contents(
        self: &Arc<Self>,
        of: &ChainContents,
        (verify, mapped): (VerifyChunks, bool),
    ) -> ServedContents {
        let mut shelf = lock(&self.shelf);
        let shelf = shelf.upgrade().unwrap_or_else(|| {
            let store = Arc::downgrade(self);
            let gone = || PackError::Io(std::io::Error::other("its store was closed"));
            let other = Weak::clone(&store);
            let opener = move |number| {
                let store = store.upgrade().ok_or_else(gone)?;
                let opened = store.call(move |store| store.open_pack(number));
                opened.map_err(|error| PackError::Io(std::io::Error::other(error.to_string())))?
            };
            let finder = move |hash: &ChunkHash| {
                let (store, hash) = (other.upgrade()?, *hash);
                let found = store.call(move |store| store.find_chunk(&hash));
                found.ok()?.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a chunk that was moved cannot be looked up");
                    None
                })
            };
            let told = Arc::downgrade(self);
            let new = PackShelf::new(Box::new(opener), Box::new(finder)).with_foreign(&self.foreign);
            let new = new.telling(&self.failed_reads, Box::new(move |at, hash| note_damage(&told, at, hash)));
            let new = Arc::new(new);
            *shelf = Arc::downgrade(&new);
            new
        });
        let _held = Arc::new(self.pins.hold_contents(&of.root));
        let files = mapped.then(|| Arc::clone(&self.pack_files));
        ServedContents { layer: of.layer, root: of.root, visible: of.visible, shelf, verify, files, _held }
    }

    /// Closes packs that are gone, whose room comes back with that.
    pub fn forget_packs(&self, packs: &[u64]) {
        if let Some(shelf) = lock(&self.shelf).upgrade() {
            shelf.forget(packs);
        }
    }

    /// Reads of its packs that failed since it was opened, because something is damaged or missing.
    pub fn failed_reads(&self) -> u64 {
        self.failed_reads.load(Ordering::Relaxed)
    }

    /// What was fetched of packs that are on tiers, if there are some.
    pub(crate) fn tier_figures(&self) -> Option<TierFigures> {
        (!self.foreign.is_empty()).then(|| self.foreign.figures())
    }

    /// Bytes that its images have in packs, and what that takes of packs.
    pub fn packed(&self) -> (u64, u64) {
        self.packed.look()
    }

    /// The same, to be read by whoever can open no file.
    pub fn base_reader(&self, id: BaseId) -> Option<File> {
        match lock(&self.bases).get(&id)? {
            OpenBase::File(base) => base.file.buffered.try_clone().ok(),
            OpenBase::Remote(..) => None,
        }
    }

    /// Keeps a base open, for images that are opened later.
    pub(super) fn keep_base(&self, id: BaseId, base: OpenBase) {
        lock(&self.bases).insert(id, base);
    }

    /// Makes the one image of an overlay, unless it is there.
    pub(super) fn make_overlay(&self, node: &NodeName, uri: &ImageUri) -> Result<(), OpenError> {
        let (node, uri) = (node.clone(), uri.clone());
        let kept = self.call(move |store| make_overlay(store, &node, &uri))??;
        if let Some((id, base)) = kept {
            self.keep_base(id, base);
        }
        Ok(())
    }
}

/// Has a damaged chunk noted, so that nothing new relies on it. If the thread of the store has too much to
/// do, a check finds it later.
fn note_damage(store: &Weak<ServedStore>, at: ChunkHint, hash: ChunkHash) {
    let Some(store) = store.upgrade() else { return };
    let noted = store.submit(Box::new(move |store| {
        if let Err(error) = store.note_damage(at, hash) {
            tracing::warn!(pack = at.pack, chunk = at.slot, %error, "a damaged chunk cannot be noted");
        }
    }));
    if let Err(error) = noted {
        tracing::warn!(pack = at.pack, chunk = at.slot, %error, "a damaged chunk is not noted");
    }
}

/// Gives the base on another server that it begins with, which is open already then.
fn make_overlay(
    store: &mut OpenStore<MapFiles>,
    node: &NodeName,
    uri: &ImageUri,
) -> Result<Option<(BaseId, OpenBase)>, OpenError> {
    let known = store.view().map_err(OpenError::Store)?.image(&node.image);
    if let Some(row) = known {
        return match uri.size {
            Some(size) if size != row.size => {
                Err(OpenError::Image("has another size already: leave size= away"))
            }
            _ => Ok(None),
        };
    }
    let mut opened = None;
    let made = match (&uri.base, uri.size) {
        (Some(BasePlace::Remote(remote)), size) => {
            let (base, found) = open_remote_base(remote)?;
            opened = Some(base);
            store.create_on_base(&node.image, size, found)
        }
        (Some(BasePlace::File(path)), size) => {
            let base = look_at_base(path).map_err(OpenError::Store)?;
            store.create_on_base(&node.image, size, base)
        }
        (None, Some(size)) => store.create_empty(&node.image, size),
        (None, None) => return Err(OpenError::Image("is new: give it a base= or a size=")),
    };
    made.map_err(OpenError::Store)?;
    let below = store.shape(node).map_err(OpenError::Store)?.base;
    Ok(below.map(|base| base.id).zip(opened))
}

impl ServedImage {
    /// Its name in the store.
    pub(in crate::backend) fn name(&self) -> &NodeName {
        &self.node
    }

    /// Its store.
    pub(in crate::backend) fn store(&self) -> &Arc<ServedStore> {
        &self.store
    }

    #[cfg(test)]
    pub(super) fn with_store<T>(&self, call: impl FnOnce(&mut OpenStore<MapFiles>) -> T) -> T {
        match &mut *lock(&self.store.seat) {
            StoreSeat::Here(store) => call(store),
            seat => panic!("the store is elsewhere: {seat:?}"),
        }
    }

    /// The directory of the store, without links.
    pub(super) fn store_path(&self) -> &Path {
        &self.store.path
    }

    pub(super) fn change_counter(&self) -> u64 {
        self.store.counter.load(Ordering::Acquire)
    }

    /// See [`ImageStore::changes_since`](super::store::ImageStore::changes_since).
    pub(super) fn changes_since(
        &self,
        open: &[LayerId],
        since: &str,
    ) -> Result<(Vec<LayerId>, OtherChanges), SinceError> {
        let since = since.parse().map_err(|_| SinceError::Gone)?;
        let failed = |error: &dyn std::fmt::Display| SinceError::Failed(error.to_string());
        let (node, open) = (self.node.clone(), open.to_vec());
        let planned = self.store.call(move |store| store.plan_changes(&node, &open, &since));
        let plan = planned.map_err(|error| failed(&error))?.map_err(|error| match error {
            StoreError::Refused(_) => SinceError::Gone,
            error => failed(&error),
        })?;
        // Files are read when others can have the store again.
        let other = plan.rest.read().map_err(|error| failed(&error))?;
        Ok((plan.live, other))
    }
}

/// Why it is not told what has changed since a snapshot.
#[derive(Debug)]
pub(super) enum SinceError {
    /// There is no such snapshot any more.
    Gone,
    Failed(String),
}

impl Drop for ServedImage {
    fn drop(&mut self) {
        lock(&self.store.served).remove(&self.node);
    }
}
