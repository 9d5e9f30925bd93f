//! The handshake with certificates: rustls, record by record, until it has the keys of the session.

use std::sync::Arc;

use rustls::client::{ClientConfig, ClientConnection};
use rustls::pki_types::ServerName;
use rustls::{KeyLog, ProtocolVersion};

use super::error::{OfferedIdentity, TlsClientError};
use crate::identity::TlsIdentity;
use crate::tls::alert::Alert;
use crate::tls::handshake::block_keys::block_keys;
use crate::tls::handshake::certificates::TrafficSecrets;
use crate::tls::session::TlsSession;
use crate::tls::suite::CipherSuite;

/// A handshake of rustls that has not ended.
#[derive(Debug)]
pub(super) struct ConnectingCertificates {
    /// Gone at the end.
    connection: Option<Box<ClientConnection>>,
    secrets: Arc<TrafficSecrets>,
    offered: OfferedIdentity,
}

impl ConnectingCertificates {
    /// Its first message goes to `output`.
    pub(super) fn new(
        mut config: ClientConfig,
        server: &str,
        offered: OfferedIdentity,
        output: &mut Vec<u8>,
    ) -> Result<Self, TlsClientError> {
        // A zone says where an address is, and is no part of it.
        let (address, _zone) = server.split_once('%').unwrap_or((server, ""));
        let name = ServerName::try_from(address.to_owned());
        let name = name.map_err(|_| TlsClientError::Name(server.escape_debug().to_string()))?;
        let secrets = Arc::new(TrafficSecrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let connection =
            ClientConnection::new(Arc::new(config), name).map_err(TlsClientError::Certificates)?;
        let mut connection = Box::new(connection);
        write(&mut connection, output)?;
        Ok(Self { connection: Some(connection), secrets, offered })
    }

    /// Takes one whole record, and what is to be answered goes to `output`. Gives the session at the end.
    ///
    /// With more than one record rustls would take what follows the handshake too.
    pub(super) fn take(
        &mut self,
        mut record: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<TlsSession>, TlsClientError> {
        let connection = self.connection.as_mut().ok_or(TlsClientError::Internal("it has ended"))?;
        let mut result = Ok(());
        while result.is_ok() && !record.is_empty() {
            if connection.read_tls(&mut record).unwrap_or(0) == 0 {
                return Err(TlsClientError::TooMuch("it may keep"));
            }
            result = connection.process_new_packets().map(|_| ());
        }
        write(connection, output)?;
        match result {
            Ok(()) if connection.is_handshaking() => Ok(None),
            Ok(()) => self.session().map(Some),
            Err(rustls::Error::AlertReceived(alert)) => {
                Err(TlsClientError::PeerAlert { alert: Alert(alert.into()), offered: self.offered.clone() })
            }
            Err(error) => Err(TlsClientError::Certificates(error)),
        }
    }

    fn session(&mut self) -> Result<TlsSession, TlsClientError> {
        let connection = self.connection.take().expect("it ends once");
        let suite = connection.negotiated_cipher_suite().map(|suite| u16::from(suite.suite()));
        let identity = match connection.peer_certificates() {
            Some([own, ..]) => TlsIdentity::Certificate(own.to_vec()),
            _ => TlsIdentity::Anonymous,
        };
        if connection.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            let secrets = connection.dangerous_extract_secrets().map_err(TlsClientError::Certificates)?;
            let keys = block_keys(&secrets).ok_or(TlsClientError::Internal("a cipher is unknown"))?;
            let [received, sealed] = keys;
            return Ok(TlsSession::of_keys(identity, received, sealed));
        }
        let suite = suite.and_then(CipherSuite::of);
        let suite = suite.ok_or(TlsClientError::Internal("a cipher suite is unknown"))?;
        let secrets = self.secrets.take(suite);
        let (client, server) = secrets.ok_or(TlsClientError::Internal("the secrets were not told"))?;
        Ok(TlsSession::of_client(identity, client, server))
    }
}

fn write(connection: &mut ClientConnection, output: &mut Vec<u8>) -> Result<(), TlsClientError> {
    while connection.wants_write() {
        connection.write_tls(output).map_err(|_| TlsClientError::Internal("a write to memory"))?;
    }
    Ok(())
}
