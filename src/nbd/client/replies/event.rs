//! What the reply parser tells.

use alloc::string::String;

use crate::vocabulary::BlockError;

/// What a reply said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of a READ. They count only if the reply ends without an error: see [`Event::Done`].
    Data {
        /// Of the request.
        cookie: u64,
        /// Of the first byte, from the start of the export.
        offset: u64,
        /// Never empty; a chunk may come as several events.
        data: &'a [u8],
    },
    /// Bytes of a READ that are all zero.
    Hole {
        /// Of the request.
        cookie: u64,
        /// Of the first byte, from the start of the export.
        offset: u64,
        /// Bytes, at least 1.
        length: u64,
    },
    /// The next extent of a BLOCK_STATUS; the first begins at the request's offset, each further one where
    /// that before it ends.
    Extent {
        /// Of the request.
        cookie: u64,
        /// The id of the meta context.
        context: u32,
        /// Bytes, at least 1; the last may reach beyond the request.
        length: u64,
        /// By the definition of the context.
        flags: u64,
    },
    /// An error chunk; more may follow.
    Failure {
        /// Of the request.
        cookie: u64,
        /// What the error value means.
        error: BlockError,
        /// The server's text, as it came.
        message: String,
        /// Where it happened, in bytes from the start of the export.
        offset: Option<u64>,
    },
    /// The reply is complete; the cookie is free.
    Done {
        /// Of the request.
        cookie: u64,
        /// The first error of the reply, if any.
        result: Result<(), BlockError>,
    },
}
