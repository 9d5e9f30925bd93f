//! Requests as a client sends them ("Request message").

use alloc::vec::Vec;
use zerocopy::IntoBytes;

use crate::headers::{CompactRequest, ExtendedRequest};
use crate::session::ReplyMode;
use crate::wire::*;

/// One request, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRequest {
    /// `NBD_CMD_*`.
    pub command: u16,
    /// `NBD_CMD_FLAG_*`; [`NBD_CMD_FLAG_PAYLOAD_LEN`] is added where it belongs.
    pub flags: u16,
    /// Comes back with the reply; distinct among the requests in flight.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes; below 4 GiB unless headers are extended.
    pub length: u64,
}

impl ClientRequest {
    /// Appends the header to `output`; the data of a WRITE follows it.
    ///
    /// # Panics
    /// When `length` does not fit in the 32 bits of a compact header.
    #[inline]
    pub fn encode(&self, mode: ReplyMode, output: &mut Vec<u8>) {
        if mode == ReplyMode::Extended {
            // "With extended headers, the flag MUST be set for `NBD_CMD_WRITE`", and the flag means a payload
            // that is not empty.
            let has_payload = self.command == NBD_CMD_WRITE && self.length > 0;
            let payload = if has_payload { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 };
            let header = ExtendedRequest {
                magic: NBD_EXTENDED_REQUEST_MAGIC.into(),
                flags: (self.flags | payload).into(),
                command: self.command.into(),
                cookie: self.cookie.into(),
                offset: self.offset.into(),
                length: self.length.into(),
            };
            output.extend_from_slice(header.as_bytes());
        } else {
            let length = u32::try_from(self.length).expect("a compact request has a length below 4 GiB");
            let header = CompactRequest {
                magic: NBD_REQUEST_MAGIC.into(),
                flags: self.flags.into(),
                command: self.command.into(),
                cookie: self.cookie.into(),
                offset: self.offset.into(),
                length: length.into(),
            };
            output.extend_from_slice(header.as_bytes());
        }
    }
}

impl ClientRequest {
    /// Appends a BLOCK_STATUS that asks for one of the selected meta contexts alone, with its payload.
    /// Headers are extended, and the server has promised [`NBD_FLAG_BLOCK_STATUS_PAYLOAD`].
    pub fn encode_for_context(&self, context: u32, output: &mut Vec<u8>) {
        let flags = self.flags | NBD_CMD_FLAG_PAYLOAD_LEN;
        Self { flags, length: FILTER as u64, ..*self }.encode(ReplyMode::Extended, output);
        output.extend_from_slice(&self.length.to_be_bytes());
        output.extend_from_slice(&context.to_be_bytes());
    }
}

/// The payload of a BLOCK_STATUS for one context: the length of its range, and the id.
const FILTER: usize = 12;
/// The longest request without the data of a WRITE, in bytes.
pub const LONGEST_REQUEST: usize = size_of::<ExtendedRequest>() + FILTER;

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: ClientRequest =
        ClientRequest { command: NBD_CMD_WRITE, flags: NBD_CMD_FLAG_FUA, cookie: 7, offset: 512, length: 3 };

    #[test]
    fn a_compact_request_byte_by_byte() {
        let mut bytes = Vec::new();
        WRITE.encode(ReplyMode::Structured, &mut bytes);
        let expected = [
            0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, // magic, flags, command
            0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, // cookie, offset, length
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn an_extended_write_carries_the_payload_flag() {
        let mut bytes = Vec::new();
        WRITE.encode(ReplyMode::Extended, &mut bytes);
        let expected = [
            0x21, 0xe4, 0x1c, 0x71, 0, 0x21, 0, 1, 0, 0, 0, 0, 0, 0, 0,
            7, // magic, flags, command, cookie
            0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, // offset, length
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_status_of_one_context_has_its_range_in_the_payload() {
        let mut bytes = Vec::new();
        let status = ClientRequest { command: NBD_CMD_BLOCK_STATUS, flags: 0, length: 1 << 40, ..WRITE };
        status.encode_for_context(9, &mut bytes);
        assert_eq!(bytes.len(), LONGEST_REQUEST);
        assert_eq!(bytes[4..8], [0, 0x20, 0, 7]);
        assert_eq!(
            bytes[16..],
            [512, 12, 1_u64 << 40]
                .map(u64::to_be_bytes)
                .concat()
                .into_iter()
                .chain([0, 0, 0, 9])
                .collect::<Vec<u8>>()
        );
    }

    #[test]
    fn an_extended_trim_has_a_64_bit_length_and_no_payload_flag() {
        let mut bytes = Vec::new();
        let trim = ClientRequest { command: NBD_CMD_TRIM, flags: 0, length: 1 << 40, ..WRITE };
        trim.encode(ReplyMode::Extended, &mut bytes);
        assert_eq!(bytes[4..8], [0, 0, 0, 4]);
        assert_eq!(bytes[24..], (1u64 << 40).to_be_bytes());
    }
}
