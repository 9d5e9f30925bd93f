//! Whether the rows of a catalogue fit together. They come from a file, so anything may stand in it.

use std::collections::BTreeSet;

use super::id::{LayerId, SnapshotId};
use super::refusal::ImageRefusal;
use super::rows::{BaseRow, Below, ChainNode, SnapshotKeeps};
use super::view::{CatalogChange, CatalogView};

/// The first thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    #[error("two images are called \"{0}\"")]
    ImageName(String),
    #[error("two snapshots of an image are called \"{0}\"")]
    SnapshotName(String),
    #[error("\"{name}\" has an impossible size: {why}")]
    Size { name: String, why: ImageRefusal },
    #[error("{0} stands on a layer or base that is missing")]
    Missing(String),
    #[error("{0} stands on a layer that is still written")]
    Unsealed(String),
    #[error("the layer {0} stands on itself")]
    Circle(LayerId),
    #[error("the snapshot {0} comes after itself")]
    Timeless(SnapshotId),
    #[error("the head of \"{0}\" is missing, sealed, or another image's")]
    Head(String),
    #[error("the layer {0} is nobody's")]
    Unused(LayerId),
    #[error("the contents of the layer {0} are those of another one, or of one that is still written")]
    Contents(LayerId),
    #[error("the pack {0} of another store is not listed, or is there twice")]
    Foreign(u64),
    #[error("the base {} is nobody's", .0.path)]
    UnusedBase(Box<BaseRow>),
    #[error("the snapshot \"{0}\" has no image, or follows one that is missing")]
    Orphan(String),
    #[error("\"{0}\" comes from a snapshot that is missing")]
    Origin(String),
    #[error("the snapshot {0}, which is being taken, is of an image or has a head that another one has")]
    Begun(SnapshotId),
}

/// Rows as a view, if they fit together.
///
/// # Errors
/// The first that do not.
pub(super) fn checked(rows: &CatalogChange) -> Result<CatalogView, Inconsistency> {
    let view = CatalogView::of(rows);
    names(&view)?;
    images(&view)?;
    snapshots(&view)?;
    layers(&view)?;
    contents(&view)?;
    foreign(&view)?;
    begun(&view)?;
    let unused = view.bases.values().find(|row| view.uses(ChainNode::Base(row.id)) == 0);
    unused.map_or(Ok(()), |row| Err(Inconsistency::UnusedBase(Box::new(row.clone()))))?;
    Ok(view)
}

fn names(view: &CatalogView) -> Result<(), Inconsistency> {
    let mut seen = BTreeSet::new();
    for row in view.images.values() {
        if !seen.insert(&row.name) {
            return Err(Inconsistency::ImageName(row.name.to_string()));
        }
    }
    let mut seen = BTreeSet::new();
    for row in view.snapshots.values() {
        if !seen.insert((row.image, &row.name)) {
            return Err(Inconsistency::SnapshotName(row.name.to_string()));
        }
    }
    Ok(())
}

/// What a row stands on is there, and is not written any more.
fn stands(view: &CatalogView, below: Below, what: impl Fn() -> String) -> Result<(), Inconsistency> {
    match below.node {
        ChainNode::Nothing => Ok(()),
        ChainNode::Base(id) => view.bases.get(&id).map(|_| ()).ok_or_else(|| Inconsistency::Missing(what())),
        ChainNode::Layer(id) => match view.layers.get(&id) {
            None => Err(Inconsistency::Missing(what())),
            Some(row) if row.is_sealed => Ok(()),
            Some(_) => Err(Inconsistency::Unsealed(what())),
        },
    }
}

fn images(view: &CatalogView) -> Result<(), Inconsistency> {
    let mut heads = BTreeSet::new();
    for row in view.images.values() {
        let name = || row.name.to_string();
        super::decide::check_size(row.size).map_err(|why| Inconsistency::Size { name: name(), why })?;
        stands(view, row.below, name)?;
        let mut known = row.origin.iter().chain(&row.since);
        if !known.all(|id| view.snapshots.contains_key(id)) {
            return Err(Inconsistency::Origin(name()));
        }
        let Some(head) = row.head else { continue };
        let fits = view.layers.get(&head).is_some_and(|layer| {
            !layer.is_sealed && layer.image == row.id && layer.below == row.below && layer.size == row.size
        });
        if !fits || !heads.insert(head) {
            return Err(Inconsistency::Head(name()));
        }
    }
    Ok(())
}

fn snapshots(view: &CatalogView) -> Result<(), Inconsistency> {
    for row in view.snapshots.values() {
        let name = || view.full_name(row);
        super::decide::check_size(row.size).map_err(|why| Inconsistency::Size { name: name(), why })?;
        stands(view, row.below, name)?;
        if row.keeps == SnapshotKeeps::ChangesWithin && !matches!(row.below.node, ChainNode::Layer(_)) {
            return Err(Inconsistency::Missing(name()));
        }
        let has_parent = row.parent.is_none_or(|id| view.snapshots.contains_key(&id));
        if !has_parent || !view.images.contains_key(&row.image) {
            return Err(Inconsistency::Orphan(name()));
        }
    }
    let parent = |id: SnapshotId| view.snapshots.get(&id).and_then(|row| row.parent);
    match circle(view.snapshots.keys().copied(), parent) {
        Some(id) => Err(Inconsistency::Timeless(id)),
        None => Ok(()),
    }
}

/// What was begun is of as many images as there are rows. Whether the images are as they were is looked at
/// when it is finished.
fn begun(view: &CatalogView) -> Result<(), Inconsistency> {
    let (mut images, mut heads) = (BTreeSet::new(), BTreeSet::new());
    for row in view.tentative.values() {
        if !images.insert(row.image) || !row.next_head.is_none_or(|head| heads.insert(head)) {
            return Err(Inconsistency::Begun(row.id));
        }
    }
    Ok(())
}

fn layers(view: &CatalogView) -> Result<(), Inconsistency> {
    for row in view.layers.values() {
        stands(view, row.below, || format!("the layer {}", row.id))?;
        if view.uses(ChainNode::Layer(row.id)) == 0 {
            return Err(Inconsistency::Unused(row.id));
        }
    }
    let below = |id: LayerId| match view.layers.get(&id)?.below.node {
        ChainNode::Layer(below) => Some(below),
        ChainNode::Nothing | ChainNode::Base(_) => None,
    };
    match circle(view.layers.keys().copied(), below) {
        Some(id) => Err(Inconsistency::Circle(id)),
        None => Ok(()),
    }
}

/// What was ingested is sealed, and nothing below it was left out.
fn contents(view: &CatalogView) -> Result<(), Inconsistency> {
    for row in view.contents.values() {
        let layer =
            view.layers.get(&row.layer).filter(|layer| layer.is_sealed && layer.size == row.root.size);
        let fits = layer.is_some_and(|layer| match layer.below.node {
            ChainNode::Layer(id) => view.contents.contains_key(&id),
            ChainNode::Nothing | ChainNode::Base(_) => true,
        });
        if !fits {
            return Err(Inconsistency::Contents(row.layer));
        }
    }
    Ok(())
}

/// A pack of another store is listed, once, and each number that somebody names it by is that of one pack.
fn foreign(view: &CatalogView) -> Result<(), Inconsistency> {
    let mut seen = BTreeSet::new();
    for row in view.foreign.values() {
        let is_listed = view.packs.get(&row.number).is_some_and(|pack| row.footer_offset < pack.bytes);
        if !is_listed || !row.names().all(|name| seen.insert(name)) {
            return Err(Inconsistency::Foreign(row.number));
        }
    }
    Ok(())
}

/// One of a circle in a graph where each has at most one successor. Each is looked at once.
fn circle<I: Ord + Copy>(all: impl Iterator<Item = I>, next: impl Fn(I) -> Option<I>) -> Option<I> {
    let mut ends_well = BTreeSet::new();
    for start in all {
        let (mut path, mut at) = (BTreeSet::new(), Some(start));
        while let Some(id) = at.filter(|id| !ends_well.contains(id)) {
            if !path.insert(id) {
                return Some(id);
            }
            at = next(id);
        }
        // Not `append`, which goes through all that are there.
        ends_well.extend(path);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_and_long_chains_are_none() {
        let below = |id: u32| (id > 0).then(|| id - 1);
        assert_eq!(circle(0..100_000, below), None);
        assert!(circle(0..10, |id| Some((id + 1) % 5)).is_some());
        assert_eq!(circle(0..10, |id| (id == 7).then_some(7)), Some(7));
    }
}
