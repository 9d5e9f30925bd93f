//! The versions of TLS that are spoken.

use std::fmt::{self, Display};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246, for clients that have nothing else, and only where it is asked for.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// Oldest first, as metrics have them.
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];
}

impl Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}
