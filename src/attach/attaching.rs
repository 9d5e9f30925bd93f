//! An export becomes a device, or a device that has no supervisor any more gets one.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::error::AttachError;
use super::identifier::Identifier;
use super::kernel::{AskFailure, Kernel, News};
use super::link::{self, DeviceShape, LinkWishes};
use super::lock::DeviceLock;
use super::messages::NewDevice;
use super::sysfs::{self, KernelDevice, Sysfs};
use crate::client::uri::NbdUri;

/// udev opens a device for a moment whenever it changes, and the kernel is done with one some time after it
/// says so.
const BUSY_FOR: Duration = Duration::from_secs(5);
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct AttachOptions {
    pub(crate) uri: NbdUri,
    /// The device with this index; any free one without.
    pub(crate) device: Option<u32>,
    pub(crate) connections: Option<usize>,
    /// For one request; zero means none.
    pub(crate) timeout: Duration,
    /// For how long requests wait when all connections are dead.
    pub(crate) dead_timeout: Duration,
    pub(crate) read_only: bool,
}

impl AttachOptions {
    fn wishes(&self) -> LinkWishes {
        LinkWishes { read_only: self.read_only, end_on_growth: self.ends_on_growth() }
    }

    /// Requests that do not wait for connections would fail while they are replaced.
    fn ends_on_growth(&self) -> bool {
        !self.dead_timeout.is_zero()
    }
}

/// A device, and what its supervisor needs.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) index: u32,
    pub(crate) identifier: Identifier,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) connections: usize,
    pub(crate) is_read_only: bool,
    /// It was there before.
    pub(crate) is_adopted: bool,
    pub(super) kernel: Kernel,
    pub(super) news: News,
    pub(super) lock: DeviceLock,
    pub(super) ends_on_growth: bool,
}

impl Attached {
    pub(crate) fn device(&self) -> String {
        sysfs::name(self.index)
    }

    /// Notes the size of the export, for who lists devices.
    pub(super) fn note_size(&self, bytes: u64) {
        if let Err(error) = self.lock.note_size(bytes) {
            tracing::debug!(device = self.device(), %error, "the size of the export cannot be noted");
        }
    }
}

/// Attaches an export; or takes over a device of it whose supervisor is gone, without asking the server.
pub(crate) fn attach(options: &AttachOptions) -> Result<Attached, AttachError> {
    let kernel = Kernel::open()?;
    // Before there is a device, so that nothing of it is missed.
    let news = News::subscribe()?;
    let sysfs = Sysfs::default();
    match of_export(&sysfs, &options.uri)? {
        Some((device, identifier)) => adopt(options, (kernel, news), &sysfs, device, identifier),
        None => attach_new(options, (kernel, news), &sysfs),
    }
}

/// Has a device grow to the size that the server says now. Gives the device and its size.
pub(crate) fn grow(uri: &NbdUri) -> Result<(String, u64), AttachError> {
    let mut kernel = Kernel::open()?;
    let Some((device, identifier)) = of_export(&Sysfs::default(), uri)? else {
        return Err(AttachError::NotAttached(uri.to_string()));
    };
    let wishes = LinkWishes { read_only: device.is_read_only, end_on_growth: false };
    let (_connection, shape) = link::connect(uri, wishes)?;
    shape.fits(&device)?;
    let name = device.name();
    if shape.size > device.size {
        kernel
            .resize(device.index, &identifier.to_string(), shape.size, device.block_size)
            .map_err(|failure| failure.of("the kernel did not resize the device"))?;
    }
    Ok((name, shape.size))
}

/// The device that an export is attached to.
pub(super) fn of_export(
    sysfs: &Sysfs,
    uri: &NbdUri,
) -> Result<Option<(KernelDevice, Identifier)>, AttachError> {
    let device = sysfs.devices()?.into_iter().find(|device| is_of(device, uri));
    Ok(device.and_then(|device| {
        let identifier = identifier_of(&device)?;
        Some((device, identifier))
    }))
}

fn is_of(device: &KernelDevice, uri: &NbdUri) -> bool {
    identifier_of(device).is_some_and(|identifier| identifier.uri == *uri)
}

/// Of a device that is attached.
fn identifier_of(device: &KernelDevice) -> Option<Identifier> {
    device.pid?;
    device.identifier.as_deref()?.parse().ok()
}

fn adopt(
    options: &AttachOptions,
    (kernel, news): (Kernel, News),
    sysfs: &Sysfs,
    device: KernelDevice,
    identifier: Identifier,
) -> Result<Attached, AttachError> {
    if options.device.is_some_and(|index| index != device.index) {
        return Err(AttachError::AtAnother(device.name()));
    }
    let deadline = Instant::now() + BUSY_FOR;
    let lock = loop {
        // Who looks who the supervisor is has the lock for a moment.
        match (DeviceLock::take(device.index)?, DeviceLock::holder(device.index)) {
            (Some(lock), _) => break lock,
            (None, Some(supervisor)) => {
                return Err(AttachError::Already { device: device.name(), supervisor });
            }
            (None, None) if Instant::now() < deadline => sleep(BUSY_PAUSE),
            (None, None) => return Err(AttachError::InUse(device.name())),
        }
    };
    // Somebody may have had the lock and detached the device in between.
    match sysfs.device(device.index)? {
        Some(now) if now.pid.is_some() && now.identifier == device.identifier => {}
        _ => return Err(AttachError::NotAttached(device.name())),
    }
    Ok(Attached {
        index: device.index,
        identifier,
        size: device.size,
        connections: device.queues,
        is_read_only: device.is_read_only,
        is_adopted: true,
        kernel,
        news,
        lock,
        ends_on_growth: options.ends_on_growth(),
    })
}

fn attach_new(
    options: &AttachOptions,
    (mut kernel, news): (Kernel, News),
    sysfs: &Sysfs,
) -> Result<Attached, AttachError> {
    let identifier = Identifier::new(options.uri.clone());
    if identifier.is_too_long() {
        return Err(AttachError::LongUri);
    }
    let (sockets, shape) = connections(options, options.wishes())?;
    let text = identifier.to_string();
    let wanted = NewDevice {
        index: 0,
        identifier: &text,
        size: shape.size,
        block_size: shape.block_size,
        server_flags: shape.server_flags,
        timeout: options.timeout,
        dead_timeout: options.dead_timeout,
    };
    let (index, lock) = take_a_device(options.device, sysfs, |index| {
        kernel.connect(&NewDevice { index, ..wanted }, &sockets)
    })?;
    // Another process may have begun at the same time: two disks of one export would overwrite each other.
    let is_another = |device: &KernelDevice| device.index != index && is_of(device, &options.uri);
    if let Some(another) = sysfs.devices()?.iter().find(|device| is_another(device)) {
        kernel.disconnect(index).map_err(|failure| failure.of("the kernel did not detach the device"))?;
        return Err(AttachError::AtAnother(another.name()));
    }
    if let Some(longest) = shape.longest_payload
        && let Err(error) = sysfs.limit_payload(index, longest)
    {
        tracing::warn!(%error, "the kernel may send more in one request than the server takes");
    }
    let attached = Attached {
        index,
        identifier,
        size: shape.size,
        connections: sockets.len(),
        is_read_only: shape.is_read_only(),
        is_adopted: false,
        kernel,
        news,
        lock,
        ends_on_growth: options.ends_on_growth(),
    };
    attached.note_size(shape.size);
    Ok(attached)
}

/// All connections of a new device.
pub(super) fn connections(
    options: &AttachOptions,
    wishes: LinkWishes,
) -> Result<(Vec<OwnedFd>, DeviceShape), AttachError> {
    let (first, shape) = link::connect(&options.uri, wishes)?;
    let mut sockets = vec![first];
    while sockets.len() < shape.connections(options.connections) {
        let (socket, another) = link::connect(&options.uri, wishes)?;
        if another.size < shape.size {
            return Err(AttachError::Shrunk { device: shape.size, now: another.size });
        }
        sockets.push(socket);
    }
    Ok((sockets, shape))
}

/// Tries devices until the kernel takes the connections.
pub(super) fn take_a_device(
    wanted: Option<u32>,
    sysfs: &Sysfs,
    mut connect: impl FnMut(u32) -> Result<(), AskFailure>,
) -> Result<(u32, DeviceLock), AttachError> {
    let deadline = Instant::now() + BUSY_FOR;
    loop {
        for index in candidates(wanted, &sysfs.devices()?) {
            let Some(lock) = DeviceLock::take(index)? else { continue };
            // Another process may have attached it before we had the lock.
            if sysfs.device(index)?.is_some_and(|device| !device.is_free()) {
                continue;
            }
            match connect(index) {
                Ok(()) => return Ok((index, lock)),
                Err(AskFailure::Kernel(Errno::BUSY)) => {}
                Err(failure) => return Err(failure.of("the kernel did not take the connections")),
            }
        }
        if Instant::now() >= deadline {
            return Err(AttachError::InUse(wanted.map_or("every device".into(), sysfs::name)));
        }
        sleep(BUSY_PAUSE);
    }
}

/// Which devices may be tried, in order. The kernel makes one that is not there yet.
fn candidates(wanted: Option<u32>, devices: &[KernelDevice]) -> Vec<u32> {
    if let Some(wanted) = wanted {
        let is_taken = devices.iter().any(|device| device.index == wanted && !device.is_free());
        return if is_taken { Vec::new() } else { vec![wanted] };
    }
    let free = devices.iter().filter(|device| device.is_free()).map(|device| device.index);
    let is_there = |index: &u32| devices.iter().any(|device| device.index == *index);
    let new = (0..).find(|index| !is_there(index));
    free.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, size: u64) -> KernelDevice {
        let (in_flight, is_held, identifier) = ((0, 0), false, None);
        let (queues, block_size, is_read_only) = (1, 512, false);
        KernelDevice {
            index,
            pid: None,
            size,
            in_flight,
            is_held,
            identifier,
            queues,
            block_size,
            is_read_only,
        }
    }

    #[test]
    fn free_devices_first_then_a_new_one() {
        assert_eq!(candidates(None, &[]), [0]);
        assert_eq!(candidates(None, &[device(0, 512), device(1, 0), device(3, 0)]), [1, 3, 2]);
        assert_eq!(candidates(Some(3), &[device(3, 0)]), [3]);
        assert_eq!(candidates(Some(3), &[device(3, 512)]), [0_u32; 0]);
        assert_eq!(candidates(Some(9), &[device(3, 512)]), [9]);
    }
}
