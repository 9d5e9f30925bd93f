//! Who asks, as rules see it.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::IpAddr;

use super::address::AddressRange;
#[cfg(feature = "tls")]
use super::certificate::CertificateNames;
use super::term::{OVERFLOW, Term};
use crate::identity::{PeerIdentity, TlsIdentity};

/// What is known of a client, in the form in which rules ask for it. What is not known is not there, so
/// that no rule can match it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Asker {
    /// No addresses are among them.
    terms: BTreeSet<Term>,
    /// Not an IPv4 address in the form of IPv6.
    address: Option<IpAddr>,
}

impl Asker {
    /// What a connection tells.
    pub(crate) fn of(peer: &PeerIdentity) -> Self {
        let address = peer.address.map(|address| address.ip().to_canonical());
        let mut terms = BTreeSet::new();
        if let Some(unix) = &peer.unix {
            let is_known = |number: &u32| *number != OVERFLOW && *number != u32::MAX;
            terms.extend(Some(unix.uid).filter(is_known).map(Term::User));
            terms.extend(Some(unix.gid).filter(is_known).map(Term::Group));
        }
        let asker = Self { terms, address };
        match peer.tls.as_deref() {
            #[cfg(feature = "tls")]
            Some(TlsIdentity::Certificate(der)) => asker.with_certificate(der),
            #[cfg(not(feature = "tls"))]
            Some(TlsIdentity::Certificate(_)) => asker,
            Some(TlsIdentity::SharedKey(name)) => asker.with_shared_key(name),
            Some(TlsIdentity::Anonymous) | None => asker,
        }
    }

    /// The same with the name of a shared key that it proved to know.
    #[must_use]
    pub(crate) fn with_shared_key(mut self, name: &[u8]) -> Self {
        if !name.is_empty() {
            self.terms.insert(Term::SharedKey(name.to_vec()));
        }
        self
    }

    /// The same with what its certificate says. An authority that is believed has signed it; what cannot be
    /// read of it is not known.
    #[cfg(feature = "tls")]
    #[must_use]
    pub(crate) fn with_certificate(mut self, der: &[u8]) -> Self {
        let Some(names) = CertificateNames::read(der) else { return self };
        if let Some(subject) = names.subject {
            let common = subject.common_name().map(|name| Term::CommonName(name.to_owned()));
            self.terms.extend(common);
            self.terms.insert(Term::Name(subject));
        }
        self.terms.extend(names.alternatives.into_iter().map(Term::Alternative));
        self
    }

    /// Whether a condition holds.
    pub(super) fn has(&self, term: &Term) -> bool {
        match term {
            Term::Address(range) => self.address.is_some_and(|address| range.has(address)),
            term => self.terms.contains(term),
        }
    }

    /// What it has, but its address.
    pub(super) fn terms(&self) -> impl Iterator<Item = &Term> {
        self.terms.iter()
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    #[cfg(test)]
    pub(super) fn made_up(terms: BTreeSet<Term>, address: Option<IpAddr>) -> Self {
        Self { terms, address }
    }
}

/// A few of the things that are known, as a rule would ask for them: the rest follows from a certificate.
impl Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let address = self.address.map(|address| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            Term::Address(AddressRange::around(address, length))
        });
        let mut known = address.iter().chain(&self.terms).take(SHOWN).peekable();
        if known.peek().is_none() {
            return f.write_str("nothing is known");
        }
        for (index, term) in known.enumerate() {
            write!(f, "{}{term}", if index > 0 { " & " } else { "" })?;
        }
        Ok(())
    }
}
