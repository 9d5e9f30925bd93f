//! What the structures of maps, packs and manifests have in common: a header, a CRC over all of their bytes,
//! little-endian numbers.
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
//!
//! Packs and nodes of manifests are never written again, so read-only-compatible features do not matter here.

use super::crc::RunningCrc;

pub(super) const STRUCTURE_HEADER: usize = 32;
const CRC_AT: usize = 24;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why bytes are not the structure that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StructureFlaw {
    /// They have not its magic.
    Other,
    /// Their CRC does not fit: torn, or damaged.
    Torn,
    /// They are whole, and of a version or with features that are not known.
    Newer { version: u32, features: u32 },
}

/// The header of a structure; the rest is put behind it, then [`seal`] completes it.
pub(super) fn begin(magic: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0; STRUCTURE_HEADER];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Puts the CRC where it belongs, and tells it.
pub(super) fn seal(bytes: &mut [u8]) -> u32 {
    let crc = crc(bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn crc(bytes: &[u8]) -> u32 {
    let (header, body) = bytes.split_first_chunk().expect("it has a header");
    let mut crc = StructureCrc::new(header);
    crc.take(body);
    crc.finish()
}

/// The CRC of a structure whose bytes come one after the other.
#[derive(Debug)]
pub(super) struct StructureCrc(RunningCrc);

impl StructureCrc {
    pub(super) fn new(header: &[u8; STRUCTURE_HEADER]) -> Self {
        let mut crc = RunningCrc::default();
        [&header[..CRC_AT], &[0; 4], &header[CRC_AT + 4..]].into_iter().for_each(|part| crc.take(part));
        Self(crc)
    }

    /// What follows the header, or what was taken before.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.0.take(bytes);
    }

    pub(super) fn finish(self) -> u32 {
        self.0.finish()
    }
}

/// Checks the header of a structure whose bytes have this CRC.
pub(super) fn check_header(
    header: &[u8; STRUCTURE_HEADER],
    magic: [u8; 8],
    crc: u32,
) -> Result<(), StructureFlaw> {
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if header[..8] != magic {
        return Err(StructureFlaw::Other);
    }
    if crc != number(CRC_AT) {
        return Err(StructureFlaw::Torn);
    }
    let (version, features) = (number(8), number(20));
    if version != VERSION || features != 0 {
        return Err(StructureFlaw::Newer { version, features });
    }
    Ok(())
}

/// A structure whose header was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeStructure<'a> {
    /// What follows the header.
    pub(super) body: &'a [u8],
    pub(super) crc: u32,
    pub(super) read_only_features: u32,
}

/// Checks the header of a structure that has all of `bytes`.
pub(super) fn whole(bytes: &[u8], magic: [u8; 8]) -> Result<WholeStructure<'_>, StructureFlaw> {
    let (header, body) = bytes.split_first_chunk().ok_or(StructureFlaw::Other)?;
    // The CRC of what is another thing is of no interest.
    let crc = if header[..8] == magic { crc(bytes) } else { 0 };
    check_header(header, magic, crc)?;
    let read_only_features = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
    Ok(WholeStructure { body, crc, read_only_features })
}

/// What follows the header of a structure that has all of `bytes`, where the rest of it does not matter.
pub(super) fn check(bytes: &[u8], magic: [u8; 8]) -> Result<StructureFields<'_>, StructureFlaw> {
    Ok(StructureFields(whole(bytes, magic)?.body))
}

/// Bytes of a structure that are being read. Bytes that are not there give `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct StructureFields<'a>(pub(super) &'a [u8]);

impl<'a> StructureFields<'a> {
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

    const MAGIC: [u8; 8] = *b"testWORD";

    fn written() -> Vec<u8> {
        let mut bytes = begin(MAGIC);
        bytes.extend(7_u64.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = written();
        assert_eq!(check(&bytes, MAGIC).unwrap().u64(), Some(7));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flaw = check(&flipped, MAGIC).unwrap_err();
            assert!(matches!(flaw, StructureFlaw::Other | StructureFlaw::Torn), "bit {bit}");
        }
    }

    #[test]
    fn unknown_features_refuse_unless_they_are_compatible() {
        for (at, is_known) in [(8, false), (12, true), (16, true), (20, false)] {
            let mut bytes = written();
            bytes[at] = 0x80;
            seal(&mut bytes);
            assert_eq!(check(&bytes, MAGIC).is_ok(), is_known, "byte {at}");
        }
    }
}
