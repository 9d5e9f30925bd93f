//! A manifest: what an image has in each chunk of its disk, as a tree that shares its nodes with other
//! manifests.
//!
//! The tree has 256 entries a node. An entry of a leaf is a chunk of the disk: it reads as zeroes, as the
//! base, or has a name ([`ManifestEntry`]). An entry of an inner node is the same for 256 times as many
//! chunks: all zeroes, all of the base, or the name of a node. So an image of 2^63 bytes in one chunk has one
//! node a level.
//!
//! Equal contents have equal roots, however they came about:
//!
//! * the levels follow from the size,
//! * a node of which everything is zeroes, or everything is of the base, is not written,
//! * what lies behind the end of the disk is zeroes.
//!
//! So two manifests are compared by names: what has the same name is the same, and is not looked at.
//!
//! Nodes are chunks of packs. The name of one is the hash of its bytes without its *hints*, which say in
//! which pack a chunk was when the node was written. So collection moves chunks without renaming any node.
//!
//! Bytes of a node may come from anywhere: they must have the hash that they are asked for by, and be as this
//! version writes them. No way through a tree keeps more than a node a level.

mod descent;
#[cfg(test)]
mod difference;
mod error;
#[cfg(test)]
mod look;
mod node;
mod reach;
mod root;
mod survey;
#[cfg(test)]
mod tests;
mod update;

pub(crate) use descent::Descent;
#[cfg(test)]
pub(crate) use difference::differences;
pub(crate) use error::ManifestError;
#[cfg(test)]
pub(crate) use look::{find, walk};
pub(crate) use node::{ManifestEntry, NamedChunk, translate_hints};
pub(crate) use reach::{ReachedChunk, ReachedNode};
pub(crate) use root::{ManifestNodes, ManifestRoot};
pub(crate) use survey::{ManifestSurveyor, survey};
pub(crate) use update::{all_of_base, updated};
