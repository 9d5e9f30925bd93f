//! The way from a node of a chain down, and where two ways meet.

use std::ops::Range;

use crate::store::catalog::{Below, CatalogView, ChainNode, LayerId, SnapshotId};

/// Layers that a trace goes through at most: those of a few chains, one behind the other.
const MOST_STEPS: usize = 1024;

/// A layer on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceStep {
    pub(crate) layer: LayerId,
    /// Bytes of it that are seen from above.
    pub(crate) visible: u64,
    /// What differs from the next step is in the layer's record, and not in its map.
    pub(crate) is_recorded: bool,
}

/// The layers below a point in time, newest first. From a layer with a record the way goes on at the
/// record's anchor.
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
    /// Follows the chain from a place on. `anchor` tells of the anchor of a layer's record: `None` without a
    /// record.
    ///
    /// It gives `None` if the way has no end. Where a record cannot be used it ends, and what is behind
    /// that is not known.
    pub(crate) fn of(
        view: &CatalogView,
        size: u64,
        from: Below,
        anchor: &dyn Fn(LayerId) -> Option<Option<SnapshotId>>,
    ) -> Option<Self> {
        let (mut steps, mut below, mut visible) = (Vec::new(), from, size.min(from.bytes));
        while let ChainNode::Layer(layer) = below.node {
            let row = view.layer(layer)?;
            if steps.len() == MOST_STEPS {
                return None;
            }
            let mut step = TraceStep { layer, visible, is_recorded: false };
            below = row.below;
            // What is still written changes without its record.
            match anchor(layer).filter(|_| row.is_sealed) {
                Some(Some(anchor)) => {
                    if let Some(snapshot) = view.snapshot_by_id(anchor) {
                        step.is_recorded = true;
                        below = snapshot.below.within(snapshot.size);
                    }
                }
                Some(None) => {
                    steps.push(step);
                    return Some(Self { size, steps, end: None, end_visible: 0 });
                }
                None => {}
            }
            steps.push(step);
            visible = visible.min(below.bytes);
        }
        Some(Self { size, steps, end: Some(below.node), end_visible: visible })
    }

    /// Puts layers above it that the catalogue does not know yet.
    pub(crate) fn under(mut self, layers: impl IntoIterator<Item = LayerId>) -> Self {
        let step = |layer| TraceStep { layer, visible: self.size, is_recorded: false };
        let steps: Vec<TraceStep> = layers.into_iter().map(step).collect();
        self.steps.splice(0..0, steps);
        self
    }

    /// Where it meets another one; `None` if they have nothing in common.
    pub(crate) fn difference(&self, other: &Self) -> Option<ChainDifference> {
        let sizes = between(self.size, other.size);
        for (first, step) in self.steps.iter().enumerate() {
            let found = other.steps.iter().position(|other| other.layer == step.layer);
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

fn between(a: u64, b: u64) -> Range<u64> {
    a.min(b)..a.max(b)
}
