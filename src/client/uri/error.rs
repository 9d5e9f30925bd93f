//! What is wrong with a URI.

use crate::nbd::wire::NBD_MAX_STRING;

/// The longest path or abstract name of a unix socket, in bytes (`sun_path` less its terminator).
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Why a text is not an NBD URI that this client can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme, or one that is not of NBD.
    #[error("{0:?} is not an NBD URI; write nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH")]
    Scheme(String),
    /// A wish for TLS where there is none.
    #[error("{0} is only for TLS; write nbds:// or nbds+unix://")]
    NotTls(String),
    /// A user name is the name of a shared key.
    #[error("a user name needs the shared key of that name; add tls-psk-file=FILE")]
    UserName,
    /// Certificates and shared keys exclude each other.
    #[error("with tls-psk-file there are no certificates, so leave out {0}")]
    WithSharedKey(&'static str),
    /// Not a yes and not a no, or nothing at all.
    #[error("the query parameter {0} cannot be {1:?}")]
    Value(String, String),
    /// A `%` without two hexadecimal digits.
    #[error("{0:?} has a `%` that two hexadecimal digits do not follow; write a literal `%` as %25")]
    Percent(String),
    /// The authority is not `HOST[:PORT]`.
    #[error("{0:?} is not a host and port; write HOST, HOST:PORT or [IPV6]:PORT")]
    Authority(String),
    /// `nbd+unix` with a host.
    #[error("nbd+unix:// takes no host ({0:?}); write three slashes: nbd+unix:///NAME?socket=PATH")]
    UnixHost(String),
    /// `nbd+unix` without a socket.
    #[error("nbd+unix:// needs a socket; add ?socket=PATH")]
    NoSocket,
    /// The socket's path cannot be one.
    #[error("the socket path must be 1 to {MAX_SOCKET_PATH} bytes without NUL; it has {0} bytes")]
    Socket(usize),
    /// A parameter that this client does not know, or that stands twice.
    #[error(
        "the query parameter {0:?} is unknown here or stands twice; known are `socket` of unix sockets, and of TLS \
         `tls-certificates`, `tls-psk-file`, `tls-username`, `tls-hostname` and `tls-verify-peer`"
    )]
    Parameter(String),
    /// The name breaks the spec's limits on strings.
    #[error("the export name must be UTF-8 of at most {NBD_MAX_STRING} bytes without NUL")]
    ExportName,
    /// A `#`.
    #[error("a URI of an export has no `#` part; write a literal `#` as %23")]
    Fragment,
}
