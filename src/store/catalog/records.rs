//! What is in memory of records of changes: where the way down from their layers goes on.

use std::collections::BTreeMap;

use super::id::{BaseId, LayerId, SnapshotId};
use super::view::CatalogView;

/// What is in memory of a layer's record of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordHead {
    /// What changes are counted from; none: what the layer stands on.
    pub anchor: Option<RecordAnchor>,
    /// Points in time within the layer, the newest first.
    pub points: Vec<SnapshotId>,
}

/// What the changes of a layer are counted from that took in everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordAnchor {
    Snapshot(SnapshotId),
    /// A snapshot that is gone. It is a point in time within a layer whose record tells of it.
    Point {
        id: SnapshotId,
        /// Bytes that it saw of that layer.
        bytes: u64,
    },
    /// A snapshot that is gone and had the contents of a base.
    Base {
        id: BaseId,
        /// Bytes that it saw of the base.
        bytes: u64,
    },
}

/// For each layer that has a record of changes, what it begins with; none if the record cannot be read.
pub type RecordHeads = BTreeMap<LayerId, Option<RecordHead>>;

/// The layer that has this point in time within it.
#[must_use]
pub fn holder_of_point(view: &CatalogView, records: &RecordHeads, point: SnapshotId) -> Option<LayerId> {
    let has_it = |head: &Option<RecordHead>| head.as_ref().is_some_and(|head| head.points.contains(&point));
    // While two layers become one, the record of the new one is there before the layer is.
    let mut holders = records.iter().filter(|(layer, head)| has_it(head) && view.layer(**layer).is_some());
    holders.next().map(|(layer, _)| *layer)
}
