//! What has changed between two points in time of an image.
//!
//! As long as the layers between two points are there, their maps *are* the answer: a block can differ only
//! where one of those layers has it. So the chains of both are followed down to what they have in common
//! ([`ChangeTrace`]), and what lies above that on either side counts. Merging layers side by side changes
//! none of it: what is above a common layer stays above it.
//!
//! A layer that took in everything from below ([flattening](super::open_store::OpenStore::keep_changes))
//! says of each block that it has it, and the way to older points in time is cut. So before that a
//! [`ChangeRecord`] is written for the new layer: an older snapshot, its *anchor*, and the set of what
//! differs between the two. A trace goes from the layer to its anchor by that set. When the anchor is
//! removed, the set takes in what differs between it and the snapshot before it, which is the anchor from
//! then on. Where no other snapshot has anything in common with it, an image may still: it was rolled back
//! to it. Then the record goes on where the snapshot was: at a base, or at a point within the layer that it
//! stood on.
//!
//! A snapshot that keeps changes only does not hold its layer: that is merged into the one above it. What the
//! two layers held apart is written into the record of the merged one: the snapshot is a *point* within that
//! layer, and the record has what differs between the layer and its newest point, between one point and the
//! next, and between the oldest one and what is below. A trace goes from part to part, and the trace of such
//! a snapshot begins at its point.
//!
//! Records are files of their own, `changed/<layer>`, made durable before the catalogue knows of the layer.
//! What such a file says is true for ever, since neither a layer that took something in nor a snapshot
//! changes: a file that came and whose layer did not is rubbish, which the next change removes.

mod record;
mod set;
mod trace;

pub(crate) use record::{ChangeRecord, ChangeRecordError};
pub(crate) use set::ChangedSet;
pub(crate) use trace::{ChainDifference, ChangeTrace, TraceStart, extent};
