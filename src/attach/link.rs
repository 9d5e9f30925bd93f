//! Connections to the server: made and negotiated here, then given to the kernel.

use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockRef, TcpKeepalive};

use super::error::AttachError;
use super::sysfs::KernelDevice;
use crate::client::uri::NbdUri;
use crate::client::{self, Timeouts};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::{NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_READ_ONLY, NBD_FLAG_X_ENDS_ON_GROWTH};

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(10),
    silence: Duration::from_secs(10),
};
/// The kernel waits for a reply for as long as the connection lives. So TCP has to notice a peer that is gone
/// without a word: an idle connection is probed, and bytes that nobody acknowledges end it.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 4;
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// What the kernel takes as the size of a block: from a sector to a page.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=4096;

/// What connections are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkWishes {
    pub(super) read_only: bool,
    /// The server ends them when the export has become larger.
    pub(super) end_on_growth: bool,
}

/// What a device of an export has to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceShape {
    /// Whole blocks, in bytes.
    pub(super) size: u64,
    pub(super) block_size: u32,
    pub(super) server_flags: u16,
    /// The longest payload that the server takes, where it says so.
    pub(super) longest_payload: Option<u32>,
}

/// A connection in the transmission phase, in the kernel's dialect: simple replies, and not encrypted. One
/// over TLS is the end of a relay in this process.
pub(super) fn connect(uri: &NbdUri, wishes: LinkWishes) -> Result<(OwnedFd, DeviceShape), AttachError> {
    let how = (ReplyMode::Simple, wishes.end_on_growth);
    let (socket, transmission) = client::enter_relayed(uri, how, TIMEOUTS, notice_silent_ends)?;
    let export = transmission.export;
    let sizes = export.block_sizes;
    let forced = if wishes.read_only { NBD_FLAG_READ_ONLY } else { 0 };
    // The last flag is none that the kernel knows.
    let flags = export.transmission_flags & !NBD_FLAG_X_ENDS_ON_GROWTH | forced;
    let minimum = sizes.map_or(1, |sizes| sizes.minimum);
    let shape = DeviceShape::of(export.size, minimum, flags, sizes.map(|sizes| sizes.maximum))?;
    Ok((socket, shape))
}

impl DeviceShape {
    fn of(size: u64, minimum: u32, server_flags: u16, longest: Option<u32>) -> Result<Self, AttachError> {
        let block_size = minimum.max(*BLOCK_SIZES.start());
        if !BLOCK_SIZES.contains(&block_size) {
            return Err(AttachError::BlockSize(minimum));
        }
        // The kernel has no part of a block: the end of an odd export cannot be reached through it.
        let size = size - size % u64::from(block_size);
        if size == 0 {
            return Err(AttachError::Empty(block_size));
        }
        Ok(Self { size, block_size, server_flags, longest_payload: longest })
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.server_flags & NBD_FLAG_READ_ONLY != 0
    }

    /// How many connections a device gets. Only some servers make what one connection wrote visible, and
    /// durable by a FLUSH, to all of them.
    pub(super) fn connections(&self, wanted: Option<usize>) -> usize {
        match (self.server_flags & NBD_FLAG_CAN_MULTI_CONN != 0, wanted) {
            (false, _) => 1,
            (true, Some(wanted)) => wanted,
            (true, None) => std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4)),
        }
    }

    /// Whether connections of this shape can be given to a device that is there.
    pub(super) fn fits(&self, device: &KernelDevice) -> Result<(), AttachError> {
        if self.size < device.size {
            return Err(AttachError::Shrunk { device: device.size, now: self.size });
        }
        if self.block_size > device.block_size {
            return Err(AttachError::BlockSize(self.block_size));
        }
        if self.is_read_only() && !device.is_read_only {
            return Err(AttachError::ReadOnly);
        }
        Ok(())
    }
}

fn notice_silent_ends(socket: &OwnedFd) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    if socket.domain()? == Domain::UNIX {
        return Ok(());
    }
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_the_kernel_takes() {
        let shape = DeviceShape::of(1000, 1, 0, None).unwrap();
        assert_eq!((shape.size, shape.block_size), (512, 512));
        let shape = DeviceShape::of(1 << 20, 4096, 0, None).unwrap();
        assert_eq!((shape.size, shape.block_size), (1 << 20, 4096));
        assert!(matches!(DeviceShape::of(1 << 20, 8192, 0, None), Err(AttachError::BlockSize(8192))));
        assert!(matches!(DeviceShape::of(4095, 4096, 0, None), Err(AttachError::Empty(4096))));
    }

    #[test]
    fn several_connections_only_where_the_server_allows_it() {
        let alone = DeviceShape::of(512, 1, 0, None).unwrap();
        assert_eq!(alone.connections(Some(4)), 1);
        let many = DeviceShape::of(512, 1, NBD_FLAG_CAN_MULTI_CONN, None).unwrap();
        assert_eq!(many.connections(Some(7)), 7);
        assert!((2..=4).contains(&many.connections(None)));
    }

    #[test]
    fn an_export_that_became_another_does_not_fit() {
        let device = KernelDevice {
            index: 0,
            pid: Some(1),
            size: 1 << 20,
            in_flight: (0, 0),
            is_held: false,
            identifier: None,
            queues: 1,
            block_size: 512,
            is_read_only: false,
        };
        let shape = |size, minimum, flags| DeviceShape::of(size, minimum, flags, None).unwrap();
        assert!(shape(1 << 20, 1, 0).fits(&device).is_ok());
        assert!(shape(2 << 20, 1, 0).fits(&device).is_ok());
        assert!(matches!(shape(1 << 19, 1, 0).fits(&device), Err(AttachError::Shrunk { .. })));
        assert!(matches!(shape(1 << 20, 4096, 0).fits(&device), Err(AttachError::BlockSize(4096))));
        assert!(matches!(shape(1 << 20, 1, NBD_FLAG_READ_ONLY).fits(&device), Err(AttachError::ReadOnly)));
    }
}
