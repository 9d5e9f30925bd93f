//! What is counted of TLS.

/// Of all connections of a shard, since it was last asked, or of all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsCounts {
    /// Renewals of keys of ours, and of clients.
    pub key_updates: u64,
    pub key_updates_by_clients: u64,
    /// Connections whose records could not be followed.
    pub record_errors: u64,
}

impl TlsCounts {
    pub(super) fn add(&mut self, other: &Self) {
        self.key_updates += other.key_updates;
        self.key_updates_by_clients += other.key_updates_by_clients;
        self.record_errors += other.record_errors;
    }
}

/// The versions that are spoken, as they are called in metrics, oldest first.
pub(crate) const TLS_VERSIONS: [&str; 2] = ["1.2", "1.3"];
/// The ciphers that are spoken, as they are called in metrics; [`TlsClients::sessions`] counts in this order.
pub(crate) const TLS_CIPHERS: [&str; 3] = ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"];

/// Why there is no secure connection, in a few classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// What came is no TLS.
    NotTls,
    /// Only older versions are offered.
    OldVersion,
    /// No cipher, no group in common.
    NothingInCommon,
    /// The client's certificate.
    Certificate,
    /// Its shared key.
    SharedKey,
    /// A message breaks the rules.
    Malformed,
    /// The client gave up: it does not believe the server, mostly.
    Client,
    /// It took too long.
    TimedOut,
    /// The client left, or the connection broke.
    Gone,
    /// Of our own.
    Internal,
}

impl TlsFailure {
    pub(crate) const ALL: [(Self, &'static str); 10] = [
        (Self::NotTls, "not_tls"),
        (Self::OldVersion, "old_version"),
        (Self::NothingInCommon, "nothing_in_common"),
        (Self::Certificate, "certificate"),
        (Self::SharedKey, "shared_key"),
        (Self::Malformed, "malformed"),
        (Self::Client, "client"),
        (Self::TimedOut, "timed_out"),
        (Self::Gone, "gone"),
        (Self::Internal, "internal"),
    ];
}

/// Handshakes of TLS since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TlsClients {
    /// By [`TLS_VERSIONS`], and by [`TLS_CIPHERS`].
    pub sessions: [[u64; TLS_CIPHERS.len()]; TLS_VERSIONS.len()],
    /// By [`TlsFailure`].
    pub failures: [u64; TlsFailure::ALL.len()],
}
