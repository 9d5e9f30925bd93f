//! A device is given back to the kernel.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::attaching::of_export;
use super::by_ioctl;
use super::error::AttachError;
use super::identifier::Identifier;
use super::kernel::Kernel;
use super::lock::DeviceLock;
use super::sysfs::{KernelDevice, Sysfs, index_of_name};
use crate::client::uri::NbdUri;

/// udev looks at a device that changed for a moment.
const OPEN_FOR: Duration = Duration::from_secs(1);
const GONE_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Which device is meant.
#[derive(Debug, Clone)]
pub(crate) enum DetachTarget {
    Device(u32),
    Export(NbdUri),
}

impl FromStr for DetachTarget {
    type Err = AttachError;

    fn from_str(text: &str) -> Result<Self, AttachError> {
        if let Some(index) = index_of_name(text) {
            return Ok(Self::Device(index));
        }
        text.parse().map(Self::Export).map_err(|_| AttachError::NotADevice(text.into()))
    }
}

/// Detaches a device that nobody uses, and waits until nothing of it is left. Gives its name. With `force` it
/// may be in use, which is an error for whoever uses it, and somebody else's.
pub(crate) fn detach(target: &DetachTarget, force: bool) -> Result<String, AttachError> {
    let sysfs = Sysfs::default();
    let device = find(&sysfs, target)?;
    let name = device.name();
    // Nobody else's device has a supervisor, and every other one of ours an identifier.
    let is_by_ioctl = device.identifier.is_none() && DeviceLock::holder(device.index).is_some();
    if !force {
        let identifier = device.identifier.as_deref().unwrap_or_default();
        if !is_by_ioctl && identifier.parse::<Identifier>().is_err() {
            return Err(AttachError::Foreign(name));
        }
        // The kernel would detach a disk with a mounted file system as well.
        if device.is_held || is_in_use(&name) {
            return Err(AttachError::InUse(name));
        }
    }
    disconnect(device.index, is_by_ioctl)?;
    stop_supervisor(device.index);
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let is_left = sysfs.device(device.index)?.is_some_and(|now| {
            // Who waited for it may have it already.
            now.identifier == device.identifier && !now.is_free()
        });
        if !is_left && DeviceLock::holder(device.index).is_none() {
            return Ok(name);
        }
        if Instant::now() >= deadline {
            return Err(AttachError::Lingers(name));
        }
        sleep(PAUSE);
    }
}

fn disconnect(index: u32, is_by_ioctl: bool) -> Result<(), AttachError> {
    let kernel = if is_by_ioctl { Err(AttachError::NoNetlink) } else { Kernel::open() };
    match kernel {
        Err(AttachError::NoNetlink) => by_ioctl::disconnect(index),
        kernel => {
            kernel?.disconnect(index).map_err(|failure| failure.of("the kernel did not detach the device"))
        }
    }
}

fn find(sysfs: &Sysfs, target: &DetachTarget) -> Result<KernelDevice, AttachError> {
    let (found, name) = match target {
        DetachTarget::Device(index) => {
            (sysfs.device(*index)?.filter(|device| device.pid.is_some()), super::sysfs::name(*index))
        }
        DetachTarget::Export(uri) => (of_export(sysfs, uri)?.map(|(device, _)| device), uri.to_string()),
    };
    found.ok_or(AttachError::NotAttached(name))
}

/// A file system or another device has it for itself. Who merely has it open is not noticed.
fn is_in_use(name: &str) -> bool {
    let deadline = Instant::now() + OPEN_FOR;
    loop {
        let exclusive = OFlags::EXCL.bits() as i32;
        match OpenOptions::new().read(true).custom_flags(exclusive).open(name) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                if Instant::now() >= deadline {
                    return true;
                }
                sleep(PAUSE);
            }
            _ => return false,
        }
    }
}

/// It would find out by itself, but later.
fn stop_supervisor(index: u32) {
    let Some(pid) = DeviceLock::holder(index).and_then(|pid| Pid::from_raw(pid as i32)) else { return };
    let _it_may_be_gone = kill_process(pid, Signal::TERM);
}
