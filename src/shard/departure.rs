//! What a shard knows of connections that another process may be about to get.

use std::time::Duration;

use crate::backend::ExportId;
use crate::shard::mailbox::LeavingConnection;

/// What a connection has of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there is none"))]
pub(crate) enum ConnectionTls {
    None,
    Tls13,
    /// Processes of earlier versions of this program know nothing of it.
    Tls12,
}

/// Which connections another process takes: those with this, and with what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakesTls(pub(crate) ConnectionTls);

impl TakesTls {
    pub(crate) const NONE: Self = Self(ConnectionTls::None);
    pub(crate) const ALL: Self = Self(ConnectionTls::Tls12);

    pub(crate) fn takes(self, connection: ConnectionTls) -> bool {
        connection <= self.0
    }
}

/// Connections that are being made ready, or are.
pub(crate) struct Departure {
    pub(crate) exports: Vec<ExportId>,
    pub(crate) takes: TakesTls,
    /// By the ring's clock: for what a device works on, and for what only its client can end.
    pub(crate) deadline: Duration,
    pub(crate) client_deadline: Duration,
    /// Whom to tell; none once that was done.
    pub(crate) answer: Option<Box<dyn FnOnce(Vec<LeavingConnection>) + Send>>,
    /// Those that were told of: their keys, and their numbers in the log.
    pub(crate) told: Vec<(u32, u64)>,
}
