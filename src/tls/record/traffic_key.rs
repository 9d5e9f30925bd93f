//! The key of one direction, and the records that were made with it.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::error::RecordError;
use super::header::{ContentType, RECORD_DATA_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use crate::tls::secret::Secret;
use crate::tls::suite::CipherSuite;

/// Bytes of a tag, with each of the ciphers.
const TAG_BYTES: usize = 16;
/// Bytes behind the data of an encrypted record: its type and the tag.
pub const RECORD_TRAILER_BYTES: usize = 1 + TAG_BYTES;

/// The key that a traffic secret gives, and the sequence number of its next record. A nonce is made of both
/// and used once (RFC 8446, 5.3).
pub(in crate::tls) struct TrafficKey {
    secret: Secret,
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

impl TrafficKey {
    pub(in crate::tls) fn new(secret: Secret) -> Self {
        let cipher = secret.suite().cipher();
        let (mut key, mut iv) = (Zeroizing::new([0; 32]), Zeroizing::new([0; NONCE_LEN]));
        let key = &mut key[..cipher.key_len()];
        secret.expand("key", &[], key);
        secret.expand("iv", &[], iv.as_mut());
        let key = UnboundKey::new(cipher, key).expect("the key is as long as the cipher wants");
        Self { key: LessSafeKey::new(key), iv, sequence: 0, secret }
    }

    /// The key of a secret whose next record has this number.
    pub(in crate::tls) fn of_state(secret: Secret, sequence: u64) -> Self {
        Self { sequence, ..Self::new(secret) }
    }

    pub(in crate::tls) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(in crate::tls) fn suite(&self) -> CipherSuite {
        self.secret.suite()
    }

    /// Goes on to the next key (7.2).
    pub(in crate::tls) fn renew(&mut self) {
        *self = Self::new(self.secret.next());
    }

    /// Records that were made with this key.
    pub(in crate::tls) fn records(&self) -> u64 {
        self.sequence
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, of_number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `data` in place. `header` goes before it, `trailer` behind it.
    pub(in crate::tls) fn seal(
        &mut self,
        kind: ContentType,
        header: &mut [u8; RECORD_HEADER_BYTES],
        data: &mut [u8],
        trailer: &mut [u8; RECORD_TRAILER_BYTES],
    ) {
        assert!(data.len() <= RECORD_DATA_BYTES, "a record of {} bytes", data.len());
        let length = data.len() + RECORD_TRAILER_BYTES;
        *header = RecordHeader { kind: ContentType::Data, length }.bytes();
        let sealed =
            self.key.seal_in_place_scatter(self.nonce(), Aad::from(*header), data, &[kind.code()], trailer);
        sealed.expect("lengths and numbers are in bounds");
        if !(canary!(RecordNumberRepeated) && self.sequence == 5) {
            self.sequence += 1;
        }
    }

    /// Appends a record with this inside: data, type and padding, whatever they are.
    pub(in crate::tls) fn seal_inside(&mut self, inside: &[u8], output: &mut Vec<u8>) {
        let header = RecordHeader { kind: ContentType::Data, length: inside.len() + TAG_BYTES }.bytes();
        output.extend_from_slice(&header);
        let start = output.len();
        output.extend_from_slice(inside);
        let tag = self.key.seal_in_place_separate_tag(self.nonce(), Aad::from(header), &mut output[start..]);
        output.extend_from_slice(tag.expect("lengths are in bounds").as_ref());
        self.sequence += 1;
    }

    /// Decrypts a whole record in place. What it carried stands behind its header, as long as is told.
    pub(in crate::tls) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), RecordError> {
        let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES);
        if header[0] != ContentType::Data.code() {
            return Err(RecordError::UnexpectedType(header[0]));
        }
        if body.len() < RECORD_TRAILER_BYTES {
            return Err(RecordError::TooShort);
        }
        let opened = self.key.open_in_place(self.nonce(), Aad::from(&*header), body);
        let plain = opened.map_err(|_| RecordError::Undecipherable)?;
        self.sequence += 1;
        if plain.len() > RECORD_DATA_BYTES + 1 {
            return Err(RecordError::TooLong);
        }
        let end = plain.iter().rposition(|&byte| byte != 0).ok_or(RecordError::NoType)?;
        Ok((ContentType::of(plain[end])?, end))
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKey")
            .field("suite", &self.secret.suite())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
