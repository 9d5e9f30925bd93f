//! Where pending changes of a layer survive the death of a process: a file on the file system in memory.
//!
//! ```text
//! /dev/shm/ringnbd-<user>/<store>-<layer>-<device>-<inode>
//! ```
//!
//! It is no file of the store. Its pages would be written back there, and each first store to one would wait
//! for the file system's journal.
//!
//! The user is the one that the map's file belongs to. Who may write that file can make the image say
//! anything, so nobody gains anything by what is in the log. The directory belongs to that user and lets
//! nobody else in; otherwise it is not used. Device and inode are those of the map's file: copies of a store
//! have logs of their own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat, fallocate, fchown, fstat, fstatfs, mkdirat, open,
    openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use uuid::Uuid;

use super::map::{LayerIdentity, LayerMap, LogLayout, LogMemory, LogOwner, PendingLog};
use crate::sys::SharedWords;

const SHARED_MEMORY: &str = "/dev/shm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// `TMPFS_MAGIC`.
const IN_MEMORY: u64 = 0x0102_1994;
const OTHERS: u32 = 0o077;
const WORD: usize = 8;
const LAYOUT: LogLayout = LogLayout::DEFAULT;

/// Why changes cannot be noted, or what was noted cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogPlaceError {
    #[error("{} is not there, or is no file system in memory: mount a tmpfs there", SHARED_MEMORY)]
    NotInMemory,
    #[error("the system does not tell which boot this is: {0}")]
    NoBoot(io::Error),
    #[error("{} is not what this program makes: remove it", .0.display())]
    NotOurs(PathBuf),
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
    #[error("there is no room in {}", SHARED_MEMORY)]
    NoRoom,
}

/// The place of one layer's log.
#[derive(Debug)]
pub(crate) struct LogPlace {
    directory: OwnedFd,
    path: PathBuf,
    name: String,
    /// To whom it belongs.
    user: u32,
    pub(crate) owner: LogOwner,
}

/// A log as a file.
#[derive(Debug)]
pub(crate) struct SharedLogFile {
    directory: OwnedFd,
    name: String,
    file: File,
    words: SharedWords,
}

/// What was found in the place of a log.
#[derive(Debug)]
pub(crate) struct FoundLog {
    pub(crate) words: Vec<u64>,
    pub(crate) layout: LogLayout,
    pub(crate) owner: LogOwner,
    /// The same words, to go on with.
    pub(crate) memory: Box<dyn LogMemory>,
    /// Its name, for people.
    pub(crate) path: PathBuf,
}

/// This boot, found out once: a server that is confined cannot ask.
fn boot() -> Result<Uuid, LogPlaceError> {
    static BOOT: OnceLock<Uuid> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(*boot);
    }
    let text = std::fs::read_to_string(BOOT_ID).map_err(LogPlaceError::NoBoot)?;
    let boot = Uuid::try_parse(text.trim());
    let boot = boot.map_err(|error| LogPlaceError::NoBoot(io::Error::other(error)))?;
    Ok(*BOOT.get_or_init(|| boot))
}

/// This boot, if the system tells it.
pub(crate) fn this_boot() -> Option<Uuid> {
    boot().ok()
}

fn directory_of(user: u32) -> PathBuf {
    PathBuf::from(SHARED_MEMORY).join(format!("ringnbd-{user}"))
}

fn whose(identity: &LayerIdentity) -> (Uuid, Uuid) {
    (identity.store, identity.layer)
}

impl LogPlace {
    /// The place of the log of a layer with this file of a map. `make`: the directory is made if it is not
    /// there; otherwise there is no place then.
    pub(crate) fn of(
        map: &File,
        (store, layer): (Uuid, Uuid),
        make: bool,
    ) -> Result<Option<Self>, LogPlaceError> {
        let status = map.metadata().map_err(|error| LogPlaceError::Io(PathBuf::from("a map"), error))?;
        let (user, file) = (status.uid(), (status.dev(), status.ino()));
        let path = directory_of(user);
        let Some(directory) = open_directory(&path, user, make)? else { return Ok(None) };
        let name = format!("{store}-{layer}-{:x}-{:x}", file.0, file.1);
        let owner = LogOwner { boot: boot()?, store, layer, file };
        Ok(Some(Self { directory, path, name, user, owner }))
    }

    /// Its name, for people.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    fn at(&self) -> impl Fn(Errno) -> LogPlaceError {
        let path = self.path();
        move |error| LogPlaceError::Io(path.clone(), error.into())
    }

    /// What is there: its words, and the same as memory.
    pub(crate) fn find(self) -> Result<Option<(Vec<u64>, SharedLogFile)>, LogPlaceError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, &*self.name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(LogPlaceError::NotOurs(self.path())),
            Err(error) => return Err(self.at()(error)),
        };
        let status = fstat(&file).map_err(self.at())?;
        let length = usize::try_from(status.st_size).unwrap_or(usize::MAX);
        let is_ours = is_private(&status, FileType::RegularFile, self.user) && status.st_nlink == 1;
        if !is_ours || length > LAYOUT.words * WORD {
            return Err(LogPlaceError::NotOurs(self.path()));
        }
        let mut bytes = vec![0; length / WORD * WORD];
        let read = file.read_exact_at(&mut bytes, 0);
        read.map_err(|error| LogPlaceError::Io(self.path(), error))?;
        let words = bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_ne_bytes(*word));
        Ok(Some((words.collect(), self.mapped(file)?)))
    }

    /// Makes a new one. What is there is removed: whoever opened the layer has taken what it had.
    fn create(self) -> Result<SharedLogFile, LogPlaceError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || openat(&self.directory, &*self.name, flags, Mode::RUSR | Mode::WUSR);
        let made = make().or_else(|error| match error {
            Errno::EXIST => unlinkat(&self.directory, &*self.name, AtFlags::empty()).and_then(|()| make()),
            error => Err(error),
        });
        let file = made.and_then(|file| hand_over(file, self.user)).map_err(self.at())?;
        self.mapped(file.into())
    }

    fn mapped(self, file: File) -> Result<SharedLogFile, LogPlaceError> {
        let words = SharedWords::map(&file, LAYOUT.words);
        let words = words.map_err(|error| LogPlaceError::Io(self.path(), error))?;
        let Self { directory, name, .. } = self;
        Ok(SharedLogFile { directory, name, file, words })
    }
}

/// What root makes for another user belongs to that user.
fn hand_over(file: OwnedFd, user: u32) -> rustix::io::Result<OwnedFd> {
    if fstat(&file)?.st_uid != user && rustix::process::geteuid().is_root() {
        fchown(&file, Some(rustix::fs::Uid::from_raw(user)), None)?;
    }
    Ok(file)
}

fn is_private(status: &Stat, kind: FileType, user: u32) -> bool {
    FileType::from_raw_mode(status.st_mode) == kind && status.st_uid == user && status.st_mode & OTHERS == 0
}

fn open_directory(path: &Path, user: u32, make: bool) -> Result<Option<OwnedFd>, LogPlaceError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    // A server that is confined may not look into it.
    let above = open(SHARED_MEMORY, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let above = above.map_err(|_| LogPlaceError::NotInMemory)?;
    let is_in_memory = fstatfs(&above).is_ok_and(|status| status.f_type as u64 == IN_MEMORY);
    if !is_in_memory {
        return Err(LogPlaceError::NotInMemory);
    }
    let name = path.file_name().expect("it has a name");
    let explain = |error: Errno| LogPlaceError::Io(path.to_owned(), error.into());
    if make {
        match mkdirat(&above, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(explain(error)),
        }
    }
    let directory = match openat(&above, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(LogPlaceError::NotOurs(path.to_owned())),
        Err(error) => return Err(explain(error)),
    };
    let is_mine = |status: &Stat| is_private(status, FileType::Directory, status.st_uid);
    let status = fstat(&directory).map_err(explain)?;
    if status.st_uid != user && !(status.st_uid == 0 && is_mine(&status)) {
        return Err(LogPlaceError::NotOurs(path.to_owned()));
    }
    let directory = hand_over(directory, user).map_err(explain)?;
    match is_private(&fstat(&directory).map_err(explain)?, FileType::Directory, user) {
        true => Ok(Some(directory)),
        false => Err(LogPlaceError::NotOurs(path.to_owned())),
    }
}

impl SharedLogFile {
    fn bytes(words: &Range<usize>) -> (u64, u64) {
        ((words.start * WORD) as u64, (words.len() * WORD) as u64)
    }
}

impl LogMemory for SharedLogFile {
    fn store(&self, word: usize, value: u64) {
        self.words.store(word, value);
    }

    fn reserve(&self, words: Range<usize>) -> bool {
        let (offset, length) = Self::bytes(&words);
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), offset, length) {
                Err(Errno::INTR) => {}
                result => return result.is_ok(),
            }
        }
    }

    fn give_back(&self, words: Range<usize>) {
        let (offset, length) = Self::bytes(&words);
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Otherwise it takes its room until its end.
        let _given = fallocate(&self.file, how, offset, length);
    }

    fn remove(&self) {
        // One that cannot be removed says that it has ended, and is replaced by the next one.
        let _removed = unlinkat(&self.directory, &*self.name, AtFlags::empty());
    }
}

/// From now on changes of a layer are noted where the death of this process leaves them.
///
/// # Errors
/// They are not noted: such a death loses what was answered and not flushed.
pub(crate) fn attach_new_log(map: &mut LayerMap, file: &File) -> Result<(), LogPlaceError> {
    let place = LogPlace::of(file, whose(map.identity()), true)?.ok_or(LogPlaceError::NotInMemory)?;
    let owner = place.owner;
    let memory: Box<dyn LogMemory> = Box::new(place.create()?);
    let log = PendingLog::create(memory, LAYOUT, &owner, map.journal_stamp());
    map.attach_log(log.ok_or(LogPlaceError::NoRoom)?);
    Ok(())
}

/// Looks for the log of a layer with this file of a map.
///
/// # Errors
/// There is one, and it cannot be read; or it cannot be looked for.
pub(crate) fn find_log(file: &File, identity: &LayerIdentity) -> Result<Option<FoundLog>, LogPlaceError> {
    let Some(place) = LogPlace::of(file, whose(identity), false)? else { return Ok(None) };
    let (owner, path) = (place.owner, place.path());
    let Some((words, memory)) = place.find()? else { return Ok(None) };
    Ok(Some(FoundLog { words, layout: LAYOUT, owner, memory: Box::new(memory), path }))
}

/// Removes the log of a layer that is being removed with all that it has.
pub(crate) fn forget_log(file: &File, whose: (Uuid, Uuid)) {
    // What cannot be removed belongs to nothing any more.
    if let Ok(Some(LogPlace { directory, name, .. })) = LogPlace::of(file, whose, false) {
        let _removed = unlinkat(&directory, &*name, AtFlags::empty());
    }
}

/// Makes the directories of logs of a store, for a server that is about to confine itself. It is told later
/// what cannot be.
pub(crate) fn prepare_logs(store: &Path) -> Vec<PathBuf> {
    let owner = std::fs::metadata(store).map(|status| status.uid());
    let mut users: Vec<u32> = owner.into_iter().chain([geteuid().as_raw()]).collect();
    users.dedup();
    if boot().is_err() {
        return Vec::new();
    }
    let is_there = |user: &u32| matches!(open_directory(&directory_of(*user), *user, true), Ok(Some(_)));
    users.into_iter().filter(is_there).map(directory_of).collect()
}

/// The directory of the log that belongs to this file of a map.
pub(crate) fn log_directory(file: &File) -> Option<PathBuf> {
    file.metadata().ok().map(|status| directory_of(status.uid()))
}
