//! Exports that another process can go on with: of what they need beside their URI.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::export::{Export, Store};
use super::file_store::FileStore;
use super::image::ServedStore;
use super::open_error::OpenError;
use super::prepared::FilePurpose;
use crate::config::{ExportUri, ImageUri};
use crate::exec::lock;
use crate::store::catalog::NodeName;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;

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
            // An image goes with its store: it is opened anew.
            Store::Memory(_) | Store::Application(_) | Store::Image(_) | Store::Remote(_) => None,
        })
    }

    /// The process that had it before has lost writes.
    pub(crate) fn note_lost_writes(&self) {
        match &self.store {
            Store::File(store) => store.inode.syncs.set_failed(),
            Store::Image(image) => image.note_lost_writes(),
            Store::Memory(_) | Store::Null | Store::Application(_) | Store::Remote(_) => {}
        }
    }

    /// Why it cannot be served by another process, for people; `None` if it can.
    pub(crate) fn why_it_stays(&self) -> Option<&'static str> {
        match &self.store {
            Store::File(_) | Store::Null => None,
            Store::Memory(_) => Some("its bytes are in the memory of this process"),
            Store::Application(_) => Some("it is a device of an application"),
            // Its store goes to the other process, and it with that.
            Store::Image(image) if image.served().is_some() => None,
            Store::Image(_) => Some("what was written to it is thrown away at the end of this process"),
            Store::Remote(_) => Some("it is an export of another server"),
        }
    }
}

/// An image of a store that another process is to have.
impl Export {
    /// Writes back what was written to it, while its clients go on, so that little is left to be done when
    /// they wait. False if writes were lost, now or before. It blocks.
    pub(crate) fn sync_ahead(&self) -> bool {
        let Store::Image(image) = &self.store else { return true };
        image.sync_ahead()
    }

    /// Makes durable what was answered, when no shard has it open any more; it is of no use then. False if
    /// writes were lost. The thread of the store calls this.
    pub(crate) fn settle_image(&self, store: &OpenStore<MapFiles>) -> bool {
        let Store::Image(image) = &self.store else { return true };
        image.keep_base(store);
        image.commit_parked()
    }

    /// Opens an image of a store once more, as it was asked for, on the thread of the store.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open_again(
        store: &mut OpenStore<MapFiles>,
        served: &Arc<ServedStore>,
        node: &NodeName,
        (uri, read_only): (&ExportUri, bool),
    ) -> Result<Self, OpenError> {
        match uri {
            ExportUri::Fault { options, inner } => {
                let mut export = Self::open_again(store, served, node, (inner, read_only))?;
                export.faults.insert(0, (**options).clone());
                Ok(export)
            }
            ExportUri::Image(image) => {
                let how = ImageUri { read_only: read_only || image.read_only, ..(**image).clone() };
                Self::open_stored(store, served, node, &how)
            }
            _ => Err(OpenError::Image("is none")),
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
