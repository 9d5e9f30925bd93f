//! All rows of a catalogue in memory, with what is asked of them most: names, and how often a node is used.

use std::collections::{BTreeMap, BTreeSet};

use super::foreign_rows::ForeignRow;
use super::id::{BaseId, ImageId, LayerId, SnapshotId};
use super::name::StoreName;
use super::packed_rows::{ContentsRow, PackRow};
use super::rows::{BaseRow, Below, ChainNode, ImageRow, LayerRow, SnapshotRow, TentativeRow};

/// What one transaction changes: a new value for a row, or none where it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogChange {
    pub(super) images: BTreeMap<ImageId, Option<ImageRow>>,
    pub(super) layers: BTreeMap<LayerId, Option<LayerRow>>,
    pub(super) snapshots: BTreeMap<SnapshotId, Option<SnapshotRow>>,
    pub(super) bases: BTreeMap<BaseId, Option<BaseRow>>,
    pub(super) contents: BTreeMap<LayerId, Option<ContentsRow>>,
    pub(super) packs: BTreeMap<u64, Option<PackRow>>,
    /// Packs of other stores.
    pub(super) foreign: BTreeMap<u64, Option<ForeignRow>>,
    /// So many numbers for packs are reserved.
    pub(super) reserves_packs: u64,
    pub(super) tentative: BTreeMap<SnapshotId, Option<TentativeRow>>,
    /// Snapshots that go, and the one before each: its changed set is added to those of its children.
    pub(super) folded: Vec<(SnapshotId, Option<SnapshotId>)>,
}

impl CatalogChange {
    /// Layers that nothing needs any more, once this is durable and no shard uses them.
    pub fn released_layers(&self) -> impl Iterator<Item = LayerId> {
        self.layers.iter().filter(|(_, row)| row.is_none()).map(|(id, _)| *id)
    }

    /// Layers that have a row after this, with a new value.
    pub fn made_layers(&self) -> impl Iterator<Item = LayerId> {
        self.layers.iter().filter(|(_, row)| row.is_some()).map(|(id, _)| *id)
    }

    /// Snapshots that go, in order, and the one before each.
    pub(in crate::store) fn folded(&self) -> impl Iterator<Item = (SnapshotId, Option<SnapshotId>)> {
        self.folded.iter().copied()
    }

    /// Whether packs of other stores come or go.
    pub(in crate::store) fn has_foreign(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// Whether a layer does not go.
    pub(in crate::store) fn keeps_layer(&self, layer: LayerId) -> bool {
        self.layers.get(&layer).is_none_or(Option::is_some)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How many rows of each kind a catalogue has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    pub images: usize,
    pub layers: usize,
    pub snapshots: usize,
    pub bases: usize,
}

/// The rows of a catalogue as they are after one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogView {
    pub(super) images: BTreeMap<ImageId, ImageRow>,
    pub(super) layers: BTreeMap<LayerId, LayerRow>,
    pub(super) snapshots: BTreeMap<SnapshotId, SnapshotRow>,
    pub(super) bases: BTreeMap<BaseId, BaseRow>,
    pub(super) contents: BTreeMap<LayerId, ContentsRow>,
    pub(super) packs: BTreeMap<u64, PackRow>,
    pub(super) foreign: BTreeMap<u64, ForeignRow>,
    pub(super) tentative: BTreeMap<SnapshotId, TentativeRow>,
    image_names: BTreeMap<StoreName, ImageId>,
    snapshot_names: BTreeMap<(ImageId, StoreName), SnapshotId>,
    clones: BTreeSet<(SnapshotId, ImageId)>,
    uses: BTreeMap<ChainNode, u64>,
    /// Snapshots that keep changes only, and how many of these rows they are.
    pub(super) changes_only: BTreeSet<SnapshotId>,
    marks: BTreeMap<ChainNode, u64>,
}

impl CatalogView {
    /// A view without rows.
    pub(super) fn of(change: &CatalogChange) -> Self {
        let mut view = Self::default();
        view.apply(change);
        view
    }

    pub(super) fn apply(&mut self, change: &CatalogChange) {
        // Old names go before new ones come: two images may swap theirs.
        for id in change.images.keys() {
            if let Some(old) = self.images.remove(id) {
                self.forget_image(&old);
            }
        }
        for id in change.snapshots.keys() {
            if let Some(old) = self.snapshots.remove(id) {
                if self.changes_only.remove(id) {
                    less(&mut self.marks, old.below.node);
                }
                self.unname(old.below.node);
                self.snapshot_names.remove(&(old.image, old.name));
            }
        }
        for id in change.layers.keys() {
            if let Some(old) = self.layers.remove(id) {
                self.unname(old.below.node);
            }
        }
        for row in change.images.values().flatten() {
            self.add_image(row.clone());
        }
        for row in change.snapshots.values().flatten() {
            self.snapshot_names.insert((row.image, row.name.clone()), row.id);
            self.name(row.below.node);
            if row.is_changes_only() {
                self.changes_only.insert(row.id);
                more(&mut self.marks, row.below.node);
            }
            self.snapshots.insert(row.id, row.clone());
        }
        for row in change.layers.values().flatten() {
            self.name(row.below.node);
            self.layers.insert(row.id, row.clone());
        }
        for (id, row) in &change.bases {
            match row {
                Some(row) => self.bases.insert(*id, row.clone()),
                None => self.bases.remove(id),
            };
        }
        for (id, row) in &change.contents {
            match row {
                Some(row) => self.contents.insert(*id, row.clone()),
                None => self.contents.remove(id),
            };
        }
        for (number, row) in &change.packs {
            match row {
                Some(row) => self.packs.insert(*number, row.clone()),
                None => self.packs.remove(number),
            };
        }
        for (number, row) in &change.foreign {
            match row {
                Some(row) => self.foreign.insert(*number, row.clone()),
                None => self.foreign.remove(number),
            };
        }
        for (id, row) in &change.tentative {
            match row {
                Some(row) => self.tentative.insert(*id, row.clone()),
                None => self.tentative.remove(id),
            };
        }
    }

    fn add_image(&mut self, row: ImageRow) {
        self.image_names.insert(row.name.clone(), row.id);
        nodes_of(&row).for_each(|node| self.name(node));
        if let Some(origin) = row.origin {
            self.clones.insert((origin, row.id));
        }
        self.images.insert(row.id, row);
    }

    fn forget_image(&mut self, row: &ImageRow) {
        self.image_names.remove(&row.name);
        nodes_of(row).for_each(|node| self.unname(node));
        if let Some(origin) = row.origin {
            self.clones.remove(&(origin, row.id));
        }
    }

    fn name(&mut self, node: ChainNode) {
        more(&mut self.uses, node);
    }

    fn unname(&mut self, node: ChainNode) {
        less(&mut self.uses, node);
    }

    /// How many rows name a node.
    pub(super) fn uses(&self, node: ChainNode) -> u64 {
        self.uses.get(&node).copied().unwrap_or_default()
    }

    /// How many of them read what it has: all but the snapshots that keep changes only.
    pub(super) fn readers(&self, node: ChainNode) -> u64 {
        self.uses(node) - self.marks.get(&node).copied().unwrap_or_default()
    }

    /// The snapshots of an image that keep changes only.
    pub(in crate::store) fn changes_only_of(&self, image: ImageId) -> usize {
        let ids = self.snapshot_ids_of(image);
        ids.filter(|id| self.snapshots[id].is_changes_only()).count()
    }

    /// All that keep changes only.
    pub(in crate::store) fn changes_only(&self) -> impl Iterator<Item = &SnapshotRow> {
        self.changes_only.iter().map(|id| &self.snapshots[id])
    }

    /// Those of them that stand on a layer.
    pub(in crate::store) fn marks_on(&self, layer: LayerId) -> impl Iterator<Item = &SnapshotRow> {
        self.changes_only().filter(move |row| row.below.node == ChainNode::Layer(layer))
    }

    #[must_use]
    pub fn counts(&self) -> RowCounts {
        RowCounts {
            images: self.images.len(),
            layers: self.layers.len(),
            snapshots: self.snapshots.len(),
            bases: self.bases.len(),
        }
    }

    /// By name.
    pub fn images(&self) -> impl Iterator<Item = &ImageRow> {
        self.image_names.values().map(|id| &self.images[id])
    }

    pub fn layers(&self) -> impl Iterator<Item = &LayerRow> {
        self.layers.values()
    }

    pub fn bases(&self) -> impl Iterator<Item = &BaseRow> {
        self.bases.values()
    }

    #[must_use]
    pub fn image(&self, name: &StoreName) -> Option<&ImageRow> {
        self.image_names.get(name).map(|id| &self.images[id])
    }

    #[must_use]
    pub fn image_by_id(&self, id: ImageId) -> Option<&ImageRow> {
        self.images.get(&id)
    }

    #[must_use]
    pub fn snapshot(&self, image: ImageId, name: &StoreName) -> Option<&SnapshotRow> {
        self.snapshot_names.get(&(image, name.clone())).map(|id| &self.snapshots[id])
    }

    #[must_use]
    pub fn snapshot_by_id(&self, id: SnapshotId) -> Option<&SnapshotRow> {
        self.snapshots.get(&id)
    }

    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&LayerRow> {
        self.layers.get(&id)
    }

    #[must_use]
    pub fn base(&self, id: BaseId) -> Option<&BaseRow> {
        self.bases.get(&id)
    }

    /// The snapshots of an image, oldest first.
    #[must_use]
    pub fn snapshots_of(&self, image: ImageId) -> Vec<&SnapshotRow> {
        let mut found: Vec<&SnapshotRow> =
            self.snapshot_ids_of(image).map(|id| &self.snapshots[&id]).collect();
        found.sort_by_key(|row| (row.created_s, &row.name));
        found
    }

    fn snapshot_ids_of(&self, image: ImageId) -> impl Iterator<Item = SnapshotId> {
        let from = self.snapshot_names.range((image, StoreName::before_all())..);
        from.take_while(move |((of, _), _)| *of == image).map(|(_, id)| *id)
    }

    /// The images that were cloned from a snapshot, by name.
    #[must_use]
    pub fn clones_of(&self, snapshot: SnapshotId) -> Vec<&ImageRow> {
        let first = (snapshot, ImageId(uuid::Uuid::nil()));
        let of_it = self.clones.range(first..).take_while(|(origin, _)| *origin == snapshot);
        let mut found: Vec<&ImageRow> = of_it.map(|(_, id)| &self.images[id]).collect();
        found.sort_by_key(|row| &row.name);
        found
    }

    /// `vm1@monday`, for people.
    #[must_use]
    pub fn full_name(&self, snapshot: &SnapshotRow) -> String {
        match self.images.get(&snapshot.image) {
            Some(image) => format!("{}@{}", image.name, snapshot.name),
            None => format!("@{}", snapshot.name),
        }
    }

    /// The layers from a node on, newest first.
    pub(super) fn layers_from(&self, mut node: ChainNode) -> impl Iterator<Item = &LayerRow> {
        std::iter::from_fn(move || {
            let ChainNode::Layer(id) = node else { return None };
            // Layers are all there and have no circle: that is looked at when the catalogue is opened.
            let row = self.layers.get(&id)?;
            node = row.below.node;
            Some(row)
        })
    }

    /// The layers from a place on, newest first, and what the last of them stands on.
    #[must_use]
    pub fn chain(&self, from: Below) -> (Vec<&LayerRow>, ChainNode) {
        let (mut layers, mut node) = (Vec::new(), from.node);
        while let ChainNode::Layer(id) = node {
            // Layers are all there and have no circle: that is looked at when the catalogue is opened.
            let Some(row) = self.layers.get(&id) else { break };
            layers.push(row);
            node = row.below.node;
        }
        (layers, node)
    }

    /// The layers of an image, its head first, and what they stand on.
    #[must_use]
    pub fn image_chain(&self, image: &ImageRow) -> (Vec<&LayerRow>, ChainNode) {
        match image.head {
            Some(head) => self.chain(Below { node: ChainNode::Layer(head), bytes: image.size }),
            None => self.chain(image.below),
        }
    }
}

fn more(counts: &mut BTreeMap<ChainNode, u64>, node: ChainNode) {
    if node != ChainNode::Nothing {
        *counts.entry(node).or_default() += 1;
    }
}

fn less(counts: &mut BTreeMap<ChainNode, u64>, node: ChainNode) {
    if let Some(count) = counts.get_mut(&node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&node);
        }
    }
}

/// The nodes that an image names: its head, or else what is below. A head names that itself.
pub(super) fn nodes_of(image: &ImageRow) -> impl Iterator<Item = ChainNode> {
    let node = image.head.map_or(image.below.node, ChainNode::Layer);
    std::iter::once(node)
}
