//! A delta: what changed between two snapshots, with the new contents, as one stream of bytes that can go
//! anywhere.
//!
//! All numbers are little-endian. A stream is a header, records in the order of the disk, and an end.
//!
//! ```text
//! header, 384 bytes
//!   0  "RNBDDLTA"                 112 bytes of the disk that it begins with (u64)
//!   8  version 1 (u32)            120 bytes of the disk that it makes (u64)
//!   12 compatible features        128 first byte of the disk that the stream tells of (u64)
//!   16 read-only-compatible       136 when it was written, seconds since 1970 (u64)
//!   20 incompatible               144 bytes of a block: 4096 (u32)
//!   24 reserved                   148 bytes of the name (u32)
//!   32 store (uuid)               152 name of the snapshot, 128 bytes
//!   48 image (uuid)               280 reserved
//!   64 from (uuid): the snapshot that it begins with; all zeroes: it begins with nothing
//!   80 to (uuid): the snapshot that it makes
//!   96 reserved                   380 CRC32C of what is before it (u32)
//!
//! record, 32 bytes and its data
//!   0  "RNDR"                     8  offset on the disk (u64)
//!   4  kind (u32)                 16 bytes (u64)
//!                                 24 CRC32C of the data; 0 without (u32)
//!                                 28 CRC32C of the CRC before it, and of what is before it here (u32)
//! ```
//!
//! Kinds: 1, data follows, at most 1 MiB; 2, the bytes are zeroes; 3, the end, whose offset is the size of
//! the disk and whose length counts the records. Records are whole blocks but for the last block of the
//! disk, and neither overlap nor go back. What no record names is as it was; what lies behind the smaller
//! of the two sizes is zeroes.
//!
//! Each record's checksum goes on from the one before it, so none can be missing, changed or out of order. A
//! stream is complete with its end, and nothing follows that. Byte 128 is where a stream goes on that is
//! sent in parts: this version writes whole streams only, with 0, and reads no others.

mod head;
mod read;
mod write;

pub use head::DeltaError;
pub(crate) use head::DeltaHead;
pub(crate) use read::{DeltaPart, DeltaReader};
pub(crate) use write::DeltaWriter;
