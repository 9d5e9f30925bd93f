//! Attaching where the kernel's client has no netlink: before Linux 4.12.
//!
//! The kernel serves such a device within a call of this process, and ends it with the process. It has no
//! identifier, so nobody could adopt it, and it takes no connection once it is served: when its last one has
//! ended, requests fail and the device is gone.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle, sleep};

use rustix::io::Errno;

use super::attaching::{AttachOptions, BUSY_PAUSE, connections, take_a_device};
use super::error::AttachError;
use super::kernel::AskFailure;
use super::link::{DeviceShape, LinkWishes};
use super::lock::DeviceLock;
use super::sysfs::{self, Sysfs};
use crate::sys::{NbdIoctl, nbd_ioctl};

/// A device that is served on a thread of this process.
#[derive(Debug)]
pub(crate) struct HeldDevice {
    index: u32,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) connections: usize,
    pub(crate) is_read_only: bool,
    serving: JoinHandle<io::Result<()>>,
    /// Tells who holds it.
    _lock: DeviceLock,
}

impl HeldDevice {
    pub(crate) fn device(&self) -> String {
        sysfs::name(self.index)
    }

    /// Returns when the device is gone: detached, or without a connection, which the kernel does not tell
    /// apart.
    pub(crate) fn hold(self) -> Result<(), AttachError> {
        let device = self.device();
        ended(self.serving)?;
        tracing::info!(device, "detached, or its last connection has ended");
        Ok(())
    }
}

/// Attaches an export for as long as this process lives.
pub(crate) fn attach_by_ioctl(options: &AttachOptions) -> Result<HeldDevice, AttachError> {
    let sysfs = Sysfs::default();
    // Without a connection that takes the place of another one a device cannot grow.
    let wishes = LinkWishes { read_only: options.read_only, end_on_growth: false };
    let (sockets, shape) = connections(options, wishes)?;
    let mut device = None;
    let (index, lock) = take_a_device(options.device, &sysfs, |index| {
        let set_up = set_up(index, options, &sockets, &shape).map_err(|error| match error.kind() {
            // The kernel makes no device that is not there, so the next one is tried.
            ErrorKind::NotFound if options.device.is_none() => Errno::BUSY,
            _ => Errno::from_io_error(&error).unwrap_or(Errno::IO),
        });
        device = Some(set_up.map_err(AskFailure::from)?);
        Ok(())
    })?;
    let serving = serve(device.expect("one was set up"), &sysfs, index)?;
    if let Some(longest) = shape.longest_payload
        && let Err(error) = sysfs.limit_payload(index, longest)
    {
        tracing::warn!(%error, "the kernel may send more in one request than the server takes");
    }
    if let Err(error) = lock.note_size(shape.size) {
        tracing::debug!(%error, "the size of the export cannot be noted");
    }
    Ok(HeldDevice {
        index,
        size: shape.size,
        connections: sockets.len(),
        is_read_only: shape.is_read_only(),
        serving,
        _lock: lock,
    })
}

/// Detaches a device that a process holds.
pub(super) fn disconnect(index: u32) -> Result<(), AttachError> {
    let told =
        File::open(sysfs::name(index)).and_then(|device| nbd_ioctl(device.as_fd(), NbdIoctl::Disconnect));
    told.map_err(|error| failed("the kernel did not detach the device", error))
}

/// Gives a device its connections and its shape. `EBUSY` where another process is about to do so.
fn set_up(index: u32, options: &AttachOptions, sockets: &[OwnedFd], shape: &DeviceShape) -> io::Result<File> {
    let device = File::open(sysfs::name(index))?;
    let tell = |command| nbd_ioctl(device.as_fd(), command);
    // Who gives it the first connection has it for itself.
    for socket in sockets {
        tell(NbdIoctl::AddSocket(socket.as_fd()))?;
    }
    tell(NbdIoctl::BlockSize(shape.block_size))?;
    tell(NbdIoctl::Blocks(shape.size / u64::from(shape.block_size)))?;
    tell(NbdIoctl::Flags(shape.server_flags))?;
    if !options.timeout.is_zero() {
        tell(NbdIoctl::Timeout(options.timeout.as_secs().max(1)))?;
    }
    Ok(device)
}

/// Has the kernel serve a device, and waits until it does.
fn serve(device: File, sysfs: &Sysfs, index: u32) -> Result<JoinHandle<io::Result<()>>, AttachError> {
    let serve = move || {
        let ended = nbd_ioctl(device.as_fd(), NbdIoctl::Serve);
        let _nobody_uses_them = nbd_ioctl(device.as_fd(), NbdIoctl::ClearSockets);
        ended
    };
    let serving = thread::Builder::new()
        .name("ringnbd-device".into())
        .spawn(serve)
        .map_err(|error| failed("there is no thread for the device", error))?;
    while sysfs.device(index)?.is_none_or(|device| device.pid.is_none()) {
        if serving.is_finished() {
            ended(serving)?;
            return Err(failed("the connections ended at once", ErrorKind::ConnectionReset.into()));
        }
        sleep(BUSY_PAUSE);
    }
    // The kernel looks for partitions when somebody opens the device.
    let _looked = File::open(sysfs::name(index));
    Ok(serving)
}

fn ended(serving: JoinHandle<io::Result<()>>) -> Result<(), AttachError> {
    let ended = serving.join().expect("it has no code that could panic");
    ended.map_err(|error| failed("the kernel does not serve the device any more", error))
}

fn failed(what: &'static str, error: io::Error) -> AttachError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => AttachError::NotAllowed,
        _ => AttachError::Kernel { what, error },
    }
}
