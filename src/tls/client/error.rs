//! Why a client has no secure connection.

use crate::tls::alert::Alert;
use crate::tls::record::error::RecordError;

/// What a client told of itself, which says what a server's refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferedIdentity {
    /// A certificate.
    Certificate,
    /// None, though the server could have asked.
    Nobody,
    /// A shared key of this name, escaped.
    SharedKey(String),
}

/// Why there is no secure connection; each a clause with cause and remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsClientError {
    /// Plain text, mostly.
    #[error("the server did not answer with TLS")]
    NotTls,
    /// More than a handshake takes.
    #[error("the server sent more than {0} without finishing the handshake")]
    TooMuch(&'static str),
    /// A message of the server breaks the rules.
    #[error("the server's handshake is malformed: {0}")]
    Malformed(&'static str),
    /// A server of before 2018, or one that was told to be.
    #[error("the server does not speak TLS 1.3")]
    OldVersion,
    /// It wants to go on with a certificate.
    #[error("the server does not take the shared key {0:?}: it has no shared keys, or not this one")]
    SharedKeyIgnored(String),
    /// Its proof does not fit.
    #[error("the server does not have this shared key, or its messages were changed on their way")]
    WrongFinish,
    /// No certificate can have this name.
    #[error("no certificate can be for {0:?}: give the server's name by tls-hostname")]
    Name(String),
    /// A handshake with certificates.
    #[error("{}", of_certificates(.0))]
    Certificates(rustls::Error),
    /// A record of it.
    #[error("{0}")]
    Record(RecordError),
    /// The server gave up.
    #[error("the server ended it with the TLS alert {alert}{hint}", hint = hint(*.alert, .offered))]
    PeerAlert {
        /// Its reason.
        alert: Alert,
        /// What it was told.
        offered: OfferedIdentity,
    },
    /// It closed the connection behind the handshake, as servers do that want to know their clients.
    #[error(
        "the server closed the connection behind the TLS handshake: it may require a certificate of the client \
         (client-cert.pem and client-key.pem in the directory of tls-certificates)"
    )]
    ClosedToNobody,
    /// It closed the connection without an alert.
    #[error("the server closed the connection during the TLS handshake{hint}", hint = hint(Alert::HANDSHAKE_FAILURE, .0))]
    Closed(OfferedIdentity),
    /// A system without random bytes, and the like.
    #[error("the cryptography failed: {0}")]
    Internal(&'static str),
}

impl TlsClientError {
    /// What a record means for who has offered that.
    pub fn of_record(error: RecordError, offered: &OfferedIdentity) -> Self {
        match error {
            RecordError::PeerAlert(alert) => Self::PeerAlert { alert, offered: offered.clone() },
            other => Self::Record(other),
        }
    }

    /// What the server is told.
    pub(super) fn alert(&self) -> Option<Alert> {
        match self {
            Self::NotTls | Self::TooMuch(_) => Some(Alert::UNEXPECTED_MESSAGE),
            Self::Malformed(_) => Some(Alert::ILLEGAL_PARAMETER),
            Self::OldVersion => Some(Alert::PROTOCOL_VERSION),
            Self::SharedKeyIgnored(_) | Self::Internal(_) => Some(Alert::HANDSHAKE_FAILURE),
            Self::WrongFinish => Some(Alert::DECRYPT_ERROR),
            // rustls tells it itself; the others are told before anything is sent, or too late.
            Self::Certificates(_)
            | Self::PeerAlert { .. }
            | Self::Name(_)
            | Self::Closed(_)
            | Self::ClosedToNobody => None,
            Self::Record(error) => error.alert(),
        }
    }
}

/// What is mostly wrong when a server says that.
fn hint(alert: Alert, offered: &OfferedIdentity) -> String {
    let text = match (alert.0, offered) {
        (70, OfferedIdentity::SharedKey(_)) => ": it does not speak TLS 1.3, which shared keys need",
        (70, _) => ": it does not speak TLS 1.3; tls-min-version=1.2 in the URI allows 1.2",
        // Servers tell nobody which names they know.
        (20 | 40 | 47 | 51 | 80 | 109 | 115, OfferedIdentity::SharedKey(name)) => {
            return format!(": it has no shared key of the name {name:?}, or another one of this name");
        }
        (42 | 116, OfferedIdentity::Nobody) => {
            ": it requires a certificate of the client; put client-cert.pem and client-key.pem into the directory of \
             tls-certificates"
        }
        (40 | 80, OfferedIdentity::Nobody) => {
            ": it may have no certificate, but shared keys (give one by tls-psk-file), or require a certificate of the client \
             (in the directory of tls-certificates)"
        }
        (40 | 80, _) => ": it may have no certificate, but shared keys (give one by tls-psk-file)",
        (44, _) => ": the client's certificate was revoked",
        (45, _) => ": the client's certificate has expired, or one of the clocks is wrong",
        (42 | 43 | 46 | 48 | 49 | 51, OfferedIdentity::Certificate) => {
            ": it does not accept the client's certificate, which may be of an authority that it does not know"
        }
        _ => "",
    };
    text.to_owned()
}

fn of_certificates(error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error, PeerIncompatible};
    let Error::InvalidCertificate(wrong) = error else {
        return match error {
            Error::PeerIncompatible(PeerIncompatible::ExtendedMasterSecretExtensionRequired) => {
                "the server speaks TLS 1.2 without the extended master secret (RFC 7627), which it needs here"
                    .to_owned()
            }
            Error::PeerIncompatible(_) => {
                "the server does not speak TLS 1.3; tls-min-version=1.2 in the URI allows 1.2".to_owned()
            }
            Error::InvalidMessage(_) => "the server did not answer with TLS".to_owned(),
            other => format!("the handshake with certificates failed: {other}"),
        };
    };
    let text = match wrong {
        // The second: another authority has the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is of an authority that is not trusted here; give the directory of its ca-cert.pem \
             by tls-certificates"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet, or this machine's clock is wrong"
        }
        CertificateError::Revoked => "the server's certificate was revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not one for servers"
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            return of_another_name(&expected.to_str(), presented);
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another name; give it by tls-hostname"
        }
        other => return format!("the server's certificate cannot be used: {other}"),
    };
    text.to_owned()
}

fn of_another_name(expected: &str, presented: &[String]) -> String {
    const SHOWN: usize = 5;
    const LONGEST: usize = 400;
    let names: Vec<&str> = presented.iter().take(SHOWN).map(String::as_str).collect();
    // They are the server's words.
    let names: String = names.join(", ").chars().take(LONGEST).filter(|byte| !byte.is_control()).collect();
    match names.as_str() {
        "" => format!(
            "the server's certificate is not for {expected}: it has no name at all (a subjectAltName); make another one"
        ),
        names => format!(
            "the server's certificate is not for {expected}, but for {names}; connect to that name, or give it by \
             tls-hostname"
        ),
    }
}
