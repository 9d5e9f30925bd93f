//! Whether a device of the application still works, and how it goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::exec::{self, caught, lock};
use crate::sys::Doorbell;

/// Shared by all shards: once code of a device has panicked, none of it is called any more.
#[derive(Debug, Default)]
pub(in crate::backend) struct Health {
    failed: AtomicBool,
    /// Of the shards that have opened it.
    doorbells: Mutex<Vec<Weak<Doorbell>>>,
}

impl Health {
    /// A shard has opened the device: what it has handed over there fails as well when the device does.
    pub(in crate::backend) fn ring_when_it_fails(&self, doorbell: &Arc<Doorbell>) {
        let mut doorbells = lock(&self.doorbells);
        // Those of servers that ended are gone.
        doorbells
            .retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), &raw const **doorbell));
        doorbells.push(Arc::downgrade(doorbell));
    }

    #[inline]
    pub(in crate::backend) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// It panicked.
    pub(in crate::backend) fn fail(&self) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!("a device of the application panicked: all further requests to it fail with EIO");
            // They look on their own threads.
            let doorbells = std::mem::take(&mut *lock(&self.doorbells));
            doorbells.iter().filter_map(Weak::upgrade).for_each(|doorbell| exec::ring(&doorbell));
        }
    }
}

/// What the application gave us. Whatever thread drops it last survives a panic of that.
#[derive(Debug)]
pub(in crate::backend) struct Caged<T: ?Sized>(Option<Box<T>>);

impl<T: ?Sized> Caged<T> {
    pub(in crate::backend) fn new(inner: Box<T>) -> Self {
        Self(Some(inner))
    }

    pub(in crate::backend) fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until this is dropped")
    }
}

impl<T: ?Sized> Drop for Caged<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        let _panicked = caught(|| drop(inner));
    }
}
