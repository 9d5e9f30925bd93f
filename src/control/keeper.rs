//! What keeps descriptors while no process of a server runs.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// The name of the memory with the state.
pub(super) const STATE: &str = "kept-state";
/// The name of all sockets; the state says which is which.
pub(super) const SOCKETS: &str = "kept-socket";
/// Before the number of a file: one can be open several times, and nothing of it says which it is.
const FILE: &str = "kept-file-";

/// The name of a file, by its place in the state.
pub(super) fn name_of_file(place: u32) -> String {
    format!("{FILE}{place}")
}

/// The place in the state that a name of a file tells.
pub(super) fn place_of_file(name: &str) -> Option<u32> {
    name.strip_prefix(FILE)?.parse().ok()
}

/// Whether a server gives this name to what it keeps.
pub(super) fn is_kept(name: &str) -> bool {
    name == STATE || name == SOCKETS || place_of_file(name).is_some()
}

/// Keeps descriptors beyond the end of a process, and gives them to the next one when it starts.
///
/// Its calls block, but not for long.
pub trait KeepDescriptors: std::fmt::Debug + Send + Sync {
    /// How many it keeps.
    fn room(&self) -> usize;

    /// Memory for the state, which is empty. A process that is confined cannot make it.
    fn memory(&self) -> &File;

    /// Keeps descriptors under a name, beside those that it has under that name.
    ///
    /// # Errors
    /// It does not hear.
    fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()>;

    /// Closes all that it has under a name.
    ///
    /// # Errors
    /// It does not hear.
    fn forget(&self, name: &str) -> io::Result<()>;

    /// Waits until it has done what it was told.
    ///
    /// # Errors
    /// It does not answer.
    fn settle(&self) -> io::Result<()>;
}
