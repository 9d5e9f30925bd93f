//! How a server can break the protocol in its replies.

use crate::names;

/// A reply that no correct server sends. The connection cannot be used further: the client "MUST initiate a
/// hard disconnect".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not the magic of a reply, or of one that was not negotiated.
    #[error("the server broke the protocol: a reply begins with {0:#010x}")]
    Magic(u32),
    /// No request with that cookie is in flight.
    #[error("the server broke the protocol: it answered cookie {0:#x}, which no request in flight has")]
    Cookie(u64),
    /// The offset of an extended header is not that of the request.
    #[error("the server broke the protocol: the reply to offset {asked} says offset {got}")]
    Offset {
        /// In the reply.
        got: u64,
        /// In the request.
        asked: u64,
    },
    /// A simple reply where a chunk must stand.
    #[error("the server broke the protocol: a simple reply to {} after structured replies were agreed", names::command(*.0))]
    Simple(u16),
    /// A chunk that is unknown, was not negotiated, or is none of that command.
    #[error("the server broke the protocol: a chunk of type {kind} in reply to {}", names::command(*.command))]
    Kind {
        /// `NBD_REPLY_TYPE_*`.
        kind: u16,
        /// `NBD_CMD_*`.
        command: u16,
    },
    /// A chunk whose length does not fit its type.
    #[error("the server broke the protocol: a chunk of type {kind} has {length} bytes")]
    Length {
        /// `NBD_REPLY_TYPE_*`.
        kind: u16,
        /// Announced, bytes.
        length: u64,
    },
    /// A chunk whose content does not fit its type.
    #[error("the server broke the protocol: a chunk of type {kind} {what}")]
    Malformed {
        /// `NBD_REPLY_TYPE_*`.
        kind: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// Content outside the request.
    #[error("the server broke the protocol: {length} bytes at {offset} are outside the request")]
    Outside {
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Content that an earlier chunk of the reply already covered, with data or with an error.
    #[error("the server broke the protocol: {length} bytes at {offset} overlap an earlier chunk")]
    Overlap {
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// More than one content chunk in spite of `NBD_CMD_FLAG_DF`.
    #[error("the server broke the protocol: it split a read that must not be fragmented")]
    Fragmented,
    /// More separate pieces of one read, or more errors in one reply, than this client keeps.
    #[error("the server split a reply into more pieces than are sensible")]
    TooManyPieces,
    /// The end of a successful READ whose bytes did not all come.
    #[error("the server broke the protocol: a read ended successfully after {got} of {asked} bytes")]
    Incomplete {
        /// Bytes that came.
        got: u64,
        /// Bytes that were asked for.
        asked: u64,
    },
    /// The end of a successful BLOCK_STATUS without one chunk for each context.
    #[error("the server broke the protocol: block status ended successfully with {got} of {asked} contexts")]
    MissingContext {
        /// Contexts that came.
        got: usize,
        /// Contexts that were selected.
        asked: usize,
    },
}
