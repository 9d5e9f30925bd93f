//! All that changes the files and directories of a store goes through here: the calls are those of the file
//! system. So a test can note each change, have it fail, or take the power away before it
//! (`store::tests::power`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FallocateFlags, Mode, RenameFlags, copy_file_range, fallocate, fdatasync, fsync, ftruncate,
    linkat, mkdirat, renameat, renameat_with, unlinkat,
};

#[cfg(test)]
pub(super) use super::tests::power::is_told;
#[cfg(test)]
use super::tests::power::{NotedDatabase, told};

/// A change, before it is made and after.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look at it"))]
pub(super) enum FileChange<'a> {
    /// Bytes of a file, from an offset on.
    Write(&'a File, u64, &'a [u8]),
    /// A file is cut, or grows by zeroes.
    Length(BorrowedFd<'a>, u64),
    /// What was done to a file or a directory becomes durable.
    Sync(BorrowedFd<'a>),
    /// A directory gets a name for a new file or directory. A file that is there is made empty.
    Make(BorrowedFd<'a>, &'a str),
    /// A name of one directory becomes a name of another, or of the same.
    Rename((BorrowedFd<'a>, &'a str), (BorrowedFd<'a>, &'a str)),
    /// A file gets a second name.
    Link((BorrowedFd<'a>, &'a str), (BorrowedFd<'a>, &'a str)),
    /// A name goes.
    Remove(BorrowedFd<'a>, &'a str),
}

#[cfg(not(test))]
fn told<T, E>(_change: FileChange<'_>, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    call()
}

/// Whether somebody notes what is changed, and what of it is durable.
#[cfg(not(test))]
pub(super) const fn is_told() -> bool {
    false
}

/// Where the bytes of a database's file are: in the file, unless a test keeps them.
#[derive(Debug, Default)]
pub(super) struct DatabaseBytes {
    #[cfg(test)]
    noted: NotedDatabase,
}

impl DatabaseBytes {
    pub(super) fn length(&self, file: &File) -> io::Result<u64> {
        #[cfg(test)]
        if let Some(length) = self.noted.length(file) {
            return length;
        }
        file.metadata().map(|metadata| metadata.len())
    }

    pub(super) fn read(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(read) = self.noted.read(file, offset, out) {
            return read;
        }
        file.read_exact_at(out, offset)
    }

    pub(super) fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(written) = self.noted.write(file, offset, bytes) {
            return written;
        }
        write_all_at(file, bytes, offset)
    }
}

/// Makes something that gets a name in a directory: a file, for which `call` opens it.
pub(super) fn make<T>(
    at: &impl AsFd,
    name: &str,
    call: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    told(FileChange::Make(at.as_fd(), name), call)
}

pub(super) fn make_directory(at: &impl AsFd, name: &str, mode: Mode) -> rustix::io::Result<()> {
    make(at, name, || mkdirat(at, name, mode))
}

pub(super) fn rename(
    (from, old): (&impl AsFd, &str),
    (to, new): (&impl AsFd, &str),
) -> rustix::io::Result<()> {
    told(FileChange::Rename((from.as_fd(), old), (to.as_fd(), new)), || renameat(from, old, to, new))
}

/// The same, which is refused if the new name is there.
pub(super) fn rename_new(
    (from, old): (&impl AsFd, &str),
    (to, new): (&impl AsFd, &str),
) -> rustix::io::Result<()> {
    told(FileChange::Rename((from.as_fd(), old), (to.as_fd(), new)), || {
        renameat_with(from, old, to, new, RenameFlags::NOREPLACE)
    })
}

pub(super) fn link((from, old): (&impl AsFd, &str), (to, new): (&impl AsFd, &str)) -> rustix::io::Result<()> {
    told(FileChange::Link((from.as_fd(), old), (to.as_fd(), new)), || {
        linkat(from, old, to, new, AtFlags::empty())
    })
}

pub(super) fn remove(at: &impl AsFd, name: &str, flags: AtFlags) -> rustix::io::Result<()> {
    told(FileChange::Remove(at.as_fd(), name), || unlinkat(at, name, flags))
}

/// Makes the names of a directory durable.
pub(super) fn sync_directory(directory: &impl AsFd) -> rustix::io::Result<()> {
    told(FileChange::Sync(directory.as_fd()), || if is_told() { Ok(()) } else { fsync(directory) })
}

pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    told(FileChange::Write(file, offset, bytes), || file.write_all_at(bytes, offset))
}

pub(super) fn set_length(file: &impl AsFd, length: u64) -> io::Result<()> {
    Ok(told(FileChange::Length(file.as_fd(), length), || ftruncate(file, length))?)
}

/// Makes durable what a file has, and all that is known of it.
pub(super) fn sync_all(file: &File) -> io::Result<()> {
    Ok(told(FileChange::Sync(file.as_fd()), || if is_told() { Ok(()) } else { fsync(file) })?)
}

/// Makes durable what a file has.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    Ok(told(FileChange::Sync(file.as_fd()), || if is_told() { Ok(()) } else { fdatasync(file) })?)
}

/// Takes room for a file that has no contents.
pub(super) fn allocate(file: &impl AsFd, length: u64) -> rustix::io::Result<()> {
    // What it takes is told by nothing that is written.
    if is_told() { Ok(()) } else { fallocate(file, FallocateFlags::empty(), 0, length) }
}

/// Copies bytes of one file to another, as many as the kernel does at once, and moves both places on.
pub(super) fn copy_range_in_kernel(
    (from, read): (&File, &mut u64),
    (to, write): (&File, &mut u64),
    length: usize,
) -> rustix::io::Result<usize> {
    // What was copied would not be known.
    if is_told() {
        return Err(rustix::io::Errno::XDEV);
    }
    copy_file_range(from, Some(read), to, Some(write), length)
}
