//! A directory as an object store: for first tries, for tests, and for a file system that several hosts share
//! and that has locks and hard links.
//!
//! Whatever is written gets its name when it is complete. Conditional writes are done under a lock of the
//! directory's file `lock`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, Mode, flock, mkdirat};
use rustix::io::Errno;

use super::objects::{
    ObjectError, ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PutIf, Sent, TierObject,
};
use super::records::MOST_BYTES;

/// Names of files that are not complete begin with this, which no key does.
const NEW: &str = ".new-";
const LOCK: &str = ".lock";
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;
/// After which a pause is looked at again.
const SLICE: Duration = Duration::from_millis(100);

/// A directory with objects.
#[derive(Debug)]
pub struct DirectoryObjects {
    root: PathBuf,
    /// Numbers new files of this process.
    made: AtomicU64,
}

fn failure(key: &str) -> impl Fn(io::Error) -> ObjectError {
    move |error| {
        let (key, why) = (key.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::NotFound => ObjectError::Missing(key),
            io::ErrorKind::PermissionDenied => ObjectError::Denied { key, why },
            _ => ObjectError::Other { key, why },
        }
    }
}

/// As `create_dir_all`, by a call that a confined server may make.
fn make_directories(path: &Path) -> io::Result<()> {
    match mkdirat(CWD, path, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => {
            make_directories(path.parent().ok_or(io::ErrorKind::NotFound)?)?;
            make_directories(path)
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What no other state of the file has: each is a file of its own.
fn version_of(file: &File) -> io::Result<ObjectVersion> {
    let found = file.metadata()?;
    let etag = format!("{}-{}-{}.{}", found.ino(), found.len(), found.mtime(), found.mtime_nsec());
    Ok(ObjectVersion { etag: Some(etag), version: None })
}

impl DirectoryObjects {
    /// # Errors
    /// The directory cannot be made.
    pub fn new(root: &Path) -> Result<Self, ObjectError> {
        let made = make_directories(root);
        made.map_err(|error| ObjectError::Other { key: root.display().to_string(), why: error.to_string() })?;
        Ok(Self { root: root.to_owned(), made: AtomicU64::new(0) })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// A file beside the one that a key names.
    fn new_file(&self, key: &str) -> io::Result<(PathBuf, PathBuf, File)> {
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.root).to_owned();
        make_directories(&parent)?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let new = parent.join(format!("{NEW}{}-{number}", std::process::id()));
        let file = File::create(&new)?;
        Ok((path, new, file))
    }

    /// Gives a complete file its name, if `when` holds.
    fn finish(&self, (path, new, file): (&Path, &Path, &File), when: Option<&PutIf>) -> io::Result<bool> {
        file.sync_all()?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.root.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let there = match File::open(path) {
            Ok(file) => Some(version_of(&file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let holds = match when {
            None => true,
            Some(PutIf::Absent) => there.is_none(),
            Some(PutIf::Version(version)) => there.as_ref() == Some(version),
        };
        if holds {
            fs::rename(new, path)?;
            File::open(path.parent().unwrap_or(&self.root))?.sync_all()?;
        }
        Ok(holds)
    }

    fn write(
        &self,
        key: &str,
        when: Option<&PutIf>,
        fill: impl FnOnce(&mut File) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let (path, new, mut file) = self.new_file(key).map_err(failure(key))?;
        let done = fill(&mut file).and_then(|()| {
            let finished = self.finish((&path, &new, &file), when).map_err(failure(key))?;
            finished.then_some(()).ok_or_else(|| ObjectError::Precondition(key.to_owned()))
        });
        if done.is_err() {
            // What stays is nobody's name.
            drop(fs::remove_file(&new));
        }
        done
    }

    fn get_now(&self, key: &str) -> io::Result<TierObject> {
        let file = File::open(self.path(key))?;
        let version = version_of(&file)?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(TierObject { bytes, version })
    }

    fn list_now(&self, folder: &Path, to: &mut Vec<ObjectMeta>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let is_new = entry.file_name().to_string_lossy().starts_with('.');
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                self.list_now(&path, to)?;
            } else if let Some(key) = path.strip_prefix(&self.root).ok().and_then(Path::to_str)
                && !is_new
            {
                to.push(ObjectMeta { key: key.to_owned(), bytes: found.len() });
            }
        }
        Ok(())
    }

    fn upload_now(&self, key: &str, from: &dyn PackBytes, sent: &dyn Sent) -> Result<(), ObjectError> {
        self.write(key, None, |file| {
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            while at < from.length() {
                let count = PIECE.min((from.length() - at) as usize);
                from.read(at, &mut piece[..count]).map_err(failure(key))?;
                file.write_all(&piece[..count]).map_err(failure(key))?;
                at += count as u64;
                let mut pause = sent.sent(count as u64)?;
                // Whoever has set the pause may end it.
                while !pause.is_zero() {
                    std::thread::sleep(pause.min(SLICE));
                    pause = sent.sent(0)?;
                }
            }
            Ok(())
        })
    }
}

/// The directory answers at once.
fn at_once<'a, T: Send + 'a>(result: Result<T, ObjectError>) -> ObjectFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Objects for DirectoryObjects {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        at_once(self.get_now(key).map_err(failure(key)))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        let read = || {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            File::open(self.path(key))?.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        at_once(read().map_err(failure(key)))
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        let found = fs::metadata(self.path(key)).map_err(failure(key));
        at_once(found.map(|found| ObjectMeta { key: key.to_owned(), bytes: found.len() }))
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        at_once(self.write(key, Some(&when), |file| file.write_all(&bytes).map_err(failure(key))))
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        at_once(self.upload_now(key, from, sent))
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        let removed = match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        at_once(removed.map_err(failure(key)))
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let listed = self.list_now(&self.path(folder), &mut found).map_err(failure(folder));
        found.sort_by(|one, other| one.key.cmp(&other.key));
        at_once(listed.map(|()| found))
    }

    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        std::thread::sleep(time);
        at_once(Ok(()))
    }

    fn now_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }
}
