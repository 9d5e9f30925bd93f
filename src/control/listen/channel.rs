//! The bytes of one client until a shard takes it, in plain text or not.

use std::io;

use tokio_uring::net::TcpStream;

use crate::control::SecureChannel;
use crate::control::handshake_memory::{Claim, FREE_BYTES};
use crate::nbd::server::handshake::CloseReason;
use crate::shard::Secured;
use crate::stats::TlsFailure;

/// Bytes received at once: mostly a whole handshake. Thousands of waiting clients take so many each.
const RECEIVE_BYTES: usize = FREE_BYTES;

/// How a handshake ended without a session.
pub(in crate::control) enum Failure {
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
pub(in crate::control) async fn send(stream: &TcpStream, bytes: Vec<u8>) -> Result<(), Failure> {
    let (sent, _bytes) = stream.write_all(bytes).await;
    sent.map_err(Failure::from)
}

/// Some bytes as they come.
#[cfg(feature = "tls")]
pub(in crate::control) async fn read_some(stream: &TcpStream) -> Result<Vec<u8>, Failure> {
    let (received, buffer) = stream.read(Vec::with_capacity(RECEIVE_BYTES)).await;
    match received.map_err(Failure::from)? {
        0 => Err(Failure::Gone),
        _ => Ok(buffer),
    }
}

/// See the module.
pub(super) struct Channel<'a> {
    pub(super) stream: &'a TcpStream,
    /// What came, in plain text now, and what of it is not looked at.
    buffer: Vec<u8>,
    unread: std::ops::Range<usize>,
    pub(super) secure: Option<SecureChannel>,
}

impl<'a> Channel<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self { stream, buffer: Vec::with_capacity(RECEIVE_BYTES), unread: 0..0, secure: None }
    }

    /// What is not looked at.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    /// All but the last bytes were looked at.
    pub(super) fn leave(&mut self, bytes: usize) {
        self.unread.start = self.unread.end - bytes;
    }

    /// Waits for more, when all was looked at. `others`: bytes that are kept already.
    pub(super) async fn receive(&mut self, claim: &mut Claim, others: usize) -> Result<(), Failure> {
        if let Some(secure) = &mut self.secure {
            self.buffer = secure.receive(self.stream, claim, others).await?;
            self.unread = 0..self.buffer.len();
            return Ok(());
        }
        claim.hold(others).await;
        let (received, back) = self.stream.read(std::mem::take(&mut self.buffer)).await;
        self.buffer = back;
        self.unread = 0..received.map_err(Failure::from)?;
        if self.unread.is_empty() { Err(Failure::Gone) } else { Ok(()) }
    }

    pub(super) async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
        let bytes = match &mut self.secure {
            None => bytes,
            Some(secure) => secure.seal(&bytes),
        };
        send(self.stream, bytes).await
    }

    /// What is left for a shard: bytes in plain text, and keys with bytes that are not opened.
    pub(super) fn into_rest(self) -> (Vec<u8>, Option<Box<Secured>>) {
        let leftover = self.unread().to_vec();
        (leftover, self.secure.map(|secure| Box::new(secure.into_secured())))
    }
}
