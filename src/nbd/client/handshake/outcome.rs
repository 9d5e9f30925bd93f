//! What a client wants of a handshake, what it gets, and what can go wrong.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::names;
use crate::printable::{printable, printable_bytes};
use crate::session::ReplyMode;
use crate::vocabulary::BlockSizes;
use crate::wire::*;

/// What the handshake is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Learn everything about one export, then part.
    Info {
        /// Its name; `""` is the default export.
        export: String,
    },
    /// Learn the server's exports, and about each what INFO tells, then part.
    List,
    /// Enter the transmission phase.
    Go {
        /// Its name; `""` is the default export.
        export: String,
        /// Meta contexts to select; those that the server does not offer are missing in the result.
        contexts: Vec<String>,
    },
}

/// Meta contexts that a client would like besides those of [`Goal::Go`]. A server that refuses them all is
/// asked again for those of the goal alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FurtherContexts {
    /// By name.
    pub names: Vec<String>,
    /// So many more, of those that the server offers; no more names than that are kept.
    pub most_offered: usize,
}

/// How the two sides talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Fixed newstyle; else plain newstyle, which knows EXPORT_NAME only.
    pub fixed_newstyle: bool,
    /// The best form of replies that the server agreed to.
    pub reply_mode: ReplyMode,
}

/// What a server tells about one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportDetails {
    /// The server's name for it where it gave one (`NBD_INFO_NAME`), else the name asked for.
    pub name: String,
    /// `NBD_INFO_DESCRIPTION`.
    pub description: Option<String>,
    /// Bytes.
    pub size: u64,
    /// `NBD_FLAG_*`, as sent.
    pub transmission_flags: u16,
    /// `NBD_INFO_BLOCK_SIZE`; `None`: not advertised, so the defaults hold.
    pub block_sizes: Option<BlockSizes>,
    /// The meta contexts on offer; `None` when they were not asked for or the server would not say.
    pub contexts: Option<Vec<String>>,
}

/// One entry of LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// The text that LIST gave beside the name; may be empty.
    pub description: String,
    /// The answer to INFO, or why there is none, for people.
    pub details: Result<ExportDetails, String>,
}

/// A selected meta context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextId {
    /// Its id in this connection's BLOCK_STATUS replies.
    pub id: u32,
    /// Its full name.
    pub name: String,
}

/// A connection in the transmission phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmission {
    /// How the two sides talk.
    pub dialect: Dialect,
    /// The export. Its `contexts` are known only when none of those asked for could be selected.
    pub export: ExportDetails,
    /// What was selected, in the server's order.
    pub contexts: Vec<ContextId>,
}

/// How a handshake ended, by [`Goal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// [`Goal::Info`]: close the connection.
    Info(Dialect, ExportDetails),
    /// [`Goal::List`]: close the connection.
    List(Dialect, Vec<ListedExport>),
    /// [`Goal::Go`].
    Transmission(Transmission),
}

/// Why a handshake failed. Each text is one clause for people; what the server sent is quoted, escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The name asked for cannot be sent.
    #[error("an export or context name must have at most {NBD_MAX_STRING} bytes without NUL")]
    Name,
    /// The first bytes are not of NBD.
    #[error("this is not an NBD server: it greets with \"{}\"", printable_bytes(.0))]
    NotNbd([u8; 8]),
    /// The second magic is unknown.
    #[error("the server speaks an unknown variant of NBD (magic {0:#018x})")]
    UnknownStyle(u64),
    /// The oldstyle handshake of nbd 2.9.16 and before.
    #[error("the server speaks the oldstyle NBD handshake, which ended with nbd 3.10; upgrade the server")]
    Oldstyle,
    /// LIST and INFO need fixed newstyle.
    #[error(
        "the server speaks plain newstyle NBD, which cannot list exports; name one export and ask about it"
    )]
    CannotList,
    /// A reply that does not begin with the magic.
    #[error(
        "the server broke the protocol: an option reply begins with {0:#018x}, not with {NBD_REP_MAGIC:#018x}"
    )]
    ReplyMagic(u64),
    /// A reply to another option.
    #[error("the server broke the protocol: it answered {} while {} was asked", names::option(*.got), names::option(*.asked))]
    ReplyOption {
        /// In the reply.
        got: u32,
        /// In flight.
        asked: u32,
    },
    /// A reply longer than any sensible one.
    #[error("the server broke the protocol: its {} to {} has {length} bytes, {limit} is the limit", names::option_reply(*.reply), names::option(*.option))]
    ReplyLength {
        /// In flight.
        option: u32,
        /// `NBD_REP_*`.
        reply: u32,
        /// Announced, bytes.
        length: u32,
        /// Accepted, bytes.
        limit: u32,
    },
    /// A reply whose content does not fit its form.
    #[error("the server broke the protocol: its {} to {} {what}", names::option_reply(*.reply), names::option(*.option))]
    Malformed {
        /// In flight.
        option: u32,
        /// `NBD_REP_*`.
        reply: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A reply of a kind that the option does not have.
    #[error("the server broke the protocol: it answered {} with {}", names::option(*.option), names::option_reply(*.reply))]
    UnexpectedReply {
        /// In flight.
        option: u32,
        /// `NBD_REP_*`.
        reply: u32,
    },
    /// More replies than a handshake may have.
    #[error("the server sent more than {} MiB during the handshake", .0 >> 20)]
    TooMuch(u64),
    /// An error reply that ends the handshake.
    #[error("the server refused {}: {}{}", names::option(*.option), names::option_reply(*.reply), quoted(.message))]
    Refused {
        /// In flight.
        option: u32,
        /// `NBD_REP_ERR_*`.
        reply: u32,
        /// The server's text; may be empty.
        message: String,
    },
    /// `NBD_REP_ERR_UNKNOWN`, or the connection was closed after EXPORT_NAME.
    #[error("the server has no export {:?}{}", printable(.name), quoted(.message))]
    UnknownExport {
        /// As asked.
        name: String,
        /// The server's text; may be empty.
        message: String,
    },
    /// `NBD_REP_ERR_TLS_REQD`.
    #[error("the server requires TLS{}", quoted(.0))]
    TlsRequired(String),
    /// `NBD_REP_ERR_UNSUP` in reply to STARTTLS, or a server that knows EXPORT_NAME only.
    #[error("the server has no TLS{}", quoted(.0))]
    NoTls(String),
    /// `NBD_REP_ERR_POLICY` in reply to STARTTLS.
    #[error("the server allows no TLS here{}", quoted(.0))]
    TlsForbidden(String),
    /// `NBD_REP_ERR_SHUTDOWN`.
    #[error("the server is shutting down{}", quoted(.0))]
    Shutdown(String),
    /// The connection ended before the handshake did.
    #[error("the server closed the connection {0}")]
    Closed(&'static str),
}

impl HandshakeError {
    /// The error for a final error reply to `option` about `export`.
    pub(super) fn refused(option: u32, reply: u32, message: String, export: &str) -> Self {
        match reply {
            NBD_REP_ERR_TLS_REQD => Self::TlsRequired(message),
            NBD_REP_ERR_SHUTDOWN => Self::Shutdown(message),
            NBD_REP_ERR_UNSUP if option == NBD_OPT_STARTTLS => Self::NoTls(message),
            NBD_REP_ERR_POLICY if option == NBD_OPT_STARTTLS => Self::TlsForbidden(message),
            NBD_REP_ERR_UNKNOWN if option != NBD_OPT_LIST => {
                Self::UnknownExport { name: export.into(), message }
            }
            _ => Self::Refused { option, reply, message },
        }
    }
}

fn quoted(message: &str) -> String {
    match message {
        "" => String::new(),
        _ => format!(" (\"{}\")", printable(message)),
    }
}
