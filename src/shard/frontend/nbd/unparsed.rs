//! Received bytes that are not parsed yet, wherever they lie.

use crate::ring::{Lease, Received};

/// Bytes and a cursor.
#[derive(Debug)]
pub(crate) struct Unparsed {
    memory: Memory,
    position: usize,
}

#[derive(Debug)]
enum Memory {
    /// A shared receive buffer.
    Buffer(Received),
    /// Copied out of one, so that a connection that waits for long does not keep it.
    Stash { lease: Lease, length: usize },
    /// From the handshake.
    Leftover(Vec<u8>),
}

impl Unparsed {
    pub(crate) fn buffer(received: Received) -> Self {
        Self { memory: Memory::Buffer(received), position: 0 }
    }

    pub(crate) fn leftover(bytes: Vec<u8>) -> Self {
        Self { memory: Memory::Leftover(bytes), position: 0 }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &[u8] {
        let all = match &self.memory {
            Memory::Buffer(received) => received.bytes(),
            Memory::Stash { lease, length } => lease.bytes(0..*length),
            Memory::Leftover(bytes) => bytes,
        };
        &all[self.position..]
    }

    /// The first bytes of the rest are parsed.
    pub(crate) fn parsed(&mut self, bytes: usize) {
        self.position += bytes;
    }

    /// Whether a shared receive buffer is being kept.
    pub(crate) fn keeps_buffer(&self) -> bool {
        matches!(self.memory, Memory::Buffer(_))
    }

    /// Moves what is left into `lease`; the receive buffer goes back.
    pub(crate) fn stash(&mut self, mut lease: Lease) {
        let length = self.rest().len();
        lease.bytes_mut(0..length).copy_from_slice(self.rest());
        self.memory = Memory::Stash { lease, length };
        self.position = 0;
    }
}
