//! The client's side of a handshake, of both kinds: its connector says which.

mod certificates;
pub(in crate::tls) mod error;
mod server_hello;
mod shared_key;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_12;

use std::time::Duration;

use super::connector::{ConnectorKind, TlsConnector, at_time};
use super::handshake::TlsStep;
use super::handshake::records::{GatherError, HandshakeRecords, RecordStep};
use super::handshake::shared_key::plain_record;
use super::record::header::ContentType;
use super::session::TlsSession;
use certificates::ConnectingCertificates;
use error::{OfferedIdentity, TlsClientError};
use shared_key::ConnectingSharedKey;

#[derive(Debug)]
enum ClientPhase {
    Certificates(ConnectingCertificates),
    SharedKey(Box<ConnectingSharedKey>),
    /// It has ended, well or not.
    Over,
}

/// The client's side of one handshake.
///
/// How long it takes is its driver's matter; what it keeps is bounded here.
#[derive(Debug)]
pub struct TlsClientHandshake {
    phase: ClientPhase,
    offered: OfferedIdentity,
    records: HandshakeRecords,
    output: Vec<u8>,
    /// The handshake has ended well; its output may not be sent yet.
    session: Option<Box<TlsSession>>,
}

impl TlsClientHandshake {
    /// A handshake with a server of that name or address, at a time since 1970.
    ///
    /// # Errors
    /// [`TlsClientError`]: nothing is to be sent.
    pub fn new(connector: &TlsConnector, server: &str, now: Duration) -> Result<Self, TlsClientError> {
        let mut output = Vec::new();
        let (phase, offered) = match &connector.0 {
            ConnectorKind::Certificates { config, has_certificate } => {
                let offered =
                    if *has_certificate { OfferedIdentity::Certificate } else { OfferedIdentity::Nobody };
                let config = at_time(config, now);
                let begun = ConnectingCertificates::new(config, server, offered.clone(), &mut output)?;
                (ClientPhase::Certificates(begun), offered)
            }
            ConnectorKind::SharedKey(shared) => {
                let begun = Box::new(ConnectingSharedKey::new(shared, &mut output)?);
                let offered = begun.offered();
                (ClientPhase::SharedKey(begun), offered)
            }
        };
        Ok(Self { phase, offered, records: HandshakeRecords::default(), output, session: None })
    }

    /// What the server is told of the client.
    pub fn offered(&self) -> &OfferedIdentity {
        &self.offered
    }

    /// Takes bytes off the front of `input`, up to the next step, and not beyond the handshake.
    ///
    /// # Errors
    /// [`TlsClientError`]: send what [`TlsClientHandshake::take_output`] gives, which tells the server, and
    /// close the connection.
    ///
    /// # Panics
    /// When it is fed after it ended.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<TlsStep, TlsClientError> {
        loop {
            if !self.output.is_empty() {
                return Ok(TlsStep::Send);
            }
            if let Some(session) = self.session.take() {
                self.phase = ClientPhase::Over;
                return Ok(TlsStep::Done(session));
            }
            assert!(!matches!(self.phase, ClientPhase::Over), "a handshake that has ended");
            match self.advance(input) {
                Ok(true) => {}
                Ok(false) => return Ok(TlsStep::Need),
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
    }

    /// The bytes to send, which leave the machine.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes one record, as far as it is there. False when the input is used up.
    fn advance(&mut self, input: &mut &[u8]) -> Result<bool, TlsClientError> {
        let mut record = match self.records.gather(input) {
            Ok(RecordStep::Nothing) => return Ok(false),
            Ok(RecordStep::Part) => return Ok(true),
            Ok(RecordStep::Record(record)) => record,
            Err(GatherError::Record(_)) if self.records.is_first() => return Err(TlsClientError::NotTls),
            Err(GatherError::Record(error)) => return Err(TlsClientError::Record(error)),
            Err(GatherError::TooMuch(what)) => return Err(TlsClientError::TooMuch(what)),
        };
        let session = match &mut self.phase {
            ClientPhase::Certificates(begun) => begun.take(&record, &mut self.output)?,
            ClientPhase::SharedKey(begun) => begun.take(&mut record, &mut self.output)?,
            ClientPhase::Over => unreachable!("nothing is fed behind the end"),
        };
        self.session = session.map(Box::new);
        Ok(true)
    }

    /// Tells the server.
    fn fail(&mut self, error: &TlsClientError) {
        let phase = std::mem::replace(&mut self.phase, ClientPhase::Over);
        match (error.alert(), phase) {
            (None, _) => {}
            (Some(alert), ClientPhase::SharedKey(begun)) => begun.alert(alert, &mut self.output),
            (Some(alert), _) => plain_record(ContentType::Alert, &alert.bytes(), &mut self.output),
        }
    }
}
