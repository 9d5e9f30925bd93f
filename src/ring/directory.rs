//! Files that come and go: names below a directory that is open, by operations of the ring.
//!
//! A confined server has no other way to a new file. A name is one component, so nothing is reached but what
//! stands in the directory itself: no `..`, no path, and no symbolic link is followed.
//!
//! What is durable when: the *content* of a file after a sync of the file, its *name* after a sync of the
//! directory, a directory's own name after a sync of the directory above.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use io_uring::types;

use super::Ring;
use super::names::{Directory, FileName, NameKind, NameWork, OpenAs, Removed};
use super::operation::{AllocateMode, FileIndex, Operation};
use crate::block::ByteRange;

impl Ring {
    /// Opens a name. Whatever is no regular file, or no directory where one is wanted, is refused.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for what is of another kind.
    pub async fn open_below(
        &self,
        directory: &Directory,
        name: FileName,
        how: OpenAs,
    ) -> io::Result<OwnedFd> {
        let kind = NameKind::Open { directory: directory.clone(), name, how, kernel: types::OpenHow::new() };
        let (result, work) = self.work_on_names(kind).await;
        let opened = work.opened(result);
        let descriptor = opened.ok_or_else(|| error_of(result))?;
        match self.is_simulated() || how.is_kind_of(&descriptor)? {
            true => Ok(descriptor),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// Makes a directory, which nobody but its owner may enter.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn make_directory(&self, directory: &Directory, name: FileName) -> io::Result<()> {
        self.change_names(NameKind::MakeDirectory { directory: directory.clone(), name }).await
    }

    /// Gives something another name, in place of what has that name, if anything does: at once.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn rename(&self, from: (&Directory, FileName), to: (&Directory, FileName)) -> io::Result<()> {
        let (from, to) = ((from.0.clone(), from.1), (to.0.clone(), to.1));
        self.change_names(NameKind::Rename { from, to }).await
    }

    /// Removes a name.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove(&self, directory: &Directory, name: FileName, removed: Removed) -> io::Result<()> {
        self.change_names(NameKind::Remove { directory: directory.clone(), name, removed }).await
    }

    /// The names of a directory are durable when it returns: those in it, not its own.
    ///
    /// # Errors
    /// The kernel's; then it is not known which are.
    pub async fn sync_directory(&self, directory: &Directory) -> io::Result<()> {
        self.change_names(NameKind::SyncDirectory { directory: directory.clone() }).await
    }

    /// Gives a file at least `size` bytes, not 0; what is new reads as zeroes. No byte that was there
    /// changes, so it can be repeated, whatever the size is.
    ///
    /// It allocates the last byte's block by `fallocate`, which moves the end, and leaves a hole before it.
    /// The ring has a `ftruncate` only since Linux 6.9. A write of the last byte would move the end too, but
    /// destroy a byte when somebody was wrong about the size. Nothing here makes a file shorter: a store
    /// punches what it does not need.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` where the file system has no `fallocate`, and `EINVAL` for no bytes, or too
    /// many.
    pub async fn grow(&self, file: FileIndex, size: u64) -> io::Result<()> {
        let last = size.checked_sub(1).and_then(|offset| ByteRange::new(offset, 1));
        let range = last.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        loop {
            let (result, _) = self.run(Operation::Allocate { file, mode: AllocateMode::Grow, range }).await;
            if !is_to_be_repeated(result) {
                return result.map(drop).map_err(io::Error::from_raw_os_error);
            }
        }
    }

    /// Bytes of a file that is open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn size_of(&self, file: BorrowedFd<'_>) -> io::Result<u64> {
        self.inner.engine.borrow().size_of(file)
    }

    async fn change_names(&self, kind: NameKind) -> io::Result<()> {
        let (result, _) = self.work_on_names(kind).await;
        result.map(drop).map_err(io::Error::from_raw_os_error)
    }

    /// Until it was not interrupted.
    async fn work_on_names(&self, kind: NameKind) -> (Result<u32, i32>, Box<NameWork>) {
        let mut work = Box::new(NameWork { kind });
        loop {
            let (result, operation) = self.run(Operation::Name(work)).await;
            let Operation::Name(back) = operation else { unreachable!("it comes back as it went") };
            if !is_to_be_repeated(result) {
                return (result, back);
            }
            work = back;
        }
    }
}

/// Nothing has happened yet.
fn is_to_be_repeated(result: Result<u32, i32>) -> bool {
    matches!(result, Err(libc::EINTR | libc::EAGAIN))
}

fn error_of(result: Result<u32, i32>) -> io::Error {
    io::Error::from_raw_os_error(result.err().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;
    use std::task::{Context, Waker};

    use super::super::names::FileNameError;
    use super::super::op::OpTable;
    use super::super::testing::{finish, ring, turn};
    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    fn place() -> (tempfile::TempDir, Directory) {
        let place = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let directory = Directory::new(fs::File::open(place.path()).unwrap().into());
        (place, directory)
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn a_name_is_one_component() {
        for (text, error) in [
            ("", FileNameError::Empty),
            (".", FileNameError::Dots),
            ("..", FileNameError::Dots),
            ("a/b", FileNameError::Path),
            ("/", FileNameError::Path),
            ("a\0b", FileNameError::Path),
            (&"n".repeat(256), FileNameError::Long(256)),
        ] {
            assert_eq!(FileName::new(text), Err(error), "{text:?}");
        }
        for text in ["a", "...", ".hidden", "with space", &"n".repeat(255)] {
            assert_eq!(FileName::new(text).unwrap().bytes(), text.as_bytes());
        }
    }

    #[test]
    fn files_come_move_and_go() {
        let ((ring, _pool), (place, directory)) = (ring(), place());
        finish(&ring, async {
            let file = ring.open_below(&directory, name("new"), OpenAs::NewFile).await.unwrap();
            let file = fs::File::from(file);
            file.write_all_at(b"bytes", 0).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
            let again = ring.open_below(&directory, name("new"), OpenAs::NewFile).await;
            assert_eq!(errno(again), Some(libc::EEXIST));
            ring.make_directory(&directory, name("inner")).await.unwrap();
            let taken = ring.make_directory(&directory, name("inner")).await;
            assert_eq!(errno(taken), Some(libc::EEXIST));
            let inner = ring.open_below(&directory, name("inner"), OpenAs::Directory).await.unwrap();
            let inner = Directory::new(inner);
            ring.rename((&directory, name("new")), (&inner, name("old"))).await.unwrap();
            ring.sync_directory(&inner).await.unwrap();
            ring.sync_directory(&directory).await.unwrap();
            assert_eq!(fs::read(place.path().join("inner/old")).unwrap(), b"bytes");
            assert!(!place.path().join("new").exists());
            let full = ring.remove(&directory, name("inner"), Removed::Directory).await;
            assert_eq!(errno(full), Some(libc::ENOTEMPTY));
            let reader = ring.open_below(&inner, name("old"), OpenAs::Reader).await.unwrap();
            assert_eq!(ring.size_of(reader.as_fd()).unwrap(), 5);
            ring.remove(&inner, name("old"), Removed::File).await.unwrap();
            let mut bytes = [0; 5];
            fs::File::from(reader).read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"bytes", "who has it open keeps it");
            let gone = ring.open_below(&inner, name("old"), OpenAs::Writer).await;
            assert_eq!(errno(gone), Some(libc::ENOENT));
            ring.remove(&directory, name("inner"), Removed::Directory).await.unwrap();
        });
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let ((ring, _pool), (place, directory)) = (ring(), place());
        fs::write(place.path().join("file"), b"").unwrap();
        std::os::unix::fs::symlink("file", place.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/", place.path().join("out")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, place.path().join("fifo"), fifo, 0o600.into(), 0).unwrap();
        let open = |text: &str, how| finish(&ring, ring.open_below(&directory, name(text), how));
        for how in [OpenAs::Reader, OpenAs::Writer] {
            assert_eq!(errno(open("link", how)), Some(libc::ELOOP));
            assert_eq!(errno(open("fifo", how)), Some(libc::EINVAL));
        }
        assert!(open("out", OpenAs::Directory).is_err());
        assert_eq!(errno(open("file", OpenAs::Directory)), Some(libc::ENOTDIR));
        assert!(open("file", OpenAs::Reader).is_ok());
    }

    #[test]
    fn a_file_grows_and_loses_nothing() {
        let ((ring, _pool), (place, directory)) = (ring(), place());
        let opened = finish(&ring, ring.open_below(&directory, name("data"), OpenAs::NewFile)).unwrap();
        let place_of_it = ring.register_file(opened.as_fd()).unwrap();
        let file = fs::File::from(opened);
        file.write_all_at(&[7; 5000], 0).unwrap();
        let grow = |size| finish(&ring, ring.grow(place_of_it, size));
        grow(1 << 30).unwrap();
        let grown = file.metadata().unwrap();
        assert_eq!(grown.size(), 1 << 30);
        assert!(grown.blocks() * 512 < 1 << 20, "it is sparse: {} blocks", grown.blocks());
        for size in [1, 4999, 5000, 1 << 30] {
            grow(size).unwrap();
        }
        let mut start = [0; 5000];
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!((start, file.metadata().unwrap().size()), ([7; 5000], 1 << 30));
        let mut last = [1; 4096];
        file.read_exact_at(&mut last, (1 << 30) - 4096).unwrap();
        assert_eq!(last, [0; 4096]);
        assert_eq!(errno(grow(0)), Some(libc::EINVAL));
        assert!(grow(u64::MAX).is_err());
        ring.release_file(place_of_it);
        drop(place);
    }

    #[test]
    fn a_direct_writer_is_one() {
        let ((ring, _pool), (place, directory)) = (ring(), place());
        let path = place.path().join("data");
        fs::write(&path, [1; 4096]).unwrap();
        if fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(&path).is_err() {
            return;
        }
        let opened = finish(&ring, ring.open_below(&directory, name("data"), OpenAs::DirectWriter)).unwrap();
        let flags = rustix::fs::fcntl_getfl(&opened).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::DIRECT));
    }

    /// How many descriptors of this process are of a file.
    fn open_descriptors(path: &Path) -> usize {
        let entries = fs::read_dir("/proc/self/fd").unwrap();
        entries
            .filter(|entry| fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    }

    #[test]
    fn a_file_that_nobody_takes_is_closed() {
        let (place, directory) = place();
        let path = place.path().canonicalize().unwrap().join("file");
        fs::write(&path, b"").unwrap();
        let (ring, _pool) = ring();
        let open = || Box::pin(ring.open_below(&directory, name("file"), OpenAs::Reader));
        let mut context = Context::from_waker(Waker::noop());
        // Withdrawn before it ends, and after it has ended.
        for waits in [false, true] {
            let mut future = open();
            assert!(future.as_mut().poll(&mut context).is_pending());
            if waits {
                turn(&ring);
                assert_eq!(ring.operations_in_flight(), 0);
            }
            drop(future);
            while ring.operations_in_flight() > 0 {
                turn(&ring);
            }
            assert_eq!(open_descriptors(&path), 0, "waits: {waits}");
        }
        // The table goes with a result that nobody has taken.
        let mut future = open();
        assert!(future.as_mut().poll(&mut context).is_pending());
        turn(&ring);
        assert_eq!(open_descriptors(&path), 1);
        drop(ring.table(|table| std::mem::replace(table, OpTable::with_capacity(1))));
        assert_eq!(open_descriptors(&path), 0);
        // It would look for its operation in the table.
        std::mem::forget(future);
    }
}
