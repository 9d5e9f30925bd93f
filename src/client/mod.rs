//! The NBD client: URIs, connections, and what a server tells about its exports.
//!
//! Blocking, over std sockets: for tools that ask a few questions. The protocol itself is in [`crate::nbd`]
//! and does no I/O; here are only the sockets, the timeouts and the order of calls.
#![forbid(unsafe_code)]

// The facade's modules document everything.
#[warn(missing_docs)]
mod connection;
pub(crate) mod copy;
#[warn(missing_docs)]
mod error;
mod extents;
pub(crate) mod load;
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
    Dialect, ExportDetails, Goal, HandshakeOutcome, ListedExport, Transmission,
};
use crate::nbd::session::ReplyMode;
use socket::Link;
use uri::NbdUri;

/// Asks a server about the export of `uri`, and disconnects.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn info(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, ExportDetails), ClientError> {
    match Link::open(&uri.address, timeouts)?.negotiate(Goal::Info { export: uri.export.clone() })? {
        (_, HandshakeOutcome::Info(dialect, details)) => Ok((dialect, details)),
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// Asks the server of `uri` for all its exports, and disconnects.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn list(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, Vec<ListedExport>), ClientError> {
    match Link::open(&uri.address, timeouts)?.negotiate(Goal::List)? {
        (_, HandshakeOutcome::List(dialect, exports)) => Ok((dialect, exports)),
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// Enters the transmission phase with the export of `uri` and gives the socket away, for a caller that drives
/// it on its own. The form of replies is at best `replies`.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn enter(
    uri: &NbdUri,
    replies: ReplyMode,
    timeouts: Timeouts,
) -> Result<(OwnedFd, Transmission), ClientError> {
    enter_with(uri, &[], replies, timeouts)
}

/// As [`enter`], with those of `contexts` that the server offers.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub(crate) fn enter_with(
    uri: &NbdUri,
    contexts: &[String],
    replies: ReplyMode,
    timeouts: Timeouts,
) -> Result<(OwnedFd, Transmission), ClientError> {
    let goal = Goal::Go { export: uri.export.clone(), contexts: contexts.to_vec() };
    match Link::open(&uri.address, timeouts)?.negotiate_replies(goal, replies)? {
        (link, HandshakeOutcome::Transmission(transmission)) => Ok((link.into_socket()?, transmission)),
        _ => unreachable!("a handshake ends by its goal"),
    }
}
