//! What is in memory of the footer of a pack that is open: little, however many chunks it has.
//!
//! The footer is verified as a whole once, when the pack is opened, and its entries are taken by groups of
//! [`GROUP_CHUNKS`]. Of each group stay three numbers. Entries and checksums are read from the file again
//! when they are needed, and a group counts only if its bytes are those that were verified: the file may be
//! cut, written or rotten meanwhile. What a group says is checked like that of any bytes all the same.

use std::ops::Range;
use std::sync::Arc;

use super::codec::ChunkCodec;
use super::error::PackError;
use super::file::{PackFile, checked_read};
use super::footer::{CheckedEntry, ENTRIES_AT, ENTRY_BYTES, MAGIC, PackEntry, PackTrailer};
use super::header::PackIdentity;
use super::key::{ChunkHash, ChunkKind};
use super::{MOST_CHUNKS, PAGE};
use crate::store::crc::crc32c;
use crate::store::structure::{STRUCTURE_HEADER, StructureCrc, StructureFields, check_header};

/// Chunks of a group.
pub(super) const GROUP_CHUNKS: usize = 16;
/// Bytes of a footer that are read at once to verify it.
const PIECE: usize = 64 << 10;
const DAMAGED: PackError = PackError::Damaged { what: "footer" };

/// What a group is known again by.
#[derive(Debug, Clone, Copy)]
struct GroupMark {
    /// Which of all checksums is the first of the group.
    first_checksum: u32,
    entries_crc: u32,
    checksums_crc: u32,
}

/// The groups of a footer.
#[derive(Debug)]
pub(super) struct FooterGroups {
    /// Where the footer begins.
    pub(super) offset: u64,
    /// How many chunks there are.
    pub(super) chunks: u32,
    checksums: u32,
    most_bytes: u32,
    marks: Box<[GroupMark]>,
}

/// Chunks of a pack, side by side.
#[derive(Debug)]
pub(super) struct EntryGroup {
    first_slot: u32,
    entries: Box<[PackEntry]>,
    checksums: Box<[u32]>,
}

/// A chunk of a pack, and how its bytes are known.
#[derive(Debug, Clone)]
pub(crate) struct LocatedChunk {
    slot: u32,
    group: Arc<EntryGroup>,
}

/// A chunk, for those who copy it or look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedChunk {
    pub(crate) hash: ChunkHash,
    pub(crate) kind: ChunkKind,
    pub(crate) codec: ChunkCodec,
    /// Where its bytes begin in the file, and how many they are.
    pub(crate) offset: u64,
    pub(crate) payload_bytes: u32,
    /// Bytes that its name is the hash of.
    pub(crate) hashed_bytes: u32,
}

/// The bytes of a footer, one after the other.
struct FooterStream<'a, F> {
    file: &'a F,
    /// Bytes that are not read yet.
    left: Range<u64>,
    bytes: Vec<u8>,
    /// Bytes of them that were taken.
    taken: usize,
    header: [u8; STRUCTURE_HEADER],
    crc: StructureCrc,
}

impl<'a, F: PackFile> FooterStream<'a, F> {
    fn new(file: &'a F, trailer: &PackTrailer) -> Result<Self, PackError> {
        let mut header = [0; STRUCTURE_HEADER];
        file.read(&mut header, trailer.footer_offset)?;
        let end = trailer.footer_offset + trailer.footer_bytes;
        let left = trailer.footer_offset + STRUCTURE_HEADER as u64..end;
        let crc = StructureCrc::new(&header);
        Ok(Self { file, left, bytes: Vec::with_capacity(PIECE), taken: 0, header, crc })
    }

    /// The next bytes.
    fn take(&mut self, length: usize) -> Result<&[u8], PackError> {
        if self.bytes.len() - self.taken < length {
            self.bytes.drain(..self.taken);
            self.taken = 0;
            let had = self.bytes.len();
            let more = (self.left.end - self.left.start).min((PIECE.max(length) - had) as u64) as usize;
            self.bytes.resize(had + more, 0);
            self.file.read(&mut self.bytes[had..], self.left.start)?;
            self.crc.take(&self.bytes[had..]);
            self.left.start += more as u64;
        }
        self.taken += length;
        self.bytes.get(self.taken - length..self.taken).ok_or(DAMAGED)
    }

    /// Whether all of it was taken.
    fn is_at_end(&self) -> bool {
        self.taken == self.bytes.len() && self.left.is_empty()
    }

    /// Reads the rest, and verifies all of it.
    fn finish(mut self) -> Result<(), PackError> {
        while !self.left.is_empty() {
            self.taken = self.bytes.len();
            let next = (self.left.end - self.left.start).min(PIECE as u64) as usize;
            self.take(next)?;
        }
        let checked = check_header(&self.header, MAGIC, self.crc.finish());
        checked.map_err(|flaw| PackError::of_flaw(flaw, "footer"))
    }
}

impl FooterGroups {
    /// Verifies a footer.
    pub(super) fn read<F: PackFile>(
        file: &F,
        trailer: &PackTrailer,
        identity: &PackIdentity,
    ) -> Result<Self, PackError> {
        let mut stream = FooterStream::new(file, trailer)?;
        let groups = Self::of_stream(&mut stream, trailer.footer_offset, identity);
        // What it says is of interest only if its CRC fits.
        stream.finish()?;
        groups
    }

    fn of_stream<F: PackFile>(
        stream: &mut FooterStream<'_, F>,
        offset: u64,
        identity: &PackIdentity,
    ) -> Result<Self, PackError> {
        let mut fields = StructureFields(stream.take(ENTRIES_AT - STRUCTURE_HEADER)?);
        let store = fields.array::<16>().ok_or(DAMAGED)?;
        let number = fields.u64().ok_or(DAMAGED)?;
        if store != *identity.store.as_bytes() || number != identity.number {
            return Err(PackError::Foreign);
        }
        let count = fields.u32().ok_or(DAMAGED)? as usize;
        if count > MOST_CHUNKS {
            return Err(DAMAGED);
        }
        let most_bytes = identity.space.most_bytes();
        let mut marks = Vec::with_capacity(count.div_ceil(GROUP_CHUNKS));
        let (mut before, mut checksums) = (PAGE, 0);
        for first in (0..count).step_by(GROUP_CHUNKS) {
            let bytes = stream.take(GROUP_CHUNKS.min(count - first) * ENTRY_BYTES)?;
            let (first_checksum, entries_crc) = (checksums, crc32c(&[bytes]));
            for (slot, bytes) in (first..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
                let entry = entry_of(bytes, slot, before..offset, most_bytes)?;
                before = entry.end();
                checksums += entry.checksums() as u32;
            }
            marks.push(GroupMark { first_checksum, entries_crc, checksums_crc: 0 });
        }
        let (chunks, marks) = (count as u32, marks.into_boxed_slice());
        let mut groups = Self { offset, chunks, checksums, most_bytes, marks };
        for group in 0..groups.count() {
            let range = groups.checksums_of(group..group + 1);
            groups.marks[group].checksums_crc = crc32c(&[stream.take(range.len() * 4)?]);
        }
        if stream.is_at_end() { Ok(groups) } else { Err(DAMAGED) }
    }

    /// How many groups there are.
    pub(super) const fn count(&self) -> usize {
        self.marks.len()
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        size_of_val(&*self.marks)
    }

    /// Which of all checksums some groups have.
    fn checksums_of(&self, groups: Range<usize>) -> Range<usize> {
        let first = |group: usize| self.marks.get(group).map_or(self.checksums, |mark| mark.first_checksum);
        first(groups.start) as usize..first(groups.end) as usize
    }

    /// Reads some groups, side by side.
    pub(super) fn load<F: PackFile>(
        &self,
        (file, pack): (&F, u64),
        groups: Range<usize>,
    ) -> Result<Vec<Arc<EntryGroup>>, PackError> {
        let slots = groups.start * GROUP_CHUNKS..(groups.end * GROUP_CHUNKS).min(self.chunks as usize);
        let entries_at = self.offset + ENTRIES_AT as u64;
        let at = entries_at + (slots.start * ENTRY_BYTES) as u64;
        let entries = checked_read((file, pack), at, slots.len() * ENTRY_BYTES, |bytes| {
            let parts = groups.clone().zip(bytes.chunks(GROUP_CHUNKS * ENTRY_BYTES));
            parts.map(|(group, bytes)| self.entries(group, bytes)).collect::<Result<Vec<_>, _>>()
        })?;
        let checksums = self.checksums_of(groups.clone());
        let at = entries_at + (self.chunks as usize * ENTRY_BYTES + checksums.start * 4) as u64;
        let checksums = checked_read((file, pack), at, checksums.len() * 4, |bytes| {
            let of_group = |group| self.checksums(group, checksums.start, &bytes);
            groups.clone().map(of_group).collect::<Result<Vec<_>, _>>()
        })?;
        let both = groups.zip(entries.into_iter().zip(checksums));
        let group = |(group, (entries, checksums))| {
            let first_slot = (group * GROUP_CHUNKS) as u32;
            Arc::new(EntryGroup { first_slot, entries, checksums })
        };
        Ok(both.map(group).collect())
    }

    fn entries(&self, group: usize, bytes: &[u8]) -> Result<Box<[PackEntry]>, PackError> {
        if crc32c(&[bytes]) != self.marks[group].entries_crc {
            return Err(DAMAGED);
        }
        let (mut before, mut checksums) = (PAGE, 0);
        let slots = group * GROUP_CHUNKS..;
        let entries = slots.zip(bytes.chunks_exact(ENTRY_BYTES)).map(|(slot, bytes)| {
            let entry = entry_of(bytes, slot, before..self.offset, self.most_bytes)?;
            before = entry.end();
            checksums += entry.checksums();
            Ok(entry)
        });
        let entries = entries.collect::<Result<_, PackError>>()?;
        if checksums == self.checksums_of(group..group + 1).len() { Ok(entries) } else { Err(DAMAGED) }
    }

    /// The checksums of a group, of bytes that begin with the checksum `first`.
    fn checksums(&self, group: usize, first: usize, bytes: &[u8]) -> Result<Box<[u32]>, PackError> {
        let Range { start, end } = self.checksums_of(group..group + 1);
        let bytes = bytes.get((start - first) * 4..(end - first) * 4).ok_or(DAMAGED)?;
        if crc32c(&[bytes]) != self.marks[group].checksums_crc {
            return Err(DAMAGED);
        }
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Ok(bytes.chunks_exact(4).map(number).collect())
    }
}

/// An entry of a footer, whose payload is within some bytes of the file.
fn entry_of(bytes: &[u8], slot: usize, within: Range<u64>, most_bytes: u32) -> Result<PackEntry, PackError> {
    let entry = PackEntry::decode(bytes);
    let checked = entry.and_then(|entry| {
        entry.check(within.start, within.end, most_bytes)?;
        Ok(entry)
    });
    checked.map_err(|what| PackError::Entry { slot, what })
}

impl EntryGroup {
    /// All chunks of it.
    pub(super) fn chunks(self: &Arc<Self>) -> impl Iterator<Item = LocatedChunk> + use<> {
        let slots = self.first_slot..self.first_slot + self.entries.len() as u32;
        let group = Arc::clone(self);
        slots.map(move |slot| LocatedChunk { slot, group: Arc::clone(&group) })
    }

    /// The chunk of a slot, if that is one of it.
    pub(super) fn chunk(self: &Arc<Self>, slot: u32) -> Option<LocatedChunk> {
        let at = slot.checked_sub(self.first_slot)? as usize;
        (at < self.entries.len()).then(|| LocatedChunk { slot, group: Arc::clone(self) })
    }
}

impl LocatedChunk {
    pub(crate) const fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn entry(&self) -> CheckedEntry<'_> {
        let (slot, at) = (self.slot, (self.slot - self.group.first_slot) as usize);
        let entry = &self.group.entries[at];
        let first: usize = self.group.entries[..at].iter().map(PackEntry::checksums).sum();
        CheckedEntry { slot, entry, checksums: &self.group.checksums[first..first + entry.checksums()] }
    }

    /// What is known of it.
    pub(crate) fn told(&self) -> PackedChunk {
        let PackEntry { hash, kind, codec, offset, payload_bytes, hashed_bytes, .. } = *self.entry().entry;
        PackedChunk { hash, kind, codec, offset, payload_bytes, hashed_bytes }
    }
}
