//! What all exports of one file share, whatever their options: two exports may name one file, by two paths or
//! with other parameters.
//!
//! Data that could not be written back is lost for all of them; an unaligned write of one must keep out of
//! the way of a direct write of the other; and to other processes they are one user, with one lock.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

use super::changes::Changes;
use super::durability::{RangeSyncs, Syncs};
use super::unaligned::UnalignedGate;
use crate::exec::lock;
use crate::sys::ImageLock;

/// An inode or a block device that is open.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) changes: Changes,
    /// Of whole files, through the buffered descriptor of any export: each writes back what any of them
    /// wrote.
    pub(super) syncs: Syncs,
    /// Of ranges, through the durable descriptor of any export.
    pub(super) range_syncs: RangeSyncs,
    /// Between writes past the page cache and through it.
    pub(super) gate: UnalignedGate,
    has_direct: AtomicBool,
    /// Only a planted bug wants to know.
    has_written: AtomicBool,
    /// None until an export wants one.
    pub(super) lock: Mutex<Option<ImageLock>>,
}

/// What tells files apart: the device and the number in it, or the number of a block device whatever path
/// names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Inode(u64, u64),
    Device(u64),
}

static OPEN: Mutex<Vec<(Identity, Weak<Inode>)>> = Mutex::new(Vec::new());

impl Inode {
    /// The one that an open file is of; the same as long as any export has it.
    pub(super) fn of(metadata: &Metadata) -> Arc<Self> {
        let identity = match metadata.file_type().is_block_device() {
            true => Identity::Device(metadata.rdev()),
            false => Identity::Inode(metadata.dev(), metadata.ino()),
        };
        let mut open = lock(&OPEN);
        open.retain(|(_, inode)| inode.strong_count() > 0);
        let known = open.iter().find(|(known, _)| *known == identity);
        if let Some(inode) = known.and_then(|(_, inode)| inode.upgrade()) {
            return inode;
        }
        let inode = Arc::new(Self::default());
        open.push((identity, Arc::downgrade(&inode)));
        inode
    }

    /// An export writes it past the page cache. All exports are open before the first request.
    pub(super) fn is_direct(&self) {
        self.has_direct.store(true, SeqCst);
    }

    /// Something of it is about to be changed.
    pub(super) fn note_change(&self) {
        if canary!(CleanFlushSkipped) {
            self.has_written.store(true, SeqCst);
        }
    }

    /// Whether a planted bug takes it for unchanged.
    pub(super) fn passes_for_clean(&self) -> bool {
        canary!(CleanFlushSkipped) && !self.has_written.load(SeqCst)
    }

    /// Whether any export writes it past the page cache: then writes through it pass the gate, and nothing is
    /// sent from a mapping.
    pub(super) fn has_direct(&self) -> bool {
        self.has_direct.load(SeqCst)
    }
}
