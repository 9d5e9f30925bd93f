//! What a finished handshake fixes for the life of a connection.

use alloc::string::String;
use alloc::vec::Vec;

use crate::meta_context::MetaContext;
use crate::vocabulary::{BlockSizes, DeviceFacts};
use crate::wire::*;

/// An export as the handshake shows it: a name and what its device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// At most 4,096 bytes of UTF-8 without NUL; `""` is the default export.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// What the device can do.
    pub facts: DeviceFacts,
    /// The meta contexts that a client can select.
    pub contexts: Vec<MetaContext>,
    /// Clients that do not ask for block sizes are refused (`NBD_REP_ERR_BLOCK_SIZE_REQD`) rather than served
    /// at any alignment.
    pub require_block_size: bool,
}

impl ExportInfo {
    /// The transmission flags in a reply mode ("Transmission flags").
    ///
    /// `SEND_DF` goes with structured replies and `BLOCK_STATUS_PAYLOAD` with extended headers.
    /// `CAN_MULTI_CONN` holds because every connection works on the same file: a write that was answered is
    /// seen by all, and FLUSH covers them all.
    pub fn transmission_flags(&self, mode: ReplyMode) -> u16 {
        let mut flags = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_CAN_MULTI_CONN
            | NBD_FLAG_SEND_CACHE;
        if self.facts.read_only {
            flags |= NBD_FLAG_READ_ONLY;
        } else {
            flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
            if self.facts.fast_zero {
                flags |= NBD_FLAG_SEND_FAST_ZERO;
            }
        }
        if self.facts.rotational {
            flags |= NBD_FLAG_ROTATIONAL;
        }
        if mode != ReplyMode::Simple {
            flags |= NBD_FLAG_SEND_DF;
        }
        if mode == ReplyMode::Extended {
            flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}

/// The form of every reply on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// Simple replies to compact requests.
    #[default]
    Simple,
    /// Structured chunks for READ and BLOCK_STATUS, simple replies for the rest.
    Structured,
    /// 32-byte requests and chunks for everything.
    Extended,
}

/// A meta context that the client selected, under the id of this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedContext {
    /// The id in BLOCK_STATUS replies; never 0, unique within the session.
    pub id: u32,
    /// Which.
    pub context: MetaContext,
}

/// Everything that the transmission phase needs to know of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The form of replies.
    pub reply_mode: ReplyMode,
    /// As sent to the client.
    pub transmission_flags: u16,
    /// Bytes.
    pub size: u64,
    /// As advertised.
    pub block_sizes: BlockSizes,
    /// The client asked for block sizes, so it must keep them: what is not aligned is refused ("Block size
    /// constraints").
    pub enforce_alignment: bool,
    /// Selected by SET_META_CONTEXT for the export that was chosen.
    pub contexts: Vec<SelectedContext>,
}

impl Session {
    /// Whether the export refuses writes.
    pub const fn is_read_only(&self) -> bool {
        self.transmission_flags & NBD_FLAG_READ_ONLY != 0
    }

    /// Whether the client wants its session to end when the export has become larger.
    pub const fn ends_on_growth(&self) -> bool {
        self.transmission_flags & NBD_FLAG_X_ENDS_ON_GROWTH != 0
    }
}
