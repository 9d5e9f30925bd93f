//! Alerts: how one end tells the other why it ends (RFC 8446, 6).

use std::fmt::{self, Display};

/// The reason of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert(pub(in crate::tls) u8);

impl Alert {
    /// The goodbye: no more will come.
    pub const CLOSE_NOTIFY: Self = Self(0);
    pub(in crate::tls) const UNEXPECTED_MESSAGE: Self = Self(10);
    pub(in crate::tls) const BAD_RECORD_MAC: Self = Self(20);
    pub(in crate::tls) const RECORD_OVERFLOW: Self = Self(22);
    pub(in crate::tls) const HANDSHAKE_FAILURE: Self = Self(40);
    pub(in crate::tls) const ILLEGAL_PARAMETER: Self = Self(47);
    pub(in crate::tls) const DECODE_ERROR: Self = Self(50);
    pub(in crate::tls) const DECRYPT_ERROR: Self = Self(51);
    pub(in crate::tls) const PROTOCOL_VERSION: Self = Self(70);
    pub(in crate::tls) const USER_CANCELED: Self = Self(90);
    pub(in crate::tls) const NO_RENEGOTIATION: Self = Self(100);

    /// Its two bytes. "All the alerts listed in Section 6.2 MUST be sent with AlertLevel=fatal"; that there
    /// is no renegotiation "is always a warning" (RFC 5246, 7.2.2).
    pub(in crate::tls) fn bytes(self) -> [u8; 2] {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let is_warning = matches!(self, Self::CLOSE_NOTIFY | Self::NO_RENEGOTIATION);
        [if is_warning { WARNING } else { FATAL }, self.0]
    }
}

/// As RFC 8446 names it.
impl Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            112 => "unrecognized_name",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            other => return write!(f, "alert {other}"),
        })
    }
}
