//! How far a connection is on its way to another process; see [`leaving`](super::leaving).

use std::os::fd::OwnedFd;

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) is_held: bool,
    /// Its receive is to end early.
    pub(crate) cancelling: bool,
    /// It was asked for a descriptor.
    pub(crate) is_asked: bool,
    /// The socket once more, for the other process.
    pub(crate) descriptor: Option<OwnedFd>,
    /// A descriptor of the socket, where the kernel cannot make another one.
    pub(crate) kept: Option<OwnedFd>,
}

/// A connection is where nobody else can go on.
#[derive(Debug)]
pub(crate) struct CannotLeave;
