//! Why a handshake failed.

use crate::tls::alert::Alert;
use crate::tls::record::error::RecordError;

/// Why there is no secure connection; each a sentence for the server's operator.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// Plain text, mostly.
    #[error("the client did not begin with a TLS handshake")]
    NotTls,
    /// More than a handshake takes.
    #[error("the client sent more than {0} without finishing the handshake")]
    TooMuch(&'static str),
    /// The ClientHello, or another message, breaks the rules.
    #[error("the client's handshake is malformed: {0}")]
    Malformed(&'static str),
    /// A client of before 2018, or one that was told to be. Without a certificate there is no older version.
    #[error("the client does not offer TLS 1.3")]
    OldVersion,
    /// Nothing that both can do.
    #[error("the client and this server have no {0} in common")]
    NothingInCommon(&'static str),
    /// It wants a certificate of a server that has none.
    #[error("the client offers no shared key, and this server has no certificate")]
    NoSharedKey,
    /// No such name, or a wrong key.
    #[error("the shared key {0:?} is not known here, or the client has another one of this name")]
    WrongSharedKey(String),
    /// The last message of the client does not fit the others.
    #[error("the client's last message does not fit the handshake: it was changed on its way")]
    WrongFinish,
    /// A handshake with certificates.
    #[error("{}", of_certificates(.0))]
    Certificates(rustls::Error),
    /// A record of it.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The client gave up.
    #[error("the client ended the handshake with the TLS alert {0}{hint}", hint = hint(*.0))]
    PeerAlert(Alert),
    /// A system without random bytes, and the like.
    #[error("the cryptography failed: {0}")]
    Internal(&'static str),
}

impl TlsError {
    /// What the client is told.
    pub(super) fn alert(&self) -> Option<Alert> {
        match self {
            Self::NotTls | Self::TooMuch(_) => Some(Alert::UNEXPECTED_MESSAGE),
            Self::Malformed(_) => Some(Alert::ILLEGAL_PARAMETER),
            Self::OldVersion => Some(Alert::PROTOCOL_VERSION),
            Self::NothingInCommon(_) | Self::NoSharedKey | Self::Internal(_) => {
                Some(Alert::HANDSHAKE_FAILURE)
            }
            Self::WrongSharedKey(_) | Self::WrongFinish => Some(Alert::DECRYPT_ERROR),
            // rustls tells it itself.
            Self::Certificates(_) | Self::PeerAlert(_) => None,
            Self::Record(error) => error.alert(),
        }
    }
}

impl TlsError {
    /// Whether the client offers only versions that are not spoken here.
    pub fn is_of_version(&self) -> bool {
        use rustls::PeerIncompatible as P;
        match self {
            Self::OldVersion => true,
            Self::Certificates(rustls::Error::PeerIncompatible(reason)) => matches!(
                reason,
                P::Tls12NotOffered | P::Tls12NotOfferedOrEnabled | P::SupportedVersionsExtensionRequired
            ),
            _ => false,
        }
    }

    /// Whether both speak a version, and there is nothing else that both can do.
    pub fn is_of_offers(&self) -> bool {
        let is_incompatible = matches!(self, Self::Certificates(rustls::Error::PeerIncompatible(_)));
        matches!(self, Self::NothingInCommon(_)) || (is_incompatible && !self.is_of_version())
    }
}

/// What is mostly wrong when a client says that.
fn hint(alert: Alert) -> &'static str {
    match alert.0 {
        42 | 46 | 48 => {
            ": it does not trust the server's certificate; give it the certificate of its authority"
        }
        45 => ": the server's certificate is too old, or one of the clocks is wrong",
        51 => ": it has another key of this name",
        _ => "",
    }
}

fn of_certificates(error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error, PeerIncompatible};
    let text = match error {
        Error::NoCertificatesPresented => "the client has no certificate, which this server requires",
        Error::InvalidCertificate(CertificateError::Revoked) => "the client's certificate was revoked",
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the client's certificate is of an authority that this server does not believe"
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the client's certificate has expired, or this machine's clock is wrong"
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered,
        ) => {
            "the client does not offer TLS 1.3; with --tls-min-version 1.2 that is spoken too, and nothing older"
        }
        Error::PeerIncompatible(PeerIncompatible::ExtendedMasterSecretExtensionRequired) => {
            "the client offers TLS 1.2 without the extended master secret (RFC 7627), which it needs here"
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "the client and this server have no cipher suite in common"
        }
        other => return format!("the handshake with certificates failed: {other}"),
    };
    text.to_owned()
}
