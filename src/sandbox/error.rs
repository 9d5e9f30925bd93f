//! What keeps a server from being confined.

use std::io;

use crate::config::RunAs;

/// Why a server could not be confined, or not become a user: the cause, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The user of `--user` does not exist.
    #[error("there is no user {0}: create it (useradd --system {0}), or choose another --user")]
    NoUser(String),
    /// The group does not exist.
    #[error(
        "there is no group {0}: create it (groupadd --system {0}), or choose another one with --user NAME:GROUP"
    )]
    NoGroup(String),
    /// A number without an entry.
    #[error("the user {0} has no entry that tells its group: give one with --user {0}:GROUP")]
    NoGroupOfUser(u32),
    /// The name services.
    #[error("cannot look up the user {0}: {1}; give numbers, as in --user 1000:1000")]
    LookUp(RunAs, io::Error),
    /// Not root.
    #[error("no permission to become the user {0}: start as root, or leave out --user")]
    MayNot(RunAs),
    /// The kernel refuses.
    #[error(
        "cannot become the user {0}: {1}; start outside of a user namespace that forbids it, or leave out --user"
    )]
    Become(RunAs, io::Error),
    /// It could be undone.
    #[error(
        "becoming the user {0} had no lasting effect: start without inherited capabilities and securebits, or leave out --user"
    )]
    NotForGood(RunAs),
    /// With `--sandbox on`, a part that is missing.
    #[error("cannot apply {0} ({1}): run on a kernel that has it, or with --sandbox auto")]
    Missing(&'static str, String),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
