//! What a shard knows of connections that another process may be about to get.

use std::time::Duration;

use crate::backend::ExportId;
use crate::shard::mailbox::LeavingConnection;
use crate::shard::takes_tls::TakesTls;

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
