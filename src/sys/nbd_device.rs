//! The ioctls of the kernel's NBD client: how devices are attached where it has no netlink.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a device is told. Source: `linux/nbd.h`.
#[derive(Debug, Clone, Copy)]
pub enum NbdIoctl<'a> {
    /// One more connection, in the transmission phase; the kernel keeps the socket.
    AddSocket(BorrowedFd<'a>),
    /// Bytes of a block.
    BlockSize(u32),
    /// The size of the device, in such blocks.
    Blocks(u64),
    /// Transmission flags.
    Flags(u16),
    /// Seconds that a request may take.
    Timeout(u64),
    /// Serve the device: returns when it is detached, or without a connection.
    Serve,
    /// Have the server end the connections, so that `Serve` returns.
    Disconnect,
    /// Forget the connections.
    ClearSockets,
}

/// Gives a device one command.
///
/// # Errors
/// The kernel's: `EBUSY` when another process sets the device up, `EINVAL` when it was attached by netlink.
pub fn nbd_ioctl(device: BorrowedFd<'_>, command: NbdIoctl<'_>) -> io::Result<()> {
    let (number, argument): (libc::Ioctl, u64) = match command {
        NbdIoctl::AddSocket(socket) => (0xab00, socket.as_raw_fd() as u64),
        NbdIoctl::BlockSize(bytes) => (0xab01, bytes.into()),
        NbdIoctl::Serve => (0xab03, 0),
        NbdIoctl::ClearSockets => (0xab04, 0),
        NbdIoctl::Blocks(blocks) => (0xab07, blocks),
        NbdIoctl::Disconnect => (0xab08, 0),
        NbdIoctl::Timeout(seconds) => (0xab09, seconds),
        NbdIoctl::Flags(flags) => (0xab0a, flags.into()),
    };
    // SAFETY: the argument of each of these commands is a number; the kernel reads and writes no memory of
    // ours.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), number, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_no_device_takes_no_command() {
        let file = tempfile::tempfile().unwrap();
        let error = nbd_ioctl(file.as_fd(), NbdIoctl::Blocks(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
