//! The five bytes before each record, in plain text (RFC 8446, 5.1 and 5.2; RFC 5246, 6.2.3).

use super::error::RecordError;

/// Bytes of a header.
pub const RECORD_HEADER_BYTES: usize = 5;
/// Bytes of data in one record at most.
pub const RECORD_DATA_BYTES: usize = 1 << 14;
/// Bytes of a record behind its header at most: data, its type and padding, and what a cipher may add.
pub(in crate::tls) const RECORD_BODY_BYTES: usize = RECORD_DATA_BYTES + 256;

/// What a record carries. With TLS 1.3 only the outermost of an encrypted record is in plain text, and it
/// always says `Data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tls) enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    Data,
}

impl ContentType {
    pub(in crate::tls) fn of(code: u8) -> Result<Self, RecordError> {
        match code {
            20 => Ok(Self::ChangeCipherSpec),
            21 => Ok(Self::Alert),
            22 => Ok(Self::Handshake),
            23 => Ok(Self::Data),
            other => Err(RecordError::UnexpectedType(other)),
        }
    }

    pub(in crate::tls) const fn code(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }
}

/// A header that may be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tls) struct RecordHeader {
    pub(in crate::tls) kind: ContentType,
    /// Bytes behind the header.
    pub(in crate::tls) length: usize,
}

impl RecordHeader {
    /// Reads the header at the front of `bytes`; `None` when it is not whole. What is wrong is told as soon
    /// as the bytes that show it are there.
    ///
    /// The version is not looked at: with TLS 1.3 it "MUST be ignored for all purposes", and with 1.2 a
    /// record vouches for it.
    pub(in crate::tls) fn parse(bytes: &[u8]) -> Result<Option<Self>, RecordError> {
        let Some(&code) = bytes.first() else { return Ok(None) };
        let kind = ContentType::of(code)?;
        let Some(length) = bytes.get(3..RECORD_HEADER_BYTES) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > RECORD_BODY_BYTES {
            return Err(RecordError::TooLong);
        }
        Ok(Some(Self { kind, length }))
    }

    pub(in crate::tls) fn bytes(self) -> [u8; RECORD_HEADER_BYTES] {
        header_bytes(self.kind.code(), self.length)
    }
}

/// The header of a record of this type, with so many bytes behind it.
pub(in crate::tls) fn header_bytes(code: u8, length: usize) -> [u8; RECORD_HEADER_BYTES] {
    let length = (length as u16).to_be_bytes();
    [code, 3, 3, length[0], length[1]]
}
