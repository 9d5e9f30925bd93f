//! Constants of the protocol in the spec's order and names.
//!
//! Source: `doc/proto.md` of the NBD project, heading "Values", and its `extension-ext-header` branch. All
//! numbers are big-endian.

/// The first eight bytes a server sends, `NBDMAGIC`.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic of the newstyle handshake and magic of every option request, `IHAVEOPT`.
pub const NBD_OPTS_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second magic of the oldstyle handshake.
pub const NBD_CLIENT_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Magic of an option reply.
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a compact request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Magic of an extended request.
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Magic of an extended reply chunk.
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;
/// The port registered for NBD.
pub const NBD_DEFAULT_PORT: u16 = 10809;
/// The longest string ("Protocol limits": export names, queries, error messages), in bytes.
pub const NBD_MAX_STRING: usize = 4096;
/// The most descriptors in one block status chunk.
pub const NBD_MAX_STATUS_DESCRIPTORS: usize = 1 << 20;

// Handshake flags of the server.
/// The server speaks fixed newstyle.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The server can omit the 124 zeroes after EXPORT_NAME.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;

// Handshake flags of the client.
/// The client speaks fixed newstyle.
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client expects no 124 zeroes after EXPORT_NAME.
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

// Transmission flags.
/// Always set.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Writes are refused.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// FLUSH is supported.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// The FUA command flag is supported.
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// Sequential access is preferred.
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// TRIM is supported.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// WRITE_ZEROES is supported.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// The DF command flag is supported.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// Several connections see one consistent device.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// RESIZE (experimental, not implemented).
pub const NBD_FLAG_SEND_RESIZE: u16 = 1 << 9;
/// CACHE is supported.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// The FAST_ZERO command flag is supported.
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// BLOCK_STATUS may carry a payload that filters contexts (extended headers only).
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
/// Not of the protocol: the server agrees to [`NBD_INFO_X_END_ON_GROWTH`]. Only those see it that asked for
/// it.
pub const NBD_FLAG_X_ENDS_ON_GROWTH: u16 = 1 << 15;

// Options.
/// Choose an export and end the haggling, without a reply.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// End the session.
pub const NBD_OPT_ABORT: u32 = 2;
/// List exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Withdrawn.
pub const NBD_OPT_PEEK_EXPORT: u32 = 4;
/// Switch to TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Ask about an export.
pub const NBD_OPT_INFO: u32 = 6;
/// Choose an export.
pub const NBD_OPT_GO: u32 = 7;
/// Negotiate structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// List meta contexts.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Select meta contexts.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Negotiate extended headers.
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

// Option replies.
/// Success, nothing more follows.
pub const NBD_REP_ACK: u32 = 1;
/// One export of a list.
pub const NBD_REP_SERVER: u32 = 2;
/// One piece of information.
pub const NBD_REP_INFO: u32 = 3;
/// One meta context.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Set in every error reply.
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// Unknown option.
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR + 1;
/// Forbidden by policy.
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR + 2;
/// Malformed.
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR + 3;
/// Not supported on this platform.
pub const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR + 4;
/// TLS is required.
pub const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR + 5;
/// No such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR + 6;
/// The server is stopping.
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR + 7;
/// The client must negotiate block sizes.
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR + 8;
/// The option is too large.
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR + 9;
/// Extended headers are in force.
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR + 10;

// Information types.
/// Size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// The canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// A text for people.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Block sizes.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;
/// Not of the protocol: nothing is answered. Who asks for it connects again whenever its connection ends, and
/// wants it to end when the export has become larger, because that is how it hears of the new size. Servers
/// "MUST ignore any information requests" that they do not understand.
pub const NBD_INFO_X_END_ON_GROWTH: u16 = 0xf17b;

// Commands.
/// Read.
pub const NBD_CMD_READ: u16 = 0;
/// Write.
pub const NBD_CMD_WRITE: u16 = 1;
/// Disconnect.
pub const NBD_CMD_DISC: u16 = 2;
/// Flush.
pub const NBD_CMD_FLUSH: u16 = 3;
/// Discard.
pub const NBD_CMD_TRIM: u16 = 4;
/// Prefetch.
pub const NBD_CMD_CACHE: u16 = 5;
/// Zero.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Status of extents.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

// Command flags.
/// Durable before the reply.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Keep the range allocated.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One content chunk only.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// One extent only.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Zero quickly or not at all.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// The length field is that of a payload.
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

// Reply chunks.
/// The last chunk of a reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// No content.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Data at an offset.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Zeroes at an offset.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Extents with 32-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Extents with 64-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Set in every error chunk type.
pub const NBD_REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// An error.
pub const NBD_REPLY_TYPE_ERROR: u16 = NBD_REPLY_TYPE_FLAG_ERROR + 1;
/// An error at an offset.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = NBD_REPLY_TYPE_FLAG_ERROR + 2;

// Status flags of `base:allocation`.
/// Not allocated.
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// Reads as zeroes.
pub const NBD_STATE_ZERO: u32 = 1 << 1;

// Error values.
/// Operation not permitted.
pub const NBD_EPERM: u32 = 1;
/// Input/output error.
pub const NBD_EIO: u32 = 5;
/// Cannot allocate memory.
pub const NBD_ENOMEM: u32 = 12;
/// Invalid argument.
pub const NBD_EINVAL: u32 = 22;
/// No space left on device.
pub const NBD_ENOSPC: u32 = 28;
/// Value too large.
pub const NBD_EOVERFLOW: u32 = 75;
/// Operation not supported.
pub const NBD_ENOTSUP: u32 = 95;
/// The server is shutting down.
pub const NBD_ESHUTDOWN: u32 = 108;
