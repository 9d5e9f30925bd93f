//! Received bytes that are not parsed yet, wherever they lie.

use crate::ring::{Lease, Received};
#[cfg(feature = "tls")]
use crate::shard::frontend::nbd::records::Records;

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
    /// With TLS, which has its own cursor.
    #[cfg(feature = "tls")]
    Records(Box<Records>),
}

impl Unparsed {
    pub(crate) fn buffer(received: Received) -> Self {
        Self { memory: Memory::Buffer(received), position: 0 }
    }

    pub(crate) fn leftover(bytes: Vec<u8>) -> Self {
        Self { memory: Memory::Leftover(bytes), position: 0 }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn records(records: Records) -> Self {
        Self { memory: Memory::Records(Box::new(records)), position: 0 }
    }

    /// The records of TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn as_records(&mut self) -> Option<&mut Records> {
        if let Memory::Records(records) = &mut self.memory { Some(records) } else { None }
    }

    /// Records of TLS that are not opened.
    #[cfg(feature = "tls")]
    pub(crate) fn unopened(&self) -> &[u8] {
        if let Memory::Records(records) = &self.memory { records.unopened() } else { &[] }
    }

    /// What is left to parse.
    #[inline(always)]
    pub(crate) fn rest(&self) -> &[u8] {
        let all = match &self.memory {
            Memory::Buffer(received) => received.bytes(),
            Memory::Stash { lease, length } => lease.bytes(0..*length),
            Memory::Leftover(bytes) => bytes,
            #[cfg(feature = "tls")]
            Memory::Records(records) => return records.rest(),
        };
        &all[self.position..]
    }

    /// The first bytes of the rest are parsed.
    #[inline(always)]
    pub(crate) fn parsed(&mut self, bytes: usize) {
        #[cfg(feature = "tls")]
        if let Memory::Records(records) = &mut self.memory {
            return records.parsed(bytes);
        }
        self.position += bytes;
    }

    /// Whether a shared receive buffer is being kept.
    pub(crate) fn keeps_buffer(&self) -> bool {
        match &self.memory {
            Memory::Buffer(_) => true,
            #[cfg(feature = "tls")]
            Memory::Records(records) => records.keeps_buffer(),
            _ => false,
        }
    }

    /// Bytes that [`Unparsed::stash`] moves.
    pub(crate) fn left(&self) -> usize {
        match &self.memory {
            #[cfg(feature = "tls")]
            Memory::Records(records) => records.left(),
            _ => self.rest().len(),
        }
    }

    /// Moves what is left into `lease`; the receive buffer goes back.
    pub(crate) fn stash(&mut self, mut lease: Lease) {
        #[cfg(feature = "tls")]
        if let Memory::Records(records) = &mut self.memory {
            return records.stash(lease);
        }
        let length = self.rest().len();
        lease.bytes_mut(0..length).copy_from_slice(self.rest());
        self.memory = Memory::Stash { lease, length };
        self.position = 0;
    }

    /// Moves what is left to memory of its own, no more than a receive buffer; that goes back.
    pub(crate) fn copy_out(&mut self) {
        #[cfg(feature = "tls")]
        if let Memory::Records(records) = &mut self.memory {
            return records.copy_out();
        }
        *self = Self::leftover(self.rest().to_vec());
    }
}
