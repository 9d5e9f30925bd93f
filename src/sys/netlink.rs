//! What a netlink socket needs beyond what every socket has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel send a multicast group's messages to this socket.
///
/// # Errors
/// The kernel's: `EINVAL` when there is no such group, `EPERM` when it is not for this user.
pub fn join_netlink_group(socket: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `group`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
