//! A secure connection under load: records are opened in the receive buffer, and requests sealed in the batch
//! that sends them.

use crate::client::secure::SecureStream;
use crate::ring::SendBatch;
use crate::tls::{Alert, Opened, RECORD_DATA_BYTES, RECORD_FRONT_BYTES, RECORD_TRAILER_BYTES, TlsSession};

/// What is wrong with a record.
pub(super) use crate::tls::RecordError as RecordFault;

/// What a record has beside its data at most.
const OVERHEAD: usize = RECORD_FRONT_BYTES + RECORD_TRAILER_BYTES;
/// A key update, or an alert, as a record.
const MESSAGE: usize = OVERHEAD + 5;

/// The most bytes of a batch that a request of `length` bytes takes, and a goodbye behind it.
pub(super) const fn room_for(length: usize) -> usize {
    let records = length / RECORD_DATA_BYTES + 2;
    length + records * (OVERHEAD + MESSAGE) + MESSAGE
}

/// Both ends of the records of a connection.
#[derive(Debug)]
pub(super) struct LoadRecords {
    session: Box<TlsSession>,
    /// Where in the batch the record begins that more can go into.
    begun: Option<usize>,
    /// The front of a record whose rest has not come.
    partial: Vec<u8>,
}

/// How a stream of records goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordsEnd {
    More,
    /// The server says that no more will come.
    Closed,
}

impl LoadRecords {
    /// Renews its key after `renewal` records.
    pub(super) fn new(stream: SecureStream, renewal: Option<u64>) -> Self {
        let (mut session, partial) = stream.into_parts();
        if let Some(records) = renewal {
            session.set_renewal(records);
        }
        Self { session, begun: None, partial }
    }

    /// Appends plain bytes, which are sealed in place when their record is full or the batch is.
    pub(super) fn push(&mut self, batch: &mut SendBatch, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = self.begun.unwrap_or_else(|| self.begin(batch));
            let held = batch.headers_mut().len() - start - self.session.sealer.front_bytes();
            let (taken, rest) = bytes.split_at(bytes.len().min(RECORD_DATA_BYTES - held));
            batch.push_header(taken);
            bytes = rest;
            self.begun = Some(start);
            if held + taken.len() == RECORD_DATA_BYTES {
                self.finish(batch);
            }
        }
    }

    #[inline]
    fn begin(&mut self, batch: &mut SendBatch) -> usize {
        let mut due = Vec::new();
        self.session.renew_if_due(&mut due);
        batch.push_header(&due);
        let start = batch.headers_mut().len();
        batch.push_header(&[0; RECORD_FRONT_BYTES][..self.session.sealer.front_bytes()]);
        start
    }

    /// Seals the last record; the batch can be sent then.
    #[inline]
    pub(super) fn finish(&mut self, batch: &mut SendBatch) {
        let Some(start) = self.begun.take() else { return };
        let sealer = &mut self.session.sealer;
        batch.push_header(&[0; RECORD_TRAILER_BYTES][..sealer.trailer_bytes()]);
        let (front, record) = batch.headers_mut()[start..].split_at_mut(sealer.front_bytes());
        let (data, trailer) = record.split_at_mut(record.len() - sealer.trailer_bytes());
        sealer.seal(front, data, trailer);
    }

    /// The last words.
    pub(super) fn say_goodbye(&mut self, batch: &mut SendBatch) {
        self.finish(batch);
        let mut goodbye = Vec::new();
        self.session.sealer.alert(Alert::CLOSE_NOTIFY, &mut goodbye);
        batch.push_header(&goodbye);
    }

    /// Opens what was received, in place, and tells `each` its data. Only a record that two receives brought
    /// is copied.
    pub(super) fn open<E: From<RecordFault>>(
        &mut self,
        mut received: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<RecordsEnd, E> {
        while !self.partial.is_empty() {
            match self.session.open(&mut self.partial)? {
                Opened::Need(bytes) => {
                    let missing = (bytes - self.partial.len()).min(received.len());
                    if missing == 0 {
                        return Ok(RecordsEnd::More);
                    }
                    let (front, rest) = received.split_at_mut(missing);
                    self.partial.extend_from_slice(front);
                    received = rest;
                }
                Opened::Record { length, data } => {
                    each(&self.partial[data])?;
                    self.partial.drain(..length);
                }
                Opened::Closed { .. } => return Ok(RecordsEnd::Closed),
            }
        }
        loop {
            match self.session.open(received)? {
                Opened::Need(_) => {
                    self.partial.extend_from_slice(received);
                    return Ok(RecordsEnd::More);
                }
                Opened::Record { length, data } => {
                    each(&received[data])?;
                    received = &mut received[length..];
                }
                Opened::Closed { .. } => return Ok(RecordsEnd::Closed),
            }
        }
    }
}
