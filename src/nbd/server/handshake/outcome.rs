//! What a client may do in a handshake, what the driver is told, and how it ends.

use alloc::string::String;

use crate::session::Session;

/// What a client may make the server remember, read or do before it chose an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Bytes of data of one option; a longer one is refused with `NBD_REP_ERR_TOO_BIG` and skipped.
    pub option_length: u32,
    /// Options in one handshake.
    pub options: u32,
    /// Bytes in one handshake, those that are skipped among them.
    pub bytes: u64,
}

/// Which exports a server shows over which connections ("TLS versions", "Server-side requirements").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// "NOTLS": there is no TLS.
    #[default]
    Off,
    /// "SELECTIVETLS": some exports are for secure connections only. The driver answers like that: before
    /// [`Handshake::is_secure`](super::Handshake::is_secure) such an export is neither found nor listed.
    Selective,
    /// "FORCEDTLS": nothing but STARTTLS and ABORT works without it.
    Required,
}

/// What the driver must do before it feeds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send [`Handshake::take_output`](super::Handshake::take_output).
    Output,
    /// Find the export of this name and answer with [`Handshake::found`](super::Handshake::found).
    Lookup(String),
    /// Answer with [`Handshake::listed`](super::Handshake::listed).
    List,
    /// The client wants TLS and was told that it may start. Make the connection a secure one, then tell it
    /// with [`Handshake::secured`](super::Handshake::secured).
    StartTls,
    /// The client chose an export; what is left of the input is its first requests.
    Done(Negotiated),
}

/// The result of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// As given to [`Handshake::found`](super::Handshake::found).
    pub export: usize,
    /// What the transmission phase needs to know.
    pub session: Session,
}

/// Why a handshake ended without an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client's wish, and no error.
    #[error("the client ended the negotiation")]
    Aborted,
    /// "The server MUST drop the TCP connection if the client sets an unknown flag."
    #[error("the client set unknown flags: {0:#010x}")]
    UnknownClientFlags(u32),
    /// Not an NBD client, or one that lost its place.
    #[error("an option starts with {0:#018x} instead of IHAVEOPT")]
    BadMagic(u64),
    /// EXPORT_NAME with a name that no export can have; the option has no error reply.
    #[error("the client sent a malformed export name: {0}")]
    BadName(&'static str),
    /// EXPORT_NAME with a name that does not exist.
    #[error("the client asked for an export that does not exist: {0:?}")]
    UnknownExport(String),
    /// "A client that has used NBD_OPT_EXTENDED_HEADERS MUST NOT use EXPORT_NAME."
    #[error("the client used EXPORT_NAME after EXTENDED_HEADERS")]
    ExportNameAfterExtendedHeaders,
    /// EXPORT_NAME for an export whose clients must keep its block sizes.
    #[error("the export's block sizes must be negotiated, which EXPORT_NAME cannot do")]
    BlockSizeRequired,
    /// EXPORT_NAME without TLS; the option has no error reply.
    #[error("the client chose an export without TLS, which this server requires")]
    TlsRequired,
    /// Injected, or of a client that does not wait.
    #[error("the client sent plain text behind STARTTLS, without waiting for its reply")]
    PlaintextBehindStartTls,
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// [`HandshakeLimits::options`].
    #[error("the client sent more than {0} options")]
    TooManyOptions(u32),
    /// [`HandshakeLimits::bytes`].
    #[error("the client sent more than {0} bytes without choosing an export")]
    TooManyBytes(u64),
}
