//! The packs of a store and their index, as files: `packs/<number>.pack` and `index.redb`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, statat};
use rustix::io::Errno;
use serde::Serialize;
use uuid::Uuid;

use super::catalog::{CatalogFile, CatalogView, PackOrigin, PackRow};
use super::collection_pins::CollectionPins;
use super::directory::{StoreDirectory, below, move_to_lost, names, unlink};
use super::error::StoreError;
use super::file_changes::{make_directory, rename, sync_directory};
use super::foreign::{ForeignPacks, PartialPack, PlacedFile, PlacedPack, present_ranges};
use super::index::{ChunkIndex, ChunkIndexError};
use super::pack::{ChunkHash, ChunkSpace, PackError, PackIdentity, PackReader, PackedChunk, UncachedFile};
use super::pack_shelf::PackShelf;

const PACKS: &str = "packs";
const INDEX: &str = "index.redb";
/// The index until it is complete.
const NEW_INDEX: &str = "index.redb.new";

/// The name of the file of a pack.
pub(crate) fn pack_name(number: u64) -> String {
    format!("{number}.pack")
}

/// The name of the file that has what is here of a pack which another store wrote.
fn cache_name(number: u64) -> String {
    format!("{number}.part")
}

/// What a new index has. Its keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RebuiltIndex {
    pub packs: u64,
    pub chunks: u64,
    /// Packs that cannot be read, a sentence each.
    pub left: Vec<String>,
}

/// `packs/` of a store, open.
#[derive(Debug, Clone)]
pub(crate) struct PackPlace {
    pub(crate) store: Uuid,
    path: PathBuf,
    directory: Arc<OwnedFd>,
    pub(super) pins: Arc<CollectionPins>,
    pub(super) foreign: Arc<ForeignPacks>,
}

impl PackPlace {
    /// Where a pack is, for people.
    pub(crate) fn path_of(&self, number: u64) -> PathBuf {
        self.path.join(pack_name(number))
    }

    /// Packs of one space, for those who have the store.
    pub(super) fn shelf(&self, space: ChunkSpace) -> Arc<PackShelf> {
        let (place, finder) = (self.clone(), self.clone());
        let shelf = PackShelf::new(
            Box::new(move |number| place.placed(number, space)),
            Box::new(move |hash| finder.find(hash, space)),
        );
        Arc::new(shelf.with_foreign(&self.foreign))
    }

    /// Opens a pack that is finished.
    pub(super) fn open(&self, number: u64, space: ChunkSpace) -> Result<PackReader<PlacedFile>, PackError> {
        self.placed(number, space)?.read()
    }

    /// The same, of which nothing is read yet: that may take time.
    pub(super) fn placed(&self, number: u64, space: ChunkSpace) -> Result<PlacedPack, PackError> {
        if let Some(PackOrigin { store, number: origin }) = self.foreign.origin(number) {
            let pack = self.partial(number)?;
            let identity = PackIdentity { store, number: origin, space };
            return Ok(PlacedPack { file: PlacedFile::Partial(pack), identity });
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = below(&*self.directory, pack_name(number), flags, Mode::empty());
        let file = PlacedFile::Whole(File::from(file.map_err(std::io::Error::from)?));
        Ok(PlacedPack { file, identity: PackIdentity { store: self.store, number, space } })
    }

    /// The file that keeps what is here of a pack which another store wrote.
    fn cache_file(&self, number: u64) -> std::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CREATE;
        let file = below(&*self.directory, cache_name(number), flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(file?))
    }

    /// What is here of a pack which another store wrote, and the rest of it when it is read.
    pub(super) fn partial(&self, number: u64) -> std::io::Result<Arc<PartialPack>> {
        self.foreign.open(number, &|number| self.cache_file(number))
    }

    /// What is here of a pack which another store wrote.
    pub(super) fn cached_ranges(&self, number: u64) -> std::io::Result<Vec<(u64, u64)>> {
        let file = match below(&*self.directory, cache_name(number), OFlags::RDONLY, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        present_ranges(&file)
    }

    /// Looks what the caches of packs take which are not open yet.
    pub(super) fn find_caches(&self, view: &CatalogView) {
        for row in view.foreign_packs() {
            if let Ok(found) = statat(&*self.directory, cache_name(row.number), AtFlags::SYMLINK_NOFOLLOW) {
                self.foreign.found(row.number, found.st_blocks.cast_unsigned().saturating_mul(512));
            }
        }
    }

    /// Opens a pack to verify what its medium has.
    pub(super) fn open_uncached(
        &self,
        number: u64,
        space: ChunkSpace,
    ) -> Result<PackReader<UncachedFile>, PackError> {
        let open = |more| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | more;
            let file = below(&*self.directory, pack_name(number), flags, Mode::empty());
            file.map(File::from).map_err(std::io::Error::from)
        };
        let file = UncachedFile::new(open(OFlags::DIRECT).ok(), || open(OFlags::empty()))?;
        PackReader::open(file, &PackIdentity { store: self.store, number, space })
    }

    /// Opens a pack to write damaged chunks of it again.
    pub(super) fn open_to_restore(
        &self,
        number: u64,
        space: ChunkSpace,
    ) -> Result<PackReader<File>, PackError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let file = below(&*self.directory, pack_name(number), flags, Mode::empty());
        let file = File::from(file.map_err(std::io::Error::from)?);
        PackReader::open(file, &PackIdentity { store: self.store, number, space })
    }

    /// A pack that has a chunk, for those who may not have the index. The chunk was moved, so it is likely in
    /// one of the latest packs. What is found there is verified by its name, so it does not matter who else
    /// knows of the pack.
    fn find(&self, hash: &ChunkHash, space: ChunkSpace) -> Option<u64> {
        let number = |name: String| name.strip_suffix(".pack").and_then(|number| number.parse().ok());
        let mut all: Vec<u64> = names(&*self.directory).ok()?.into_iter().filter_map(number).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        let has = |chunk: Result<PackedChunk, PackError>| chunk.is_ok_and(|chunk| chunk.hash == *hash);
        all.into_iter().find(|pack| self.open(*pack, space).is_ok_and(|pack| pack.chunks().any(has)))
    }

    /// Makes the empty file of a pack. Its number is reserved.
    pub(super) fn create(&self, number: u64) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let made = below(&*self.directory, pack_name(number), flags, Mode::RUSR | Mode::WUSR);
        made.map(File::from).map_err(StoreError::at("make", &self.path_of(number)))
    }

    /// Makes the names of packs durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_directory(&*self.directory).map_err(StoreError::at("sync", &self.path))
    }

    /// Removes the file of a pack that nothing names.
    pub(super) fn remove(&self, number: u64) -> Result<(), StoreError> {
        let removed = unlink(&*self.directory, &pack_name(number), AtFlags::empty());
        removed.map_err(StoreError::at("remove", &self.path_of(number)))
    }

    /// Removes what is here of a pack that another store wrote.
    pub(super) fn remove_cache(&self, number: u64) -> Result<(), StoreError> {
        self.foreign.forget(number);
        match unlink(&*self.directory, &cache_name(number), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(StoreError::at("remove", &self.path.join(cache_name(number)))(error)),
        }
    }

    /// Moves to `lost/` what an interruption has left behind: files that no row names. Nobody else has the
    /// store open. Whoever has put an older catalogue back finds the packs there that it does not know.
    pub(super) fn move_unlisted(&self, view: &CatalogView, lost: &OwnedFd) -> Result<(), StoreError> {
        let listed = |name: &str| {
            let number = name.strip_suffix(".pack").and_then(|number| number.parse().ok());
            let is_pack = number.is_some_and(|number| view.has_pack(number) && pack_name(number) == name);
            let of_cache = name.strip_suffix(".part").and_then(|number| number.parse().ok());
            is_pack || of_cache.is_some_and(|of| view.is_foreign(of) && cache_name(of) == name)
        };
        for name in names(&*self.directory).map_err(StoreError::at("list", &self.path))? {
            if !listed(&name) {
                let moved = move_to_lost(&self.directory, &name, lost);
                moved.map_err(StoreError::at("move to lost/", &self.path.join(&name)))?;
            }
        }
        Ok(())
    }
}

/// What is wrong with a pack, with its path.
pub(super) fn pack_failure(path: PathBuf) -> impl FnOnce(PackError) -> StoreError {
    move |why| match why {
        PackError::Io(source) => StoreError::File { what: "read or write", path, source },
        why => StoreError::Pack { path, why: why.to_string() },
    }
}

impl StoreDirectory {
    /// The packs of a store, if it has a place for them.
    pub(super) fn packs(&self, store: Uuid) -> Result<Option<PackPlace>, StoreError> {
        let path = self.path().join(PACKS);
        match below(self.root(), PACKS, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                let (directory, pins) = (Arc::new(directory), Arc::clone(&self.pins));
                let foreign = Arc::clone(&self.foreign);
                Ok(Some(PackPlace { store, path, directory, pins, foreign }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(StoreError::at("open", &path)(error)),
        }
    }

    /// The same, made if it is not there.
    pub(super) fn make_packs(&self, store: Uuid) -> Result<PackPlace, StoreError> {
        let path = self.path().join(PACKS);
        match make_directory(self.root(), PACKS, Mode::RWXU) {
            Ok(()) => sync_directory(self.root()).map_err(StoreError::at("sync", self.path()))?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(StoreError::at("make", &path)(error)),
        }
        let place = self.packs(store)?;
        place.ok_or_else(|| StoreError::at("open", &path)(Errno::NOENT))
    }

    /// Opens the index; one that is missing or cannot be used is made anew of the footers of all packs.
    pub(super) fn index(&self, place: &PackPlace, view: &CatalogView) -> Result<ChunkIndex, StoreError> {
        let path = self.path().join(INDEX);
        match below(self.root(), INDEX, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => match ChunkIndex::open(CatalogFile::new(file.into()), place.store) {
                Ok(index) => return Ok(index),
                Err(error @ ChunkIndexError::Newer { .. }) => {
                    return Err(StoreError::Index(error.to_string()));
                }
                Err(error) => tracing::warn!(%error, "the index of a store is made anew of its packs"),
            },
            Err(Errno::NOENT) => {}
            Err(error) => return Err(StoreError::at("open", &path)(error)),
        }
        let (index, RebuiltIndex { left, .. }) = self.rebuild_index(place, view.own_packs())?;
        for why in left {
            tracing::warn!(why, "a pack is left out of the index of its store");
        }
        Ok(index)
    }

    /// Makes the index anew of the footers of packs.
    pub(super) fn rebuild_index<'a>(
        &self,
        place: &PackPlace,
        packs: impl Iterator<Item = &'a PackRow>,
    ) -> Result<(ChunkIndex, RebuiltIndex), StoreError> {
        let path = self.path().join(NEW_INDEX);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let file = below(self.root(), NEW_INDEX, flags, Mode::RUSR | Mode::WUSR);
        let file = CatalogFile::new(file.map_err(StoreError::at("make", &path))?.into());
        let index = ChunkIndex::create(file, place.store).map_err(index_failure)?;
        let mut made = RebuiltIndex::default();
        for row in packs {
            // What is in a pack that cannot be read is written once more when it comes again.
            match place.open(row.number, row.space).and_then(|pack| pack.keys()) {
                Ok(keys) => {
                    made.packs += 1;
                    made.chunks += keys.len() as u64;
                    index.add(row.number, keys).map_err(index_failure)?;
                }
                Err(error) => made.left.push(pack_failure(place.path_of(row.number))(error).to_string()),
            }
        }
        let named =
            rename((self.root(), NEW_INDEX), (self.root(), INDEX)).and_then(|()| sync_directory(self.root()));
        named.map_err(StoreError::at("make", &path))?;
        Ok((index, made))
    }
}

pub(super) fn index_failure(error: ChunkIndexError) -> StoreError {
    StoreError::Index(error.to_string())
}
