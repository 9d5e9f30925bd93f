//! Whether a device of the application still works, and how it goes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exec::caught;

/// Shared by all shards: once code of a device has panicked, none of it is called any more.
#[derive(Debug, Default)]
pub(super) struct Health {
    failed: AtomicBool,
}

impl Health {
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// It panicked.
    pub(super) fn fail(&self) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!("a device of the application panicked: all further requests to it fail with EIO");
        }
    }
}

/// What the application gave us. Whatever thread drops it last survives a panic of that.
#[derive(Debug)]
pub(super) struct Caged<T: ?Sized>(Option<Box<T>>);

impl<T: ?Sized> Caged<T> {
    pub(super) fn new(inner: Box<T>) -> Self {
        Self(Some(inner))
    }

    pub(super) fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until this is dropped")
    }
}

impl<T: ?Sized> Drop for Caged<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        let _panicked = caught(|| drop(inner));
    }
}
