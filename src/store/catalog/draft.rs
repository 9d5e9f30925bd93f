//! A change that is being made, over the rows that it changes.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{ImageId, LayerId, SnapshotId};
use super::packed_rows::ContentsRow;
use super::rows::{BaseRow, ChainNode, ImageRow, LayerRow, SnapshotRow, TentativeRow};
use super::view::{CatalogChange, CatalogView, nodes_of};

/// A change so far. Rows that it sets go before those of the view.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    view: &'a CatalogView,
    change: CatalogChange,
    /// How many more rows name a node than in the view.
    uses: BTreeMap<ChainNode, i64>,
    /// Nodes that a row has ceased to name.
    left: BTreeSet<ChainNode>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a CatalogView) -> Self {
        Self { view, change: CatalogChange::default(), uses: BTreeMap::new(), left: BTreeSet::new() }
    }

    fn named(&mut self, node: ChainNode) {
        *self.uses.entry(node).or_default() += 1;
    }

    fn left(&mut self, node: ChainNode) {
        *self.uses.entry(node).or_default() -= 1;
        self.left.insert(node);
    }

    pub(super) fn image(&self, id: ImageId) -> Option<&ImageRow> {
        self.change.images.get(&id).map_or_else(|| self.view.image_by_id(id), Option::as_ref)
    }

    pub(super) fn layer(&self, id: LayerId) -> Option<&LayerRow> {
        self.change.layers.get(&id).map_or_else(|| self.view.layer(id), Option::as_ref)
    }

    pub(super) fn snapshot(&self, id: SnapshotId) -> Option<&SnapshotRow> {
        self.change.snapshots.get(&id).map_or_else(|| self.view.snapshot_by_id(id), Option::as_ref)
    }

    pub(super) fn set_image(&mut self, row: ImageRow) {
        let before: Vec<ChainNode> = self.image(row.id).into_iter().flat_map(nodes_of).collect();
        nodes_of(&row).for_each(|node| self.named(node));
        before.into_iter().for_each(|node| self.left(node));
        self.change.images.insert(row.id, Some(row));
    }

    pub(super) fn remove_image(&mut self, id: ImageId) {
        let before: Vec<ChainNode> = self.image(id).into_iter().flat_map(nodes_of).collect();
        before.into_iter().for_each(|node| self.left(node));
        self.change.images.insert(id, None);
    }

    pub(super) fn set_layer(&mut self, row: LayerRow) {
        let before = self.layer(row.id).map(|row| row.below.node);
        self.named(row.below.node);
        before.into_iter().for_each(|node| self.left(node));
        self.change.layers.insert(row.id, Some(row));
    }

    pub(super) fn set_snapshot(&mut self, row: SnapshotRow) {
        let before = self.snapshot(row.id).map(|row| row.below.node);
        self.named(row.below.node);
        before.into_iter().for_each(|node| self.left(node));
        self.change.snapshots.insert(row.id, Some(row));
    }

    /// Takes a snapshot away. What came after it comes after the one before it from now on.
    pub(super) fn remove_snapshot(&mut self, id: SnapshotId) {
        let Some(row) = self.snapshot(id).cloned() else { return };
        // As they are in the draft: one that was removed before has handed its children on.
        let follows = |child: &&SnapshotRow| child.parent == Some(id);
        let rows = self.view.snapshots.keys().filter_map(|id| self.snapshot(*id));
        for child in rows.filter(follows).cloned().collect::<Vec<_>>() {
            self.set_snapshot(SnapshotRow { parent: row.parent, ..child });
        }
        let rows = self.view.images.keys().filter_map(|id| self.image(*id));
        for image in rows.filter(|image| image.since == Some(id)).cloned().collect::<Vec<_>>() {
            self.set_image(ImageRow { since: row.parent, ..image });
        }
        self.left(row.below.node);
        self.change.snapshots.insert(id, None);
        self.change.folded.push((id, row.parent));
    }

    pub(super) fn set_contents(&mut self, row: ContentsRow) {
        self.change.contents.insert(row.layer, Some(row));
    }

    pub(super) fn set_base(&mut self, row: BaseRow) {
        self.change.bases.insert(row.id, Some(row));
    }

    pub(super) fn set_tentative(&mut self, row: TentativeRow) {
        self.change.tentative.insert(row.id, Some(row));
    }

    pub(super) fn end_tentative(&mut self, id: SnapshotId) {
        self.change.tentative.insert(id, None);
    }

    fn uses(&self, node: ChainNode) -> i64 {
        self.view.uses(node).cast_signed() + self.uses.get(&node).copied().unwrap_or_default()
    }

    /// The change, with layers and bases taken away that no row names any more.
    pub(super) fn finish(mut self) -> CatalogChange {
        while let Some(node) = self.left.pop_first() {
            if self.uses(node) > 0 {
                continue;
            }
            match node {
                ChainNode::Nothing => {}
                ChainNode::Base(id) => {
                    self.change.bases.insert(id, None);
                }
                ChainNode::Layer(id) => {
                    if let Some(below) = self.layer(id).map(|row| row.below.node) {
                        self.left(below);
                        self.change.layers.insert(id, None);
                        if self.view.contents(id).is_some() {
                            self.change.contents.insert(id, None);
                        }
                    }
                }
            }
        }
        self.change
    }
}
