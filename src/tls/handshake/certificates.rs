//! The handshake with certificates: rustls, record by record, until it has the keys of the session.

use std::fmt;
use std::sync::{Arc, Mutex};

use rustls::server::{ServerConfig, ServerConnection};
use rustls::{KeyLog, ProtocolVersion};
use zeroize::Zeroizing;

use super::block_keys::block_keys;
use super::error::TlsError;
use crate::identity::TlsIdentity;
use crate::tls::alert::Alert;
use crate::tls::proof::intermediates;
use crate::tls::secret::Secret;
use crate::tls::session::TlsSession;
use crate::tls::suite::CipherSuite;

const OF_CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const OF_SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The traffic secrets of one handshake of TLS 1.3, which is told them as if they were to be logged. rustls
/// gives only keys away at its end, and of a key no next one can be made.
#[derive(Default)]
pub(in crate::tls) struct TrafficSecrets(Mutex<[Option<Zeroizing<Vec<u8>>>; 2]>);

impl TrafficSecrets {
    /// Those of the client and of the server, once both are known; they leave.
    pub(in crate::tls) fn take(&self, suite: CipherSuite) -> Option<(Secret, Secret)> {
        let mut secrets = self.0.lock().ok()?;
        let (client, server) = (secrets[0].take()?, secrets[1].take()?);
        Some((Secret::new(suite, &client), Secret::new(suite, &server)))
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        // With TLS 1.2 it logs another one, unasked.
        if !self.will_log(label) {
            return;
        }
        let place = usize::from(label == OF_SERVER);
        if let Ok(mut secrets) = self.0.lock() {
            secrets[place] = Some(Zeroizing::new(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == OF_CLIENT || label == OF_SERVER
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

/// A handshake of rustls that has not ended.
#[derive(Debug)]
pub(super) struct CertificateHandshake {
    connection: Box<ServerConnection>,
    secrets: Arc<TrafficSecrets>,
}

impl CertificateHandshake {
    pub(super) fn new(mut config: ServerConfig) -> Result<Self, TlsError> {
        let secrets = Arc::new(TrafficSecrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let connection = ServerConnection::new(Arc::new(config)).map_err(TlsError::Certificates)?;
        Ok(Self { connection: Box::new(connection), secrets })
    }

    /// Takes whole records, and what is to be answered goes to `output`. True when the handshake has ended
    /// well.
    ///
    /// It must not be given more than one record at once behind the ClientHello: rustls would take what
    /// follows the handshake too.
    pub(super) fn take(&mut self, mut records: &[u8], output: &mut Vec<u8>) -> Result<bool, TlsError> {
        let mut result = Ok(());
        while result.is_ok() && !records.is_empty() {
            let taken = self.connection.read_tls(&mut records).unwrap_or(0);
            if taken == 0 {
                return Err(TlsError::TooMuch("it may keep"));
            }
            result = self.connection.process_new_packets().map(|_| ());
        }
        while self.connection.wants_write() {
            self.connection.write_tls(output).map_err(|_| TlsError::Internal("a write to memory"))?;
        }
        match result {
            Ok(()) => Ok(!self.connection.is_handshaking()),
            Err(rustls::Error::AlertReceived(alert)) => Err(TlsError::PeerAlert(Alert(alert.into()))),
            Err(error) => Err(TlsError::Certificates(error)),
        }
    }

    pub(super) fn session(self) -> Result<TlsSession, TlsError> {
        let Self { connection, secrets } = self;
        let suite = connection.negotiated_cipher_suite().map(|suite| u16::from(suite.suite()));
        let chain = connection.peer_certificates().unwrap_or_default();
        let intermediates = intermediates(chain);
        let identity = match chain {
            [own, ..] => TlsIdentity::Certificate(own.to_vec()),
            [] => TlsIdentity::Anonymous,
        };
        let session = if connection.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            let secrets = connection.dangerous_extract_secrets().map_err(TlsError::Certificates)?;
            let keys = block_keys(&secrets).ok_or(TlsError::Internal("a cipher is unknown"))?;
            let [received, sealed] = keys;
            TlsSession::of_keys(identity, received, sealed)
        } else {
            let suite = suite.and_then(CipherSuite::of);
            let suite = suite.ok_or(TlsError::Internal("a cipher suite is unknown"))?;
            let secrets = secrets.take(suite).ok_or(TlsError::Internal("the secrets were not told"))?;
            TlsSession::new(identity, secrets.0, secrets.1)
        };
        Ok(TlsSession { intermediates, ..session })
    }
}
