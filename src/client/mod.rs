//! The NBD client: URIs, connections, and what a server tells about its exports.
//!
//! Blocking, over std sockets: for tools that ask a few questions. The protocol itself is in [`crate::nbd`]
//! and does no I/O; here are only the sockets, the timeouts and the order of calls.
#![forbid(unsafe_code)]

// The facade's modules document everything.
#[warn(missing_docs)]
mod connection;
pub(crate) mod copy;
#[cfg(feature = "tls")]
mod credentials;
#[warn(missing_docs)]
mod error;
mod extents;
mod front;
pub(crate) mod load;
mod relay;
#[cfg(not(feature = "tls"))]
#[path = "no_secure.rs"]
mod secure;
#[cfg(feature = "tls")]
mod secure;
#[warn(missing_docs)]
mod socket;
#[warn(missing_docs)]
pub(crate) mod uri;

pub use connection::{Client, StatusExtent};
pub use error::ClientError;
pub use extents::{MappedExtent, Merge};
pub use socket::Timeouts;

use std::os::fd::OwnedFd;

use crate::nbd::client::handshake::{
    Dialect, ExportDetails, FurtherContexts, Goal, HandshakeOutcome, ListedExport, Transmission,
};
use crate::nbd::session::ReplyMode;
use secure::SecureStream;
use socket::Link;
use uri::NbdUri;

/// Asks a server about the export of `uri`, and disconnects.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn info(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, ExportDetails), ClientError> {
    match Link::open(uri, timeouts)?.negotiate(Goal::Info { export: uri.export.clone() })? {
        (mut link, HandshakeOutcome::Info(dialect, details)) => {
            link.part();
            Ok((dialect, details))
        }
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// Asks the server of `uri` for all its exports, and disconnects.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn list(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, Vec<ListedExport>), ClientError> {
    match Link::open(uri, timeouts)?.negotiate(Goal::List)? {
        (mut link, HandshakeOutcome::List(dialect, exports)) => {
            link.part();
            Ok((dialect, exports))
        }
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// Enters the transmission phase with the export of `uri` and gives the socket away, for a caller that drives
/// it on its own. The form of replies is at best `replies`.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating, and for a URI with TLS.
pub fn enter(
    uri: &NbdUri,
    replies: ReplyMode,
    timeouts: Timeouts,
) -> Result<(OwnedFd, Transmission), ClientError> {
    enter_with(uri, WantedContexts::default(), replies, timeouts)
}

/// The meta contexts that a client would like.
#[derive(Debug, Default)]
pub(crate) struct WantedContexts {
    pub(crate) names: Vec<String>,
    /// Without these it does as well.
    pub(crate) further: FurtherContexts,
}

/// As [`enter`], with those of `contexts` that the server offers.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub(crate) fn enter_with(
    uri: &NbdUri,
    contexts: WantedContexts,
    replies: ReplyMode,
    timeouts: Timeouts,
) -> Result<(OwnedFd, Transmission), ClientError> {
    if uri.tls.is_some() {
        return Err(ClientError::Unsupported(
            "who gets this socket cannot encrypt; write nbd:// or nbd+unix://",
        ));
    }
    let goal = Goal::Go { export: uri.export.clone(), contexts: contexts.names };
    let entered = entered(Link::open(uri, timeouts)?.selecting(contexts.further), goal, replies)?;
    Ok((entered.socket, entered.transmission))
}

/// As [`enter`], for who cannot encrypt: behind a URI with TLS a relay of two threads does that. `prepare` is
/// given the socket to the server. `ends_on_growth`: the server is asked to end the session when the export
/// has become larger.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn enter_relayed(
    uri: &NbdUri,
    (replies, ends_on_growth): (ReplyMode, bool),
    timeouts: Timeouts,
    prepare: impl FnOnce(&OwnedFd) -> std::io::Result<()>,
) -> Result<(OwnedFd, Transmission), ClientError> {
    let link = Link::open(uri, timeouts)?.ending_on_growth(ends_on_growth);
    let goal = Goal::Go { export: uri.export.clone(), contexts: Vec::new() };
    let UndrivenConnection { socket, transmission, secure } = entered(link, goal, replies)?;
    prepare(&socket)?;
    match secure {
        None => Ok((socket, transmission)),
        Some(secure) => Ok((relay::relayed(socket, secure)?, transmission)),
    }
}

/// A connection over TLS for a client that says all of NBD itself, its greeting too, and cannot encrypt. It
/// has to want fixed newstyle; without that, and if there is no TLS, the connection ends.
///
/// # Errors
/// [`ClientError`], while connecting.
pub fn fronted(uri: &NbdUri, timeouts: Timeouts) -> Result<OwnedFd, ClientError> {
    Ok(front::fronted(Link::open(uri, timeouts)?)?)
}

/// Enters the transmission phase over a connected socket, such as the standard input of a process. `name` is
/// what to call the server, and `export` one of its own.
///
/// # Errors
/// [`ClientError`], while negotiating.
pub(crate) fn enter_over(
    socket: OwnedFd,
    (name, export): (&str, &str),
    contexts: WantedContexts,
    timeouts: Timeouts,
) -> Result<(OwnedFd, Transmission), ClientError> {
    let goal = Goal::Go { export: export.to_owned(), contexts: contexts.names };
    match Link::over(socket, name, timeouts).selecting(contexts.further).negotiate(goal)? {
        (link, HandshakeOutcome::Transmission(transmission)) => {
            let (socket, _plain) = link.into_socket()?;
            Ok((socket, transmission))
        }
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// A connection in the transmission phase that nobody drives yet.
#[derive(Debug)]
struct UndrivenConnection {
    socket: OwnedFd,
    transmission: Transmission,
    secure: Option<Box<SecureStream>>,
}

/// As [`enter`], for a caller that can encrypt.
fn enter_secured(
    uri: &NbdUri,
    replies: ReplyMode,
    timeouts: Timeouts,
) -> Result<UndrivenConnection, ClientError> {
    let goal = Goal::Go { export: uri.export.clone(), contexts: Vec::new() };
    entered(Link::open(uri, timeouts)?, goal, replies)
}

fn entered(link: Link, goal: Goal, replies: ReplyMode) -> Result<UndrivenConnection, ClientError> {
    match link.negotiate_replies(goal, replies)? {
        (link, HandshakeOutcome::Transmission(transmission)) => {
            let (socket, secure) = link.into_socket()?;
            if secure.as_ref().is_some_and(|secure| secure.has_more()) {
                return Err(ClientError::Unsupported("the server said something before it was asked"));
            }
            Ok(UndrivenConnection { socket, transmission, secure })
        }
        _ => unreachable!("a handshake ends by its goal"),
    }
}
