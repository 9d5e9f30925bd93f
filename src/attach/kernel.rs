//! The kernel's NBD client, over a netlink socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::error::AttachError;
use super::messages::{self, DeviceStatus, FamilyIds, NewDevice};
use super::netlink::{KernelReply, NotNetlink, next_reply, request};
use super::sysfs::Sysfs;
use crate::sys::join_netlink_group;

/// The status of some thousand devices.
const LONGEST_DATAGRAM: usize = 256 << 10;
/// Datagrams that are not the answer, before it is given up.
const MOST_STRAYS: usize = 64;

/// A way to give commands to the kernel's client.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: OwnedFd,
    ids: FamilyIds,
    sequence: u32,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, AttachError> {
        let socket = netlink_socket()?;
        let unknown = FamilyIds { family: messages::CONTROLLER, news_group: 0 };
        let mut kernel = Self { socket, ids: unknown, sequence: 0 };
        let query = messages::family_query();
        let answer = match kernel.ask(messages::CTRL_CMD_GETFAMILY, &query) {
            Err(AskFailure::Kernel(Errno::NOENT)) => return Err(without_a_family()),
            other => other.map_err(|failure| failure.of("cannot ask for the kernel's NBD client"))?,
        };
        kernel.ids = messages::family_ids(&answer)?.ok_or(AttachError::NoModule)?;
        Ok(kernel)
    }

    /// `EBUSY` where the device is in use.
    pub(super) fn connect(&mut self, device: &NewDevice<'_>, sockets: &[OwnedFd]) -> Result<(), AskFailure> {
        let sockets: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        self.ask(messages::CONNECT, &messages::connect(device, &sockets)).map(drop)
    }

    pub(super) fn offer(&mut self, index: u32, identifier: &str, socket: &OwnedFd) -> Result<(), AskFailure> {
        self.ask(messages::RECONFIGURE, &messages::offer(index, identifier, socket.as_raw_fd())).map(drop)
    }

    pub(super) fn resize(
        &mut self,
        index: u32,
        identifier: &str,
        size: u64,
        block: u32,
    ) -> Result<(), AskFailure> {
        self.ask(messages::RECONFIGURE, &messages::resize(index, identifier, size, block)).map(drop)
    }

    pub(super) fn disconnect(&mut self, index: u32) -> Result<(), AskFailure> {
        self.ask(messages::DISCONNECT, &messages::only_index(index)).map(drop)
    }

    /// Of all devices.
    pub(super) fn statuses(&mut self) -> Result<Vec<DeviceStatus>, AttachError> {
        let answer = self.ask(messages::STATUS, &[]);
        let answer = answer.map_err(|failure| failure.of("cannot ask for the state of devices"))?;
        Ok(messages::statuses(&answer)?)
    }

    /// Sends a command and waits for its end. Gives the attributes of the answer, or none.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> Result<Vec<u8>, AskFailure> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(self.ids.family, self.sequence, command, attributes);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &message, SendFlags::empty()))?;
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        let mut answer = Vec::new();
        for _ in 0..MOST_STRAYS {
            let mut datagram = receive(&self.socket, &mut buffer)?;
            while let Some(reply) = next_reply(&mut datagram)? {
                match reply {
                    KernelReply::Acknowledged { sequence, errno } if sequence == self.sequence => {
                        return if errno == 0 {
                            Ok(answer)
                        } else {
                            Err(Errno::from_raw_os_error(errno).into())
                        };
                    }
                    KernelReply::Message { family, sequence, attributes, .. }
                        if sequence == self.sequence && family == self.ids.family =>
                    {
                        answer = attributes.to_vec();
                    }
                    _ => {}
                }
            }
        }
        Err(NotNetlink.into())
    }
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) enum AskFailure {
    Kernel(Errno),
    Malformed(NotNetlink),
}

impl From<Errno> for AskFailure {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<NotNetlink> for AskFailure {
    fn from(malformed: NotNetlink) -> Self {
        Self::Malformed(malformed)
    }
}

impl AskFailure {
    /// As an error of `what` was tried.
    pub(super) fn of(self, what: &'static str) -> AttachError {
        match self {
            Self::Kernel(Errno::PERM | Errno::ACCESS) => AttachError::NotAllowed,
            Self::Kernel(errno) => AttachError::Kernel { what, error: errno.into() },
            Self::Malformed(malformed) => malformed.into(),
        }
    }
}

/// Connections that the kernel found dead, as it tells them.
#[derive(Debug)]
pub(super) struct News {
    socket: OwnedFd,
    family: u16,
    buffer: Vec<u8>,
}

/// What there is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// That many connections of the device are dead.
    Dead(usize),
    /// There was too much to tell: any number may be.
    TooMuch,
}

impl News {
    /// From now on.
    pub(super) fn subscribe() -> Result<Self, AttachError> {
        // A socket that has sent something has an address. Without one it would hear nothing.
        let Kernel { socket, ids, .. } = Kernel::open()?;
        join_netlink_group(socket.as_fd(), ids.news_group).map_err(|error| AttachError::Kernel {
            what: "cannot listen to the kernel's NBD client",
            error,
        })?;
        Ok(Self { socket, family: ids.family, buffer: vec![0; 16 << 10] })
    }

    /// Waits so long for news of a device, or less.
    pub(super) fn wait(&mut self, index: u32, at_most: Duration) -> Result<Heard, AttachError> {
        let failed = |errno: Errno| AttachError::Kernel {
            what: "cannot hear the kernel's NBD client",
            error: io::Error::from(errno),
        };
        let time = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&time)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Heard::Dead(0)),
            other => other.map_err(failed)?,
        };
        let mut datagram = match receive(&self.socket, &mut self.buffer) {
            Err(AskFailure::Kernel(Errno::NOBUFS)) | Err(AskFailure::Malformed(_)) => {
                return Ok(Heard::TooMuch);
            }
            Err(AskFailure::Kernel(errno)) => return Err(failed(errno)),
            Ok(datagram) => datagram,
        };
        // What is not understood may have been anything.
        Ok(count_dead(&mut datagram, self.family, index).map_or(Heard::TooMuch, Heard::Dead))
    }
}

/// The module makes devices at once, and the family since Linux 4.12.
fn without_a_family() -> AttachError {
    let has_devices = Sysfs::default().devices().is_ok_and(|devices| !devices.is_empty());
    if has_devices { AttachError::NoNetlink } else { AttachError::NoModule }
}

fn count_dead(datagram: &mut &[u8], of_nbd: u16, device: u32) -> Result<usize, NotNetlink> {
    let mut dead = 0;
    while let Some(reply) = next_reply(datagram)? {
        if let KernelReply::Message { family, command: messages::LINK_DEAD, attributes, .. } = reply
            && family == of_nbd
            && messages::index_of(attributes)? == Some(device)
        {
            dead += 1;
        }
    }
    Ok(dead)
}

fn netlink_socket() -> Result<OwnedFd, AttachError> {
    let generic = Some(netlink::GENERIC);
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, generic)
        .map_err(|errno| AttachError::Kernel { what: "cannot open a netlink socket", error: errno.into() })
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Result<&'a [u8], AskFailure> {
    let (_, length) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC))?;
    Ok(buffer.get(..length).ok_or(NotNetlink)?)
}
