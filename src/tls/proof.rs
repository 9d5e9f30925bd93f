//! Whether a client that was believed once would be believed now.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::acceptor::TlsAcceptor;
use super::session::TlsSession;
use crate::identity::TlsIdentity;

/// Bytes of a client's further certificates that are kept. A session with more is judged by its own alone.
const LONGEST_CHAIN: usize = 16 << 10;

/// What a client was believed for, beside its identity.
#[derive(Debug, Clone)]
pub(crate) struct TlsProof {
    /// Certificates between its own and that of an authority.
    intermediates: Vec<CertificateDer<'static>>,
    /// A hash of the shared key that it knew.
    shared_key: Option<[u8; 32]>,
}

/// Of the certificates of a client those that are kept beside its own.
pub(in crate::tls) fn intermediates(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    let others = chain.get(1..).unwrap_or_default();
    let is_short = others.iter().map(|one| one.len()).sum::<usize>() <= LONGEST_CHAIN;
    let kept = others.iter().filter(|_| is_short);
    kept.map(|one| one.clone().into_owned()).collect()
}

impl TlsAcceptor {
    /// What the client of a session was believed for, which this acceptor made.
    pub(crate) fn proof_of(&self, session: &TlsSession) -> TlsProof {
        let shared_key = match &session.identity {
            TlsIdentity::SharedKey(name) => self.shared_keys.hash_of(name),
            TlsIdentity::Certificate(_) | TlsIdentity::Anonymous => None,
        };
        TlsProof { intermediates: session.intermediates.clone(), shared_key }
    }

    /// Whether a client with this identity would be believed at this time, since 1970.
    pub(crate) fn still_believes(&self, identity: &TlsIdentity, proof: &TlsProof, now: Duration) -> bool {
        match identity {
            TlsIdentity::Anonymous => self.has_certificates() && !self.certificate_is_required,
            TlsIdentity::SharedKey(name) => {
                proof.shared_key.is_some() && self.shared_keys.hash_of(name) == proof.shared_key
            }
            TlsIdentity::Certificate(der) => self.clients.as_ref().is_some_and(|clients| {
                let (own, now) = (CertificateDer::from(der.as_slice()), UnixTime::since_unix_epoch(now));
                clients.verify_client_cert(&own, &proof.intermediates, now).is_ok()
            }),
        }
    }
}
