//! The exports of a server, by name and by id.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::{Export, ExportId};
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::ExportInfo;

/// An export that is served.
#[derive(Debug)]
pub(super) struct Entry {
    /// How shards and statistics name it.
    pub(super) id: ExportId,
    /// What clients are told.
    pub(super) info: ExportInfo,
    pub(super) export: Arc<Export>,
    /// Where its bytes live, for people.
    pub(super) source: String,
    /// The shard that serves it, once its first client has come, if it is one that is [served by
    /// one](Export::has_home).
    home: Cell<Option<usize>>,
}

impl Entry {
    /// The shard that must serve its next client, if not any may.
    pub(super) fn home(&self) -> Option<usize> {
        self.home.get()
    }

    /// A client of it went to a shard.
    pub(super) fn placed(&self, shard: usize) {
        if self.export.has_home() {
            self.home.set(Some(shard));
        }
    }

    /// Its shard has failed: another one is its home from now on.
    pub(super) fn leave_home(&self) {
        self.home.set(None);
    }

    /// What clients are told, with the meta contexts that there are now.
    pub(super) fn info_now(&self) -> ExportInfo {
        let mut info = self.info.clone();
        if let Some(snapshots) = self.export.tracked_snapshots() {
            info.contexts.push(MetaContext::AllocationDepth);
            info.contexts.extend(snapshots.into_iter().map(MetaContext::DirtyBitmap));
        }
        info
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
        let (export, home) = (Arc::new(export), Cell::new(None));
        let entry = Rc::new(Entry { id, info, export, source, home });
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

    /// Those that are served, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Entry>> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
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
        self.iter().map(|entry| entry.export.files()).sum()
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
