//! Descriptors that the control plane's runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the runtime watches until it can be read, such as that of a process until it ends.
#[derive(Debug)]
pub struct WatchedDescriptor(AsyncFd<OwnedFd>);

impl WatchedDescriptor {
    /// Begins to watch it; inside the runtime.
    ///
    /// # Errors
    /// From the runtime.
    pub fn begin(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` stays the same descriptor, and open, until it is dropped, which `AsyncFd` does
        // itself after it has ended the watch; nothing else gets at it.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Waits until it can be read.
    ///
    /// # Errors
    /// From the runtime.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}
