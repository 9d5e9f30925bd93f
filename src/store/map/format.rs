//! What all structures of the file have in common: a header, a CRC over all of their bytes, little-endian
//! numbers.
//!
//! ```text
//!  0  magic, 8 bytes
//!  8  version
//! 12  compatible features           unknown ones do not matter
//! 16  read-only-compatible features whoever does not know one may read, and not write
//! 20  incompatible features         whoever does not know one refuses
//! 24  CRC32C of the whole structure, with zeroes here
//! 28  reserved, zero
//! ```

use super::error::LayerMapError;

pub(super) const HEADER_BYTES: usize = 32;
const CRC_AT: usize = 24;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A kind of structure: its first bytes, and what errors call it.
///
/// Byte 4 of a magic is a letter, so as a packed run it would begin at a block beyond every geometry's
/// largest image: no block of a record but its first can look like the beginning of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct StructureKind {
    pub(super) magic: [u8; 8],
    pub(super) name: &'static str,
}

/// Why bytes are not a structure of the kind they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// They have not its magic.
    Other,
    /// Their CRC does not fit: torn, or damaged.
    Torn,
    /// They are whole, and of a version or with features that are not known.
    Newer { version: u32, features: u32 },
}

impl Flaw {
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

/// A structure whose header was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeStructure<'a> {
    /// What follows the header.
    pub(super) body: &'a [u8],
    pub(super) crc: u32,
    pub(super) read_only_features: u32,
}

/// The CRC of a structure.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&bytes[CRC_AT + 4..]);
    digest.finalize() as u32
}

/// Checks the header of a structure that has all of `bytes`.
pub(super) fn check(bytes: &[u8], kind: StructureKind) -> Result<WholeStructure<'_>, Flaw> {
    if bytes.len() < HEADER_BYTES || bytes[..8] != kind.magic {
        return Err(Flaw::Other);
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let crc = crc(bytes);
    if crc != number(CRC_AT) {
        return Err(Flaw::Torn);
    }
    let (version, features) = (number(8), number(20));
    if version != VERSION || features != 0 {
        return Err(Flaw::Newer { version, features });
    }
    Ok(WholeStructure { body: &bytes[HEADER_BYTES..], crc, read_only_features: number(16) })
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
        let mut encoder = Self { bytes: vec![0; length], at: 0 };
        encoder.put(&kind.magic);
        encoder.put(&VERSION.to_le_bytes());
        encoder.at = HEADER_BYTES;
        encoder
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

/// Puts the CRC where it belongs.
pub(super) fn seal(bytes: &mut [u8]) -> u32 {
    let crc = crc(bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A structure that is being read. Bytes that are not there give `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        self.bytes(LENGTH)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
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
            assert!(matches!(check(&flipped, KIND), Err(Flaw::Other | Flaw::Torn)), "bit {bit}");
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
