//! How far a connection is on its way to another process; see [`leaving`](super::leaving).

use std::os::fd::OwnedFd;

/// Who goes on with a socket.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketOwner {
    /// The shard.
    #[default]
    Shard,
    /// Another process was offered it. Until it is known who has it, nothing is done to it: what is said or
    /// shut down here would be so for the other process as well.
    Offered,
    /// Another process: here it is closed, without a word.
    Other,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) is_held: bool,
    pub(crate) owner: SocketOwner,
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
