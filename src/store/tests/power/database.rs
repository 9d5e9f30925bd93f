//! Files that databases are in. Worlds read and write them more often than all else, so while changes are
//! noted their bytes are in memory, and the file itself has only its name and its length.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use super::{NOTED, NotedTree, told_of};
use crate::store::file_changes::FileChange;

thread_local! {
    static ARE_IN_FILES: Cell<bool> = const { Cell::new(false) };
}

/// Leaves the bytes of databases in their files, or not, for this thread.
pub(in crate::store) fn leave_databases_in_files(are_in_files: bool) {
    ARE_IN_FILES.set(are_in_files);
}

/// Where the bytes of a database are, for whoever has its file open.
#[derive(Debug, Default)]
pub(in crate::store) struct NotedDatabase(OnceLock<Option<Place>>);

/// A file of a tree.
#[derive(Debug, Clone, Copy)]
struct Place {
    tree: u64,
    node: usize,
}

impl Place {
    fn find(file: &File) -> Option<Self> {
        NOTED.with_borrow_mut(|noted| {
            let noted = noted.as_mut()?;
            let node = noted.number(file.as_fd())?;
            noted.file(node).move_to_memory();
            Some(Self { tree: noted.serial, node })
        })
    }

    fn with<T>(self, call: impl FnOnce(&mut NotedTree, usize) -> io::Result<T>) -> io::Result<T> {
        NOTED.with_borrow_mut(|noted| {
            let noted = noted.as_mut().filter(|noted| noted.serial == self.tree);
            call(noted.ok_or_else(|| io::Error::other("the power was cut meanwhile"))?, self.node)
        })
    }
}

impl NotedDatabase {
    /// None if the bytes are in the file.
    fn place(&self, file: &File) -> Option<Place> {
        if ARE_IN_FILES.get() || NOTED.with_borrow(Option::is_none) {
            return None;
        }
        *self.0.get_or_init(|| Place::find(file))
    }

    /// Its length; none if the file has to be asked.
    pub(in crate::store) fn length(&self, file: &File) -> Option<io::Result<u64>> {
        let place = self.place(file)?;
        Some(place.with(|noted, node| Ok(noted.file(node).in_memory().len() as u64)))
    }

    /// Reads bytes; none if they are in the file.
    pub(in crate::store) fn read(&self, file: &File, offset: u64, out: &mut [u8]) -> Option<io::Result<()>> {
        let place = self.place(file)?;
        Some(place.with(|noted, node| {
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let end = at.checked_add(out.len()).ok_or(io::ErrorKind::InvalidInput)?;
            let bytes = noted.file(node).in_memory().get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        }))
    }

    /// Writes bytes, which is told as any change; none if they belong into the file.
    pub(in crate::store) fn write(&self, file: &File, offset: u64, data: &[u8]) -> Option<io::Result<()>> {
        let place = self.place(file)?;
        let is_there = place.with(|_, _| Ok(()));
        Some(is_there.and_then(|()| {
            told_of(Some(place.node), FileChange::Write(file, offset, data), || Ok::<_, io::Error>(()))
        }))
    }
}
