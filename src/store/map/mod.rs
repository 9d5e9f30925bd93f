//! The `map` file of a layer: what the layer has of each block of the disk, in two bits ([`BlockState`]).
//!
//! [`LayerMap`] is the map of one writable layer, in RAM as far as it is needed. It says what to read, what
//! to write, and in which order; somebody else does it. Three kinds of state are kept apart:
//!
//! * *current*: what requests see. It changes at once.
//! * *pending*: changes that no durable record has yet.
//! * *journaled*: what durable records say. Nodes on disk are made of this one, never of the current one: a
//!   node that names a block whose data is not durable would read as foreign bytes after a power cut.
//!
//! # The file
//!
//! ```text
//! superblock A | superblock B | journal: a ring of records | nodes, each before those below it
//! ```
//!
//! Every node has a fixed place, whatever the size of the image, which is 1 PiB at most with
//! [`Geometry::default`]. So an image that grows moves nothing. The file is sparse, and as long as the nodes
//! of the image need: 8 KiB for 32 MiB of it.
//!
//! A **leaf** has the states of `page_blocks` blocks. An **inner node** has an entry for each of its
//! children: the slot in which it lives, its sequence and its CRC. The superblock has the entries of the
//! topmost nodes, the *roots*. Each node has two slots. A checkpoint writes changed leaves and all nodes
//! above them into the slots that are not live, syncs, then writes the superblock that is not live, and
//! syncs again. So:
//!
//! * Which slot is live is never guessed from the slots: the parent says so, up to the superblock. A child
//!   without an entry was never written, and all of its blocks are ABSENT.
//! * Until the new superblock is durable, everything that the old one names is untouched.
//! * A directory of all pages would be rewritten whole by each checkpoint: 0.5 MiB with 1 TiB. The tree
//!   writes what changed.
//!
//! # The journal
//!
//! A record says which blocks have which state from now on ([`record`]). It begins on a record block of its
//! own, is contiguous, and carries the position, the sequence and the CRC that follow from the one before.
//! One record is under way at a time. [`replay`] tells what opening accepts; in short: the chain ends at the
//! first record that is not whole, and a whole record behind that end means that the end is damage, so the
//! layer does not open.
//!
//! It begins small and doubles as it is used, up to the room that lies before the nodes
//! ([`checkpoint`](self::checkpoint)). So a layer that is written to little takes little.
//!
//! Journal space is given up when a superblock that does not need it is durable. A superblock also says up
//! to where records were durable when it was written, so such a record cannot be mistaken for a torn one.
//!
//! An older superblock is used when the newer one cannot be read. Then the chain from *its* position must be
//! complete, which the same check tells, and [`LayerMap::is_fallback`] asks the caller to load every node
//! once before anything is served ([`LayerMap::next_live`]).
//!
//! # Sizes
//!
//! ABSENT blocks from `hidden_from` on read as zeroes, whatever is below. It is the smallest size that the
//! layer ever had. So growing an image shows nothing of what is below, and costs one record, however much it
//! grows by. Shrinking first makes ZERO of what the layer has beyond the new size, in bounded steps
//! ([`LayerMap::shrink_step`]); then the record of the new size follows.
//!
//! The end of the disk may cut its last block. What the file has behind it may be old, of the time before
//! the disk shrank. Whoever makes the disk larger writes zeroes there first ([`LayerMap::cut_block`]), and a
//! block that becomes DATA gets them with the write that makes it so.

#![cfg_attr(not(test), allow(dead_code))]

mod arbitrary;
mod change;
mod checkpoint;
mod commit;
mod error;
mod format;
mod geometry;
mod layer;
mod leaf;
mod left_log;
mod log;
mod logged;
mod node;
mod open;
mod planted;
mod record;
mod replay;
mod resize;
mod states;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod under_way;

pub use arbitrary::use_arbitrary;
pub(crate) use checkpoint::CheckpointStep;
pub(crate) use commit::NoCommit;
pub(crate) use error::LayerMapError;
pub use geometry::Geometry;
pub(crate) use layer::{FileWrite, LayerMap, Lookup};
pub(crate) use left_log::LeftLog;
pub(crate) use left_log::LeftLogError;
pub(crate) use log::{LogLayout, LogMemory, LogOwner, LogRoom, PendingLog};
pub(crate) use node::NodeAddress;
pub(crate) use open::MapFront;
pub(crate) use resize::{CutBlock, ShrinkStep};
pub(crate) use states::{BlockRun, BlockState};
pub(crate) use superblock::LayerIdentity;
