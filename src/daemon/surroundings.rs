//! What a server has around it when another process started it for a while: `--exit-with-parent`, and the
//! servers that a command of ours stands around.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, getppid, pidfd_open};

use crate::sys::WatchedDescriptor;

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings {
    /// The server stops when the process ends that started it.
    pub(crate) ends_with_parent: bool,
    /// Once it is up nobody reads its output any more, and no terminal can end it.
    pub(crate) leaves_terminal: bool,
}

impl Surroundings {
    /// Whether a command may stand around the server, which wants to know where to reach it.
    pub(super) fn has_a_command(self) -> bool {
        self.ends_with_parent || self.leaves_terminal
    }
}

/// Why a parent cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    #[error("--exit-with-parent: the process that started this one has ended, or cannot be seen from here")]
    Gone,
    #[error("--exit-with-parent needs a kernel that can watch a process (5.3): {0}")]
    Kernel(io::Error),
}

/// The process that started this one.
///
/// A descriptor of it, and not a signal at its death: the kernel forgets such a signal when the server
/// becomes another user.
#[derive(Debug)]
pub(super) struct Parent(OwnedFd);

impl Parent {
    /// Finds it; before the sandbox.
    pub(super) fn find() -> Result<Self, ParentError> {
        let parent = getppid().ok_or(ParentError::Gone)?;
        let descriptor = match pidfd_open(parent, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Err(ParentError::Gone),
            Err(error) => return Err(ParentError::Kernel(error.into())),
        };
        // If it had ended before, this number could be another's by now, and our parent another one.
        if getppid() == Some(parent) { Ok(Self(descriptor)) } else { Err(ParentError::Gone) }
    }

    /// Watches it; inside the runtime.
    pub(super) fn watch(self) -> io::Result<WatchedParent> {
        WatchedDescriptor::begin(self.0).map(WatchedParent)
    }
}

/// A parent that the runtime watches.
#[derive(Debug)]
pub(super) struct WatchedParent(WatchedDescriptor);

impl WatchedParent {
    /// Waits for its end. A second call waits for ever: the server was told.
    pub(super) async fn ended(parent: &mut Option<Self>) {
        if let Some(watched) = parent {
            let _ready = watched.0.readable().await;
            *parent = None;
        } else {
            std::future::pending().await
        }
    }
}

/// Where output goes that nobody reads; opened before the sandbox.
#[derive(Debug)]
pub(crate) struct Nowhere(File);

impl Nowhere {
    pub(crate) fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/null").map(Self)
    }

    /// Standard output and error lead nowhere from now on.
    pub(crate) fn take_output(&self) -> io::Result<()> {
        rustix::stdio::dup2_stdout(&self.0)?;
        rustix::stdio::dup2_stderr(&self.0)?;
        Ok(())
    }
}
