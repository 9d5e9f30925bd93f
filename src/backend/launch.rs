//! What starts the command of an export.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

/// Starts the command of one export, on any thread.
pub trait LaunchCommand: Send + Sync + Debug {
    /// Starts it anew and gives the socket that is its standard input and output. One that ran before has
    /// ended by then.
    ///
    /// # Errors
    /// A sentence.
    fn launch(&self) -> Result<OwnedFd, String>;
}
