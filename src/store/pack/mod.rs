//! A pack: a file of chunks that is written once. Each chunk has the name of its contents.
//!
//! ```text
//! header, 4 KiB | payloads | footer | trailer, 64 bytes
//! ```
//!
//! A payload that is not compressed begins at a multiple of 4 KiB, so that it can be sent from the page
//! cache. A compressed one begins where the one before it ends. All chunks of a pack are of one
//! [`ChunkSpace`], which the header says once; the footer says the rest ([`footer`]).
//!
//! The trailer is the last thing that is written, and has a fixed place at the end of the file. A pack
//! without one is unfinished: nothing may name it, and what it has is not looked at. [`PackWriter::finish`]
//! says in which order everything becomes durable.
//!
//! Of a pack that is open little is in memory: where each chunk is, is read from the footer again
//! ([`groups`]).
//!
//! A read trusts nothing: every 4 KiB of a payload has its CRC, what is decompressed has a known length, and
//! the whole has a hash. A flipped bit gives an error, or was in bytes that nobody needs.

#[cfg(test)]
mod arbitrary;
mod aside;
mod codec;
mod error;
mod file;
mod footer;
mod gather;
mod groups;
mod header;
mod inspect;
mod key;
mod order;
mod read;
#[cfg(test)]
mod tests;
mod uncached;
mod write;

pub(crate) use aside::AsideTime;
pub(crate) use codec::ChunkCodec;
pub(crate) use error::PackError;
pub(crate) use file::PackFile;
pub(crate) use groups::{LocatedChunk, PackedChunk};
pub(crate) use header::PackIdentity;
pub(crate) use key::{ChunkHash, ChunkHint, ChunkKey, ChunkKind, ChunkSpace, HashAlgorithm};
pub(crate) use read::{PackReader, have_checksums};
pub(crate) use uncached::UncachedFile;
pub(crate) use write::PackWriter;

/// Bytes in front of the payloads, and what payloads that are not compressed are multiples from.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of a node of a manifest at most: payloads may be that long, however small chunks are.
const MOST_NODE_BYTES: u32 = 16 << 10;
/// Bytes of header and payloads at most.
const MOST_PACK_BYTES: u64 = 256 << 20;
/// Chunks of a pack at most. It bounds the footer, whatever the sizes of chunks are.
const MOST_CHUNKS: usize = 1 << 16;
