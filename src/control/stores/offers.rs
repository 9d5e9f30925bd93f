//! The images of all stores as exports: what handshakes look up and list, and what is closed again.

use std::cell::{OnceCell, RefCell};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::one::OneStore;
use super::opened::OpenedStores;
use crate::config::ExportUri;
use crate::config::difference::NewRights;
use crate::control::catalogue::Entry;
use crate::control::observe::collector::Collector;
use crate::control::plane::Plane;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::ExportInfo;
use crate::rights::Asker;
use crate::store::catalog::NodeName;
use crate::store::error::StoreError;

/// Images of a store that a list has. It has their snapshots too if that makes no more. A client that asks
/// about each in one handshake comes to the end of its options otherwise
/// ([`Limits::options`](crate::config::Limits)).
const LISTED: usize = 500;
/// Between two looks for images that can be closed.
const PERIOD: Duration = Duration::from_secs(1);
/// An image that loses its place while it is opened is looked up again.
const TRIES: usize = 3;

/// All stores of a server.
pub(in crate::control) struct Stores {
    pub(in crate::control) plane: Rc<Plane>,
    pub(super) all: Vec<OneStore>,
    logs: Vec<PathBuf>,
    collector: OnceCell<Rc<Collector>>,
    /// Where this server can be asked.
    control: RefCell<Option<PathBuf>>,
}

/// An export that a handshake has looked up. While it has it, an image of a store keeps its place.
pub(in crate::control) struct Chosen {
    entry: Rc<Entry>,
    stores: Rc<Stores>,
    may_write: bool,
}

/// Why a handshake does not find an export. The client cannot tell which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Absence {
    /// There is none, or it could not be opened.
    Missing,
    /// The client may not use it.
    Refused,
    /// Another process has the stores now, and whoever asks it is told.
    Moved,
}

impl Chosen {
    /// None if the client may not use it.
    fn admitted(entry: Rc<Entry>, stores: &Rc<Stores>, asker: &Asker) -> Option<Self> {
        let decision = entry.decide(asker);
        if !decision.may_read {
            return None;
        }
        entry.count_handshake(true);
        Some(Self { entry, stores: Rc::clone(stores), may_write: decision.may_write })
    }

    /// One whose client was admitted by another process.
    pub(super) fn unasked(entry: Rc<Entry>, stores: &Rc<Stores>) -> Self {
        entry.count_handshake(true);
        Self { entry, stores: Rc::clone(stores), may_write: true }
    }

    /// Whether its client may write.
    pub(in crate::control) fn may_write(&self) -> bool {
        self.may_write
    }
}

impl Deref for Chosen {
    type Target = Rc<Entry>;

    fn deref(&self) -> &Rc<Entry> {
        &self.entry
    }
}

/// An image that no client has chosen has no place any more.
impl Drop for Chosen {
    fn drop(&mut self) {
        self.entry.count_handshake(false);
        if self.entry.export().is_none() && !self.entry.is_in_use() {
            self.stores.forget(&self.entry);
        }
    }
}

impl Stores {
    pub(in crate::control) fn new(plane: Rc<Plane>, opened: OpenedStores) -> Rc<Self> {
        let logs = opened.log_directories();
        let all = opened.0.into_iter().map(OneStore::new).collect();
        Rc::new(Self { plane, all, logs, collector: OnceCell::new(), control: RefCell::default() })
    }

    pub(super) fn collector(&self) -> Option<&Rc<Collector>> {
        self.collector.get()
    }

    /// Who is told of images that are opened.
    pub(in crate::control) fn tell(&self, collector: Option<Rc<Collector>>) {
        if let Some(collector) = collector {
            let _first = self.collector.set(collector);
        }
    }

    /// Begins to close what nobody uses.
    pub(in crate::control) fn begin(self: &Rc<Self>) {
        self.merge_what_was_left();
        self.ingest_in_background();
        self.push_in_background();
        if self.all.iter().all(|store| store.of.all.is_none()) {
            return;
        }
        let stores = Rc::clone(self);
        tokio_uring::spawn(async move {
            while !stores.plane.is_stopping() {
                tokio::time::sleep(PERIOD).await;
                for store in stores.all.iter().filter(|store| !store.is_lent()) {
                    store.close_idle((&stores.plane, stores.collector())).await;
                }
            }
        });
    }

    /// Other rights to some exports, for the handshakes that come.
    pub(in crate::control) fn set_rights(&self, new: &NewRights) {
        for (name, uri, rights) in new {
            let is_it = |one: &&OneStore| match (uri, &one.of.all) {
                (ExportUri::Image(image), Some(all)) => name.is_empty() && all.place == image.place,
                _ => false,
            };
            if let Some(one) = self.all.iter().find(is_it) {
                one.set_rights(rights);
            } else if let Some(entry) = self.plane.find(name) {
                entry.set_rights(rights);
            }
            self.plane.set_has_rights(rights);
        }
    }

    /// Tells each store where this server can be asked.
    pub(in crate::control) fn tell_control(&self, socket: Option<&Path>) {
        self.control.replace(socket.and_then(|socket| std::path::absolute(socket).ok()));
        self.tell_control_again();
    }

    pub(super) fn tell_control_again(&self) {
        let socket = self.control.borrow().clone();
        for one in self.all.iter().filter(|one| !one.is_lent()) {
            let socket = socket.clone();
            let path = one.of.store.path().display().to_string();
            let told = one.of.store.submit(Box::new(move |store| {
                if let Err(error) = store.set_control(socket.as_deref()) {
                    tracing::warn!(store = path, %error, "commands must be told where to ask: --control");
                }
            }));
            // A store that has failed was told of.
            let _nothing_to_do = told;
        }
    }

    /// The stores whose images are all exports, in words.
    pub(in crate::control) fn in_words(&self) -> Vec<String> {
        let whole = self.all.iter().filter(|store| store.of.all.is_some());
        whole
            .map(|one| {
                let counts = one.of.store.call(|store| store.view().map(|view| view.counts()));
                let images = counts.ok().and_then(Result::ok).map_or(0, |counts| counts.images);
                let path = one.of.store.path().display();
                format!("store:{path}: {images} images, each an export of its name, and NAME@SNAPSHOT")
            })
            .collect()
    }

    /// Where they are.
    pub(in crate::control) fn directories(&self) -> Vec<PathBuf> {
        self.all.iter().map(|one| one.of.store.path().to_owned()).collect()
    }

    /// Where those are whose images are all exports.
    pub(in crate::control) fn whole_directories(&self) -> Vec<PathBuf> {
        let whole = self.all.iter().filter(|store| store.of.all.is_some());
        whole.map(|one| one.of.store.path().to_owned()).collect()
    }

    /// Where changes of images are noted that are opened later.
    pub(in crate::control) fn log_directories(&self) -> &[PathBuf] {
        &self.logs
    }

    /// Whether an export is an image that is listed by its store.
    pub(in crate::control) fn offers(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether a store has an image of a name that is an export without being asked for.
    pub(in crate::control) async fn has_image(&self, name: &str) -> bool {
        self.offering(name).await.is_some()
    }

    async fn offering(&self, name: &str) -> Option<(&OneStore, NodeName)> {
        let node: NodeName = name.parse().ok()?;
        for one in self.all.iter().filter(|one| one.of.all.is_some()) {
            // A store that has failed has none that a client could use.
            if one.facts(&node).await.is_ok_and(|found| found.is_some()) {
                return Some((one, node));
            }
        }
        None
    }

    /// The image that clients find under a name, and the directory of its store; none if there is no image.
    pub(in crate::control) async fn image_of(&self, name: &str) -> Option<(PathBuf, NodeName)> {
        let (one, node) = match self.plane.find(name) {
            Some(entry) => match entry.export() {
                Some(export) => {
                    let (store, node) = export.stored()?;
                    return Some((store.path().to_owned(), node.clone()));
                }
                None => self.find(name).map(|(one, node, _)| (one, node))?,
            },
            None => self.offering(name).await?,
        };
        Some((one.of.store.path().to_owned(), node))
    }

    /// The image that has its place among the exports under a name.
    pub(super) fn find(&self, name: &str) -> Option<(&OneStore, NodeName, Rc<Entry>)> {
        let node: NodeName = name.parse().ok()?;
        let found = self.all.iter().find_map(|store| Some((store, store.entry(&node)?)));
        found.map(|(store, entry)| (store, node, entry))
    }

    fn forget(&self, entry: &Entry) {
        if let Some((store, node, found)) = self.find(&entry.info.name)
            && found.id == entry.id
        {
            store.forget(&node, &self.plane);
        }
    }

    /// The export of a name. With `is_choice` a client is about to use it, so an image's files are opened.
    ///
    /// One that the client may not use is looked for as one that is not there: in the same places, with the
    /// same work.
    pub(in crate::control) async fn look_up(
        self: &Rc<Self>,
        name: &str,
        is_choice: bool,
        asker: &Asker,
    ) -> Result<Chosen, Absence> {
        for _ in 0..TRIES {
            let mut known = self.plane.find(name);
            if known.is_none() {
                self.until_here().await?;
                // It may have come back with its store.
                known = self.plane.find(name);
            }
            let absence = if known.is_some() { Absence::Refused } else { Absence::Missing };
            if known.is_none() {
                self.plane.decide_on_nothing(asker);
            }
            let entry = match known.and_then(|entry| Chosen::admitted(entry, self, asker)) {
                Some(entry) => entry,
                None => self.offer(name, asker, absence).await?,
            };
            if !is_choice || entry.export().is_some() {
                return Ok(entry);
            }
            let (store, node, _) = self.find(name).ok_or(Absence::Missing)?;
            match store.open(&node, &entry, (&self.plane, self.collector())).await {
                Ok(true) => return Ok(entry),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(export = name, %error, "an image could not be opened");
                    return Err(Absence::Missing);
                }
            }
        }
        Err(Absence::Missing)
    }

    /// What a client is told of an export, with the meta contexts that it has now.
    pub(in crate::control) async fn info_now(&self, entry: &Chosen) -> ExportInfo {
        let mut info = entry.info.clone();
        info.facts.read_only |= !entry.may_write();
        info.facts.size = entry.size();
        let own = || {
            let (store, node) = entry.export()?.stored()?;
            let one = self.all.iter().find(|one| std::sync::Arc::ptr_eq(&one.of.store, store))?;
            Some((one, node.clone()))
        };
        let image = self.find(&info.name).map(|(one, node, _)| (one, node)).or_else(own);
        if image.is_some() || entry.export().is_some_and(|export| export.is_image()) {
            info.contexts.push(MetaContext::AllocationDepth);
        }
        let Some((one, node)) = image else { return info };
        match one.ask(move |store| store.tracked_snapshots(&node)).await {
            Ok(Ok(snapshots)) => info.contexts.extend(snapshots.into_iter().map(MetaContext::DirtyBitmap)),
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(export = info.name, %error, "no bitmaps of changes are offered");
            }
        }
        info
    }

    /// Gives the image of a name a place among the exports, if there is one that the client may use.
    /// `absence` tells what is known of the name so far.
    async fn offer(
        self: &Rc<Self>,
        name: &str,
        asker: &Asker,
        mut absence: Absence,
    ) -> Result<Chosen, Absence> {
        let node: NodeName = name.parse().map_err(|_| absence)?;
        for one in &self.all {
            let Some(how) = &one.of.all else { continue };
            if one.of.fixed.contains_key(&node) {
                continue;
            }
            let may_read = one.decide(asker).may_read;
            match one.facts(&node).await {
                Ok(None) => {}
                Ok(Some(_)) if !may_read => absence = Absence::Refused,
                Ok(Some(facts)) => {
                    // Another handshake may have been quicker.
                    let entry = self.plane.find(name).or_else(|| {
                        one.offer(&node, one.info(&node, how, facts.size, &self.plane), &self.plane)
                    });
                    let chosen = entry.and_then(|entry| Chosen::admitted(entry, self, asker));
                    return chosen.ok_or(Absence::Refused);
                }
                Err(error) => tracing::warn!(export = name, %error, "an image could not be looked up"),
            }
        }
        Err(absence)
    }

    /// What a list has of images: all of them up to a limit, and snapshots if there are few. The description
    /// is the only other thing that a list tells.
    ///
    /// # Errors
    /// They are another process's now.
    pub(in crate::control) async fn listed(&self, asker: &Asker) -> Result<Vec<ExportInfo>, Absence> {
        self.until_here().await?;
        let mut listed = Vec::new();
        for one in &self.all {
            let Some(how) = &one.of.all else { continue };
            let nodes = match one.ask(|store| nodes(store)).await {
                Ok(Ok(nodes)) => nodes,
                Ok(Err(error)) | Err(error) => {
                    tracing::warn!(%error, "the images of a store could not be listed");
                    continue;
                }
            };
            let is_listed = one.decide(asker).is_listed;
            let own = nodes.iter().filter(|node| is_listed && !one.of.fixed.contains_key(node));
            listed.extend(own.map(|node| one.info(node, how, 0, &self.plane)));
        }
        Ok(listed)
    }
}

fn nodes(
    store: &crate::store::open_store::OpenStore<crate::store::map_files::MapFiles>,
) -> Result<Vec<NodeName>, StoreError> {
    let view = store.view()?;
    let counts = view.counts();
    let with_snapshots = counts.images + counts.snapshots <= LISTED;
    let mut nodes = Vec::new();
    for image in view.images().take(LISTED) {
        nodes.push(NodeName { image: image.name.clone(), snapshot: None });
        if with_snapshots {
            let of_it = view.snapshots_of(image.id).into_iter().filter(|row| !row.is_changes_only());
            nodes.extend(
                of_it.map(|row| NodeName { image: image.name.clone(), snapshot: Some(row.name.clone()) }),
            );
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::backend::Export;
    use crate::config::Limits;
    use crate::control::catalogue::Catalogue;
    use crate::control::served::info_of;
    use crate::rights::tests::DECISIONS;
    use crate::rights::{Rights, RuleList};

    /// How a name is looked up, and how many decisions that takes.
    fn looked_up(stores: &Rc<Stores>, name: &str) -> (Result<bool, Absence>, usize) {
        let before = DECISIONS.get();
        let asker = Asker::default();
        let found = pin!(stores.look_up(name, true, &asker)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(found) = found else { panic!("nothing is waited for") };
        (found.map(|chosen| chosen.may_write()), DECISIONS.get() - before)
    }

    #[test]
    fn what_is_hidden_takes_as_many_decisions_as_what_is_missing() {
        let limits = Limits::default();
        let closed = Rights { allow: Some(Arc::new(RuleList::new(Vec::new()))), ..Rights::default() };
        let mut catalogue = Catalogue::default();
        for (name, rights) in [("closed", &closed), ("opened", &Rights::default())] {
            let export = Export::open(&"mem:1M".parse().unwrap(), false).unwrap();
            let info = info_of((name, ""), "mem:1M", &export, &limits);
            catalogue.add(info, export, "mem:1M".to_owned()).unwrap().set_rights(rights);
        }
        let plane = Rc::new(Plane::new(catalogue, Arc::new(limits), Vec::new(), 1, None));
        plane.set_has_rights(&closed);
        let stores = Stores::new(plane, OpenedStores::default());
        let (hidden, missing) = (looked_up(&stores, "closed"), looked_up(&stores, "nobody"));
        assert_eq!((hidden, missing), ((Err(Absence::Refused), 1), (Err(Absence::Missing), 1)));
        assert_eq!(looked_up(&stores, "opened"), (Ok(true), 1));
    }
}
