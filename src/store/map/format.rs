//! What the structures of the file add to what all structures have (`structure`): a fixed length, and a
//! name for errors.

use super::error::LayerMapError;
use crate::store::structure::{STRUCTURE_HEADER, begin, whole};
pub(super) use crate::store::structure::{StructureFields, StructureFlaw, WholeStructure, seal};

/// A kind of structure: its first bytes, and what errors call it.
///
/// Byte 4 of a magic is a letter, so as a packed run it would begin at a block beyond every geometry's
/// largest image: no block of a record but its first can look like the beginning of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct StructureKind {
    pub(super) magic: [u8; 8],
    pub(super) name: &'static str,
}

impl StructureFlaw {
    /// The error, if it is one whatever the structure's place.
    pub(super) fn newer(self, kind: StructureKind) -> Option<LayerMapError> {
        match self {
            Self::Newer { version, features } => {
                Some(LayerMapError::Newer { what: kind.name, version, features })
            }
            Self::Other | Self::Torn => None,
        }
    }
}

/// Checks the header of a structure that has all of `bytes`.
pub(super) fn check(bytes: &[u8], kind: StructureKind) -> Result<WholeStructure<'_>, StructureFlaw> {
    whole(bytes, kind.magic)
}

/// A structure that is being written.
#[derive(Debug)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Encoder {
    /// Of `length` bytes, with its header.
    pub(super) fn new(kind: StructureKind, length: usize) -> Self {
        let mut bytes = begin(kind.magic);
        bytes.resize(length, 0);
        Self { bytes, at: STRUCTURE_HEADER }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn put_u32(&mut self, number: u32) {
        self.put(&number.to_le_bytes());
    }

    pub(super) fn put_u64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    /// Leaves reserved bytes out: they are zero.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// The bytes, with their CRC, and the CRC.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        assert!(self.at <= self.bytes.len(), "a structure has room for what it has to have");
        let crc = seal(&mut self.bytes);
        (self.bytes, crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: StructureKind = StructureKind { magic: *b"testWORD", name: "test" };

    fn written(length: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(KIND, length);
        encoder.put_u64(7);
        encoder.finish().0
    }

    /// Oracle: the check value of CRC-32/ISCSI, from its catalogue.
    #[test]
    fn the_crc_is_crc32c() {
        assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
        let mut bytes = written(100);
        let crc = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
        bytes[24..28].fill(0);
        assert_eq!(crc_fast::crc32_iscsi(&bytes), crc);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = written(64);
        assert_eq!(check(&bytes, KIND).unwrap().body[..8], 7_u64.to_le_bytes());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(check(&flipped, KIND), Err(StructureFlaw::Other | StructureFlaw::Torn)),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn unknown_features_refuse_unless_they_are_compatible() {
        for (at, expected) in [(8, None), (12, Some(0)), (16, Some(0x80)), (20, None)] {
            let mut bytes = written(64);
            bytes[at] = 0x80;
            seal(&mut bytes);
            let found = check(&bytes, KIND);
            match expected {
                Some(bits) => assert_eq!(found.unwrap().read_only_features, bits),
                None => {
                    assert!(found.unwrap_err().newer(KIND).unwrap().to_string().contains("newer version"))
                }
            }
        }
    }
}
