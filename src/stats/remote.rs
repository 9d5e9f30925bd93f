//! Metrics of exports that stand on another server, or on a command.

use serde::Serialize;

use super::page::Page;

/// What is told of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct RemoteExportFacts {
    /// Connections now.
    pub connections: u64,
    /// How often they came to be: all at once, or some in place of lost ones.
    pub connects: u64,
    /// Connections that were lost.
    pub losses: u64,
    /// Requests that were sent once more for that.
    pub sent_again: u64,
    /// Flushes that failed because changes may be lost.
    pub failed_flushes: u64,
}

/// The families of all of them, each by the label of its export; nothing where there is none.
pub(super) fn remotes(page: &mut Page, remotes: &[(&str, RemoteExportFacts)]) {
    if remotes.is_empty() {
        return;
    }
    let mut family = |name, kind, help, of: fn(&RemoteExportFacts) -> u64| {
        let values = remotes.iter().map(|(label, remote)| (*label, of(remote)));
        page.values(name, kind, help, "export", values);
    };
    let help = "Connections to the other server now; 0 while requests wait.";
    family("ringnbd_remote_connections", "gauge", help, |remote| remote.connections);
    let help =
        "How often connections to the other server were made: all at once, or some in place of lost ones.";
    family("ringnbd_remote_connects_total", "counter", help, |remote| remote.connects);
    let help = "Connections to the other server that were lost.";
    family("ringnbd_remote_losses_total", "counter", help, |remote| remote.losses);
    let help = "Requests that were under way on a connection that was lost, and were sent once more.";
    family("ringnbd_remote_requests_sent_again_total", "counter", help, |remote| remote.sent_again);
    let help = "Flushes that failed because a loss may have cost changes that were answered before.";
    family("ringnbd_remote_failed_flushes_total", "counter", help, |remote| remote.failed_flushes);
}
