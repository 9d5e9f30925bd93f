//! Which connections go to another process, by what they have of TLS.

/// What a connection has of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
