//! Images, snapshots and clones as a tree, and the space that each takes.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{ImageId, LayerId, SnapshotId};
use super::rows::{Below, ChainNode, ImageRow, SnapshotRow};
use super::view::CatalogView;

/// The space of one image or snapshot, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// What all its layers take on the disk, and what its disk has in packs.
    pub used: u64,
    /// What comes back when it is removed: nobody else needs these layers, and these chunks of packs.
    pub unique: u64,
    /// The part of `used` that others need too, or that its disk has at several places.
    pub shared: u64,
    /// Layers between it and its base or nothing.
    pub depth: usize,
    /// It has contents in packs.
    pub is_packed: bool,
    /// It has, and nothing is known of their space.
    pub is_unknown: bool,
}

/// The space of contents in packs, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackedSpace {
    /// What the disk has in packs, neither compressed nor shared.
    pub data: u64,
    /// The part of it that no other contents have.
    pub own_data: u64,
    /// What packs have for no other contents.
    pub own_bytes: u64,
}

/// Tells what a layer takes on the disk, and what contents in packs take, if that is known.
pub struct SpaceFigures<'a> {
    pub layer: &'a dyn Fn(LayerId) -> u64,
    pub contents: &'a dyn Fn(LayerId) -> Option<PackedSpace>,
}

/// How many images and snapshots need a layer, and read contents in packs. Two are as good as more.
struct NodeCounts {
    layers: BTreeMap<LayerId, u64>,
    /// How many snapshots that keep changes only stand on or above a layer.
    marks: BTreeMap<LayerId, u64>,
    contents: BTreeMap<LayerId, u64>,
}

/// A line of the tree.
#[derive(Debug, Clone, Copy)]
pub struct ListedNode<'a> {
    pub image: &'a ImageRow,
    /// None: this is the image itself.
    pub snapshot: Option<&'a SnapshotRow>,
    /// How many lines it stands below.
    pub level: usize,
    pub space: Space,
}

/// All images and snapshots. Under an image stand its snapshots, and under a snapshot what was cloned from
/// it.
#[must_use]
pub fn listing<'a>(view: &'a CatalogView, figures: &SpaceFigures<'_>) -> Vec<ListedNode<'a>> {
    let users = users(view);
    let space = |from: Below, head: Option<LayerId>| space(view, &users, figures, from, head);
    let mut lines = Vec::new();
    let mut listed: BTreeSet<ImageId> = BTreeSet::new();
    let roots: Vec<&ImageRow> = view.images().filter(|image| image.origin.is_none()).collect();
    // The last of the stack is next.
    let mut stack: Vec<(&ImageRow, Option<&SnapshotRow>, usize)> =
        roots.into_iter().rev().map(|image| (image, None, 0)).collect();
    while let Some((image, snapshot, level)) = stack.pop() {
        match snapshot {
            None => {
                if !listed.insert(image.id) {
                    continue;
                }
                lines.push(ListedNode { image, snapshot, level, space: space(image.below, image.head) });
                let of_it = view.snapshots_of(image.id);
                stack.extend(of_it.into_iter().rev().map(|row| (image, Some(row), level + 1)));
            }
            Some(row) => {
                let space = match row.is_changes_only() {
                    true => space_of_changes(view, &users, figures, row.below),
                    false => space(row.below, None),
                };
                lines.push(ListedNode { image, snapshot, level, space });
                let clones = view.clones_of(row.id);
                stack.extend(clones.into_iter().rev().map(|image| (image, None, level + 1)));
            }
        }
    }
    lines
}

fn space(
    view: &CatalogView,
    users: &NodeCounts,
    figures: &SpaceFigures<'_>,
    from: Below,
    head: Option<LayerId>,
) -> Space {
    let from = head.map_or(from.node, ChainNode::Layer);
    let mut space = Space::default();
    let mut contents = None;
    for layer in view.layers_from(from) {
        let bytes = (figures.layer)(layer.id);
        space.depth += 1;
        space.used += bytes;
        match users.layers.get(&layer.id) {
            Some(1) if !users.marks.contains_key(&layer.id) => space.unique += bytes,
            _ => space.shared += bytes,
        }
        contents = contents.or_else(|| view.contents(layer.id).map(|row| row.layer));
    }
    let Some(contents) = contents else { return space };
    space.is_packed = true;
    let Some(packed) = (figures.contents)(contents) else { return Space { is_unknown: true, ..space } };
    let is_alone = users.contents.get(&contents) == Some(&1);
    space.used += packed.data;
    space.unique += if is_alone { packed.own_bytes } else { 0 };
    space.shared += if is_alone { packed.data.saturating_sub(packed.own_data) } else { packed.data };
    space
}

/// The space of a snapshot that keeps changes only: layers that nobody reads, such as those that a rollback
/// left.
fn space_of_changes(
    view: &CatalogView,
    users: &NodeCounts,
    figures: &SpaceFigures<'_>,
    from: Below,
) -> Space {
    let mut space = Space::default();
    for layer in view.layers_from(from.node).take_while(|layer| !users.layers.contains_key(&layer.id)) {
        let bytes = (figures.layer)(layer.id);
        space.depth += 1;
        space.used += bytes;
        match users.marks.get(&layer.id) {
            Some(1) => space.unique += bytes,
            _ => space.shared += bytes,
        }
    }
    space
}

fn users(view: &CatalogView) -> NodeCounts {
    let mut users = NodeCounts { layers: BTreeMap::new(), marks: BTreeMap::new(), contents: BTreeMap::new() };
    for row in view.changes_only() {
        view.layers_from(row.below.node).for_each(|layer| *users.marks.entry(layer.id).or_default() += 1);
    }
    let of_images = view.images.values().map(|row| row.head.map_or(row.below.node, ChainNode::Layer));
    let of_snapshots = view.snapshots.values().filter(|row| !row.is_changes_only());
    let of_snapshots = of_snapshots.map(|row| row.below.node);
    for node in of_images.chain(of_snapshots) {
        let mut reads = true;
        for layer in view.layers_from(node) {
            if reads && view.contents(layer.id).is_some() {
                *users.contents.entry(layer.id).or_default() += 1;
                reads = false;
            }
            let count = users.layers.entry(layer.id).or_default();
            *count += 1;
            if *count > 2 {
                // Those below have at least as many, and so have the contents that are read there.
                break;
            }
        }
    }
    users
}

/// The snapshot that an image was cloned from, for people.
impl CatalogView {
    #[must_use]
    pub fn origin_name(&self, origin: Option<SnapshotId>) -> Option<String> {
        self.snapshot_by_id(origin?).map(|row| self.full_name(row))
    }
}
