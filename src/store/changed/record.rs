//! A set that is written down, as the bytes of a file. Little-endian.
//!
//! ```text
//! 0  "RNBDCHGD"            56 bytes of a unit (u32)
//! 8  version 1 (u32)       60 CRC32C of the set (u32)
//! 12 compatible            64 bytes of the set (u64)
//! 16 read-only-compatible  72 reserved
//! 20 incompatible          92 CRC32C of what is before it (u32)
//! 24 layer (uuid)          96 the set: a 64-bit Roaring bitmap in its portable form
//! 40 anchor (uuid)
//! ```

use uuid::Uuid;

use super::set::{ChangedSet, MOST_BYTES};
use crate::store::catalog::{LayerId, SnapshotId};
use crate::store::crc::crc32c;

const MAGIC: &[u8; 8] = b"RNBDCHGD";
const VERSION: u32 = 1;
/// Features that must be known to read it.
const INCOMPATIBLE: u32 = 0;

/// What differs between a layer with all that it stands on, and an older snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChangeRecord {
    pub(crate) layer: LayerId,
    /// The snapshot.
    pub(crate) anchor: SnapshotId,
    pub(crate) set: ChangedSet,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeRecordError {
    #[error("it is damaged")]
    Damaged,
    #[error("it was written by a newer version of this program: use that one")]
    Newer,
    #[error("it belongs to another layer")]
    Foreign,
    #[error("it would be too large")]
    TooLarge,
}

impl ChangeRecord {
    /// Bytes of a record without its set.
    pub(crate) const HEADER: usize = 96;
    /// Bytes that a file may have.
    pub(crate) const MOST_BYTES: u64 = MOST_BYTES + Self::HEADER as u64;

    pub(crate) fn encode(&self) -> Result<Vec<u8>, ChangeRecordError> {
        let set = self.set.encode().ok_or(ChangeRecordError::TooLarge)?;
        let mut bytes = Vec::with_capacity(Self::HEADER + set.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(self.layer.0.as_bytes());
        bytes.extend_from_slice(self.anchor.0.as_bytes());
        bytes.extend_from_slice(&(ChangedSet::GRANULE as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&[&set]).to_le_bytes());
        bytes.extend_from_slice(&(set.len() as u64).to_le_bytes());
        bytes.resize(Self::HEADER - 4, 0);
        let crc = crc32c(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&set);
        Ok(bytes)
    }

    /// The anchor that a record of a layer has, of its first bytes.
    pub(crate) fn anchor_of(layer: LayerId, bytes: &[u8]) -> Result<SnapshotId, ChangeRecordError> {
        let header = bytes.first_chunk::<{ Self::HEADER }>().ok_or(ChangeRecordError::Damaged)?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let id = |at: usize| Uuid::from_bytes(header[at..at + 16].try_into().expect("sixteen bytes"));
        if header[..8] != *MAGIC || number(92) != crc32c(&[&header[..92]]) {
            return Err(ChangeRecordError::Damaged);
        }
        let unit = number(56);
        if number(8) > VERSION || number(20) & !INCOMPATIBLE != 0 || u64::from(unit) != ChangedSet::GRANULE {
            return Err(ChangeRecordError::Newer);
        }
        if id(24) != layer.0 {
            return Err(ChangeRecordError::Foreign);
        }
        Ok(SnapshotId(id(40)))
    }

    /// The record of a layer, of all bytes of its file.
    pub(crate) fn decode(layer: LayerId, bytes: &[u8]) -> Result<Self, ChangeRecordError> {
        let anchor = Self::anchor_of(layer, bytes)?;
        let (header, set) = bytes.split_at(Self::HEADER);
        let crc = u32::from_le_bytes(header[60..64].try_into().expect("four bytes"));
        let length = u64::from_le_bytes(header[64..72].try_into().expect("eight bytes"));
        if length != set.len() as u64 || crc != crc32c(&[set]) {
            return Err(ChangeRecordError::Damaged);
        }
        let set = ChangedSet::decode(set).map_err(|_| ChangeRecordError::Damaged)?;
        Ok(Self { layer, anchor, set })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flipped_bit_and_each_missing_byte_is_noticed() {
        let layer = LayerId(Uuid::from_u128(7));
        let mut set = ChangedSet::default();
        set.insert(0..1);
        set.insert(1 << 30..1 << 31);
        let record = ChangeRecord { layer, anchor: SnapshotId(Uuid::from_u128(9)), set };
        let bytes = record.encode().unwrap();
        assert_eq!(ChangeRecord::decode(layer, &bytes).unwrap(), record);
        assert_eq!(ChangeRecord::anchor_of(layer, &bytes[..96]).unwrap(), record.anchor);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            ChangeRecord::decode(layer, &bytes).unwrap_err();
        }
        for length in 0..bytes.len() {
            ChangeRecord::decode(layer, &bytes[..length]).unwrap_err();
        }
        let other = LayerId(Uuid::from_u128(8));
        assert_eq!(ChangeRecord::decode(other, &bytes).unwrap_err(), ChangeRecordError::Foreign);
    }
}
