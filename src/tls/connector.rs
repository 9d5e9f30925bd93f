//! What a client proves its identity with, and which servers it believes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use zeroize::Zeroizing;

use super::acceptor::{Now, of_pem, provider, versions};
use super::psk_keys::{PskError, PskKeys};
use super::version::TlsVersion;

/// Which servers are believed.
#[derive(Clone, Copy)]
pub enum ServerTrust<'a> {
    /// Those whose certificates are of one of these authorities, in PEM, and not on a list of revoked ones.
    Authorities {
        authorities: &'a [u8],
        /// Some of a system's authorities are of no use, and are left out.
        are_of_system: bool,
        revoked: Option<&'a [u8]>,
    },
    /// All: whoever stands in between can read and change everything.
    Anybody,
}

/// Why a client has nothing to connect with; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The authorities.
    #[error("the certificates of authorities cannot be used: {0}; they have to be in PEM")]
    Authorities(String),
    /// The list of those that were revoked.
    #[error("the list of revoked certificates cannot be used: {0}; it has to be in PEM")]
    Revoked(String),
    /// The client's own.
    #[error("the client's certificate cannot be read: {0}; it has to be in PEM")]
    Certificate(String),
    /// Its key.
    #[error("the client's key cannot be read: {0}; it has to be in PEM and without a password")]
    Key(String),
    /// One of another, or of a kind that is unknown.
    #[error("the client's certificate and its key cannot be used together: {0}")]
    Pair(rustls::Error),
    /// The shared keys.
    #[error("the file of shared keys cannot be used: {0}")]
    SharedKeys(#[from] PskError),
    /// A name without a key.
    #[error("there is no shared key of the name {0:?} in it: write one of its names before the host")]
    UnknownName(String),
    /// Several names.
    #[error("it has several shared keys: write the name of one before the host, as in nbds://NAME@HOST")]
    WhichName,
}

/// A name and a key.
pub(in crate::tls) struct SharedKey {
    pub(in crate::tls) name: Vec<u8>,
    pub(in crate::tls) key: Zeroizing<Vec<u8>>,
}

pub(in crate::tls) enum ConnectorKind {
    Certificates { config: Box<ClientConfig>, has_certificate: bool },
    SharedKey(SharedKey),
}

/// Begins handshakes. It is made once for many.
pub struct TlsConnector(pub(in crate::tls) ConnectorKind);

impl TlsConnector {
    /// Servers have certificates, and speak `oldest` or a later version; `own` are the client's, its own
    /// first, and its key, in PEM.
    ///
    /// # Errors
    /// [`ConnectorError`]: what is wrong with the files.
    pub fn with_certificates(
        trust: ServerTrust<'_>,
        own: Option<(&[u8], &[u8])>,
        oldest: TlsVersion,
    ) -> Result<Self, ConnectorError> {
        let provider = Arc::new(provider(oldest));
        let verifier = verifier(trust, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(oldest))
            .map_err(ConnectorError::Pair)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = of_pem(certificate).map_err(ConnectorError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| ConnectorError::Key(error.to_string()))?;
                builder.with_client_auth_cert(chain, key).map_err(ConnectorError::Pair)?
            }
        };
        // The first record of ours is the first of its key.
        config.resumption = Resumption::disabled();
        // Of TLS 1.2, as in the acceptor.
        config.enable_secret_extraction = oldest == TlsVersion::Tls12;
        config.require_ems = true;
        Ok(Self(ConnectorKind::Certificates { config: Box::new(config), has_certificate: own.is_some() }))
    }

    /// Both ends know a key: the one of this name in a file that `psktool` writes, or its only one.
    ///
    /// # Errors
    /// [`ConnectorError`]: what is wrong with the file.
    pub fn with_shared_key(keys: &[u8], name: Option<&str>) -> Result<Self, ConnectorError> {
        let keys = PskKeys::parse(keys)?;
        let missing =
            || name.map_or(ConnectorError::WhichName, |name| ConnectorError::UnknownName(name.into()));
        let (name, key) = keys.one(name.map(str::as_bytes)).ok_or_else(missing)?;
        let key = SharedKey { name: name.to_vec(), key: Zeroizing::new(key.to_vec()) };
        Ok(Self(ConnectorKind::SharedKey(key)))
    }

    /// Whether a server that wants to know who the client is will learn it.
    pub fn has_identity(&self) -> bool {
        !matches!(self.0, ConnectorKind::Certificates { has_certificate: false, .. })
    }
}

/// A configuration for a handshake at this time.
pub(in crate::tls) fn at_time(config: &ClientConfig, since_1970: Duration) -> ClientConfig {
    let mut config = config.clone();
    config.time_provider = Arc::new(Now::new(since_1970));
    config
}

fn verifier(
    trust: ServerTrust<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ConnectorError> {
    let ServerTrust::Authorities { authorities, are_of_system, revoked } = trust else {
        return Ok(Arc::new(AnyServer(Arc::clone(provider))));
    };
    let found: Vec<CertificateDer<'static>> = of_pem(authorities).map_err(ConnectorError::Authorities)?;
    let mut roots = RootCertStore::empty();
    if are_of_system {
        roots.add_parsable_certificates(found);
    } else {
        for authority in found {
            roots.add(authority).map_err(|error| ConnectorError::Authorities(error.to_string()))?;
        }
    }
    let revoked: Vec<CertificateRevocationListDer<'static>> =
        revoked.map_or(Ok(Vec::new()), of_pem).map_err(ConnectorError::Revoked)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build();
    let wrong = |error: rustls::client::VerifierBuilderError| match error {
        rustls::client::VerifierBuilderError::NoRootAnchors => ConnectorError::Authorities(error.to_string()),
        _ => ConnectorError::Revoked(error.to_string()),
    };
    Ok(verifier.map_err(wrong)?)
}

/// Believes every server that has the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Without certificates and keys.
impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ConnectorKind::Certificates { .. } => "TlsConnector(certificates)",
            ConnectorKind::SharedKey(_) => "TlsConnector(shared key)",
        })
    }
}
