//! The process at the other end of a unix socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who connected, or who listened when it did (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixCredentials {
    /// The process; `None` for one that this process cannot see, as from outside of a container.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// The credentials of a unix socket's peer.
///
/// rustix has this call too, but its type has no process id of 0, which the kernel gives for a process of
/// another namespace.
///
/// # Errors
/// The kernel's. Another kind of socket may give the largest number as its user, which means that there is
/// none; that is `ENODATA` here.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<UnixCredentials> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the structure, and the length
    // itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let libc::ucred { pid, uid, gid } = credentials;
    if uid == u32::MAX {
        return Err(io::Error::from_raw_os_error(libc::ENODATA));
    }
    Ok(UnixCredentials { pid: (pid > 0).then_some(pid), uid, gid })
}
