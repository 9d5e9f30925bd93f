//! Option replies of a server, parsed ("Option reply types").

use alloc::string::String;
use zerocopy::FromBytes;

use super::outcome::HandshakeError;
use crate::headers::OptionReplyHeader;
use crate::vocabulary::BlockSizes;
use crate::wire::*;

/// The longest accepted reply, in bytes: a name and a description of 4,096 bytes each, and room for what
/// later versions may add.
pub(super) const MAX_REPLY: u32 = 16 << 10;

/// Bytes of the fixed header.
pub(super) const HEADER: usize = size_of::<OptionReplyHeader>();

/// A header that was checked: it answers the option in flight and its length is bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) option: u32,
    pub(super) reply: u32,
    pub(super) length: usize,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OptionReply {
    Ack,
    Server { name: String, description: String },
    Info(Info),
    MetaContext { id: u32, name: String },
    Error { reply: u32, message: String },
}

/// The content of `NBD_REP_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Info {
    Export {
        size: u64,
        transmission_flags: u16,
    },
    Name(String),
    Description(String),
    BlockSizes(BlockSizes),
    /// "MUST ignore information types that it does not recognize".
    Unknown,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER], asked: u32) -> Result<Self, HandshakeError> {
        let header = OptionReplyHeader::read_from_bytes(bytes).expect("the array has the header's size");
        let (option, reply, length) = (header.option.get(), header.reply.get(), header.length.get());
        if header.magic.get() != NBD_REP_MAGIC {
            return Err(HandshakeError::ReplyMagic(header.magic.get()));
        }
        if option != asked {
            return Err(HandshakeError::ReplyOption { got: option, asked });
        }
        if length > MAX_REPLY {
            return Err(HandshakeError::ReplyLength { option, reply, length, limit: MAX_REPLY });
        }
        Ok(Self { option, reply, length: length as usize })
    }

    fn malformed(self, what: &'static str) -> HandshakeError {
        HandshakeError::Malformed { option: self.option, reply: self.reply, what }
    }

    /// A string of the protocol ("Conventions"): UTF-8, no NUL, at most 4,096 bytes.
    fn string(self, bytes: &[u8]) -> Result<String, HandshakeError> {
        if bytes.len() > NBD_MAX_STRING {
            return Err(self.malformed("has a string of more than 4096 bytes"));
        }
        match core::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.into()),
            Ok(_) => Err(self.malformed("has a string with a NUL")),
            Err(_) => Err(self.malformed("has a string that is not UTF-8")),
        }
    }
}

impl OptionReply {
    /// Parses the `data` that a header announced; each kind is accepted only for the options that have it.
    pub(super) fn parse(header: Header, data: &[u8]) -> Result<Self, HandshakeError> {
        debug_assert_eq!(header.length, data.len());
        match (header.reply, header.option) {
            (NBD_REP_ACK, _) => Ok(Self::Ack),
            (NBD_REP_SERVER, NBD_OPT_LIST) => parse_server(header, data),
            (NBD_REP_INFO, NBD_OPT_INFO | NBD_OPT_GO) => Ok(Self::Info(parse_info(header, data)?)),
            (NBD_REP_META_CONTEXT, NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT) => {
                let (id, name) = split_u32(data).ok_or_else(|| header.malformed("is too short"))?;
                Ok(Self::MetaContext { id, name: header.string(name)? })
            }
            (reply, _) if reply & NBD_REP_FLAG_ERROR != 0 => {
                // A text for people: what is not UTF-8 in it is no reason to hide the error itself.
                let length = data.len().min(NBD_MAX_STRING);
                Ok(Self::Error { reply, message: String::from_utf8_lossy(&data[..length]).into_owned() })
            }
            (reply, option) => Err(HandshakeError::UnexpectedReply { option, reply }),
        }
    }
}

fn split_u32(data: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = data.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn parse_server(header: Header, data: &[u8]) -> Result<OptionReply, HandshakeError> {
    let (length, rest) = split_u32(data).ok_or_else(|| header.malformed("is too short"))?;
    let (name, description) = rest
        .split_at_checked(length as usize)
        .ok_or_else(|| header.malformed("has a name that is longer than itself"))?;
    let description = &description[..description.len().min(NBD_MAX_STRING)];
    Ok(OptionReply::Server {
        name: header.string(name)?,
        description: String::from_utf8_lossy(description).into_owned(),
    })
}

fn parse_info(header: Header, data: &[u8]) -> Result<Info, HandshakeError> {
    let (kind, data) = data.split_first_chunk::<2>().ok_or_else(|| header.malformed("is too short"))?;
    match u16::from_be_bytes(*kind) {
        NBD_INFO_EXPORT => {
            let data: &[u8; 10] =
                data.try_into().map_err(|_| header.malformed("(NBD_INFO_EXPORT) has not 12 bytes"))?;
            let (size, flags) = data.split_at(8);
            Ok(Info::Export {
                size: u64::from_be_bytes(size.try_into().expect("eight bytes")),
                transmission_flags: u16::from_be_bytes(flags.try_into().expect("two bytes")),
            })
        }
        NBD_INFO_NAME => Ok(Info::Name(header.string(data)?)),
        NBD_INFO_DESCRIPTION => Ok(Info::Description(header.string(data)?)),
        NBD_INFO_BLOCK_SIZE => {
            let data: &[u8; 12] =
                data.try_into().map_err(|_| header.malformed("(NBD_INFO_BLOCK_SIZE) has not 14 bytes"))?;
            let number = |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            let sizes = BlockSizes { minimum: number(0), preferred: number(4), maximum: number(8) };
            match acceptable(sizes) {
                true => Ok(Info::BlockSizes(sizes)),
                false => Err(header.malformed("has block sizes outside the limits of the protocol")),
            }
        }
        _ => Ok(Info::Unknown),
    }
}

/// "Block size constraints", as far as they are a MUST: laxer than what this project's own server promises.
const fn acceptable(sizes: BlockSizes) -> bool {
    sizes.minimum.is_power_of_two()
        && sizes.minimum <= 65_536
        && sizes.preferred.is_power_of_two()
        && sizes.preferred >= 512
        && sizes.preferred >= sizes.minimum
        && sizes.maximum >= sizes.preferred
}
