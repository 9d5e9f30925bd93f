//! The headers of fixed size as they stand on the wire: big-endian, without gaps.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the server sends first ("Newstyle negotiation").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Greeting {
    /// [`NBD_MAGIC`].
    pub(crate) magic: U64,
    /// [`NBD_OPTS_MAGIC`].
    pub(crate) opts_magic: U64,
    /// Handshake flags.
    pub(crate) flags: U16,
}

/// An option request; `length` bytes of data follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct OptionHeader {
    /// [`NBD_OPTS_MAGIC`].
    pub(crate) magic: U64,
    /// `NBD_OPT_*`.
    pub(crate) option: U32,
    /// Bytes of data.
    pub(crate) length: U32,
}

/// An option reply; `length` bytes of data follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct OptionReplyHeader {
    /// [`NBD_REP_MAGIC`].
    pub(crate) magic: U64,
    /// The option it answers.
    pub(crate) option: U32,
    /// `NBD_REP_*`.
    pub(crate) reply: U32,
    /// Bytes of data.
    pub(crate) length: U32,
}

/// A compact request, 28 bytes ("Request message").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CompactRequest {
    /// [`NBD_REQUEST_MAGIC`].
    pub(crate) magic: U32,
    /// `NBD_CMD_FLAG_*`.
    pub(crate) flags: U16,
    /// `NBD_CMD_*`.
    pub(crate) command: U16,
    /// Opaque.
    pub(crate) cookie: U64,
    /// Bytes.
    pub(crate) offset: U64,
    /// Bytes.
    pub(crate) length: U32,
}

/// An extended request, 32 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedRequest {
    /// [`NBD_EXTENDED_REQUEST_MAGIC`].
    pub(crate) magic: U32,
    /// `NBD_CMD_FLAG_*`.
    pub(crate) flags: U16,
    /// `NBD_CMD_*`.
    pub(crate) command: U16,
    /// Opaque.
    pub(crate) cookie: U64,
    /// Bytes.
    pub(crate) offset: U64,
    /// Bytes: of the effect, or with [`NBD_CMD_FLAG_PAYLOAD_LEN`] of the payload.
    pub(crate) length: U64,
}

/// A simple reply, 16 bytes; the data of a READ follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SimpleReply {
    /// [`NBD_SIMPLE_REPLY_MAGIC`].
    pub(crate) magic: U32,
    /// 0 or an error value.
    pub(crate) error: U32,
    /// Of the request.
    pub(crate) cookie: U64,
}

/// Header of a structured reply chunk, 20 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct StructuredReply {
    /// [`NBD_STRUCTURED_REPLY_MAGIC`].
    pub(crate) magic: U32,
    /// [`NBD_REPLY_FLAG_DONE`].
    pub(crate) flags: U16,
    /// `NBD_REPLY_TYPE_*`.
    pub(crate) kind: U16,
    /// Of the request.
    pub(crate) cookie: U64,
    /// Bytes that follow.
    pub(crate) length: U32,
}

/// Header of an extended reply chunk, 32 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedReply {
    /// [`NBD_EXTENDED_REPLY_MAGIC`].
    pub(crate) magic: U32,
    /// [`NBD_REPLY_FLAG_DONE`].
    pub(crate) flags: U16,
    /// `NBD_REPLY_TYPE_*`.
    pub(crate) kind: U16,
    /// Of the request.
    pub(crate) cookie: U64,
    /// Of the request.
    pub(crate) offset: U64,
    /// Bytes that follow.
    pub(crate) length: U64,
}

const _: () = {
    assert!(size_of::<Greeting>() == 18);
    assert!(size_of::<OptionHeader>() == 16);
    assert!(size_of::<OptionReplyHeader>() == 20);
    assert!(size_of::<CompactRequest>() == 28);
    assert!(size_of::<ExtendedRequest>() == 32);
    assert!(size_of::<SimpleReply>() == 16);
    assert!(size_of::<StructuredReply>() == 20);
    assert!(size_of::<ExtendedReply>() == 32);
};
