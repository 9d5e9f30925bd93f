//! Why something with a device was not done: a sentence with the cause and the remedy.

use std::io;
use std::path::PathBuf;

use super::identifier::LONGEST;
use super::netlink::NotNetlink;
use crate::client::ClientError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("this kernel has no NBD client: load it with `modprobe nbd`, as root")]
    NoModule,
    #[error(
        "this kernel's NBD client has no netlink, which it has since Linux 4.12: a device is attached by ioctls, and \
         cannot be adopted or grow"
    )]
    NoNetlink,
    #[error("attaching and detaching need CAP_SYS_ADMIN: run it as root")]
    NotAllowed,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{what}: {error}")]
    Kernel { what: &'static str, error: io::Error },
    #[error(transparent)]
    Netlink(#[from] NotNetlink),
    #[error("cannot read {}: {error}", path.display())]
    State { path: PathBuf, error: io::Error },
    #[error("cannot lock {}: {error}", path.display())]
    Lock { path: PathBuf, error: io::Error },
    #[error("{0} is in use: unmount it and stop what has it open; `ringnbd devices` lists devices")]
    InUse(String),
    #[error("{0} is not attached; `ringnbd devices` lists those that are")]
    NotAttached(String),
    #[error("{0} was not attached by ringnbd; with --force it is detached nevertheless")]
    Foreign(String),
    #[error("{device} is attached to it, and process {supervisor} supervises it; detach it first")]
    Already { device: String, supervisor: u32 },
    #[error("{0} is attached to this export; leave --device out, or name that device")]
    AtAnother(String),
    #[error("the kernel's blocks have 512 to 4096 bytes, and the export's have at least {0}")]
    BlockSize(u32),
    #[error("the export is smaller than one block of {0} bytes")]
    Empty(u32),
    #[error("the export has {now} bytes and the device {device}: it may only grow while it is attached")]
    Shrunk { device: u64, now: u64 },
    #[error("the export is read-only now, and the device is not")]
    ReadOnly,
    #[error("the URI is too long: an identifier of a device has at most {LONGEST} bytes")]
    LongUri,
    #[error("{0} still has requests, or is not gone after ten seconds; see `ringnbd devices`")]
    Lingers(String),
    #[error("{0} is not a device such as /dev/nbd3")]
    NotADevice(String),
}

impl AttachError {
    /// Nothing was tried that the user could not have known before.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Kernel { .. } | Self::Netlink(_) | Self::Lingers(_))
    }
}
