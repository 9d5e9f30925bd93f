//! Why a client could not do what it was asked.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use super::uri::ServerAddress;
use crate::block::BlockError;
use crate::nbd::client::handshake::HandshakeError;
use crate::nbd::client::replies::ReplyError;
use crate::nbd::printable::printable;

/// What went wrong, for people: each text is one clause that names the cause and, where there is one, the
/// remedy.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host's name has no address.
    #[error("cannot find the host {host:?}: {source}; check the name")]
    Resolve {
        /// As given.
        host: String,
        /// Of the resolver.
        source: io::Error,
    },
    /// Nobody listens, or not for us.
    #[error("cannot connect to {address}: {}; {}", reason(source), remedy(source))]
    Connect {
        /// Where to.
        address: ServerAddress,
        /// Of the last attempt.
        source: io::Error,
    },
    /// It cannot be encrypted, as its URI wants it to be.
    #[error("no secure connection with {address}: {source}")]
    Tls {
        /// Which server.
        address: ServerAddress,
        /// Why, and what can be done.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The handshake failed.
    #[error("{address}: {source}{}", remedy_of(source))]
    Handshake {
        /// Which server.
        address: ServerAddress,
        /// Why.
        source: HandshakeError,
    },
    /// The server broke the protocol after the handshake.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A request was answered with an error.
    #[error("the server answered {command} at {offset} with \"{error}\"{}", detail(.message))]
    Request {
        /// The spec's name.
        command: Cow<'static, str>,
        /// Of the request, or of the error where the server told it; bytes.
        offset: u64,
        /// What the error value means.
        error: BlockError,
        /// The server's text; may be empty.
        message: String,
    },
    /// A request that this export cannot be asked; nothing was sent.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The server said nothing for that long.
    #[error("the server did not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
}

fn detail(message: &str) -> String {
    match message {
        "" => String::new(),
        _ => format!(" ({})", printable(message)),
    }
}

/// What this program can do about a handshake that failed.
fn remedy_of(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::TlsRequired(_) => {
            "; write nbds:// in the place of nbd://, with tls-certificates=DIRECTORY or tls-psk-file=FILE"
        }
        HandshakeError::NoTls(_) | HandshakeError::TlsForbidden(_) => {
            "; without encryption it is nbd:// or nbd+unix://"
        }
        HandshakeError::UnknownExport { .. } => "; `ringnbd list` shows those it has",
        _ => "",
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the permissions of the socket or of its directory exclude this user (ringnbd serve has --unix-mode and --unix-group)"
        }
        _ => "is the server running there?",
    }
}

/// The text of an error without "(os error 2)".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
