//! The key of one direction, and the records that were made with it.
//!
//! ```text
//! TLS 1.3   header │ data, type │ tag          the header vouches for itself, and says "data"
//! TLS 1.2   header │ nonce │ data │ tag        number, type, version and length of the data are vouched for;
//!                                              the nonce's 8 bytes are there with AES-GCM alone
//! ```

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::error::RecordError;
use super::header::{ContentType, RECORD_DATA_BYTES, RECORD_HEADER_BYTES, header_bytes};
use super::key_block::KeyBlock;
use crate::tls::secret::Secret;
use crate::tls::suite::CipherSuite;
use crate::tls::version::TlsVersion;

/// Bytes of a tag, with each of the ciphers.
const TAG_BYTES: usize = 16;
/// Bytes behind the data of an encrypted record at most: its type, with TLS 1.3, and the tag.
pub const RECORD_TRAILER_BYTES: usize = 1 + TAG_BYTES;
/// Bytes of a nonce that each record brings, with TLS 1.2 and AES-GCM (RFC 5288, 3).
const EXPLICIT_BYTES: usize = 8;
/// Bytes before the data of an encrypted record at most.
pub const RECORD_FRONT_BYTES: usize = RECORD_HEADER_BYTES + EXPLICIT_BYTES;

/// Bytes that may be sealed in a record beside the data that lie together.
pub(crate) const RECORD_MORE_BYTES: usize = 64;

/// Bytes of a block of AES.
const BLOCK_BYTES: usize = 16;
/// Blocks of a record of full length.
const RECORD_BLOCKS: u64 = (RECORD_DATA_BYTES / BLOCK_BYTES) as u64;
/// Blocks that a key of TLS 1.2 makes with AES-GCM at most, which are those of 2^24 records of full length.
///
/// RFC 9325, 4.4, recommends a limit of 2^24.5 records for TLS 1.2 as for TLS 1.3 (RFC 8446, 5.5, which means
/// full records), and another handshake before it. Here there is none within a session, so the session ends.
/// What limits a key is the sum of records and their blocks: the chance of an attacker is below its square
/// over 2^129 (draft-irtf-cfrg-aead-limits, 5.1), which is 2^-60 for 2^24.5 full records and 2^-61 for these.
/// So blocks are counted, two more for each record. Reads of 4 KiB would reach the number of records after
/// three minutes, with a quarter of the blocks.
const MOST_BLOCKS: u64 = RECORD_BLOCKS << 24;
/// Blocks that are made after that are a mistake of ours: what a client has asked for is far less.
const SLACK_BLOCKS: u64 = RECORD_BLOCKS << 22;

/// What a key was made of, which is what another process is told.
#[derive(Debug)]
pub(in crate::tls) enum KeySource {
    /// With TLS 1.3; the next key is made of it too.
    Secret(Secret),
    /// With TLS 1.2.
    Block(KeyBlock),
}

/// A key, and the sequence number of its next record. A nonce is made of both and used once (RFC 8446, 5.3,
/// and RFC 7905, 2; with AES-GCM and TLS 1.2 a sender may choose, and this one makes it the same way).
pub(in crate::tls) struct TrafficKey {
    source: KeySource,
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
    /// Blocks that were made, where they are limited, and how many may be.
    blocks: u64,
    most_blocks: u64,
}

impl TrafficKey {
    pub(in crate::tls) fn new(secret: Secret) -> Self {
        let cipher = secret.suite().cipher();
        let (mut key, mut iv) = (Zeroizing::new([0; 32]), Zeroizing::new([0; NONCE_LEN]));
        let key = &mut key[..cipher.key_len()];
        secret.expand("key", &[], key);
        secret.expand("iv", &[], iv.as_mut());
        let key = UnboundKey::new(cipher, key).expect("the key is as long as the cipher wants");
        Self::of_source(KeySource::Secret(secret), key, iv)
    }

    /// The key of a session of TLS 1.2.
    pub(in crate::tls) fn of_block(block: KeyBlock) -> Self {
        let key = UnboundKey::new(block.suite().cipher(), block.key());
        let (key, iv) = (key.expect("the key is as long as the cipher wants"), Zeroizing::new(*block.iv()));
        Self::of_source(KeySource::Block(block), key, iv)
    }

    fn of_source(source: KeySource, key: UnboundKey, iv: Zeroizing<[u8; NONCE_LEN]>) -> Self {
        let key = LessSafeKey::new(key);
        Self { source, key, iv, sequence: 0, blocks: 0, most_blocks: MOST_BLOCKS }
    }

    /// The same key, whose next record has this number, after so many blocks.
    pub(in crate::tls) fn at(self, sequence: u64, blocks: u64) -> Self {
        Self { sequence, blocks, ..self }
    }

    pub(in crate::tls) fn source(&self) -> &KeySource {
        &self.source
    }

    pub(in crate::tls) fn suite(&self) -> CipherSuite {
        match &self.source {
            KeySource::Secret(secret) => secret.suite(),
            KeySource::Block(block) => block.suite(),
        }
    }

    pub(in crate::tls) fn version(&self) -> TlsVersion {
        match self.source {
            KeySource::Secret(_) => TlsVersion::Tls13,
            KeySource::Block(_) => TlsVersion::Tls12,
        }
    }

    /// Goes on to the next key (7.2).
    ///
    /// # Panics
    /// With TLS 1.2, which has none.
    pub(in crate::tls) fn renew(&mut self) {
        let KeySource::Secret(secret) = &self.source else { panic!("a key of TLS 1.2 is renewed") };
        *self = Self::new(secret.next());
    }

    /// Records that were made with this key.
    pub(in crate::tls) fn records(&self) -> u64 {
        self.sequence
    }

    /// Blocks that were made with it, where they are limited.
    pub(in crate::tls) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// With TLS 1.2 it is good for so many records of full length.
    pub(in crate::tls) fn set_most_records(&mut self, records: u64) {
        self.most_blocks = MOST_BLOCKS.min(RECORD_BLOCKS * records);
    }

    /// Whether no more should be asked of it; what is due may still be sealed.
    pub(in crate::tls) fn is_worn(&self) -> bool {
        self.blocks >= self.most_blocks
    }

    /// Whether nothing may be sealed with it any more.
    pub(in crate::tls) fn is_spent(&self) -> bool {
        self.blocks >= MOST_BLOCKS + SLACK_BLOCKS
    }

    /// Bytes before the data of a record.
    pub(in crate::tls) fn front_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.explicit_bytes()
    }

    /// Bytes behind the data of a record.
    pub(in crate::tls) fn trailer_bytes(&self) -> usize {
        match self.version() {
            TlsVersion::Tls12 => TAG_BYTES,
            TlsVersion::Tls13 => RECORD_TRAILER_BYTES,
        }
    }

    fn explicit_bytes(&self) -> usize {
        match &self.source {
            KeySource::Block(block) if block.suite().is_gcm() => EXPLICIT_BYTES,
            _ => 0,
        }
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, of_number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_number;
        }
        nonce
    }

    /// Encrypts `data` in place, and a few bytes more into the front of `trailer`. `front` goes before the
    /// data, `trailer` behind it, and each is as long as this key and those bytes make it.
    pub(in crate::tls) fn seal(
        &mut self,
        kind: ContentType,
        front: &mut [u8],
        (data, more): (&mut [u8], &[u8]),
        trailer: &mut [u8],
    ) {
        let length = data.len() + more.len();
        assert!(length <= RECORD_DATA_BYTES, "a record of {length} bytes");
        self.seal_any(kind.code(), front, (data, more), trailer);
    }

    /// The same of any length and type.
    fn seal_any(&mut self, code: u8, front: &mut [u8], (data, more): (&mut [u8], &[u8]), trailer: &mut [u8]) {
        let nonce = self.nonce();
        let (header, explicit) = front.split_at_mut(RECORD_HEADER_BYTES);
        let length = explicit.len() + data.len() + trailer.len();
        let once = Nonce::assume_unique_for_key(nonce);
        let sealed = match self.version() {
            TlsVersion::Tls13 => {
                let whole = header_bytes(ContentType::Data.code(), length);
                header.copy_from_slice(&whole);
                let mut inner = [0; RECORD_MORE_BYTES + 1];
                inner[..more.len()].copy_from_slice(more);
                inner[more.len()] = code;
                let inner = &inner[..more.len() + 1];
                self.key.seal_in_place_scatter(once, Aad::from(whole), data, inner, trailer)
            }
            TlsVersion::Tls12 => {
                let whole = header_bytes(code, length);
                header.copy_from_slice(&whole);
                explicit.copy_from_slice(&nonce[NONCE_LEN - explicit.len()..]);
                let length = data.len() + more.len();
                let vouched = Aad::from(self.vouched_for(&whole, length));
                self.count(length);
                self.key.seal_in_place_scatter(once, vouched, data, more, trailer)
            }
        };
        sealed.expect("lengths and numbers are in bounds");
        if !(canary!(RecordNumberRepeated) && self.sequence == 5) {
            self.sequence += 1;
        }
    }

    /// What a record of TLS 1.2 vouches for beside its data (RFC 5246, 6.2.3.3).
    fn vouched_for(&self, header: &[u8], length: usize) -> [u8; 13] {
        let mut all = [0; 13];
        all[..8].copy_from_slice(&self.sequence.to_be_bytes());
        all[8..11].copy_from_slice(&header[..3]);
        all[11..].copy_from_slice(&(length as u16).to_be_bytes());
        all
    }

    /// Counts a record of so many bytes: its blocks, that of its tag and that of its lengths.
    fn count(&mut self, length: usize) {
        if self.suite().is_gcm() {
            self.blocks += length.div_ceil(BLOCK_BYTES) as u64 + 2;
        }
    }

    /// Appends a record with this inside, whatever it is: data, type and padding; with TLS 1.2 the type, then
    /// the data.
    pub(in crate::tls) fn seal_inside(&mut self, inside: &[u8], output: &mut Vec<u8>) {
        // It is read as it stands.
        let (kind, inside) = match (self.version(), inside) {
            (TlsVersion::Tls13, [data @ .., kind]) => (*kind, data),
            (TlsVersion::Tls12, [kind, data @ ..]) => (*kind, data),
            (_, []) => (0, &[][..]),
        };
        let (mut front, mut trailer) = ([0; RECORD_FRONT_BYTES], [0; RECORD_TRAILER_BYTES]);
        let (front, trailer) = (&mut front[..self.front_bytes()], &mut trailer[..self.trailer_bytes()]);
        let mut data = inside.to_vec();
        self.seal_any(kind, front, (&mut data, &[]), trailer);
        [&*front, &data, trailer].into_iter().for_each(|part| output.extend_from_slice(part));
    }

    /// Decrypts a whole record in place. What it carried stands where it is told.
    pub(in crate::tls) fn open(
        &mut self,
        record: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), RecordError> {
        match self.version() {
            TlsVersion::Tls12 => self.open_12(record),
            TlsVersion::Tls13 => self.open_13(record),
        }
    }

    fn open_13(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), RecordError> {
        let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES);
        if header[0] != ContentType::Data.code() {
            return Err(RecordError::UnexpectedType(header[0]));
        }
        if body.len() < RECORD_TRAILER_BYTES {
            return Err(RecordError::TooShort);
        }
        let nonce = Nonce::assume_unique_for_key(self.nonce());
        let opened = self.key.open_in_place(nonce, Aad::from(&*header), body);
        let plain = opened.map_err(|_| RecordError::Undecipherable)?;
        self.sequence += 1;
        if plain.len() > RECORD_DATA_BYTES + 1 {
            return Err(RecordError::TooLong);
        }
        let end = plain.iter().rposition(|&byte| byte != 0).ok_or(RecordError::NoType)?;
        Ok((ContentType::of(plain[end])?, RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + end))
    }

    fn open_12(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), RecordError> {
        let start = self.front_bytes();
        let length = record.len().checked_sub(start + TAG_BYTES).ok_or(RecordError::TooShort)?;
        if length > RECORD_DATA_BYTES {
            return Err(RecordError::TooLong);
        }
        let (front, body) = record.split_at_mut(start);
        let (header, explicit) = front.split_at(RECORD_HEADER_BYTES);
        let kind = ContentType::of(header[0])?;
        let mut nonce = self.nonce();
        nonce[NONCE_LEN - explicit.len()..].copy_from_slice(explicit);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let vouched = Aad::from(self.vouched_for(header, length));
        self.key.open_in_place(nonce, vouched, body).map_err(|_| RecordError::Undecipherable)?;
        self.count(length);
        self.sequence += 1;
        Ok((kind, start..start + length))
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKey")
            .field("version", &self.version())
            .field("suite", &self.suite())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
