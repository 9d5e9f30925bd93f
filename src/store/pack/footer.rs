//! The footer of a pack, which says where each chunk is, and the trailer, which says where the footer is.
//!
//! ```text
//! footer                                          an entry
//!  0  header of a structure (`structure`)          0  hash
//! 32  uuid of the store                           32  offset of the payload
//! 48  number of the pack                          40  bytes of the payload
//! 56  chunks                                      44  bytes of the contents
//! 60  reserved                                    48  bytes of the contents that the hash is of
//! 64  entries, 96 bytes each                      52  codec
//!     CRC32C of each 4 KiB of each payload        56  reserved: features of the entry
//!                                                 60  kind: 0 data, 1 a node
//! trailer                                         64  reserved: id of a key
//!  0  header of a structure                       80  reserved: tag
//! 32  offset of the footer                        96
//! 40  bytes of the footer
//! 48  number of the pack
//! 56  reserved
//! 64
//! ```
//!
//! Entries are in the order of their payloads, and no two payloads overlap. The last 4 KiB of a payload may
//! be shorter. A hash is of the first part of the contents only if the rest may change: the hints of a node.

use super::codec::ChunkCodec;
use super::error::PackError;
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkKind};
use super::{MOST_CHUNKS, MOST_PACK_BYTES, PAGE};
use crate::store::crc::crc32c;
use crate::store::structure::{STRUCTURE_HEADER, StructureFields, StructureFlaw, begin, check, seal};

pub(super) const MAGIC: [u8; 8] = *b"rnbpFOOT";
pub(super) const TRAILER_MAGIC: [u8; 8] = *b"rnbpTAIL";
pub(super) const TRAILER_BYTES: usize = 64;
pub(super) const ENTRIES_AT: usize = 64;
pub(super) const ENTRY_BYTES: usize = 96;
/// Each payload has at most one short page, so there are at most so many checksums.
const MOST_CHECKSUMS: usize = MOST_CHUNKS + (MOST_PACK_BYTES / PAGE) as usize;
pub(super) const MOST_FOOTER_BYTES: u64 =
    (ENTRIES_AT + MOST_CHUNKS * ENTRY_BYTES + MOST_CHECKSUMS * 4) as u64;

/// A chunk of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackEntry {
    pub(super) hash: ChunkHash,
    pub(super) offset: u64,
    pub(super) payload_bytes: u32,
    pub(super) bytes: u32,
    pub(super) hashed_bytes: u32,
    pub(super) codec: ChunkCodec,
    pub(super) kind: ChunkKind,
}

impl PackEntry {
    fn encode(&self, to: &mut Vec<u8>) {
        let end = to.len() + ENTRY_BYTES;
        to.extend(self.hash.0);
        to.extend(self.offset.to_le_bytes());
        for number in [self.payload_bytes, self.bytes, self.hashed_bytes, self.codec as u32] {
            to.extend(number.to_le_bytes());
        }
        // Features of the entry: none.
        to.extend(0_u32.to_le_bytes());
        to.extend((self.kind as u32).to_le_bytes());
        to.resize(end, 0);
    }

    /// Of the bytes of one entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is cut";
        let mut fields = StructureFields(bytes);
        let hash = ChunkHash(fields.array().ok_or(SHORT)?);
        let offset = fields.u64().ok_or(SHORT)?;
        let mut number = || fields.u32().ok_or(SHORT);
        let (payload_bytes, bytes, hashed_bytes) = (number()?, number()?, number()?);
        let codec = ChunkCodec::of_number(number()?).ok_or("its codec is not known")?;
        // An encrypted chunk, say, cannot be read by whoever does not know that.
        if number()? != 0 {
            return Err("it has features of a newer version");
        }
        let kind = ChunkKind::of_number(number()?).ok_or("its kind is not known")?;
        Ok(Self { hash, offset, payload_bytes, bytes, hashed_bytes, codec, kind })
    }

    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.payload_bytes.into())
    }

    /// Whether a writer could have made it behind `before`, in front of a footer at `end`.
    pub(super) fn check(&self, before: u64, end: u64, most_bytes: u32) -> Result<(), &'static str> {
        if self.offset < before || self.end() > end {
            return Err("its payload is not where it must be");
        }
        if !(1..=most_bytes).contains(&self.bytes) || !(1..=self.bytes).contains(&self.hashed_bytes) {
            return Err("its contents have an impossible length");
        }
        if self.kind == ChunkKind::Data && self.hashed_bytes != self.bytes {
            return Err("its name is not that of all of it");
        }
        let is_possible = match self.codec {
            ChunkCodec::Raw => self.payload_bytes == self.bytes && self.offset.is_multiple_of(PAGE),
            ChunkCodec::Lz4 | ChunkCodec::Zstd => (1..self.bytes).contains(&self.payload_bytes),
        };
        is_possible.then_some(()).ok_or("its payload has an impossible length or place")
    }

    /// How many checksums its payload has.
    pub(super) fn checksums(&self) -> usize {
        self.payload_bytes.div_ceil(PAGE as u32) as usize
    }
}

/// A chunk of a pack, with the checksum of each 4 KiB of its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckedEntry<'a> {
    pub(super) slot: u32,
    pub(super) entry: &'a PackEntry,
    pub(super) checksums: &'a [u32],
}

/// All chunks of a pack that is being written.
#[derive(Debug, Default)]
pub(super) struct PackFooter {
    entries: Vec<PackEntry>,
    checksums: Vec<u32>,
    /// Of each entry, which checksum is its first.
    first_checksums: Vec<u32>,
}

impl PackFooter {
    pub(super) fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// The chunk of a slot.
    pub(super) fn entry(&self, slot: u32) -> Option<CheckedEntry<'_>> {
        let entry = self.entries.get(slot as usize)?;
        let first = self.first_checksums[slot as usize] as usize;
        let checksums = &self.checksums[first..first + entry.checksums()];
        Some(CheckedEntry { slot, entry, checksums })
    }

    /// Adds an entry, whose payload is this.
    pub(super) fn push(&mut self, entry: PackEntry, payload: &[u8]) {
        self.first_checksums.push(self.checksums.len() as u32);
        self.checksums.extend(payload.chunks(PAGE as usize).map(|page| crc32c(&[page])));
        self.entries.push(entry);
    }

    pub(super) fn encode(&self, identity: &PackIdentity) -> Vec<u8> {
        let mut bytes = begin(MAGIC);
        bytes.extend(identity.store.as_bytes());
        bytes.extend(identity.number.to_le_bytes());
        bytes.extend((self.entries.len() as u32).to_le_bytes());
        bytes.resize(ENTRIES_AT, 0);
        self.entries.iter().for_each(|entry| entry.encode(&mut bytes));
        self.checksums.iter().for_each(|crc| bytes.extend(crc.to_le_bytes()));
        seal(&mut bytes);
        bytes
    }
}

/// Where the footer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackTrailer {
    pub(super) footer_offset: u64,
    pub(super) footer_bytes: u64,
}

impl PackTrailer {
    pub(super) fn encode(&self, identity: &PackIdentity) -> Vec<u8> {
        let mut bytes = begin(TRAILER_MAGIC);
        for number in [self.footer_offset, self.footer_bytes, identity.number] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(TRAILER_BYTES, 0);
        seal(&mut bytes);
        bytes
    }

    /// Reads the last bytes of a pack whose file has `length`.
    pub(super) fn decode(bytes: &[u8], length: u64, identity: &PackIdentity) -> Result<Self, PackError> {
        const DAMAGED: PackError = PackError::Damaged { what: "trailer" };
        let mut fields = check(bytes, TRAILER_MAGIC).map_err(|flaw| match flaw {
            StructureFlaw::Other => PackError::Unfinished,
            StructureFlaw::Torn | StructureFlaw::Newer { .. } => PackError::of_flaw(flaw, "trailer"),
        })?;
        let mut number = || fields.u64().ok_or(DAMAGED);
        let (footer_offset, footer_bytes) = (number()?, number()?);
        if number()? != identity.number {
            return Err(PackError::Foreign);
        }
        let end =
            footer_offset.checked_add(footer_bytes).and_then(|end| end.checked_add(TRAILER_BYTES as u64));
        let is_possible = end == Some(length)
            && (PAGE..=MOST_PACK_BYTES).contains(&footer_offset)
            && (STRUCTURE_HEADER as u64..=MOST_FOOTER_BYTES).contains(&footer_bytes);
        is_possible.then_some(Self { footer_offset, footer_bytes }).ok_or(DAMAGED)
    }
}
