//! A reply as it is queued: its chunks, each a header and its payload.

use crate::nbd::server::reply::HeaderBytes;
use crate::ring::Payload;

/// One chunk of a reply.
#[derive(Debug)]
pub(crate) struct ReplyChunk {
    pub(crate) header: HeaderBytes,
    pub(crate) payload: Payload,
}

/// All chunks of a reply.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The usual case.
    One(ReplyChunk),
    /// Sparse reads, errors half-way, several meta contexts.
    Many(Vec<ReplyChunk>),
}

impl Reply {
    /// A header alone.
    pub(crate) fn header(header: HeaderBytes) -> Self {
        Self::One(ReplyChunk { header, payload: Payload::Nothing })
    }

    /// An error with its text.
    pub(crate) fn error((header, text): (HeaderBytes, Vec<u8>)) -> Self {
        Self::One(ReplyChunk::with_text(header, text))
    }
}

impl ReplyChunk {
    pub(crate) fn with_text(header: HeaderBytes, text: Vec<u8>) -> Self {
        let payload = if text.is_empty() { Payload::Nothing } else { Payload::Text(text) };
        Self { header, payload }
    }
}
