//! Whether holes are being punched into a file, on any shard.
//!
//! Linux promises that a read with `RWF_NOWAIT` does not wait, and io_uring tries every read so first. But a
//! page that is not in the page cache is read ahead under a lock that a punch holds while it drops pages and
//! gives blocks back, and there that read sleeps: with it the shard, and all its connections. So while a file
//! is being changed in this way, its reads go straight to worker threads.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Allocations of one file that are under way.
#[derive(Debug, Default)]
pub(super) struct Changes(AtomicUsize);

/// One of them.
#[derive(Debug)]
pub(super) struct Change<'a>(&'a Changes);

impl Changes {
    /// To be called before the kernel is asked for the change.
    pub(super) fn begin(&self) -> Change<'_> {
        self.0.fetch_add(1, SeqCst);
        Change(self)
    }

    /// Whether there are any; a change that another shard begins at this moment may be missed.
    pub(super) fn are_under_way(&self) -> bool {
        self.0.load(SeqCst) > 0
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}
