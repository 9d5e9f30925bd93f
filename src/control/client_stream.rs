//! A client's socket during the handshake, and why there may be no session in the end.

use std::io;

use tokio_uring::net::TcpStream;

use super::handshake_memory::FREE_BYTES;
use crate::nbd::server::handshake::CloseReason;
use crate::stats::TlsFailure;

/// Bytes received at once: mostly a whole handshake. Thousands of waiting clients take so many each.
pub(super) const RECEIVE_BYTES: usize = FREE_BYTES;

/// How a handshake ended without a session.
pub(super) enum Failure {
    Closed(CloseReason),
    /// The client closed the connection, or it broke.
    Gone,
    Io(io::Error),
    TimedOut,
    /// The connection could not be made a secure one, and why.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nobody tries"))]
    Tls(TlsFailure, String),
    /// Shards were full for too long, or are stopping.
    NoShard,
    /// The export was removed.
    Removed,
    /// Another process has the images now: the client finds it at the same address.
    Moved,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => {
                Self::Gone
            }
            _ => Self::Io(error),
        }
    }
}

/// Sends bytes as they are.
pub(super) async fn send(stream: &TcpStream, bytes: Vec<u8>) -> Result<(), Failure> {
    let (sent, _bytes) = stream.write_all(bytes).await;
    sent.map_err(Failure::from)
}

/// Some bytes as they come.
#[cfg(feature = "tls")]
pub(super) async fn read_some(stream: &TcpStream) -> Result<Vec<u8>, Failure> {
    let (received, buffer) = stream.read(Vec::with_capacity(RECEIVE_BYTES)).await;
    match received.map_err(Failure::from)? {
        0 => Err(Failure::Gone),
        _ => Ok(buffer),
    }
}
