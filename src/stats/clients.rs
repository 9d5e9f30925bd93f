//! What is counted of clients before a shard has them.

use super::tls::TlsClients;

/// Clients since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClientCounts {
    /// Those that came.
    pub handshakes: u64,
    /// Those of them that chose an export, and that a shard took.
    pub attachments: u64,
    /// Questions for exports that the client may not use.
    pub refusals: u64,
    /// Decisions that were not written down, because there were too many of one client.
    pub audit_lines_dropped: u64,
    /// Sessions that were ended because they had lasted as long as they may.
    pub old_sessions: u64,
    /// Sessions that were ended because their clients would be refused.
    pub unwelcome_sessions: u64,
    /// Sessions that were ended because their clients take a larger size only so.
    pub grown_sessions: u64,
    /// Those with TLS.
    pub tls: TlsClients,
}
