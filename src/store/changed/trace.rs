//! The way from a node of a chain down, and where two ways meet.

use std::ops::Range;

use crate::store::catalog::{
    Below, CatalogView, ChainNode, LayerId, RecordAnchor, RecordHeads, SnapshotId, SnapshotKeeps,
    SnapshotRow, holder_of_point,
};

/// Layers that a trace goes through at most: those of a few chains, one behind the other.
const MOST_STEPS: usize = 1024;

/// A layer on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceStep {
    pub(crate) layer: LayerId,
    /// Bytes of it that are seen from above.
    pub(crate) visible: u64,
    /// What differs from the next step is in this part of the layer's record; none: in its map.
    pub(crate) part: Option<usize>,
}

/// Where a point in time is in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceStart {
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) from: Below,
    /// It is this point within the layer that it stands on.
    pub(crate) within: Option<SnapshotId>,
}

impl TraceStart {
    pub(crate) fn of_snapshot(row: &SnapshotRow) -> Self {
        let within = (row.keeps == SnapshotKeeps::ChangesWithin).then_some(row.id);
        Self { size: row.size, from: row.below, within }
    }

    /// Where the way goes on from a record; none if what it is anchored to is gone.
    pub(crate) fn of_anchor(view: &CatalogView, records: &RecordHeads, anchor: RecordAnchor) -> Option<Self> {
        match anchor {
            RecordAnchor::Snapshot(id) => view.snapshot_by_id(id).map(Self::of_snapshot),
            RecordAnchor::Point { id, bytes } => {
                let node = ChainNode::Layer(holder_of_point(view, records, id)?);
                Some(Self { size: bytes, from: Below { node, bytes }, within: Some(id) })
            }
            RecordAnchor::Base { id, bytes } => {
                let node = ChainNode::Base(view.base(id)?.id);
                Some(Self { size: bytes, from: Below { node, bytes }, within: None })
            }
        }
    }
}

/// The layers below a point in time, newest first. A layer with points in time within it has a step for each
/// part between them. From a layer with an anchor the way goes on there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeTrace {
    /// Bytes of the disk.
    size: u64,
    pub(crate) steps: Vec<TraceStep>,
    /// What is below all layers, if that is known.
    end: Option<ChainNode>,
    /// Bytes of the end that are seen from above.
    end_visible: u64,
}

/// What two traces have above the node in which they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainDifference {
    /// Steps of the first one that count.
    pub(crate) first: usize,
    /// Steps of the second one that count.
    pub(crate) second: usize,
    /// Bytes that only one of the two sees of what they share.
    pub(crate) hidden: [Range<u64>; 2],
}

impl ChangeTrace {
    /// Follows the chain from a place on.
    ///
    /// It gives `None` if the way has no end. Where a record cannot be used it ends, and what is behind
    /// that is not known.
    pub(crate) fn of(view: &CatalogView, start: TraceStart, records: &RecordHeads) -> Option<Self> {
        let TraceStart { size, from: mut below, mut within } = start;
        let (mut steps, mut visible) = (Vec::new(), size.min(below.bytes));
        while let ChainNode::Layer(layer) = below.node {
            let row = view.layer(layer)?;
            if steps.len() >= MOST_STEPS {
                return None;
            }
            let step = |part| TraceStep { layer, visible, part };
            let unknown = |steps| Some(Self { size, steps, end: None, end_visible: 0 });
            // What is still written changes without its record.
            let head = records.get(&layer).filter(|_| row.is_sealed).map(Option::as_ref);
            let record = match (head, within.take()) {
                (None, None) => None,
                (Some(Some(record)), None) => Some((record, 0, false)),
                (Some(Some(record)), Some(point)) => match record.points.iter().position(|id| *id == point) {
                    Some(place) => Some((record, place + 1, true)),
                    None => return unknown(steps),
                },
                (None, Some(_)) => return unknown(steps),
                (Some(None), within) => {
                    // Without its record nobody knows where a point within it is.
                    steps.extend(within.is_none().then(|| step(None)));
                    return unknown(steps);
                }
            };
            let Some((record, first, is_within)) = record else {
                steps.push(step(None));
                (below, visible) = (row.below, visible.min(row.below.bytes));
                continue;
            };
            steps.extend((first..record.points.len()).map(|part| step(Some(part))));
            let next = record.anchor.and_then(|anchor| TraceStart::of_anchor(view, records, anchor));
            match (record.anchor, next) {
                (Some(_), Some(next)) => {
                    steps.push(step(Some(record.points.len())));
                    (below, within) = (next.from.within(next.size), next.within);
                    visible = visible.min(below.bytes);
                }
                // Its map tells more than the set did.
                (Some(_), None) => {
                    steps.push(step(None));
                    (below, visible) = (row.below, visible.min(row.below.bytes));
                }
                (None, _) => {
                    steps.push(step(Some(record.points.len())));
                    below = row.below;
                    // A point may see more of what is below than the layer that it came into. What it does
                    // not see is in the record.
                    visible = visible.min(if is_within { extent(view, below.node) } else { below.bytes });
                }
            }
        }
        Some(Self { size, steps, end: Some(below.node), end_visible: visible })
    }

    /// Puts layers above it that the catalogue does not know yet.
    pub(crate) fn under(mut self, layers: impl IntoIterator<Item = LayerId>) -> Self {
        let step = |layer| TraceStep { layer, visible: self.size, part: None };
        let steps: Vec<TraceStep> = layers.into_iter().map(step).collect();
        self.steps.splice(0..0, steps);
        self
    }

    /// Where it meets another one; `None` if they have nothing in common.
    pub(crate) fn difference(&self, other: &Self) -> Option<ChainDifference> {
        let sizes = between(self.size, other.size);
        for (first, step) in self.steps.iter().enumerate() {
            let is_same = |other: &TraceStep| (other.layer, other.part) == (step.layer, step.part);
            let found = other.steps.iter().position(is_same);
            if let Some(second) = found {
                let hidden = [between(step.visible, other.steps[second].visible), sizes];
                return Some(ChainDifference { first, second, hidden });
            }
        }
        let shared = match self.end {
            _ if self.end != other.end => return None,
            None => return None,
            // All that is seen of nothing is zeroes.
            Some(ChainNode::Nothing) => 0..0,
            Some(_) => between(self.end_visible, other.end_visible),
        };
        let (first, second) = (self.steps.len(), other.steps.len());
        Some(ChainDifference { first, second, hidden: [shared, sizes] })
    }
}

/// Bytes that a node has.
pub(crate) fn extent(view: &CatalogView, node: ChainNode) -> u64 {
    match node {
        ChainNode::Nothing => 0,
        ChainNode::Base(id) => view.base(id).map_or(0, |row| row.identity.size),
        ChainNode::Layer(id) => view.layer(id).map_or(0, |row| row.size),
    }
}

fn between(a: u64, b: u64) -> Range<u64> {
    a.min(b)..a.max(b)
}
