//! What a client may ask, and what becomes of it.

use crate::vocabulary::{BlockError, ByteRange, CommandKind, IoFlags};

/// The client's name of a request: opaque, echoed, never a key, since a client may repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub u64);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read; the flag forbids fragments (`NBD_CMD_FLAG_DF`).
    Read {
        /// One content chunk only.
        dont_fragment: bool,
    },
    /// Write the payload.
    Write,
    /// End the session.
    Disconnect,
    /// Make durable what was answered.
    Flush,
    /// Discard.
    Trim,
    /// Prefetch.
    Cache,
    /// Zero.
    WriteZeroes,
    /// Tell the status of extents.
    BlockStatus {
        /// One extent only (`NBD_CMD_FLAG_REQ_ONE`).
        one: bool,
        /// A payload of so many bytes names the contexts wanted (`NBD_CMD_FLAG_PAYLOAD_LEN`).
        filter: Option<u32>,
    },
}

/// A request that keeps every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Echoed.
    pub cookie: Cookie,
    /// What to do.
    pub command: Command,
    /// Where; within the export, except for FLUSH and DISC, where it has no meaning.
    pub range: ByteRange,
    /// The offset field as it came: extended replies echo it.
    pub offset: u64,
    /// How.
    pub flags: IoFlags,
}

impl Request {
    /// Bytes that follow the header.
    #[inline]
    pub fn payload_length(&self) -> u32 {
        match self.command {
            Command::Write => self.range.length() as u32,
            Command::BlockStatus { filter, .. } => filter.unwrap_or(0),
            _ => 0,
        }
    }
}

/// A request that is answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Echoed.
    pub cookie: Cookie,
    /// Echoed in extended replies.
    pub offset: u64,
    /// What it asked for; `None` when no such command exists.
    pub command: Option<CommandKind>,
    /// Why.
    pub error: BlockError,
    /// For people; goes into structured error chunks.
    pub reason: &'static str,
    /// The reply must be of the structured form even in structured mode: it answers READ or BLOCK_STATUS.
    pub chunked: bool,
    /// Bytes of payload to skip before the next header.
    pub discard: u64,
}

/// The client broke the framing; nothing after it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not a request ("the server MUST close the connection").
    #[error("bad request magic {0:#010x}")]
    Magic(u32),
    /// A payload longer than any request may carry.
    #[error("an extended request announces a payload of {0} bytes")]
    Payload(u64),
}

/// Why there is no [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Answer with an error.
    Refusal(Refusal),
    /// Disconnect.
    Violation(Violation),
}
