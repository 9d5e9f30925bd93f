//! Records for a peer, sealed where their data lies.

use super::header::{ContentType, RECORD_DATA_BYTES, RECORD_HEADER_BYTES};
use super::messages::key_update;
use super::traffic_key::{RECORD_TRAILER_BYTES, TrafficKey};
use crate::tls::alert::Alert;
use crate::tls::secret::Secret;
use crate::tls::suite::CipherSuite;

/// A key is renewed after so many records. With AES-GCM, "up to 2^24.5 full-size records may be encrypted on
/// a given connection" (RFC 8446, 5.5).
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
        Self { key: TrafficKey::new(secret), renewal: RENEWAL_RECORDS, key_updates: 0 }
    }

    /// What another process needs to go on.
    pub(in crate::tls) fn key(&self) -> &TrafficKey {
        &self.key
    }

    /// One that goes on with a key; `None` if that has made more records than it may.
    pub(in crate::tls) fn of_state(key: TrafficKey) -> Option<Self> {
        let (renewal, key_updates) = (RENEWAL_RECORDS, 0);
        (key.records() < renewal + SLACK_RECORDS).then_some(Self { key, renewal, key_updates })
    }

    pub(in crate::tls) fn suite(&self) -> CipherSuite {
        self.key.suite()
    }

    /// Renews the key after `records`, for tests.
    ///
    /// # Panics
    /// With more than [`RENEWAL_RECORDS`], or none.
    pub fn set_renewal(&mut self, records: u64) {
        assert!((1..=RENEWAL_RECORDS).contains(&records), "a renewal after {records} records");
        self.renewal = records;
    }

    /// Whether the next thing to send should be [`RecordSealer::renew`].
    pub fn renewal_is_due(&self) -> bool {
        self.key.records() >= self.renewal
    }

    /// How often the key was renewed.
    pub fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Seals data in place, with room of the caller's for what goes before and behind it.
    ///
    /// # Panics
    /// When the data is longer than [`RECORD_DATA_BYTES`].
    pub fn seal(
        &mut self,
        header: &mut [u8; RECORD_HEADER_BYTES],
        data: &mut [u8],
        trailer: &mut [u8; RECORD_TRAILER_BYTES],
    ) {
        assert!(self.key.records() < self.renewal + SLACK_RECORDS, "a key was not renewed");
        self.key.seal(ContentType::Data, header, data, trailer);
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
        let (mut header, mut trailer) = ([0; RECORD_HEADER_BYTES], [0; RECORD_TRAILER_BYTES]);
        let start = output.len();
        output.extend_from_slice(&header);
        output.extend_from_slice(data);
        self.key.seal(kind, &mut header, &mut output[start + RECORD_HEADER_BYTES..], &mut trailer);
        output[start..start + RECORD_HEADER_BYTES].copy_from_slice(&header);
        output.extend_from_slice(&trailer);
    }
}
