//! The row that says what a catalogue is: version, features, and whose it is.
//!
//! A feature bit is set with the first change that needs it, never by opening. Who does not know an
//! *incompatible* bit does not open the store; who does not know a *read-only-compatible* one does not change
//! it; *compatible* ones concern nobody else.

use uuid::Uuid;

use super::codec::{RowError, RowReader, RowWriter};
use super::encoding::checksum;

const MAGIC: &[u8; 8] = b"RNGCATLG";
const VERSION: u16 = 1;
const RESERVED: usize = 56;
/// The table and the key that the header stands under; its checksum covers them.
pub(super) const TABLE: &str = "store";
pub(super) const KEY: u128 = 0;

/// There are packs, or numbers of packs are reserved: set by the first ingest.
pub(super) const PACKS: u64 = 1;
/// Snapshots have begun that are not recorded: set while there is one. A program that does not know it would
/// drop what their next heads have.
pub(super) const UNFINISHED: u64 = 2;
/// What comes into packs is compressed with zstd: set when the store is made.
const ZSTD: u64 = 4;
/// There are packs that other stores have written, of which parts may be elsewhere only: set while there are
/// some.
pub(super) const FOREIGN: u64 = 8;
/// There are bases that are exports of other servers: set while there are some.
pub(super) const REMOTE_BASES: u64 = 16;
/// There are snapshots that keep changes only, or that are being taken so: set while there are some. A
/// program that does not know it would read from them.
pub(super) const CHANGES_ONLY: u64 = 32;
/// Of the compatible ones: what comes into packs is not compressed. Set when the store is made.
const RAW: u64 = 1;
/// Feature bits that this program knows.
const KNOWN_INCOMPATIBLE: u64 = PACKS | UNFINISHED | ZSTD | FOREIGN | REMOTE_BASES | CHANGES_ONLY;
const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;

/// What stands in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogHeader {
    /// The store's; a copy of a store gets another one.
    pub store: Uuid,
    pub created_s: u64,
    pub compatible: u64,
    pub read_only_compatible: u64,
    pub incompatible: u64,
    /// Grows with each transaction.
    pub generation: u64,
    /// Numbers of packs below this are used, or reserved. With [`PACKS`] only.
    pub packs: u64,
}

/// How what comes into packs is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChunkCompression {
    None,
    #[default]
    Lz4,
    Zstd,
}

/// Why a header is not one that this program can go by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("it is not the catalogue of a store")]
    Magic,
    #[error("it has format {0}, and this program knows format {VERSION}: use a newer ringnbd")]
    Version(u16),
    #[error("it has features that this program does not know (bits {0:#x}): use a newer ringnbd")]
    Features(u64),
    #[error("its header is damaged: {0}")]
    Damaged(#[from] RowError),
}

impl CatalogHeader {
    pub(super) const fn new(store: Uuid, created_s: u64) -> Self {
        Self {
            store,
            created_s,
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            generation: 0,
            packs: 0,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = RowWriter::default();
        to.bytes(MAGIC).u16(VERSION).u16(0).u32(0);
        to.u64(self.compatible).u64(self.read_only_compatible).u64(self.incompatible);
        to.uuid(self.store).u64(self.created_s).u64(self.generation).u64(self.packs).zeroes(RESERVED);
        let mut bytes = to.finish();
        let checksum = checksum(TABLE, Uuid::from_u128(KEY), &bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Version and features are looked at first: what a newer program wrote is not damaged.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut from = RowReader::new(bytes);
        if from.array::<8>()? != *MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = from.u16()?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        from.zeroes(6)?;
        let (compatible, read_only_compatible, incompatible) = (from.u64()?, from.u64()?, from.u64()?);
        let header = Self {
            compatible,
            read_only_compatible,
            incompatible,
            store: from.uuid()?,
            created_s: from.u64()?,
            generation: from.u64()?,
            packs: from.u64()?,
        };
        // Reserved bytes are a newer program's, if it has set a feature bit.
        from.bytes(RESERVED)?;
        let stored = from.array()?;
        from.finish()?;
        let body = &bytes[..bytes.len() - stored.len()];
        if checksum(TABLE, Uuid::from_u128(KEY), body) != stored {
            return Err(RowError::Checksum.into());
        }
        match incompatible & !KNOWN_INCOMPATIBLE {
            0 => Ok(header),
            unknown => Err(HeaderError::Features(unknown)),
        }
    }

    pub(super) const fn with_compression(self, compression: ChunkCompression) -> Self {
        match compression {
            ChunkCompression::None => Self { compatible: self.compatible | RAW, ..self },
            ChunkCompression::Lz4 => self,
            ChunkCompression::Zstd => Self { incompatible: self.incompatible | ZSTD, ..self },
        }
    }

    /// How what comes into packs is compressed.
    #[must_use]
    pub const fn compression(&self) -> ChunkCompression {
        match (self.incompatible & ZSTD, self.compatible & RAW) {
            (0, 0) => ChunkCompression::Lz4,
            (0, _) => ChunkCompression::None,
            _ => ChunkCompression::Zstd,
        }
    }

    /// Bits because of which this program must not change the store.
    pub(super) const fn unknown_to_writers(&self) -> u64 {
        self.read_only_compatible & !KNOWN_READ_ONLY_COMPATIBLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_itself() {
        let header = CatalogHeader { generation: 3, ..CatalogHeader::new(Uuid::from_u128(1), 2) };
        assert_eq!(CatalogHeader::decode(&header.encode()), Ok(header));
        assert_eq!(header.encode()[..10], *b"RNGCATLG\x01\x00");
    }

    #[test]
    fn compression_is_a_feature_of_its_store() {
        for (compression, bits) in [
            (ChunkCompression::None, (1, 0)),
            (ChunkCompression::Lz4, (0, 0)),
            (ChunkCompression::Zstd, (0, 4)),
        ] {
            let header = CatalogHeader::new(Uuid::from_u128(1), 2).with_compression(compression);
            assert_eq!((header.compatible, header.incompatible), bits);
            assert_eq!(CatalogHeader::decode(&header.encode()).unwrap().compression(), compression);
        }
    }

    #[test]
    fn features_of_newer_programs() {
        let header = CatalogHeader::new(Uuid::from_u128(1), 2);
        let incompatible = CatalogHeader { incompatible: 1 << 40, ..header };
        assert_eq!(CatalogHeader::decode(&incompatible.encode()), Err(HeaderError::Features(1 << 40)));
        let why = HeaderError::Features(1 << 40).to_string();
        assert!(why.contains("newer ringnbd"), "{why}");
        let read_only = CatalogHeader { read_only_compatible: 2, ..header };
        assert_eq!(CatalogHeader::decode(&read_only.encode()).unwrap().unknown_to_writers(), 2);
        let compatible = CatalogHeader { compatible: 4, ..header };
        assert_eq!(CatalogHeader::decode(&compatible.encode()).unwrap().unknown_to_writers(), 0);
        let mut newer = header.encode();
        newer[8] = 2;
        assert_eq!(CatalogHeader::decode(&newer), Err(HeaderError::Version(2)));
    }

    #[test]
    fn damage_is_told() {
        let bytes = CatalogHeader::new(Uuid::from_u128(1), 2).encode();
        for length in 0..bytes.len() {
            assert!(CatalogHeader::decode(&bytes[..length]).is_err());
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(CatalogHeader::decode(&bytes).is_err(), "byte {at}");
        }
    }
}
