//! What a server proves its identity with, and whom it believes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};

use super::psk_keys::{PskError, PskKeys};
use super::suite::CipherSuite;
use super::version::TlsVersion;

/// The contents of the files that a server is given.
#[derive(Default, Clone, Copy)]
pub struct TlsMaterial<'a> {
    /// The server's certificates, its own first, and its key; both in PEM.
    pub certificate: Option<(&'a [u8], &'a [u8])>,
    /// The authorities whose certificates clients may have, in PEM. Without them no client is asked for one.
    pub client_authorities: Option<&'a [u8]>,
    /// Which client certificates were revoked, in PEM.
    pub revoked: Option<&'a [u8]>,
    /// A client without a certificate is refused.
    pub certificate_is_required: bool,
    /// Clients of TLS 1.2 are served too, with certificates: a handshake with a shared key is one of TLS 1.3.
    pub allows_tls_12: bool,
    /// Names and shared keys, as `psktool` writes them.
    pub shared_keys: Option<&'a [u8]>,
}

/// Why there is no TLS; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// There is nothing to prove an identity with.
    #[error("TLS needs a certificate with its key, or shared keys: give at least one of them")]
    Nothing,
    /// The certificates.
    #[error("the server's certificate cannot be read: {0}; it has to be in PEM")]
    Certificate(String),
    /// The key.
    #[error("the server's key cannot be read: {0}; it has to be in PEM and without a password")]
    Key(String),
    /// One of another, or of a kind that is unknown.
    #[error("the server's certificate and its key cannot be used together: {0}")]
    Pair(rustls::Error),
    /// The authorities.
    #[error("the certificates of authorities for clients cannot be used: {0}; they have to be in PEM")]
    Authorities(String),
    /// The list of those that were revoked.
    #[error("the list of revoked certificates cannot be used: {0}; it has to be in PEM")]
    Revoked(String),
    /// Certificates of clients are judged by authorities.
    #[error("client certificates cannot be checked without the certificate of their authority: give it")]
    NoAuthorities,
    /// The shared keys.
    #[error("the file of shared keys cannot be used: {0}")]
    SharedKeys(#[from] PskError),
}

/// Accepts handshakes. It is made once for many.
pub struct TlsAcceptor {
    certificates: Option<ServerConfig>,
    /// Judges the certificates of clients.
    pub(in crate::tls) clients: Option<Arc<dyn ClientCertVerifier>>,
    pub(in crate::tls) certificate_is_required: bool,
    pub(in crate::tls) shared_keys: PskKeys,
    /// A hash of all of the material.
    made_of: [u8; 32],
}

impl TlsAcceptor {
    /// # Errors
    /// [`TlsSetupError`]: what is wrong with the material.
    pub fn new(material: &TlsMaterial<'_>) -> Result<Self, TlsSetupError> {
        if material.client_authorities.is_none()
            && (material.revoked.is_some() || material.certificate_is_required)
        {
            return Err(TlsSetupError::NoAuthorities);
        }
        let shared_keys = material.shared_keys.map(PskKeys::parse).transpose()?.unwrap_or_default();
        let (certificates, clients) = match material.certificate {
            Some((certificate, key)) => {
                let (config, clients) = certificates(material, certificate, key)?;
                (Some(config), material.client_authorities.is_some().then_some(clients))
            }
            None => (None, None),
        };
        if certificates.is_none() && shared_keys.is_empty() {
            return Err(TlsSetupError::Nothing);
        }
        let certificate_is_required = material.certificate_is_required;
        Ok(Self { certificates, clients, certificate_is_required, shared_keys, made_of: hash_of(material) })
    }

    /// Whether it can prove its identity with a certificate.
    pub(in crate::tls) fn has_certificates(&self) -> bool {
        self.certificates.is_some()
    }

    /// Whether it was made of the same material as another one.
    pub fn is_made_of_the_same_as(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }

    /// What a handshake with certificates is made of, at a time.
    pub(in crate::tls) fn certificates(&self, since_1970: Duration) -> Option<ServerConfig> {
        let mut config = self.certificates.clone()?;
        config.time_provider = Arc::new(Now::new(since_1970));
        Some(config)
    }
}

fn hash_of(material: &TlsMaterial<'_>) -> [u8; 32] {
    let TlsMaterial { certificate, client_authorities, revoked, shared_keys, .. } = material;
    let (certificate, key) = certificate.unzip();
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in [certificate, key, *client_authorities, *revoked, *shared_keys] {
        // Its length first, so that nothing moves from one to the next unseen.
        hash.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.update(&[material.certificate_is_required.into(), material.allows_tls_12.into()]);
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The time of a handshake, which its caller tells.
#[derive(Debug)]
pub(in crate::tls) struct Now(UnixTime);

impl Now {
    pub(in crate::tls) fn new(since_1970: Duration) -> Self {
        Self(UnixTime::since_unix_epoch(since_1970))
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

fn certificates(
    material: &TlsMaterial<'_>,
    certificate: &[u8],
    key: &[u8],
) -> Result<(ServerConfig, Arc<dyn ClientCertVerifier>), TlsSetupError> {
    let chain: Vec<CertificateDer<'static>> = of_pem(certificate).map_err(TlsSetupError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsSetupError::Key(error.to_string()))?;
    let oldest = if material.allows_tls_12 { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
    let provider = Arc::new(provider(oldest));
    let clients = match material.client_authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in of_pem(authorities).map_err(TlsSetupError::Authorities)? {
                roots.add(authority).map_err(|error| TlsSetupError::Authorities(error.to_string()))?;
            }
            let revoked: Vec<CertificateRevocationListDer<'static>> =
                material.revoked.map_or(Ok(Vec::new()), of_pem).map_err(TlsSetupError::Revoked)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .with_crls(revoked)
                    .allow_unknown_revocation_status();
            let verifier =
                if material.certificate_is_required { verifier } else { verifier.allow_unauthenticated() };
            verifier.build().map_err(|error| TlsSetupError::Revoked(error.to_string()))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(oldest))
        .map_err(TlsSetupError::Pair)?
        .with_client_cert_verifier(Arc::clone(&clients))
        .with_single_cert(chain, key)
        .map_err(TlsSetupError::Pair)?;
    // Clients of GnuTLS ask for AES-256 first, which is slower.
    config.ignore_client_order = true;
    // No tickets: a session is never resumed, and the first record of ours is the first of its key.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Of TLS 1.2: the keys of a session are told at the end of its handshake, and belong to no other one.
    config.enable_secret_extraction = material.allows_tls_12;
    config.require_ems = true;
    Ok((config, clients))
}

/// The versions that are spoken from `oldest` on.
pub(in crate::tls) fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    }
}

/// The primitives of rustls, with our suites in our order.
pub(in crate::tls) fn provider(oldest: TlsVersion) -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let of_12 = |code| CipherSuite::of_12(code).filter(|_| oldest == TlsVersion::Tls12);
    let preferred = |code: u16| {
        let suite = CipherSuite::of(code).or_else(|| of_12(code))?;
        CipherSuite::ALL.iter().position(|one| *one == suite)
    };
    provider.cipher_suites.retain(|suite| preferred(suite.suite().into()).is_some());
    provider.cipher_suites.sort_by_key(|suite| preferred(suite.suite().into()));
    provider
}

/// All of a kind that stand in a file; at least one.
pub(in crate::tls) fn of_pem<T: PemObject>(pem: &[u8]) -> Result<Vec<T>, String> {
    let found: Vec<T> =
        T::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("there is none in the file".to_owned()) } else { Ok(found) }
}

/// Without certificates and keys.
impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("certificates", &self.certificates.is_some())
            .field("shared_keys", &self.shared_keys)
            .finish()
    }
}
