//! The guest kernel's NBD client, set up over generic netlink: it waits for new connections when all are dead, which `nbd-client` cannot ask for.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `linux/netlink.h`, `linux/genetlink.h`, `linux/nbd-netlink.h`.
const NLMSG_ERROR: u16 = 2;
const REQUEST_AND_ACK: u16 = 1 | 4;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NBD_CMD_CONNECT: u8 = 1;
const NBD_CMD_DISCONNECT: u8 = 2;
const NBD_CMD_RECONFIGURE: u8 = 3;
const NBD_ATTR_INDEX: u16 = 1;
const NBD_ATTR_SIZE_BYTES: u16 = 2;
const NBD_ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const NBD_ATTR_TIMEOUT: u16 = 4;
const NBD_ATTR_SERVER_FLAGS: u16 = 5;
const NBD_ATTR_SOCKETS: u16 = 7;
const NBD_ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const NBD_ATTR_BACKEND_IDENTIFIER: u16 = 10;
const NBD_SOCK_ITEM: u16 = 1;
const NBD_SOCK_FD: u16 = 1;

/// An attached `/dev/nbd0`, as seen from user space.
pub(crate) struct KernelClient {
    netlink: OwnedFd,
    family: u16,
}

/// Connects and chooses the default export: the socket, the size, the transmission flags.
pub(crate) fn connect(address: &str) -> io::Result<(TcpStream, u64, u16)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 18])?;
    // Fixed newstyle without zeroes; NBD_OPT_EXPORT_NAME of the empty name.
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")?;
    let mut export = [0; 10];
    stream.read_exact(&mut export)?;
    let (size, flags) = export.split_at(8);
    Ok((stream, u64::from_be_bytes(size.try_into().unwrap()), u16::from_be_bytes(flags.try_into().unwrap())))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn sockets(sockets: &[&TcpStream]) -> Vec<u8> {
    let item = |socket: &&TcpStream| {
        attribute(NBD_SOCK_ITEM, &attribute(NBD_SOCK_FD, &socket.as_raw_fd().to_ne_bytes()))
    };
    attribute(NBD_ATTR_SOCKETS, &sockets.iter().flat_map(item).collect::<Vec<u8>>())
}

impl KernelClient {
    /// Attaches `/dev/nbd0` with these connections. Requests that have no answer for `timeout` seconds are sent again; without a
    /// connection they wait for one for `dead` seconds.
    pub(crate) fn attach(
        streams: &[&TcpStream],
        size: u64,
        flags: u16,
        timeout: u64,
        dead: u64,
    ) -> io::Result<Self> {
        let client = Self::open()?;
        let numbers = [
            (NBD_ATTR_SIZE_BYTES, size),
            (NBD_ATTR_BLOCK_SIZE_BYTES, 512),
            (NBD_ATTR_TIMEOUT, timeout),
            (NBD_ATTR_SERVER_FLAGS, u64::from(flags)),
            (NBD_ATTR_DEAD_CONN_TIMEOUT, dead),
        ];
        let mut attributes = attribute(NBD_ATTR_INDEX, &0_u32.to_ne_bytes());
        attributes.extend(numbers.iter().flat_map(|(kind, value)| attribute(*kind, &value.to_ne_bytes())));
        attributes.extend(sockets(streams));
        client.ask(NBD_CMD_CONNECT, &attributes)?;
        Ok(client)
    }

    fn open() -> io::Result<Self> {
        let generic = Some(rustix::net::netlink::GENERIC);
        let netlink =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, generic)?;
        let mut client = Self { netlink, family: GENL_ID_CTRL };
        let answer = client.ask(CTRL_CMD_GETFAMILY, &attribute(CTRL_ATTR_FAMILY_NAME, b"nbd\0"))?;
        client.family = family(&answer).ok_or(io::ErrorKind::NotFound)?;
        Ok(client)
    }

    /// Attaches a device that carries `identifier`, or none when that is empty, and leaves it to the kernel.
    pub(crate) fn leave_with_identifier(
        index: u32,
        identifier: &str,
        stream: &TcpStream,
        size: u64,
    ) -> io::Result<()> {
        let mut attributes = attribute(NBD_ATTR_INDEX, &index.to_ne_bytes());
        attributes.extend(attribute(NBD_ATTR_SIZE_BYTES, &size.to_ne_bytes()));
        attributes.extend(sockets(&[stream]));
        if !identifier.is_empty() {
            attributes.extend(attribute(NBD_ATTR_BACKEND_IDENTIFIER, identifier.as_bytes()));
        }
        Self::open()?.ask(NBD_CMD_CONNECT, &attributes).map(drop)
    }

    /// Replaces a dead connection.
    pub(crate) fn replace(&self, stream: &TcpStream) -> io::Result<()> {
        let attributes = [attribute(NBD_ATTR_INDEX, &0_u32.to_ne_bytes()), sockets(&[stream])].concat();
        self.ask(NBD_CMD_RECONFIGURE, &attributes).map(drop)
    }

    pub(crate) fn detach(&self) -> io::Result<()> {
        self.ask(NBD_CMD_DISCONNECT, &attribute(NBD_ATTR_INDEX, &0_u32.to_ne_bytes())).map(drop)
    }

    /// Sends a command; what was answered before the acknowledgement.
    fn ask(&self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let mut message = ((16 + 4 + attributes.len()) as u32).to_ne_bytes().to_vec();
        message.extend(self.family.to_ne_bytes());
        message.extend(REQUEST_AND_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes);
        rustix::net::send(&self.netlink, &message, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            let mut bytes = vec![0; 16 << 10];
            let (length, _) = rustix::net::recv(&self.netlink, &mut bytes[..], RecvFlags::empty())?;
            bytes.truncate(length);
            let kind = u16::from_ne_bytes(bytes[4..6].try_into().unwrap());
            if kind != NLMSG_ERROR {
                answer = bytes[20..].to_vec();
                continue;
            }
            return match i32::from_ne_bytes(bytes[16..20].try_into().unwrap()) {
                0 => Ok(answer),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
        }
    }
}

fn family(mut attributes: &[u8]) -> Option<u16> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(attributes[..2].try_into().unwrap()));
        let kind = u16::from_ne_bytes(attributes[2..4].try_into().unwrap());
        if kind == CTRL_ATTR_FAMILY_ID {
            return Some(u16::from_ne_bytes(attributes[4..6].try_into().unwrap()));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}
