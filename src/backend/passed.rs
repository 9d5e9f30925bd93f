//! Exports that another process can go on with: of what they need beside their URI.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::export::{Export, Store};
use super::file_store::FileStore;
use super::prepared::FilePurpose;
use crate::exec::lock;

/// What another process needs, beside its URI, to serve an export in place of this one.
#[derive(Debug)]
pub(crate) struct PassedExport {
    /// The descriptions of its file: locks, and what the kernel tells of failed writes, belong to them.
    pub(crate) files: Vec<(FilePurpose, OwnedFd)>,
    /// A sync has failed, so that writes may be lost: no FLUSH succeeds.
    pub(crate) has_lost_writes: bool,
}

impl Export {
    /// What another process needs of it; `None` if it cannot be served there: its bytes are in memory, or
    /// other files belong to it.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(crate) fn to_pass(&self) -> io::Result<Option<PassedExport>> {
        Ok(match &self.store {
            Store::File(store) => Some(store.to_pass()?),
            Store::Null => Some(PassedExport { files: Vec::new(), has_lost_writes: false }),
            Store::Memory(_) | Store::Application(_) | Store::Image(_) | Store::Remote(_) => None,
        })
    }

    /// The process that had it before has lost writes.
    pub(crate) fn note_lost_writes(&self) {
        if let Store::File(store) = &self.store {
            store.inode.syncs.set_failed();
        }
    }

    /// Why it cannot be served by another process, for people; `None` if it can.
    pub(crate) fn why_it_stays(&self) -> Option<&'static str> {
        match &self.store {
            Store::File(_) | Store::Null => None,
            Store::Memory(_) => Some("its bytes are in the memory of this process"),
            Store::Application(_) => Some("it is a device of an application"),
            Store::Image(_) => Some("it is an image"),
            Store::Remote(_) => Some("it is an export of another server"),
        }
    }
}

impl FileStore {
    fn to_pass(self: &Arc<Self>) -> io::Result<PassedExport> {
        let mut files = vec![(FilePurpose::Buffered, self.buffered.as_fd().try_clone_to_owned()?)];
        if let Some(durable) = &self.durable {
            files.push((FilePurpose::Durable, durable.as_fd().try_clone_to_owned()?));
        }
        if let Some(direct) = &self.direct {
            files.push((FilePurpose::Direct, direct.file.as_fd().try_clone_to_owned()?));
        }
        if let Some(image) = &*lock(&self.inode.lock) {
            files.push((FilePurpose::Lock, image.description().try_clone_to_owned()?));
        }
        Ok(PassedExport { files, has_lost_writes: self.inode.syncs.has_failed() })
    }
}
