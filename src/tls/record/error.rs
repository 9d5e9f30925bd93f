//! What can be wrong with a record.

use crate::tls::alert::Alert;

/// Why the stream of records cannot be followed; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record of a type that does not exist, or not here.
    #[error("a record of the type {0} came, where {expected} had to", expected = "only encrypted data")]
    UnexpectedType(u8),
    /// It claims to be longer than records may be, or is.
    #[error("a record is longer than TLS allows")]
    TooLong,
    /// Too short for a type and a tag.
    #[error("a record is too short to be encrypted")]
    TooShort,
    /// It was changed, replayed, left out, or encrypted with another key.
    #[error("a record cannot be decrypted: it was changed on its way, or made with another key")]
    Undecipherable,
    /// A record that is nothing but padding.
    #[error("a record has no content type")]
    NoType,
    /// An alert, CCS or handshake message that is malformed.
    #[error("a TLS message is malformed: {0}")]
    Malformed(&'static str),
    /// A handshake message that has no place here.
    #[error("a TLS message of the type {0} came after the handshake; renegotiation is not supported")]
    UnexpectedMessage(u8),
    /// With TLS 1.2: the peer wants another handshake.
    #[error("the peer asks for another TLS handshake; renegotiation is not supported")]
    Renegotiation,
    /// With TLS 1.2: a key has made what it may, and no other follows it.
    #[error("a key of TLS 1.2 has encrypted as much as it may: another connection has another one")]
    WornKey,
    /// The peer keeps its other end busy with nothing.
    #[error("{0} records without data came in a row")]
    TooManyIdle(u32),
    /// The peer gave up.
    #[error("the peer ended the connection with the TLS alert {0}")]
    PeerAlert(Alert),
    /// Bytes behind the peer's close_notify.
    #[error("a record came behind the peer's close_notify")]
    BehindClose,
}

impl RecordError {
    /// What the peer is told; nothing if it ended the connection itself.
    pub fn alert(self) -> Option<Alert> {
        match self {
            Self::UnexpectedType(_)
            | Self::NoType
            | Self::UnexpectedMessage(_)
            | Self::TooManyIdle(_)
            | Self::BehindClose => Some(Alert::UNEXPECTED_MESSAGE),
            Self::TooLong => Some(Alert::RECORD_OVERFLOW),
            Self::Renegotiation => Some(Alert::NO_RENEGOTIATION),
            // In good order.
            Self::WornKey => Some(Alert::CLOSE_NOTIFY),
            Self::TooShort | Self::Malformed(_) => Some(Alert::DECODE_ERROR),
            Self::Undecipherable => Some(Alert::BAD_RECORD_MAC),
            Self::PeerAlert(_) => None,
        }
    }
}
