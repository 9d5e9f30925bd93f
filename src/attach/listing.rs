//! The devices that are attached.

use super::error::AttachError;
use super::identifier::Identifier;
use super::kernel::Kernel;
use super::lock::DeviceLock;
use super::sysfs::{DoneByKind, KernelDevice, Sysfs};

/// A device, by all who know something of it.
#[derive(Debug)]
pub(crate) struct ListedDevice {
    pub(crate) kernel: KernelDevice,
    /// Of a device that this program attached.
    pub(crate) identifier: Option<Identifier>,
    /// Its supervisor's process.
    pub(crate) supervisor: Option<u32>,
    /// Bytes of the export, as its supervisor heard them last; whole blocks of the device.
    pub(crate) export_size: Option<u64>,
    /// What the kernel's client says of it, if it says anything.
    pub(crate) is_connected: Option<bool>,
    pub(crate) done: DoneByKind,
}

/// All devices that are attached, or from which something is left.
pub(crate) fn list() -> Result<Vec<ListedDevice>, AttachError> {
    let statuses = match Kernel::open().and_then(|mut kernel| kernel.statuses()) {
        Err(AttachError::NotAllowed | AttachError::NoNetlink) => Vec::new(),
        Err(AttachError::NoModule) => return Ok(Vec::new()),
        other => other?,
    };
    let sysfs = Sysfs::default();
    let devices = sysfs.devices()?.into_iter().filter(|device| !device.is_free());
    devices
        .map(|kernel| {
            let holder = DeviceLock::described_holder(kernel.index);
            Ok(ListedDevice {
                done: sysfs.done(kernel.index)?,
                identifier: kernel.identifier.as_deref().and_then(|text| text.parse().ok()),
                supervisor: holder.map(|holder| holder.process),
                export_size: holder.and_then(|holder| holder.export_size),
                is_connected: statuses
                    .iter()
                    .find(|status| status.index == kernel.index)
                    .map(|status| status.is_connected),
                kernel,
            })
        })
        .collect()
}
