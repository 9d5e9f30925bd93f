//! The NBD client: URIs, connections, and what a server tells about its exports.
//!
//! Blocking, over std sockets: for tools that ask a few questions. The protocol itself is in [`crate::nbd`] and does no I/O; here are only
//! the sockets, the timeouts and the order of calls.

mod connection;
mod error;
mod extents;
mod socket;
pub mod uri;

pub use connection::{Connection, StatusExtent};
pub use error::ClientError;
pub use extents::{MappedExtent, Merge};
pub use socket::Timeouts;

use crate::nbd::client_handshake::{Dialect, ExportDetails, Goal, ListedExport, Outcome};
use socket::Link;
use uri::NbdUri;

/// Asks a server about the export of `uri`, and parts.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn info(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, ExportDetails), ClientError> {
    match Link::open(&uri.address, timeouts)?.negotiate(Goal::Info { export: uri.export.clone() })? {
        (_, Outcome::Info(dialect, details)) => Ok((dialect, details)),
        _ => unreachable!("a handshake ends by its goal"),
    }
}

/// Asks the server of `uri` for its exports, whatever export the URI names, and parts.
///
/// # Errors
/// [`ClientError`], while connecting or negotiating.
pub fn list(uri: &NbdUri, timeouts: Timeouts) -> Result<(Dialect, Vec<ListedExport>), ClientError> {
    match Link::open(&uri.address, timeouts)?.negotiate(Goal::List)? {
        (_, Outcome::List(dialect, exports)) => Ok((dialect, exports)),
        _ => unreachable!("a handshake ends by its goal"),
    }
}
