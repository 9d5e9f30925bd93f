//! The bytes of one client until a shard takes it, in plain text or not.

use tokio_uring::net::TcpStream;

use crate::control::SecureChannel;
use crate::control::client_stream::{Failure, RECEIVE_BYTES, send};
use crate::control::handshake_memory::Claim;
use crate::shard::Secured;

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

    /// Needs no buffer while the connection becomes a secure one.
    pub(super) fn release(&mut self) {
        if self.unread.is_empty() {
            (self.buffer, self.unread) = (Vec::new(), 0..0);
        }
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
