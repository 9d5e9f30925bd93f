//! The server's side of a handshake, of both kinds.
//!
//! ```text
//!  Hello ─► Heard ─► the ClientHello offers a shared key, and the server has some ─► SharedKey ─┐
//!    └────► anything else ─► Certificates ────────────────────────────────────────────┴─► Done
//! ```

pub(in crate::tls) mod block_keys;
pub(in crate::tls) mod certificates;
pub(in crate::tls) mod client_hello;
pub(in crate::tls) mod error;
pub(in crate::tls) mod records;
pub(in crate::tls) mod shared_key;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use super::acceptor::TlsAcceptor;
use super::record::header::{ContentType, RECORD_BODY_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use super::session::TlsSession;
use certificates::CertificateHandshake;
use client_hello::ClientHello;
use error::TlsError;
use records::{GatherError, HandshakeRecords, RecordStep};
use shared_key::SharedKeyFinish;

/// Bytes of a ClientHello: those of today have some two thousand, with a key of a post-quantum exchange.
pub(in crate::tls) const HELLO_BYTES: usize = 16 << 10;
const CLIENT_HELLO: u8 = 1;

/// What the driver of a handshake has to do.
#[derive(Debug)]
pub enum TlsStep {
    /// All was taken: feed more.
    Need,
    /// Send what `take_output` gives, then feed on.
    Send,
    /// Of a server: the ClientHello is whole. Feed on, also with nothing, once there is memory and time for
    /// all that follows.
    Heard,
    /// The connection is a secure one. What is left of the input is its first records.
    Done(Box<TlsSession>),
}

#[derive(Debug)]
enum TlsPhase {
    /// The ClientHello is not whole: its bytes, and the records that brought them.
    Hello {
        message: Vec<u8>,
        records: Vec<u8>,
    },
    /// It is whole.
    Heard {
        message: Vec<u8>,
        records: Vec<u8>,
    },
    Certificates(CertificateHandshake),
    SharedKey(Box<SharedKeyFinish>),
    /// It has ended, well or not.
    Over,
}

/// The server's side of one handshake.
///
/// How long it takes is its driver's matter; what it keeps is bounded here.
#[derive(Debug)]
pub struct TlsHandshake {
    acceptor: Arc<TlsAcceptor>,
    /// The time of the handshake, since 1970: certificates end.
    now: Duration,
    phase: TlsPhase,
    records: HandshakeRecords,
    output: Vec<u8>,
    /// The handshake has ended well; its output may not be sent yet.
    session: Option<Box<TlsSession>>,
}

impl TlsHandshake {
    pub fn new(acceptor: Arc<TlsAcceptor>, now: Duration) -> Self {
        Self {
            acceptor,
            now,
            phase: TlsPhase::Hello { message: Vec::new(), records: Vec::new() },
            records: HandshakeRecords::default(),
            output: Vec::new(),
            session: None,
        }
    }

    /// Takes bytes off the front of `input`, up to the next step, and not beyond the handshake.
    ///
    /// # Errors
    /// [`TlsError`]: send what [`TlsHandshake::take_output`] gives, which tells the client, and close the
    /// connection.
    ///
    /// # Panics
    /// When it is fed after it ended.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<TlsStep, TlsError> {
        loop {
            if !self.output.is_empty() {
                return Ok(TlsStep::Send);
            }
            if let Some(session) = self.session.take() {
                self.phase = TlsPhase::Over;
                return Ok(TlsStep::Done(session));
            }
            assert!(!matches!(self.phase, TlsPhase::Over), "a handshake that has ended");
            let advanced = match &mut self.phase {
                TlsPhase::Heard { message, records } => {
                    let (message, records) = (std::mem::take(message), std::mem::take(records));
                    self.choose(&message, &records).map(|()| true)
                }
                _ => self.advance(input),
            };
            match advanced {
                Ok(true) if matches!(self.phase, TlsPhase::Heard { .. }) => return Ok(TlsStep::Heard),
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
    fn advance(&mut self, input: &mut &[u8]) -> Result<bool, TlsError> {
        if self.records.very_first().is_some_and(|kind| kind != ContentType::Handshake.code()) {
            return Err(TlsError::NotTls);
        }
        match self.records.gather(input) {
            Ok(RecordStep::Nothing) => Ok(false),
            Ok(RecordStep::Part) => Ok(true),
            Ok(RecordStep::Record(mut record)) => self.take(&mut record).map(|()| true),
            Err(GatherError::Record(error)) => Err(error.into()),
            Err(GatherError::TooMuch(what)) => Err(TlsError::TooMuch(what)),
        }
    }

    fn take(&mut self, record: &mut [u8]) -> Result<(), TlsError> {
        match &mut self.phase {
            TlsPhase::Hello { .. } => self.hello(record),
            TlsPhase::Certificates(handshake) => {
                if handshake.take(record, &mut self.output)? {
                    let TlsPhase::Certificates(handshake) =
                        std::mem::replace(&mut self.phase, TlsPhase::Over)
                    else {
                        unreachable!("it was a moment ago")
                    };
                    self.session = Some(Box::new(handshake.session()?));
                }
                Ok(())
            }
            TlsPhase::SharedKey(finish) => {
                if finish.take(record)? {
                    let TlsPhase::SharedKey(finish) = std::mem::replace(&mut self.phase, TlsPhase::Over)
                    else {
                        unreachable!("it was a moment ago")
                    };
                    self.session = Some(Box::new(finish.session()));
                }
                Ok(())
            }
            TlsPhase::Heard { .. } => unreachable!("the kind of handshake is chosen before more is taken"),
            TlsPhase::Over => unreachable!("nothing is fed behind the end"),
        }
    }

    /// Takes a record of the ClientHello.
    fn hello(&mut self, record: &[u8]) -> Result<(), TlsError> {
        let TlsPhase::Hello { message, records } = &mut self.phase else { unreachable!("asked for a hello") };
        let header = RecordHeader::parse(record)?.expect("the record is whole");
        match header.kind {
            ContentType::Handshake if header.length > 0 => {}
            _ => return Err(TlsError::NotTls),
        }
        records.extend_from_slice(record);
        message.extend_from_slice(&record[RECORD_HEADER_BYTES..]);
        if message[0] != CLIENT_HELLO {
            return Err(TlsError::NotTls);
        }
        let &[_, high, middle, low, ..] = message.as_slice() else { return Ok(()) };
        let length = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > HELLO_BYTES {
            return Err(TlsError::Malformed("its first message is too long"));
        }
        if message.len() < length {
            return Ok(());
        }
        if message.len() > length {
            return Err(TlsError::Malformed("something stands behind its first message"));
        }
        let (message, records) = (std::mem::take(message), std::mem::take(records));
        self.phase = TlsPhase::Heard { message, records };
        Ok(())
    }

    /// Chooses the kind of handshake, and answers.
    fn choose(&mut self, message: &[u8], records: &[u8]) -> Result<(), TlsError> {
        let hello = ClientHello::parse(message)?;
        if !hello.names.is_empty() && !self.acceptor.shared_keys.is_empty() {
            let finish = shared_key::answer(&self.acceptor.shared_keys, message, &hello, &mut self.output)?;
            self.phase = TlsPhase::SharedKey(Box::new(finish));
            return Ok(());
        }
        let Some(config) = self.acceptor.certificates(self.now) else {
            return Err(if hello.offers_tls_13() { TlsError::NoSharedKey } else { TlsError::OldVersion });
        };
        let mut handshake = CertificateHandshake::new(config)?;
        let ended = handshake.take(records, &mut self.output)?;
        assert!(!ended, "a handshake takes more than one message");
        self.phase = TlsPhase::Certificates(handshake);
        Ok(())
    }

    /// Tells the client: in plain text if it has no key yet.
    fn fail(&mut self, error: &TlsError) {
        let phase = std::mem::replace(&mut self.phase, TlsPhase::Over);
        match (error.alert(), phase) {
            (None, _) => {}
            (Some(alert), TlsPhase::SharedKey(finish)) => finish.alert(alert, &mut self.output),
            (Some(alert), _) => {
                shared_key::plain_record(ContentType::Alert, &alert.bytes(), &mut self.output);
            }
        }
    }
}

/// Memory that a handshake keeps at most, but for that of rustls: a hello twice, and a record.
pub const TLS_HANDSHAKE_BYTES: usize = 2 * (HELLO_BYTES + RECORD_BODY_BYTES) + RECORD_BODY_BYTES;
