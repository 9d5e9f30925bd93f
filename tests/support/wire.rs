//! The numbers of the NBD protocol, typed in from `doc/proto.md` ("Values"), not taken from the server's sources.

// "Newstyle negotiation"
pub(crate) const NBD_INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const NBD_OPTS_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;

// "Handshake flags", "Client flags"
pub(crate) const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
pub(crate) const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;
pub(crate) const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
pub(crate) const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;
/// What a modern client says.
pub(crate) const MODERN: u32 = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;

// "Transmission flags"
pub(crate) const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
pub(crate) const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
pub(crate) const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
pub(crate) const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
pub(crate) const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
pub(crate) const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
pub(crate) const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(crate) const NBD_FLAG_SEND_DF: u16 = 1 << 7;
pub(crate) const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
pub(crate) const NBD_FLAG_SEND_RESIZE: u16 = 1 << 9;
pub(crate) const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
pub(crate) const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
pub(crate) const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

// "Option types"
pub(crate) const NBD_OPT_EXPORT_NAME: u32 = 1;
pub(crate) const NBD_OPT_ABORT: u32 = 2;
pub(crate) const NBD_OPT_LIST: u32 = 3;
pub(crate) const NBD_OPT_PEEK_EXPORT: u32 = 4;
pub(crate) const NBD_OPT_STARTTLS: u32 = 5;
pub(crate) const NBD_OPT_INFO: u32 = 6;
pub(crate) const NBD_OPT_GO: u32 = 7;
pub(crate) const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const NBD_OPT_SET_META_CONTEXT: u32 = 10;
pub(crate) const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

// "Option reply types"
pub(crate) const NBD_REP_ACK: u32 = 1;
pub(crate) const NBD_REP_SERVER: u32 = 2;
pub(crate) const NBD_REP_INFO: u32 = 3;
pub(crate) const NBD_REP_META_CONTEXT: u32 = 4;
pub(crate) const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
pub(crate) const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR + 1;
pub(crate) const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR + 2;
pub(crate) const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR + 3;
pub(crate) const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR + 4;
pub(crate) const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR + 5;
pub(crate) const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR + 6;
pub(crate) const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR + 7;
pub(crate) const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR + 8;
pub(crate) const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR + 9;
pub(crate) const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR + 10;

// "NBD_REP_INFO"
pub(crate) const NBD_INFO_EXPORT: u16 = 0;
pub(crate) const NBD_INFO_NAME: u16 = 1;
pub(crate) const NBD_INFO_DESCRIPTION: u16 = 2;
pub(crate) const NBD_INFO_BLOCK_SIZE: u16 = 3;

// "Request message", "Extended request", "Simple reply", "Structured reply chunk", "Extended reply chunk"
pub(crate) const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub(crate) const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub(crate) const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

// "Command flags"
pub(crate) const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
pub(crate) const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub(crate) const NBD_CMD_FLAG_DF: u16 = 1 << 2;
pub(crate) const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
pub(crate) const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
pub(crate) const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

// "Request types"
pub(crate) const NBD_CMD_READ: u16 = 0;
pub(crate) const NBD_CMD_WRITE: u16 = 1;
pub(crate) const NBD_CMD_DISC: u16 = 2;
pub(crate) const NBD_CMD_FLUSH: u16 = 3;
pub(crate) const NBD_CMD_TRIM: u16 = 4;
pub(crate) const NBD_CMD_CACHE: u16 = 5;
pub(crate) const NBD_CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const NBD_CMD_BLOCK_STATUS: u16 = 7;
pub(crate) const NBD_CMD_RESIZE: u16 = 8;

// "Structured reply types"
pub(crate) const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
pub(crate) const NBD_REPLY_TYPE_NONE: u16 = 0;
pub(crate) const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
pub(crate) const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
pub(crate) const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
pub(crate) const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
pub(crate) const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;
pub(crate) const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;

// "base:allocation metadata context"
pub(crate) const NBD_STATE_HOLE: u64 = 1 << 0;
pub(crate) const NBD_STATE_ZERO: u64 = 1 << 1;

// "Error values"
pub(crate) const NBD_EPERM: u32 = 1;
pub(crate) const NBD_EIO: u32 = 5;
pub(crate) const NBD_ENOMEM: u32 = 12;
pub(crate) const NBD_EINVAL: u32 = 22;
pub(crate) const NBD_ENOSPC: u32 = 28;
pub(crate) const NBD_EOVERFLOW: u32 = 75;
pub(crate) const NBD_ENOTSUP: u32 = 95;
pub(crate) const NBD_ESHUTDOWN: u32 = 108;

/// The only values the error field of a reply may hold.
pub(crate) const LEGAL_ERRORS: [u32; 8] =
    [NBD_EPERM, NBD_EIO, NBD_ENOMEM, NBD_EINVAL, NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN];

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Big-endian numbers out of a reply.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// An option as it stands on the wire; `claimed` is the length field, which a hostile client need not make true.
pub(crate) fn option_claiming(option: u32, claimed: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend(NBD_OPTS_MAGIC.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(claimed.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// An honest option.
pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    option_claiming(option, data.len() as u32, data)
}

/// The data of NBD_OPT_INFO and NBD_OPT_GO.
pub(crate) fn info_data(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name);
    bytes.extend((requests.len() as u16).to_be_bytes());
    requests.iter().for_each(|request| bytes.extend(request.to_be_bytes()));
    bytes
}

/// The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
pub(crate) fn meta_data(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name);
    bytes.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        bytes.extend((query.len() as u32).to_be_bytes());
        bytes.extend(*query);
    }
    bytes
}
