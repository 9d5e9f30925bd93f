//! What is done to a store: decided in its catalogue, carried out on its files, in
//! the order that no interruption can hurt.
//!
//! Files come first and the catalogue second, where something is made; the catalogue first and files
//! second, where something goes. What an interruption leaves behind is a directory that the catalogue does
//! not know. It is moved to `lost/` the next time that something is changed, and removed from there by
//! `ringnbd store gc`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use uuid::Uuid;

use super::base::FoundBase;
use super::catalog::{
    self, Beginning, CatalogExcerpt, CatalogHeader, CatalogView, ImageId, ImageRefusal, ImageRow, LayerId,
    Minter, NewImage, NewSnapshot, NodeName, ReadExcerpt, RecordHeads, StoreCatalog, StoreName,
};
use super::copy::{MAP_BLOCK, copy_sparse};
use super::directory::StoreDirectory;
use super::error::StoreError;
use super::file_changes::{set_length, sync_all};
use super::index::ChunkIndex;
use super::layer_place::LayerPlace;
use super::maps::{LayerDescription, LayerMaps};
use super::packed_gauges::PackedGauges;
use super::packs::PackPlace;
use super::space_notes::SpaceNotes;

/// How long a store is tried for that somebody has open. A process that was killed has it open until the
/// kernel is done with what its rings were given: its descriptors are closed after that.
const PATIENCE: Duration = Duration::from_secs(2);

/// A store with its lock, or what a server has told of one.
#[derive(Debug)]
pub struct OpenStore<M> {
    /// It is closed first, which writes to it: the lock is the directory's.
    pub(super) catalog: StoreCatalog,
    pub(super) directory: StoreDirectory,
    pub(super) maps: M,
    /// Records of changes that maps do not tell any more.
    pub(super) records: RecordHeads,
    /// Grows with each change of the catalogue.
    pub(super) changes: Arc<AtomicU64>,
    /// The index of its packs, as long as somebody uses it: two of one file would destroy it.
    index: Weak<ChunkIndex>,
    pub(super) space: SpaceNotes,
    pub(super) packed: Arc<PackedGauges>,
}

/// What the layers of a store take on the disk.
#[derive(Debug, Default)]
pub struct StoreUsage {
    /// The data of each layer.
    pub data: BTreeMap<LayerId, u64>,
    /// All maps.
    pub maps: u64,
    /// All packs.
    pub packs: u64,
    /// Layers whose files are not there, or cannot be looked at.
    pub missing: Vec<String>,
}

impl StoreUsage {
    #[must_use]
    pub fn of(&self, layer: LayerId) -> u64 {
        self.data.get(&layer).copied().unwrap_or_default()
    }
}

/// Layers that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    pub layers: usize,
    pub bytes: u64,
}

/// Seconds since 1970.
#[must_use]
pub fn now_s() -> u64 {
    #[cfg(test)]
    if let Some(now_s) = super::tests::power::seeded_time_s() {
        return now_s;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A uuid that nothing else has.
#[must_use]
pub fn random_uuid() -> Uuid {
    #[cfg(test)]
    if let Some(uuid) = super::tests::power::seeded_uuid() {
        return uuid;
    }
    let mut bytes = [0; 16];
    while getrandom(&mut bytes[..], GetRandomFlags::empty()) != Ok(bytes.len()) {}
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

impl<M: LayerMaps> OpenStore<M> {
    /// Opens a store to look at it.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(path: &Path, maps: M) -> Result<Self, StoreError> {
        Self::with(StoreDirectory::open(path, PATIENCE)?, maps)
    }

    /// Opens a store that a server has, to read snapshots that it has told of.
    ///
    /// # Errors
    /// A sentence.
    pub fn open_to_read(path: &Path, maps: M, excerpt: &CatalogExcerpt) -> Result<Self, StoreError> {
        let read = excerpt.read();
        let ReadExcerpt { header, view, records } =
            read.map_err(|source| StoreError::Catalog { path: path.to_owned(), source })?;
        let (directory, catalog) =
            (StoreDirectory::open_to_read(path)?, StoreCatalog::without_file(header, view));
        let (changes, index, space, packed) = Default::default();
        let opened = Self { directory, catalog, maps, records, changes, index, space, packed };
        opened.follow_foreign()?;
        Ok(opened)
    }

    pub(super) fn with(
        (directory, catalog): (StoreDirectory, StoreCatalog),
        maps: M,
    ) -> Result<Self, StoreError> {
        let (records, space) = (directory.change_heads()?, directory.space_notes(catalog.header().store));
        let (changes, index, packed) = Default::default();
        let opened = Self { directory, catalog, maps, records, changes, index, space, packed };
        opened.follow_foreign()?;
        Ok(opened)
    }

    /// A number that grows with each change of the catalogue, to be looked at without it.
    pub(crate) fn change_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.changes)
    }

    /// Opens a store to change it, and moves to `lost/` what an interruption has left in `layers/`.
    ///
    /// # Errors
    /// A sentence.
    pub fn open_to_change(path: &Path, maps: M) -> Result<Self, StoreError> {
        let mut store = Self::open(path, maps)?;
        store.finish_left_snapshots()?;
        store.move_unknown_layers()?;
        store.remove_unknown_records()?;
        store.finish_removals()?;
        store.directory.keep_reserve();
        Ok(store)
    }

    /// The same to remove something, which works on a full disk too.
    ///
    /// # Errors
    /// A sentence.
    pub fn open_to_remove(path: &Path, maps: M) -> Result<Self, StoreError> {
        let mut store = Self::with(StoreDirectory::open_to_remove(path, PATIENCE)?, maps)?;
        store.finish_left_snapshots()?;
        store.move_unknown_layers()?;
        store.finish_removals()?;
        Ok(store)
    }

    fn move_unknown_layers(&self) -> Result<(), StoreError> {
        self.unknown_layers()?.iter().try_for_each(|name| self.directory.move_to_lost(name))
    }

    /// Removes what an ingest has left behind that was interrupted.
    fn finish_removals(&self) -> Result<(), StoreError> {
        let view = self.view()?;
        for row in view.all_contents() {
            self.directory.remove_data(row.layer)?;
        }
        match self.directory.packs(self.header().store)? {
            Some(place) => place.move_unlisted(view, &self.directory.lost),
            None => Ok(()),
        }
    }

    /// The index of the packs, which all share who use it.
    pub(super) fn chunk_index(&mut self, place: &PackPlace) -> Result<Arc<ChunkIndex>, StoreError> {
        if let Some(index) = self.index.upgrade() {
            return Ok(index);
        }
        let index = Arc::new(self.directory.index(place, self.view()?)?);
        self.index = Arc::downgrade(&index);
        Ok(index)
    }

    /// The number of the pack that was reserved last.
    pub(super) const fn last_reserved(&self) -> u64 {
        self.catalog.last_reserved()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Says where the server that has the store can be asked, or that it cannot be.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_control(&self, socket: Option<&Path>) -> Result<(), StoreError> {
        self.directory.set_control(socket)
    }

    #[must_use]
    pub const fn header(&self) -> &CatalogHeader {
        self.catalog.header()
    }

    /// The rows as they are.
    ///
    /// # Errors
    /// A change failed before.
    pub fn view(&self) -> Result<&CatalogView, StoreError> {
        self.catalog.view().map_err(|source| StoreError::Catalog { path: self.path().to_owned(), source })
    }

    /// Reads the catalogue again if a change failed before, so that it is known whether it took place.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        if self.catalog.view().is_ok() {
            return Ok(());
        }
        let again = self.catalog.open_again(self.directory.catalog_file()?);
        again.map_err(|source| StoreError::Catalog { path: self.path().to_owned(), source })?;
        self.follow_foreign()
    }

    pub(super) fn image(&self, name: &StoreName) -> Result<&ImageRow, StoreError> {
        let found = self.view()?.image(name);
        Ok(found.ok_or_else(|| ImageRefusal::NoImage(name.clone()))?)
    }

    pub(super) fn decide<T>(
        &self,
        call: impl FnOnce(&CatalogView, &mut Minter<'_>) -> Result<T, ImageRefusal>,
    ) -> Result<T, StoreError> {
        let mut minter = Minter { now_s: now_s(), uuid: &mut random_uuid };
        Ok(call(self.view()?, &mut minter)?)
    }

    /// An image of zeroes.
    ///
    /// # Errors
    /// A sentence.
    pub fn create_empty(&mut self, name: &StoreName, size: u64) -> Result<(), StoreError> {
        self.create(name, size, Beginning::Empty)
    }

    /// An image on a file or device outside of the store.
    ///
    /// # Errors
    /// A sentence.
    pub fn create_on_base(
        &mut self,
        name: &StoreName,
        size: Option<u64>,
        base: FoundBase,
    ) -> Result<(), StoreError> {
        let FoundBase { kind, path, identity } = base;
        let size = size.unwrap_or_else(|| identity.size.next_multiple_of(catalog::SIZE_UNIT));
        self.create(name, size, Beginning::Base { kind, path, identity })
    }

    fn create(&mut self, name: &StoreName, size: u64, beginning: Beginning) -> Result<(), StoreError> {
        let new = NewImage { id: ImageId(random_uuid()), name: name.clone(), size, beginning };
        let change = self.decide(|view, minter| catalog::create(view, minter, new))?;
        self.commit(&change).map(drop)
    }

    /// An image with the contents of a raw file. `progress` is told how many bytes are done; its error ends
    /// the copy, and nothing stays of it.
    ///
    /// # Errors
    /// A sentence.
    pub fn create_from(
        &mut self,
        name: &StoreName,
        from: (&Path, &File, u64),
        size: u64,
        progress: impl FnMut(u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (image, layer) = (ImageId(random_uuid()), LayerId(random_uuid()));
        let new = NewImage { id: image, name: name.clone(), size, beginning: Beginning::Copied(layer) };
        // Whatever refuses it does so before the copy.
        let change = self.decide(|view, minter| catalog::create(view, minter, new))?;
        let copied = self.copy_into(image, layer, name, from, size, progress);
        if copied.is_err() {
            // What cannot be removed is found, and moved to lost/, the next time.
            let _removed = self.directory.remove_layer(layer);
        }
        copied?;
        self.commit(&change).map(drop)
    }

    fn copy_into(
        &self,
        image: ImageId,
        layer: LayerId,
        name: &StoreName,
        (path, source, length): (&Path, &File, u64),
        size: u64,
        mut progress: impl FnMut(u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let files = self.directory.begin_layer(layer, size.next_multiple_of(MAP_BLOCK))?;
        let mut ended = None;
        let copied = copy_sparse(source, length.min(size), &files.data, |done| {
            progress(done).map_err(|error| {
                ended = Some(error);
                std::io::Error::from(std::io::ErrorKind::Interrupted)
            })
        });
        let copied = match (copied, ended) {
            (_, Some(error)) => return Err(error),
            (copied, None) => copied.map_err(StoreError::at("copy", path))?,
        };
        let description = LayerDescription {
            store: self.header().store,
            image: image.0,
            layer: layer.0,
            parent: None,
            name: name.to_string(),
            created_s: now_s(),
            size,
            place: LayerPlace::default(),
        };
        let written = self.maps.create(&files.map, &description, copied.runs());
        written.map_err(|why| StoreError::Map { layer, what: "made", why })?;
        files.finish()
    }

    /// Snapshots of several images at one point in time, which nobody writes meanwhile.
    ///
    /// # Errors
    /// A sentence.
    pub fn snapshot(&mut self, nodes: Vec<NodeName>) -> Result<(), StoreError> {
        self.take_snapshots(&NewSnapshot::group(nodes, false)?)
    }

    pub(super) fn take_snapshots(&mut self, group: &[NewSnapshot]) -> Result<(), StoreError> {
        group.iter().try_for_each(|new| self.finish_left_snapshot(&new.image))?;
        let change = self.decide(|view, minter| catalog::take_snapshots(view, minter, group))?;
        group.iter().try_for_each(|new| self.prepare_seal(&new.image))?;
        self.commit(&change).map(drop)
    }

    /// Images that begin as a snapshot is.
    ///
    /// # Errors
    /// A sentence.
    pub fn clone_images(&mut self, from: NodeName, names: &[StoreName]) -> Result<(), StoreError> {
        let (image, snapshot) = from.into_snapshot()?;
        let from = (&image, &snapshot);
        let change = self.decide(|view, minter| catalog::make_clones(view, minter, from, names))?;
        self.commit(&change).map(drop)
    }

    /// Takes an image or a snapshot away.
    ///
    /// # Errors
    /// A sentence.
    pub fn remove(&mut self, node: &NodeName, with_snapshots: bool) -> Result<Released, StoreError> {
        if node.snapshot.is_none() {
            self.finish_left_snapshot(&node.image)?;
        }
        let change = self.decide(|view, _| catalog::remove(view, node, with_snapshots))?;
        self.fold_changes(&change)?;
        self.commit(&change)
    }

    /// Another name for an image or a snapshot.
    ///
    /// # Errors
    /// A sentence.
    pub fn rename(&mut self, node: &NodeName, to: &StoreName) -> Result<(), StoreError> {
        let change = self.decide(|view, _| catalog::rename(view, node, to))?;
        self.commit(&change).map(drop)
    }

    /// Another size for an image.
    ///
    /// # Errors
    /// A sentence.
    pub fn resize(&mut self, name: &StoreName, size: u64, may_shrink: bool) -> Result<(), StoreError> {
        self.finish_left_snapshot(name)?;
        let change = self.decide(|view, _| catalog::resize(view, name, size, may_shrink))?;
        let row = self.image(name)?;
        let (old, Some(layer)) = (row.size, row.head) else { return self.commit(&change).map(drop) };
        let (data, map) = self.directory.open_layer(layer)?;
        self.lengthen(layer, &data, size)?;
        // What an earlier change has left undone comes first.
        let of_map = |store: &Self, size| {
            let resized = store.maps.resize(&data, &map, size);
            resized.map_err(|why| StoreError::Map { layer, what: "resized", why })
        };
        of_map(self, old)?;
        self.commit(&change)?;
        of_map(self, size)
    }

    /// The file of a head's data grows before anything else, and never shrinks: what lies behind the end of
    /// an image is not read.
    pub(super) fn lengthen(&self, layer: LayerId, data: &File, size: u64) -> Result<(), StoreError> {
        let path = self.directory.layer_path(layer);
        let length = data.metadata().map_err(StoreError::at("look at", &path))?.len();
        let whole = size.next_multiple_of(MAP_BLOCK);
        if length >= whole {
            return Ok(());
        }
        let grown = set_length(data, whole).and_then(|()| sync_all(data));
        grown.map_err(StoreError::at("grow", &path))
    }

    /// An image is as one of its snapshots was.
    ///
    /// # Errors
    /// A sentence.
    pub fn roll_back(&mut self, to: NodeName) -> Result<Released, StoreError> {
        let (image, snapshot) = to.into_snapshot()?;
        self.finish_left_snapshot(&image)?;
        // Nobody uses an image of a store whose lock is ours.
        let change = self.decide(|view, _| catalog::roll_back(view, &image, &snapshot, false, false))?;
        self.commit(&change)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::copy::BlockSpan;

    /// Notes what it is asked for; fails when it is told to.
    #[derive(Debug, Default)]
    struct Noted {
        calls: RefCell<Vec<String>>,
        fails: Cell<bool>,
    }

    impl Noted {
        fn note(&self, call: String) -> Result<(), String> {
            self.calls.borrow_mut().push(call);
            if self.fails.get() { Err("the map is bad".to_owned()) } else { Ok(()) }
        }
    }

    impl LayerMaps for &Noted {
        fn create(&self, _: &File, layer: &LayerDescription, data: &[BlockSpan]) -> Result<(), String> {
            let runs: Vec<(u64, u64)> = data.iter().map(|run| (run.start, run.blocks)).collect();
            self.note(format!("create {} {} {runs:?}", layer.name, layer.size))
        }

        fn seal(&self, _: &File, _: &File, size: u64) -> Result<(), String> {
            self.note(format!("seal {size}"))
        }

        fn resize(&self, _: &File, _: &File, size: u64) -> Result<(), String> {
            self.note(format!("resize {size}"))
        }
    }

    #[test]
    fn maps_are_asked_in_the_order_that_no_interruption_can_hurt() {
        let house = tempfile::tempdir().unwrap();
        let (path, raw) = (house.path().join("store"), house.path().join("raw"));
        let noted = Noted::default();
        let name: StoreName = "vm".parse().unwrap();
        let calls = || std::mem::take(&mut *noted.calls.borrow_mut());
        let source = File::options().create_new(true).read(true).write(true).open(&raw).unwrap();
        source.write_all_at(&[1; 4096], 8192).unwrap();
        source.write_all_at(&[1; 1], 40_960).unwrap();
        let mut store = OpenStore::init(&path, &noted).unwrap();
        let create = |store: &mut OpenStore<&Noted>| {
            store.create_from(&name, (&raw, &source, 40_961), 65_536, |_| Ok(()))
        };
        noted.fails.set(true);
        let failed = create(&mut store).unwrap_err();
        assert!(failed.to_string().contains("the map is bad") && !failed.is_refusal(), "{failed}");
        assert!(
            store.directory.layer_names().unwrap().is_empty() && store.view().unwrap().images().count() == 0
        );
        noted.fails.set(false);
        create(&mut store).unwrap();
        assert_eq!(calls()[1], "create vm 65536 [(2, 1), (10, 1)]");

        // What an earlier change has left undone comes first, and the catalogue between.
        store.resize(&name, 131_072, false).unwrap();
        assert_eq!(calls(), ["resize 65536", "resize 131072"]);
        noted.fails.set(true);
        store.resize(&name, 512, true).unwrap_err();
        let size = |store: &OpenStore<&Noted>| store.view().unwrap().image(&name).unwrap().size;
        assert_eq!((calls().len(), size(&store)), (1, 131_072), "nothing was decided");

        store.snapshot(vec!["vm@a".parse().unwrap()]).unwrap_err();
        let row = store.view().unwrap().image(&name).unwrap().clone();
        assert!(row.head.is_some() && store.view().unwrap().snapshots_of(row.id).is_empty());
        noted.fails.set(false);
        store.settle().unwrap();
        store.catalog.open_again(store.directory.catalog_file().unwrap()).unwrap();
        assert_eq!(size(&store), 131_072, "what was read again is the same");
        store.snapshot(vec!["vm@a".parse().unwrap()]).unwrap();
        assert_eq!(calls(), ["seal 131072", "seal 131072"]);
        assert_eq!(store.usage().unwrap().data.len(), 1);
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        drop(store);
        let store = OpenStore::open(&path, &noted).unwrap();
        assert!(store.view().unwrap().image(&name).unwrap().head.is_none());
    }
}
