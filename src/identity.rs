//! Who is at the other end of a connection.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::sys::{UnixCredentials, peer_credentials};

/// What is known of a peer; what its transport does not tell is `None`.
///
/// It is taken once, when the connection is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerIdentity {
    /// Of an internet socket.
    pub address: Option<SocketAddr>,
    /// Of a unix socket: the process that connected, whoever has the socket now.
    pub unix: Option<UnixCredentials>,
    /// Of an encrypted connection: what the client proved.
    pub tls: Option<Arc<TlsIdentity>>,
}

/// Who a client of TLS proved to be.
#[derive(Clone, PartialEq, Eq)]
pub enum TlsIdentity {
    /// It has no certificate.
    Anonymous,
    /// The certificate of the client, in DER. An authority that is believed signed it.
    Certificate(Vec<u8>),
    /// The name of a key that both know.
    SharedKey(Vec<u8>),
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Certificate(der) => write!(f, "Certificate({} bytes)", der.len()),
            Self::SharedKey(name) => write!(f, "SharedKey({})", name.escape_ascii()),
        }
    }
}

impl PeerIdentity {
    /// Asks the kernel about a connected socket.
    pub(crate) fn of(socket: impl AsFd) -> Self {
        let socket = socket.as_fd();
        let address = rustix::net::getpeername(socket).ok().flatten();
        match address.map(SocketAddr::try_from) {
            Some(Ok(address)) => Self::from(address),
            _ => Self { unix: peer_credentials(socket).ok(), ..Self::default() },
        }
    }
}

impl From<SocketAddr> for PeerIdentity {
    fn from(address: SocketAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }
}

/// For people: `127.0.0.1:50000`, or `unix:pid=1,uid=0`.
impl Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.unix) {
            (Some(address), _) => address.fmt(f),
            (None, Some(UnixCredentials { pid, uid, .. })) => {
                write!(f, "unix:pid={},uid={uid}", pid.unwrap_or(0))
            }
            (None, None) => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_tells_who_made_it() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = PeerIdentity::of(&one);
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let pid = Some(std::process::id() as i32);
        assert_eq!(
            peer,
            PeerIdentity { unix: Some(UnixCredentials { pid, uid, gid }), ..Default::default() }
        );
        assert_eq!(peer.to_string(), format!("unix:pid={},uid={uid}", std::process::id()));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, address) = listener.accept().unwrap();
        assert_eq!(PeerIdentity::of(&accepted), PeerIdentity::from(address));
        assert_eq!(PeerIdentity::of(&accepted).to_string(), client.local_addr().unwrap().to_string());
        assert_eq!(PeerIdentity::default().to_string(), "unix");
    }
}
