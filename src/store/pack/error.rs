//! Why a pack cannot be read or written.

use std::io;

use crate::store::structure::StructureFlaw;

/// What is wrong with a pack. Nothing is changed by finding it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("the pack cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("this is no pack: it has not the mark of one")]
    NotAPack,
    #[error("the pack was never finished: nothing names it, and `ringnbd store gc` removes it")]
    Unfinished,
    #[error(
        "the {what} of the pack was written by a newer version (format {version}, features {features:#x}): open it with \
         that version"
    )]
    Newer { what: &'static str, version: u32, features: u32 },
    #[error("this is another pack than its name says: files of two stores, or of two packs, were mixed")]
    Foreign,
    #[error("the {what} of the pack is damaged: what it has is to be taken from a copy")]
    Damaged { what: &'static str },
    #[error("entry {slot} of the pack's footer cannot be: {what}")]
    Entry { slot: usize, what: &'static str },
    #[error("the pack has no chunk {0}")]
    NoSlot(u32),
    /// The bytes are not those that were written.
    #[error("chunk {slot} of the pack is damaged in the 4 KiB from byte {offset} of the file on")]
    Checksum { slot: u32, offset: u64 },
    #[error("chunk {slot} of the pack cannot be decompressed, although its checksums fit")]
    Compressed { slot: u32 },
    #[error("chunk {slot} of the pack has other contents than its name says, although its checksums fit")]
    Renamed { slot: u32 },
    /// Nothing is lost by it.
    #[error("nobody's bytes between two chunks of the pack have changed, at byte {offset} of the file")]
    Gap { offset: u64 },
    #[error(
        "the copy of chunk {slot} does not give the bytes that the pack had there: it was compressed in another way"
    )]
    OtherPayload { slot: u32 },
    #[error("the pack is full: go on with another one")]
    Full,
    #[error("a chunk of this pack has 1 to {most} bytes, and this has {length}")]
    Length { length: usize, most: u32 },
    #[error("chunks of {0} bytes are not possible: take a power of two from 512 bytes to 1 MiB")]
    ChunkBytes(u32),
}

impl PackError {
    pub(super) fn of_flaw(flaw: StructureFlaw, what: &'static str) -> Self {
        match flaw {
            StructureFlaw::Other | StructureFlaw::Torn => Self::Damaged { what },
            StructureFlaw::Newer { version, features } => Self::Newer { what, version, features },
        }
    }
}
