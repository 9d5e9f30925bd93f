//! A store as a directory: its lock, its catalogue's file, the directories of its layers.
//!
//! ```text
//! STORE/  lock  control  catalog.redb  reserve  tiers  layers/<uuid>/data  layers/<uuid>/map  lost/
//! ```
//!
//! Everything is opened below descriptors that are held from the start, and no link below them is followed:
//! what gets a name in the store later leads nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    Access, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, fsync, open, openat2, statat,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::catalog::{CatalogError, CatalogFile, ChunkCompression, LayerId, StoreCatalog};
use super::collection_pins::CollectionPins;
use super::error::StoreError;
use super::file_changes::{
    link, make, make_directory, remove, rename, rename_new, sync_directory, write_all_at,
};
use super::foreign::ForeignPacks;
use super::lock::take_lock;

const LOCK: &str = "lock";
const CATALOG: &str = "catalog.redb";
/// The catalogue until it is complete.
const NEW_CATALOG: &str = "catalog.redb.new";
/// Space that is kept for the catalogue: `reserve_file`.
pub(super) const RESERVE: &str = "reserve";
const LAYERS: &str = "layers";
const LOST: &str = "lost";
/// Where the server that has the store can be asked: a hint for commands, which may be stale.
const CONTROL: &str = "control";
/// Bytes of it that are read.
const LONGEST_CONTROL: usize = 4096;
const CONTROL_KIND: &str = "unix:";

const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Entries of `layers/` and `lost/` that are looked at.
const MOST_ENTRIES: usize = 1 << 21;

/// An open store's directory, which nobody else has open; or one that a server has, to read layers of it.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    root: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) lost: OwnedFd,
    /// Locked as long as it is open; none of those who only read.
    lock: Option<File>,
    /// What a collection of its packs leaves alone.
    pub(super) pins: Arc<CollectionPins>,
    /// Packs that other stores have written.
    pub(super) foreign: Arc<ForeignPacks>,
}

impl StoreDirectory {
    /// Makes a store of an empty directory, or of one that does not exist yet. What an earlier try left
    /// behind is used again.
    ///
    /// # Errors
    /// A sentence.
    pub fn init(
        path: &Path,
        store: Uuid,
        now_s: u64,
        compression: ChunkCompression,
    ) -> Result<(Self, StoreCatalog), StoreError> {
        let is_new = match rustix::fs::mkdir(path, DIRECTORY_MODE) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(StoreError::at("make", path)(error)),
        };
        let root = open_root(path).map_err(StoreError::at("open", path))?;
        is_free(&root, path)?;
        let lock = lock(&root, path, OFlags::CREATE, Duration::ZERO)?;
        // Whoever held the lock until now may have made it a store.
        is_free(&root, path)?;
        for name in [LAYERS, LOST] {
            match make_directory(&root, name, DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(StoreError::at("make", &path.join(name))(error)),
            }
        }
        let directory = Self::with(path, root, Some(lock))?;
        let new = path.join(NEW_CATALOG);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let file =
            below(&directory.root, NEW_CATALOG, flags, FILE_MODE).map_err(StoreError::at("make", &new))?;
        let catalog = StoreCatalog::create_with(CatalogFile::new(file.into()), store, now_s, compression)
            .map_err(|source| StoreError::Catalog { path: path.to_owned(), source })?;
        // With its name it is a store, and complete.
        let made = rename((&directory.root, NEW_CATALOG), (&directory.root, CATALOG))
            .and_then(|()| sync_directory(&directory.root));
        made.map_err(StoreError::at("make", &new))?;
        if is_new {
            sync_parent(path)?;
        }
        Ok((directory, catalog))
    }

    /// Whether a directory is a store.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        let catalog = open_root(path).and_then(|root| below(&root, CATALOG, OFlags::PATH, Mode::empty()));
        catalog.is_ok()
    }

    /// Opens a store. If somebody else has it open, looks again for as long as `patience`.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(path: &Path, patience: Duration) -> Result<(Self, StoreCatalog), StoreError> {
        Self::open_locked(path, patience)?.open_catalog()
    }

    /// Opens a store to remove something. If the disk is full, the reserve is given away first: the catalogue
    /// needs room for any change.
    ///
    /// # Errors
    /// A sentence.
    pub fn open_to_remove(path: &Path, patience: Duration) -> Result<(Self, StoreCatalog), StoreError> {
        let directory = Self::open_locked(path, patience)?;
        directory.release_reserve()?;
        directory.open_catalog()
    }

    /// Opens what was a store and may have lost its catalogue.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn open_without_catalog(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let root = open_root(path).map_err(|_| StoreError::NotAStore(path.to_owned()))?;
        // A lock is made in a directory of layers only.
        below(&root, LAYERS, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|_| StoreError::NotAStore(path.to_owned()))?;
        let lock = lock(&root, path, OFlags::CREATE, patience)?;
        match make_directory(&root, LOST, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => Self::with(path, root, Some(lock)),
            Err(error) => Err(StoreError::at("make", &path.join(LOST))(error)),
        }
    }

    /// Puts another catalogue, which `write` makes, in the place of one that is lost. The old file, if there
    /// is one, goes to `lost/`.
    pub(super) fn replace_catalog<T>(
        &self,
        write: impl FnOnce(CatalogFile) -> Result<T, CatalogError>,
    ) -> Result<T, StoreError> {
        let (new, at) = (self.path.join(NEW_CATALOG), self.path.join(CATALOG));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let file = below(&self.root, NEW_CATALOG, flags, FILE_MODE).map_err(StoreError::at("make", &new))?;
        let written = write(CatalogFile::new(file.into()));
        let written = written.map_err(|source| StoreError::Catalog { path: self.path.clone(), source })?;
        let placed = || -> rustix::io::Result<()> {
            for number in 0..1000 {
                let kept = format!("{CATALOG}.{number}");
                match link((&self.root, CATALOG), (&self.lost, &kept)) {
                    Err(Errno::EXIST) => {}
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(error) => return Err(error),
                }
            }
            sync_directory(&self.lost)?;
            rename((&self.root, NEW_CATALOG), (&self.root, CATALOG))?;
            sync_directory(&self.root)
        };
        placed().map_err(StoreError::at("replace", &at))?;
        Ok(written)
    }

    fn open_locked(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let root = match open_root(path) {
            Ok(root) => root,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(StoreError::NotAStore(path.to_owned())),
            Err(error) => return Err(StoreError::at("open", path)(error)),
        };
        // Looked for before the lock is taken, which would be made in a directory that is no store.
        let at = path.join(CATALOG);
        match below(&root, CATALOG, OFlags::PATH, Mode::empty()) {
            Ok(_) => {}
            Err(Errno::NOENT) => return Err(StoreError::NotAStore(path.to_owned())),
            Err(error) => return Err(StoreError::at("open", &at)(error)),
        }
        let lock = lock(&root, path, OFlags::empty(), patience)?;
        Self::with(path, root, Some(lock))
    }

    /// Opens a store that somebody else has the lock of, to read layers of it that never change.
    ///
    /// # Errors
    /// A sentence.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let root = match open_root(path) {
            Ok(root) => root,
            Err(Errno::ACCESS) => return Err(StoreError::NotReadable(path.to_owned())),
            Err(error) => return Err(StoreError::at("open", path)(error)),
        };
        Self::with(path, root, None)
    }

    /// Nobody else has it open.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// How the files of layers are opened.
    pub(super) fn access(&self) -> OFlags {
        if self.is_locked() { OFlags::RDWR } else { OFlags::RDONLY }
    }

    fn open_catalog(self) -> Result<(Self, StoreCatalog), StoreError> {
        let catalog = StoreCatalog::open(self.catalog_file()?);
        let catalog = catalog.map_err(|source| StoreError::Catalog { path: self.path.clone(), source })?;
        Ok((self, catalog))
    }

    /// Opens the file of the catalogue.
    pub(super) fn catalog_file(&self) -> Result<CatalogFile, StoreError> {
        let at = self.path.join(CATALOG);
        let file = below(&self.root, CATALOG, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty());
        let file = file.map_err(StoreError::at("open", &at))?;
        let is_file = fstat(&file).map(|status| FileType::from_raw_mode(status.st_mode).is_file());
        if !is_file.map_err(StoreError::at("look at", &at))? {
            return Err(StoreError::NotAStore(self.path.clone()));
        }
        Ok(CatalogFile::new(file.into()))
    }

    fn with(path: &Path, root: OwnedFd, lock: Option<File>) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let inside = |name: &str| {
            below(&root, name, flags, Mode::empty()).map_err(StoreError::at("open", &path.join(name)))
        };
        let (layers, lost) = (inside(LAYERS)?, inside(LOST)?);
        Ok(Self {
            path: path.to_owned(),
            root,
            layers,
            lost,
            lock,
            pins: Arc::default(),
            foreign: Arc::default(),
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says where the server that has the store can be asked, or that it cannot be.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_control(&self, socket: Option<&Path>) -> Result<(), StoreError> {
        let path = self.path.join(CONTROL);
        let Some(socket) = socket else {
            return match unlink(&self.root, CONTROL, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(StoreError::at("remove", &path)(error)),
            };
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let file = below(&self.root, CONTROL, flags, FILE_MODE).map_err(StoreError::at("make", &path))?;
        let line = [CONTROL_KIND.as_bytes(), socket.as_os_str().as_bytes(), b"\n"].concat();
        write_all_at(&File::from(file), &line, 0).map_err(StoreError::at("write", &path))
    }

    /// Where the server of a store says that it can be asked. It may be gone.
    #[must_use]
    pub fn control_of(path: &Path) -> Option<PathBuf> {
        let root = open_root(path).ok()?;
        let file = below(&root, CONTROL, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(LONGEST_CONTROL as u64).read_to_end(&mut bytes).ok()?;
        let line = bytes.strip_suffix(b"\n")?.strip_prefix(CONTROL_KIND.as_bytes())?;
        let is_path = line.starts_with(b"/") && !line.contains(&b'\n') && !line.contains(&0);
        is_path.then(|| PathBuf::from(OsStr::from_bytes(line)))
    }

    /// The store at a path, or the one that has an image of this path, if this process may make files there.
    #[must_use]
    pub fn own_store(path: &Path) -> Option<&Path> {
        let is_own = |path: &&Path| {
            path.join(CATALOG).is_file() && rustix::fs::access(*path, Access::WRITE_OK).is_ok()
        };
        [Some(path), path.parent()].into_iter().flatten().find(is_own)
    }

    /// The store's own directory.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// `layers/`: what is done to layers goes below it.
    pub fn layers_descriptor(&self) -> BorrowedFd<'_> {
        self.layers.as_fd()
    }

    pub(super) fn layer_path(&self, layer: LayerId) -> PathBuf {
        self.path.join(LAYERS).join(layer.to_string())
    }

    pub(super) fn lost_path(&self) -> PathBuf {
        self.path.join(LOST)
    }

    /// The names below `layers/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn layer_names(&self) -> Result<Vec<String>, StoreError> {
        names(&self.layers).map_err(StoreError::at("list", &self.path.join(LAYERS)))
    }

    /// The names below `lost/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn lost_names(&self) -> Result<Vec<String>, StoreError> {
        names(&self.lost).map_err(StoreError::at("list", &self.lost_path()))
    }

    /// When something came to `lost/`, or was last changed there: seconds since 1970.
    ///
    /// # Errors
    /// The file system's.
    pub fn lost_since_s(&self, name: &str) -> Result<u64, StoreError> {
        let status = statat(&self.lost, name, AtFlags::SYMLINK_NOFOLLOW);
        // A rename changes the inode's time.
        let seconds = status.map(|status| u64::try_from(status.st_ctime).unwrap_or(0));
        seconds.map_err(StoreError::at("look at", &self.lost_path().join(name)))
    }

    /// Moves what nobody knows out of `layers/`. Nothing is removed: whoever looks for a layer that is
    /// missing may find it there.
    ///
    /// # Errors
    /// The file system's.
    pub fn move_to_lost(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(LAYERS).join(name);
        move_to_lost(&self.layers, name, &self.lost).map_err(StoreError::at("move to lost/", &path))
    }
}

/// Moves something to `lost/`, durably, beside what was lost before under the same name.
pub(super) fn move_to_lost(from: &OwnedFd, name: &str, lost: &OwnedFd) -> rustix::io::Result<()> {
    let mut target = name.to_owned();
    for number in 1.. {
        match rename_new((from, name), (lost, &target)) {
            Err(Errno::EXIST | Errno::NOTEMPTY) if number < 1000 => target = format!("{name}.{number}"),
            // Not every file system can do that.
            Err(Errno::INVAL) => return rename((from, name), (lost, name)),
            Ok(()) => break,
            Err(error) => return Err(error),
        }
    }
    sync_directory(lost).and_then(|()| sync_directory(from))
}

/// What a name below a directory leads to, without following a link.
pub(super) fn below(
    directory: &impl AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = || loop {
        match openat2(directory.as_fd(), name.as_ref(), flags | OFlags::CLOEXEC, mode, resolve) {
            // A name was changed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    };
    match name.as_ref().to_str() {
        Some(name) if flags.intersects(OFlags::CREATE | OFlags::TRUNC) => make(directory, name, opened),
        _ => opened(),
    }
}

/// Removes an empty directory, or a file.
pub(super) fn unlink(directory: &impl AsFd, name: &str, flags: AtFlags) -> rustix::io::Result<()> {
    match remove(directory, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A store may begin here: nothing is here but what an `init` that was interrupted has left.
fn is_free(root: &OwnedFd, path: &Path) -> Result<(), StoreError> {
    let found = names(root).map_err(StoreError::at("list", path))?;
    if found.iter().any(|name| name == CATALOG) {
        return Err(StoreError::IsAStore(path.to_owned()));
    }
    match found.iter().all(|name| [LOCK, NEW_CATALOG, RESERVE, LAYERS, LOST].contains(&&**name)) {
        true => Ok(()),
        false => Err(StoreError::NotEmpty(path.to_owned())),
    }
}

pub(super) fn names(directory: &impl AsFd) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            if found.len() == MOST_ENTRIES {
                return Err(io::Error::other("it has more entries than any store"));
            }
            found.push(name.into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Opens the file of the lock, and takes it.
fn lock(root: &OwnedFd, path: &Path, more: OFlags, patience: Duration) -> Result<File, StoreError> {
    // A mode belongs to a call that may make a file, and to no other.
    let mode = if more.contains(OFlags::CREATE) { FILE_MODE } else { Mode::empty() };
    let file = below(root, LOCK, OFlags::RDWR | OFlags::NONBLOCK | more, mode);
    take_lock(file.map_err(StoreError::at("open", &path.join(LOCK)))?.into(), path, patience)
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = open_root(parent).and_then(|parent| fsync(&parent));
    synced.map_err(StoreError::at("sync the directory of", path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::reserve_file::RESERVE_BYTES;

    const STORE: Uuid = Uuid::from_u128(5);

    fn no_patience(path: &Path) -> Result<(StoreDirectory, StoreCatalog), StoreError> {
        StoreDirectory::open(path, Duration::ZERO)
    }

    #[test]
    fn a_store_begins_where_nothing_is() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let sentence = no_patience(&path).unwrap_err().to_string();
        assert!(sentence.contains("ringnbd store init"), "{sentence}");
        drop(StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap());
        assert_eq!(no_patience(&path).unwrap().1.header().store, STORE);
        assert!(matches!(
            StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4),
            Err(StoreError::IsAStore(_))
        ));
        let foreign = house.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("file"), "x").unwrap();
        assert!(matches!(
            StoreDirectory::init(&foreign, STORE, 1, ChunkCompression::Lz4),
            Err(StoreError::NotEmpty(_))
        ));
        assert!(matches!(no_patience(&foreign), Err(StoreError::NotAStore(_))));
        assert!(!foreign.join("lock").exists(), "nothing is made in what is no store");
        assert!(matches!(no_patience(&foreign.join("file")), Err(StoreError::NotAStore(_))));
    }

    #[test]
    fn an_init_that_was_interrupted_is_done_again() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        fs::create_dir_all(path.join("layers")).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        fs::write(path.join("catalog.redb.new"), "half of a catalogue").unwrap();
        drop(StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap());
        assert!(no_patience(&path).is_ok());
        assert!(!path.join("catalog.redb.new").exists());
    }

    /// L2: a store that is open refuses a second owner.
    #[test]
    fn a_second_owner_gets_a_sentence() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let first = StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap();
        let sentence = no_patience(&path).unwrap_err().to_string();
        let owner = format!("in use by process {}:", std::process::id());
        assert!(sentence.contains(&owner), "{sentence}");
        assert!(matches!(
            StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4),
            Err(StoreError::IsAStore(_))
        ));
        fs::write(path.join("lock"), "\x1b[2J").unwrap();
        let sentence = no_patience(&path).unwrap_err().to_string();
        assert!(sentence.contains("in use by another process:"), "{sentence}");
        drop(first);
        no_patience(&path).unwrap();
    }

    /// As when a server is started again while the kernel still closes the files of the one that was killed.
    #[test]
    fn an_owner_that_goes_soon_is_waited_for() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let first = StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| StoreDirectory::open(&path, Duration::from_secs(60)).map(drop));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn no_name_in_a_store_leads_out_of_it() {
        let house = tempfile::tempdir().unwrap();
        let (path, secret) = (house.path().join("store"), house.path().join("secret"));
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("catalog.redb"), "").unwrap();
        for name in ["catalog.redb", "lock", "layers", "lost"] {
            drop(StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap());
            let at = path.join(name);
            if at.is_dir() {
                fs::remove_dir(&at).unwrap()
            } else {
                fs::remove_file(&at).unwrap()
            }
            symlink(secret.join(name), &at).unwrap();
            let error = no_patience(&path).unwrap_err();
            assert!(matches!(error, StoreError::File { .. }), "{name}: {error}");
            fs::remove_dir_all(&path).unwrap();
        }
        assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
    }

    #[test]
    fn the_reserve_is_given_away_and_taken_back() {
        use std::os::unix::fs::MetadataExt;

        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let (directory, _) = StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap();
        directory.keep_reserve();
        let space = || fs::metadata(path.join("reserve")).unwrap().blocks() * 512;
        assert!(space() >= RESERVE_BYTES);
        directory.release_reserve().unwrap();
        assert!(space() >= RESERVE_BYTES, "the disk is not full");
        directory.empty_reserve().unwrap();
        assert_eq!(space(), 0);
        directory.keep_reserve();
        assert!(space() >= RESERVE_BYTES);
    }

    #[test]
    fn what_is_lost_keeps_its_name_and_takes_no_place() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let (directory, _) = StoreDirectory::init(&path, STORE, 1, ChunkCompression::Lz4).unwrap();
        for _ in 0..3 {
            fs::create_dir(path.join("layers/x")).unwrap();
            fs::write(path.join("layers/x/data"), "x").unwrap();
            directory.move_to_lost("x").unwrap();
        }
        assert_eq!(directory.lost_names().unwrap(), ["x", "x.1", "x.2"]);
        assert!(directory.layer_names().unwrap().is_empty());
    }
}
