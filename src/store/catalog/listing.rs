//! Images, snapshots and clones as a tree, and the space that each takes.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{ImageId, LayerId, SnapshotId};
use super::rows::{Below, ChainNode, ImageRow, SnapshotRow};
use super::view::CatalogView;

/// The space of one image or snapshot, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// What all its layers take on the disk.
    pub used: u64,
    /// The part that comes back when it is removed: nobody else needs these layers.
    pub unique: u64,
    /// Layers between it and its base or nothing.
    pub depth: usize,
}

impl Space {
    #[must_use]
    pub const fn shared(&self) -> u64 {
        self.used - self.unique
    }
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
/// it. `used` tells what a layer takes on the disk.
#[must_use]
pub fn listing<'a>(view: &'a CatalogView, used: &dyn Fn(LayerId) -> u64) -> Vec<ListedNode<'a>> {
    let users = users(view);
    let space = |from: Below, head: Option<LayerId>| space(view, &users, used, from, head);
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
                lines.push(ListedNode { image, snapshot, level, space: space(row.below, None) });
                let clones = view.clones_of(row.id);
                stack.extend(clones.into_iter().rev().map(|image| (image, None, level + 1)));
            }
        }
    }
    lines
}

fn space(
    view: &CatalogView,
    users: &BTreeMap<LayerId, u64>,
    used: &dyn Fn(LayerId) -> u64,
    below: Below,
    head: Option<LayerId>,
) -> Space {
    let from = head.map_or(below.node, ChainNode::Layer);
    let (layers, _) = view.chain(Below { node: from, ..below });
    let mut space = Space { depth: layers.len(), ..Space::default() };
    for layer in layers {
        let bytes = used(layer.id);
        space.used += bytes;
        if users.get(&layer.id) == Some(&1) {
            space.unique += bytes;
        }
    }
    space
}

/// How many images and snapshots need a layer, by way of whatever chain. Two are as good as more.
fn users(view: &CatalogView) -> BTreeMap<LayerId, u64> {
    let mut users: BTreeMap<LayerId, u64> = BTreeMap::new();
    let of_images = view.images.values().map(|row| row.head.map_or(row.below.node, ChainNode::Layer));
    let of_snapshots = view.snapshots.values().map(|row| row.below.node);
    for node in of_images.chain(of_snapshots) {
        for layer in view.chain(Below { node, bytes: 0 }).0 {
            let count = users.entry(layer.id).or_default();
            *count += 1;
            if *count > 2 {
                // Those below have at least as many.
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
