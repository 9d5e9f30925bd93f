//! Records of a peer, opened where they lie.

use std::ops::Range;

use super::error::RecordError;
use super::header::{ContentType, RECORD_HEADER_BYTES, RecordHeader};
use super::messages::Messages;
use super::traffic_key::TrafficKey;
use crate::tls::alert::Alert;
use crate::tls::secret::Secret;
use crate::tls::version::TlsVersion;

/// Records without data that may come in a row: key updates, and empty ones, which hide how much is sent.
const IDLE_RECORDS: u32 = 32;

/// What stands at the front of what was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// No whole record: bring it to at least so many bytes.
    Need(usize),
    /// A record.
    Record {
        /// Its bytes; what follows them is the next record.
        length: usize,
        /// Where its data is, which may be nothing.
        data: Range<usize>,
    },
    /// The peer's close_notify: no more will come.
    Closed {
        /// Its bytes.
        length: usize,
    },
}

/// The receiving end of a secure connection.
#[derive(Debug)]
pub struct RecordReceiver {
    key: TrafficKey,
    messages: Messages,
    idle: u32,
    key_updates: u64,
    answer_is_due: bool,
    closed: bool,
}

impl RecordReceiver {
    pub(in crate::tls) fn new(secret: Secret) -> Self {
        Self::of_key(TrafficKey::new(secret))
    }

    pub(in crate::tls) fn of_key(key: TrafficKey) -> Self {
        Self {
            key,
            messages: Messages::default(),
            idle: 0,
            key_updates: 0,
            answer_is_due: false,
            closed: false,
        }
    }

    /// The client's, whose peer is a server.
    pub(in crate::tls) fn of_client(secret: Secret) -> Self {
        Self { messages: Messages::with_tickets(), ..Self::new(secret) }
    }

    /// What another process needs to go on: the key, idle records, key updates, and whether an answer to one
    /// is due. `None` within a message, and at the end.
    pub(in crate::tls) fn state(&self) -> Option<(&TrafficKey, u32, u64, bool)> {
        let goes_on = !self.closed && !self.messages.is_amid();
        goes_on.then_some((&self.key, self.idle, self.key_updates, self.answer_is_due))
    }

    pub(in crate::tls) fn of_state(
        key: TrafficKey,
        idle: u32,
        key_updates: u64,
        answer_is_due: bool,
    ) -> Self {
        Self { key, messages: Messages::default(), idle, key_updates, answer_is_due, closed: false }
    }

    /// Opens the record at the front of `received`, in place.
    ///
    /// # Errors
    /// [`RecordError`]: the stream cannot be followed any further.
    pub fn open(&mut self, received: &mut [u8]) -> Result<Opened, RecordError> {
        if self.closed {
            let told_again = if received.is_empty() {
                Ok(Opened::Closed { length: 0 })
            } else {
                Err(RecordError::BehindClose)
            };
            return told_again;
        }
        let Some(header) = RecordHeader::parse(received)? else {
            return Ok(Opened::Need(RECORD_HEADER_BYTES));
        };
        let is_12 = self.key.version() == TlsVersion::Tls12;
        let may_be = match header.kind {
            ContentType::Data => true,
            ContentType::Alert | ContentType::Handshake => is_12,
            ContentType::ChangeCipherSpec => false,
        };
        if !may_be {
            return Err(RecordError::UnexpectedType(header.kind.code()));
        }
        let length = RECORD_HEADER_BYTES + header.length;
        let Some(record) = received.get_mut(..length) else { return Ok(Opened::Need(length)) };
        let (kind, data) = self.key.open(record)?;
        if kind != ContentType::Handshake && self.messages.is_amid() {
            return Err(RecordError::Malformed("a message is interrupted by another record"));
        }
        match kind {
            ContentType::Data => self.count(data.len())?,
            ContentType::Handshake if is_12 => return Err(renegotiation(&record[data])),
            ContentType::Handshake => {
                self.count(0)?;
                self.message(&record[data.clone()])?;
                return Ok(Opened::Record { length, data: length..length });
            }
            ContentType::Alert => {
                self.count(0)?;
                if alert(&record[data])? {
                    self.closed = true;
                    return Ok(Opened::Closed { length });
                }
                return Ok(Opened::Record { length, data: length..length });
            }
            ContentType::ChangeCipherSpec => return Err(RecordError::UnexpectedType(kind.code())),
        }
        Ok(Opened::Record { length, data })
    }

    /// With TLS 1.2 the peer's key is good for so many records of full length.
    pub(in crate::tls) fn set_most_records(&mut self, records: u64) {
        self.key.set_most_records(records);
    }

    /// Whether the session should end.
    pub(in crate::tls) fn is_worn(&self) -> bool {
        self.key.is_worn()
    }

    /// Whether the peer asked for a renewal of our key since this was asked last.
    pub(in crate::tls) fn take_answer(&mut self) -> bool {
        std::mem::take(&mut self.answer_is_due)
    }

    /// How often the peer renewed its key.
    pub fn key_updates(&self) -> u64 {
        self.key_updates
    }

    fn message(&mut self, carried: &[u8]) -> Result<(), RecordError> {
        if let Some(request) = self.messages.take(carried)? {
            if !canary!(KeyUpdateForgotten) {
                self.key.renew();
            }
            self.key_updates += 1;
            // Several requests are answered once.
            self.answer_is_due |= request;
        }
        Ok(())
    }

    /// Bounds what a peer can make this end do without sending anything.
    fn count(&mut self, carried: usize) -> Result<(), RecordError> {
        self.idle = if carried > 0 { 0 } else { self.idle.saturating_add(1) };
        if self.idle > IDLE_RECORDS { Err(RecordError::TooManyIdle(IDLE_RECORDS)) } else { Ok(()) }
    }
}

/// What is wrong with a message behind a handshake of TLS 1.2: there is none.
fn renegotiation(carried: &[u8]) -> RecordError {
    const HELLO_REQUEST: u8 = 0;
    const CLIENT_HELLO: u8 = 1;
    match carried.first() {
        None => RecordError::Malformed("a record without a part of a message"),
        Some(&(HELLO_REQUEST | CLIENT_HELLO)) => RecordError::Renegotiation,
        Some(&other) => RecordError::UnexpectedMessage(other),
    }
}

/// Reads an alert; true for close_notify, false for one that means nothing here.
pub(in crate::tls) fn alert(carried: &[u8]) -> Result<bool, RecordError> {
    // "The level is implicit in the type of alert being sent and can safely be ignored." With TLS 1.2 too:
    // none of those that were warnings once has a place behind a handshake.
    let &[_level, code] = carried else { return Err(RecordError::Malformed("an alert is not two bytes")) };
    match Alert(code) {
        Alert::CLOSE_NOTIFY => Ok(true),
        // A close_notify follows it.
        Alert::USER_CANCELED => Ok(false),
        fatal => Err(RecordError::PeerAlert(fatal)),
    }
}
