//! Records for a peer, sealed where their data lies.

use super::header::{ContentType, RECORD_DATA_BYTES};
use super::messages::key_update;
use super::traffic_key::{RECORD_TRAILER_BYTES, TrafficKey};
use crate::tls::alert::Alert;
use crate::tls::secret::Secret;
use crate::tls::version::TlsVersion;

/// A key is renewed after so many records. With AES-GCM, "up to 2^24.5 full-size records may be encrypted on
/// a given connection" (RFC 8446, 5.5). With TLS 1.2 there is no renewal: a session ends when a key with
/// AES-GCM has made what so many records of full length take.
pub const RENEWAL_RECORDS: u64 = 1 << 24;
/// Records that are made after that without a renewal are a mistake of ours.
const SLACK_RECORDS: u64 = 1 << 22;

/// The sending end of a secure connection.
#[derive(Debug)]
pub struct RecordSealer {
    key: TrafficKey,
    renewal: u64,
    key_updates: u64,
}

impl RecordSealer {
    pub(in crate::tls) fn new(secret: Secret) -> Self {
        Self::of_key(TrafficKey::new(secret))
    }

    pub(in crate::tls) fn of_key(key: TrafficKey) -> Self {
        Self { key, renewal: RENEWAL_RECORDS, key_updates: 0 }
    }

    /// What another process needs to go on.
    pub(in crate::tls) fn key(&self) -> &TrafficKey {
        &self.key
    }

    /// One that goes on with a key; `None` if that has made more records than it may.
    pub(in crate::tls) fn of_state(key: TrafficKey) -> Option<Self> {
        let sealer = Self::of_key(key);
        sealer.may_seal().then_some(sealer)
    }

    /// Renews the key after `records`; with TLS 1.2 it is [worn](RecordSealer::is_worn) after as many of full
    /// length.
    ///
    /// # Panics
    /// With more than [`RENEWAL_RECORDS`], or none.
    pub fn set_renewal(&mut self, records: u64) {
        assert!((1..=RENEWAL_RECORDS).contains(&records), "a renewal after {records} records");
        self.renewal = records;
        self.key.set_most_records(records);
    }

    /// Whether the next thing to send should be [`RecordSealer::renew`].
    pub fn renewal_is_due(&self) -> bool {
        self.key.version() == TlsVersion::Tls13 && self.key.records() >= self.renewal
    }

    /// Whether the session should end, with what is due.
    pub fn is_worn(&self) -> bool {
        self.key.is_worn()
    }

    /// Bytes before the data of a record; `RECORD_FRONT_BYTES` at most.
    pub fn front_bytes(&self) -> usize {
        self.key.front_bytes()
    }

    /// Bytes behind the data of a record; `RECORD_TRAILER_BYTES` at most.
    pub fn trailer_bytes(&self) -> usize {
        self.key.trailer_bytes()
    }

    fn may_seal(&self) -> bool {
        match self.key.version() {
            TlsVersion::Tls12 => !self.key.is_spent(),
            TlsVersion::Tls13 => self.key.records() < self.renewal + SLACK_RECORDS,
        }
    }

    /// How often the key was renewed.
    pub fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Seals data in place, with room of the caller's for what goes before and behind it.
    ///
    /// # Panics
    /// When the data is longer than [`RECORD_DATA_BYTES`], or the room is not as long as is told.
    pub fn seal(&mut self, front: &mut [u8], data: &mut [u8], trailer: &mut [u8]) {
        self.seal_with(front, data, &[], trailer);
    }

    /// The same with a few bytes more behind the data, which lie elsewhere: encrypted they stand at the front
    /// of the trailer, which is longer by them.
    ///
    /// # Panics
    /// When all data is longer than [`RECORD_DATA_BYTES`], `more` than `RECORD_MORE_BYTES`, or the room is
    /// not as long as is told.
    pub fn seal_with(&mut self, front: &mut [u8], data: &mut [u8], more: &[u8], trailer: &mut [u8]) {
        assert!(self.may_seal(), "a key was not renewed");
        self.key.seal(ContentType::Data, front, (data, more), trailer);
    }

    /// Appends data as records.
    pub fn append(&mut self, data: &[u8], output: &mut Vec<u8>) {
        for piece in data.chunks(RECORD_DATA_BYTES) {
            if self.renewal_is_due() {
                self.renew(output);
            }
            self.append_record(ContentType::Data, piece, output);
        }
    }

    /// Appends the message that renews the key; what follows it has the next one.
    pub fn renew(&mut self, output: &mut Vec<u8>) {
        self.append_record(ContentType::Handshake, &key_update(false), output);
        self.key.renew();
        self.key_updates += 1;
    }

    /// Appends an alert. [`Alert::CLOSE_NOTIFY`] is the goodbye.
    pub fn alert(&mut self, alert: Alert, output: &mut Vec<u8>) {
        self.append_record(ContentType::Alert, &alert.bytes(), output);
    }

    pub(in crate::tls) fn append_record(&mut self, kind: ContentType, data: &[u8], output: &mut Vec<u8>) {
        let (start, before) = (output.len(), self.front_bytes());
        output.resize(start + before, 0);
        output.extend_from_slice(data);
        let (front, data) = output[start..].split_at_mut(before);
        let mut trailer = [0; RECORD_TRAILER_BYTES];
        let trailer = &mut trailer[..self.trailer_bytes()];
        self.key.seal(kind, front, (data, &[]), trailer);
        output.extend_from_slice(trailer);
    }
}
