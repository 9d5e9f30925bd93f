//! The exports of a server, by name and by id.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tenants::{Tenant, Tenants};
use crate::backend::{Export, ExportId};
use crate::config::{ExportConfig, ExportRates};
use crate::nbd::session::ExportInfo;
use crate::rights::{Asker, Decision, Rights};
use crate::shard::{ExportLimits, RateGroup};

/// An export that is served.
#[derive(Debug)]
pub(super) struct Entry {
    /// How shards and statistics name it.
    pub(super) id: ExportId,
    /// What clients are told, but for the [size](Entry::size), which may have grown.
    pub(super) info: ExportInfo,
    /// None while it is an image that no client has chosen yet.
    export: OnceCell<Arc<Export>>,
    /// Where its bytes live, for people.
    pub(super) source: String,
    /// The shard that serves it, once its first client has come, if it is one that is [served by
    /// one](Export::has_home).
    home: Cell<Option<usize>>,
    /// Handshakes that asked for it last.
    handshakes: Cell<usize>,
    /// Connections that went to a shard and are not gone yet.
    clients: Arc<AtomicUsize>,
    rights: RefCell<Rights>,
    /// What holds its requests back, on all shards.
    limits: RefCell<Arc<ExportLimits>>,
    /// The buckets of its own rates.
    own_rates: RefCell<RateGroup>,
    rates: RefCell<ExportRates>,
    /// What it was asked for as; none of an image of a store, and of what an application added.
    wanted: RefCell<Option<ExportConfig>>,
    /// How often it was changed where it is.
    revision: Cell<u64>,
    /// Exports of its bytes that had its name before, and whose clients go on.
    former: RefCell<Vec<Weak<Entry>>>,
}

/// Counts a connection of an export until it is gone, on whatever thread.
#[derive(Debug)]
pub(super) struct ClientMark(Arc<AtomicUsize>);

impl Drop for ClientMark {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    /// The export; none while it is an image that no client has chosen.
    pub(super) fn export(&self) -> Option<&Arc<Export>> {
        self.export.get()
    }

    /// Bytes of it now.
    pub(super) fn size(&self) -> u64 {
        self.export().map_or(self.info.facts.size, |export| export.size())
    }

    /// Says who may do what with it. Until then everybody may do everything.
    pub(super) fn set_rights(&self, rights: &Rights) {
        self.rights.replace(rights.clone());
    }

    /// Who may do what with it.
    pub(super) fn rights(&self) -> Rights {
        self.rights.borrow().clone()
    }

    /// What holds its requests back, on all shards.
    pub(super) fn limits(&self) -> Arc<ExportLimits> {
        Arc::clone(&self.limits.borrow())
    }

    /// What it says of rates.
    pub(super) fn rates(&self) -> ExportRates {
        self.rates.borrow().clone()
    }

    /// Puts rates and weights into force, with those of its tenant. Shards have to be told.
    pub(super) fn set_rates(&self, rates: &ExportRates, tenants: &Tenants) {
        self.rates.replace(rates.clone());
        let own = self.own_rates.borrow().changed(&rates.limits);
        let limits = self.limits();
        tenants.with(rates.tenant.as_deref(), |tenant| {
            let groups: Vec<_> = std::iter::once(&own).chain(tenant.map(Tenant::group)).collect();
            limits.set(&groups);
            limits.weigh(rates.weight, tenant.map(Tenant::share));
        });
        self.own_rates.replace(own);
    }

    /// Goes on with what holds back the clients of another one, which had its name.
    pub(super) fn share_limits(&self, other: &Self) {
        self.limits.replace(other.limits());
        self.own_rates.replace(other.own_rates.borrow().clone());
    }

    /// It has the bytes of another one, which had its name, and whose clients go on.
    pub(super) fn follow(&self, other: &Rc<Self>) {
        let mut former = other.former.take();
        former.retain(|entry| entry.strong_count() > 0);
        former.push(Rc::downgrade(other));
        self.former.replace(former);
    }

    /// It, and those that it [follows](Entry::follow) and that still have clients.
    pub(super) fn with_former(&self) -> Vec<ExportId> {
        let former = self.former.borrow();
        let in_use = former.iter().filter_map(Weak::upgrade).filter(|entry| entry.clients() > 0);
        std::iter::once(self.id).chain(in_use.map(|entry| entry.id)).collect()
    }

    /// Connections of it and of those.
    pub(super) fn clients_with_former(&self) -> usize {
        let former = self.former.borrow();
        self.clients() + former.iter().filter_map(Weak::upgrade).map(|entry| entry.clients()).sum::<usize>()
    }

    /// Says what it was asked for as.
    pub(super) fn set_wanted(&self, wanted: &ExportConfig) {
        self.wanted.replace(Some(wanted.clone()));
        self.revision.set(self.revision.get() + 1);
    }

    /// What it was asked for as.
    pub(super) fn wanted(&self) -> Option<ExportConfig> {
        self.wanted.borrow().clone()
    }

    /// A text that no other state of any export of this server has.
    pub(super) fn tag(&self) -> String {
        format!("{}.{}.{}", self.id.index, self.id.generation, self.revision.get())
    }

    /// What a client may do with it.
    pub(super) fn decide(&self, asker: &Asker) -> Decision {
        self.rights.borrow().decide(asker)
    }

    /// The image is open.
    pub(super) fn set_export(&self, export: Export) {
        self.share_export(Arc::new(export));
    }

    /// The same for one that may be open already.
    fn share_export(&self, export: Arc<Export>) {
        assert!(self.export.set(export).is_ok(), "it is opened once");
    }

    /// One more handshake asks for it, or one less.
    pub(super) fn count_handshake(&self, is_more: bool) {
        let handshakes = self.handshakes.get();
        self.handshakes.set(if is_more { handshakes + 1 } else { handshakes - 1 });
    }

    /// Counts a connection.
    pub(super) fn count_client(&self) -> ClientMark {
        self.clients.fetch_add(1, Ordering::Relaxed);
        ClientMark(Arc::clone(&self.clients))
    }

    /// Its connections.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Whether a client has it, or may have it soon.
    pub(super) fn is_in_use(&self) -> bool {
        self.handshakes.get() > 0 || self.clients() > 0
    }

    /// The shard that must serve its next client, if not any may.
    pub(super) fn home(&self) -> Option<usize> {
        self.home.get()
    }

    /// A client of it went to a shard.
    pub(super) fn placed(&self, shard: usize) {
        if self.export().is_some_and(|export| export.has_home()) {
            self.home.set(Some(shard));
        }
    }

    /// Its shard has failed: another one is its home from now on.
    pub(super) fn leave_home(&self) {
        self.home.set(None);
    }

    /// By which handshakes and statistics name it.
    pub(super) fn index(&self) -> usize {
        self.id.index as usize
    }
}

/// All exports. An index is used again, with the next generation, once no shard has anything of the export
/// that had it.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    slots: Vec<Slot>,
    by_name: HashMap<String, u32>,
    /// Indices to use again.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// None while the shards give it up, and when it is free.
    entry: Option<Rc<Entry>>,
}

impl Catalogue {
    /// Adds an export; `None` when there is one of that name.
    pub(super) fn add(&mut self, info: ExportInfo, export: Export, source: String) -> Option<Rc<Entry>> {
        let entry = self.add_unopened(info, source)?;
        entry.set_export(export);
        Some(entry)
    }

    /// Adds one whose bytes another one may have too.
    pub(super) fn add_shared(
        &mut self,
        info: ExportInfo,
        export: Arc<Export>,
        source: String,
    ) -> Option<Rc<Entry>> {
        let entry = self.add_unopened(info, source)?;
        entry.share_export(export);
        Some(entry)
    }

    /// Adds one that is opened when a client chooses it.
    pub(super) fn add_unopened(&mut self, info: ExportInfo, source: String) -> Option<Rc<Entry>> {
        if self.by_name.contains_key(&info.name) {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let id = ExportId { index, generation: slot.generation };
        self.by_name.insert(info.name.clone(), index);
        let (export, home, handshakes) = (OnceCell::new(), Cell::new(None), Cell::new(0));
        let (clients, rights) = (Arc::default(), RefCell::default());
        let (limits, own_rates, rates) = Default::default();
        let (wanted, revision, former) = (RefCell::default(), Cell::new(0), RefCell::default());
        let entry = Rc::new(Entry {
            id,
            info,
            export,
            source,
            home,
            handshakes,
            clients,
            rights,
            limits,
            own_rates,
            rates,
            wanted,
            revision,
            former,
        });
        slot.entry = Some(Rc::clone(&entry));
        Some(entry)
    }

    /// Takes an export out, so that nobody finds it any more. Its index stays taken until
    /// [`Catalogue::release`].
    pub(super) fn remove(&mut self, name: &str) -> Option<Rc<Entry>> {
        let index = self.by_name.remove(name)?;
        self.slots[index as usize].entry.take()
    }

    /// No shard has anything of a removed export any more.
    pub(super) fn release(&mut self, id: ExportId) {
        let slot = &mut self.slots[id.index as usize];
        assert!(slot.entry.is_none() && slot.generation == id.generation, "it was removed, and once");
        slot.generation += 1;
        self.free.push(id.index);
    }

    /// Those that are open, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Entry>> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref()).filter(|entry| entry.export().is_some())
    }

    /// How many have a name.
    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The export of a name.
    pub(super) fn find(&self, name: &str) -> Option<&Rc<Entry>> {
        self.by_name.get(name).and_then(|index| self.at(*index as usize))
    }

    /// The export that has an index now.
    pub(super) fn at(&self, index: usize) -> Option<&Rc<Entry>> {
        self.slots.get(index)?.entry.as_ref()
    }

    /// Whether an export is still served.
    pub(super) fn has(&self, id: ExportId) -> bool {
        self.at(id.index as usize).is_some_and(|entry| entry.id == id)
    }

    /// Files and block devices that all exports live in.
    pub(super) fn files(&self) -> usize {
        self.iter().filter_map(|entry| entry.export()).map(|export| export.files()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(catalogue: &mut Catalogue, name: &str) -> Option<ExportId> {
        let export = Export::open(&"null:1M".parse().unwrap(), false).unwrap();
        let info = ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            facts: export.facts().clone(),
            contexts: Vec::new(),
            require_block_size: false,
        };
        catalogue.add(info, export, "null:1M".to_owned()).map(|entry| entry.id)
    }

    #[test]
    fn former_exports_are_known_while_they_have_clients() {
        let mut catalogue = Catalogue::default();
        let mut next = |name: &str| {
            let id = add(&mut catalogue, name).unwrap();
            let entry = Rc::clone(catalogue.find(name).unwrap());
            assert_eq!(entry.id, id);
            drop(catalogue.remove(name));
            entry
        };
        let [first, second, third] = std::array::from_fn(|_| next("a"));
        let client = first.count_client();
        second.follow(&first);
        assert_eq!(second.with_former(), [second.id, first.id]);
        third.follow(&second);
        assert_eq!(third.with_former(), [third.id, first.id], "the second one has no clients");
        assert_eq!((third.clients(), third.clients_with_former()), (0, 1));
        drop(client);
        assert_eq!(third.with_former(), [third.id]);
        drop((first, second));
        next("a").follow(&third);
        assert_eq!(third.with_former(), [third.id]);
    }

    #[test]
    fn an_index_is_used_again_when_it_was_released() {
        let mut catalogue = Catalogue::default();
        let id = |index, generation| ExportId { index, generation };
        assert_eq!(add(&mut catalogue, "a"), Some(id(0, 0)));
        assert_eq!(add(&mut catalogue, "b"), Some(id(1, 0)));
        assert_eq!(add(&mut catalogue, "a"), None, "the name is taken");
        assert_eq!(catalogue.remove("a").unwrap().id, id(0, 0));
        assert!(catalogue.remove("a").is_none() && catalogue.find("a").is_none() && !catalogue.has(id(0, 0)));
        assert_eq!(add(&mut catalogue, "a"), Some(id(2, 0)), "shards still have something of the first one");
        catalogue.release(id(0, 0));
        assert_eq!(add(&mut catalogue, "c"), Some(id(0, 1)));
        assert!(catalogue.has(id(0, 1)) && !catalogue.has(id(0, 0)));
        let names: Vec<_> = catalogue.iter().map(|entry| entry.info.name.as_str()).collect();
        assert_eq!(names, ["c", "b", "a"]);
    }
}
