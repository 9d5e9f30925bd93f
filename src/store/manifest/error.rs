//! Why a manifest cannot be read or made.

use crate::store::pack::ChunkHash;

/// What is wrong with a manifest, or with what one is to be made of. `E` is the error of whoever keeps nodes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError<E> {
    #[error("{0}")]
    Nodes(E),
    #[error("node {hash} of the manifest has other contents than its name says: take it from a copy")]
    Renamed { hash: ChunkHash },
    #[error("node {hash} of the manifest is damaged ({what}): take it from a copy")]
    Damaged { hash: ChunkHash, what: &'static str },
    #[error(
        "node {hash} of the manifest was written by a newer version (format {version}, features {features:#x}): open it with \
         that version"
    )]
    Newer { hash: ChunkHash, version: u32, features: u32 },
    #[error("an image of {size} bytes in chunks of {chunk_bytes} is not possible")]
    Size { size: u64, chunk_bytes: u32 },
    #[error("the two manifests name chunks in different ways: compare the bytes of the images")]
    #[cfg_attr(not(test), expect(dead_code, reason = "manifests are compared by tests only so far"))]
    Spaces,
    #[error("chunk {chunk} of {chunks} does not follow the one before it, or is not of the disk")]
    Order { chunk: u64, chunks: u64 },
}
