//! Attaching where the kernel's client has no netlink: before Linux 4.12.
//!
//! The kernel serves such a device within a call of this process, and ends it with the process. It has no
//! identifier, so nobody could adopt it, and it takes no connection once it is served: when its last one has
//! ended, requests fail and the device is gone.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

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
    tell_all(options.timeout, sockets, shape, |command| nbd_ioctl(device.as_fd(), command))?;
    Ok(device)
}

/// What `set_up` tells a device, by `tell`.
///
/// The kernel keeps a socket that it was given, and the device belongs to this process from then on. So if
/// anything fails later, it has to forget them: the connections would stay open, and nobody else could attach
/// the device. A device that refuses the first socket is another process's, and is left alone.
fn tell_all(
    timeout: Duration,
    sockets: &[OwnedFd],
    shape: &DeviceShape,
    mut tell: impl FnMut(NbdIoctl<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut is_ours = false;
    let mut tell_in_order = || {
        // Who gives it the first connection has it for itself.
        for socket in sockets {
            tell(NbdIoctl::AddSocket(socket.as_fd()))?;
            is_ours = true;
        }
        tell(NbdIoctl::BlockSize(shape.block_size))?;
        tell(NbdIoctl::Blocks(shape.size / u64::from(shape.block_size)))?;
        tell(NbdIoctl::Flags(shape.server_flags))?;
        if !timeout.is_zero() {
            tell(NbdIoctl::Timeout(timeout.as_secs().max(1)))?;
        }
        Ok(())
    };
    let told = tell_in_order();
    if told.is_err() && is_ours {
        // The first error is the one to tell.
        let _as_good_as_it_gets = tell(NbdIoctl::ClearSockets);
    }
    told
}

/// Has the kernel serve a device, and waits until it does.
fn serve(device: File, sysfs: &Sysfs, index: u32) -> Result<JoinHandle<io::Result<()>>, AttachError> {
    let device = Arc::new(device);
    let served = Arc::clone(&device);
    let serve = move || {
        let ended = nbd_ioctl(served.as_fd(), NbdIoctl::Serve);
        let _nobody_uses_them = nbd_ioctl(served.as_fd(), NbdIoctl::ClearSockets);
        ended
    };
    let serving = thread::Builder::new().name("ringnbd-device".into()).spawn(serve).map_err(|error| {
        let _nobody_serves_them = nbd_ioctl(device.as_fd(), NbdIoctl::ClearSockets);
        failed("there is no thread for the device", error)
    })?;
    drop(device);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: DeviceShape =
        DeviceShape { size: 1 << 20, block_size: 4096, server_flags: 1, longest_payload: None };

    /// Sets a device up with two connections and a kernel that fails at one of its commands, which are
    /// numbered from 0. Gives how it ended, and what the kernel was told.
    fn set_up_failing_at(fails_at: usize) -> (Option<i32>, Vec<&'static str>) {
        let sockets = [File::open("/dev/null"), File::open("/dev/null")].map(|file| file.unwrap().into());
        let mut told = Vec::new();
        let result = tell_all(Duration::from_secs(1), &sockets, &SHAPE, |command| {
            told.push(match command {
                NbdIoctl::AddSocket(_) => "socket",
                NbdIoctl::ClearSockets => "clear",
                _ => "shape",
            });
            match told.len() - 1 == fails_at {
                true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                false => Ok(()),
            }
        });
        (result.err().and_then(|error| error.raw_os_error()), told)
    }

    #[test]
    fn what_fails_behind_the_first_socket_takes_the_sockets_back() {
        let all = ["socket", "socket", "shape", "shape", "shape", "shape"];
        assert_eq!(set_up_failing_at(all.len()), (None, all.to_vec()));
        // Another process's device keeps its sockets.
        assert_eq!(set_up_failing_at(0), (Some(libc::EINVAL), vec!["socket"]));
        for fails_at in 1..all.len() {
            let told = [&all[..=fails_at], &["clear"]].concat();
            assert_eq!(set_up_failing_at(fails_at), (Some(libc::EINVAL), told));
        }
    }
}
