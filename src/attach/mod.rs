//! `/dev/nbdN`: exports of any NBD server as disks of this machine's kernel.
//!
//! The kernel has an NBD client of its own. It is given connections that have gone through their handshake,
//! by generic netlink, and keeps them: requests of the disk never pass through this process. What is left to
//! do is to give it new connections for those that end. That is the *supervisor*, one process a device.
//!
//! A supervisor has nothing that a new one could not find out. The device carries an `Identifier`, which
//! the kernel keeps. A supervisor that is started again looks for it, and offers connections until the kernel
//! takes no more of them.
//!
//! A device grows with its export. Our own servers end the connections of a device when its export has become
//! larger, because the supervisor asks for that in each handshake; it connects again, hears the new size, and
//! has the kernel take it. Other servers are heard when a connection has ended for another reason.
//!
//! A kernel before Linux 4.12 has no netlink for its client. There a device is held by a call of a process,
//! and lasts as long: see `by_ioctl`.
#![forbid(unsafe_code)]

mod attaching;
mod attempts;
mod by_ioctl;
mod detaching;
mod error;
mod growth;
mod held;
mod identifier;
mod kernel;
mod link;
mod listing;
mod lock;
mod messages;
mod netlink;
mod supervise;
mod sysfs;

pub(crate) use attaching::{AttachOptions, Attached, attach, grow};
pub(crate) use by_ioctl::{HeldDevice, attach_by_ioctl};
pub(crate) use detaching::{DetachTarget, detach};
pub(crate) use error::AttachError;
pub(crate) use listing::{ListedDevice, list};
pub(crate) use supervise::supervise;
#[cfg(test)]
pub(crate) use sysfs::KernelDevice;
pub(crate) use sysfs::{DoneByKind, DoneRequests};
