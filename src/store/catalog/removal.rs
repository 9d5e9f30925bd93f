//! What takes rows away, or contents: removing, rolling back, and giving up the contents of snapshots.
//!
//! A layer goes with the last row that names it: an image by its head or by what it begins with, a
//! snapshot, or a layer above. So the layers of a removed snapshot stay as long as anything above them
//! does; `merging` makes one of them.

use std::collections::BTreeMap;

use super::decide::{image, readable, snapshot};
use super::draft::Draft;
use super::id::ImageId;
use super::name::{NodeName, StoreName};
use super::refusal::ImageRefusal;
use super::rows::{ImageRow, MOST_CHANGES_ONLY, SnapshotKeeps, SnapshotRow};
use super::view::{CatalogChange, CatalogView};

/// Takes a snapshot or an image away, and with an image its snapshots if `with_snapshots`.
///
/// # Errors
/// It is missing or held, or images were cloned from it; or an image has snapshots.
pub fn remove(
    view: &CatalogView,
    node: &NodeName,
    with_snapshots: bool,
) -> Result<CatalogChange, ImageRefusal> {
    let mut draft = Draft::new(view);
    if let Some(name) = &node.snapshot {
        let (_, row) = snapshot(view, &node.image, name)?;
        may_go(view, row)?;
        draft.remove_snapshot(row.id);
        return Ok(draft.finish());
    }
    let row = image(view, &node.image)?;
    if row.is_held {
        return Err(ImageRefusal::Held(row.name.to_string()));
    }
    let snapshots = view.snapshots_of(row.id);
    snapshots.iter().try_for_each(|snapshot| may_go(view, snapshot))?;
    if !snapshots.is_empty() && !with_snapshots {
        let snapshots = snapshots.iter().map(|row| view.full_name(row)).collect();
        return Err(ImageRefusal::HasSnapshots { name: row.name.clone(), snapshots });
    }
    draft.remove_image(row.id);
    for snapshot in snapshots {
        draft.remove_snapshot(snapshot.id);
    }
    Ok(draft.finish())
}

/// Snapshots keep from now on only which parts of the disk have changed.
///
/// # Errors
/// One is missing or held, or images were cloned from it; or an image has as many of them as it may.
pub fn give_up_contents(view: &CatalogView, nodes: &[NodeName]) -> Result<CatalogChange, ImageRefusal> {
    let mut draft = Draft::new(view);
    let mut more: BTreeMap<ImageId, usize> = BTreeMap::new();
    for node in nodes {
        let name = node.snapshot.as_ref().ok_or_else(|| ImageRefusal::NoImage(node.image.clone()))?;
        let (image, row) = snapshot(view, &node.image, name)?;
        if row.is_changes_only() {
            continue;
        }
        may_go(view, row)?;
        let count = more.entry(image.id).or_insert_with(|| view.changes_only_of(image.id));
        *count += 1;
        if *count > MOST_CHANGES_ONLY {
            return Err(ImageRefusal::ManyChanges(image.name.clone()));
        }
        draft.set_snapshot(SnapshotRow { keeps: SnapshotKeeps::Changes, ..row.clone() });
    }
    Ok(draft.finish())
}

fn may_go(view: &CatalogView, row: &SnapshotRow) -> Result<(), ImageRefusal> {
    if row.is_held {
        return Err(ImageRefusal::Held(view.full_name(row)));
    }
    let clones: Vec<String> = view.clones_of(row.id).iter().map(|image| image.name.to_string()).collect();
    if clones.is_empty() {
        return Ok(());
    }
    Err(ImageRefusal::HasClones { name: view.full_name(row), clones })
}

/// An image is as one of its snapshots was. Later snapshots stay.
///
/// # Errors
/// Either is missing, or the image is in use and this is not forced.
pub fn roll_back(
    view: &CatalogView,
    name: &StoreName,
    to: &StoreName,
    is_in_use: bool,
    is_forced: bool,
) -> Result<CatalogChange, ImageRefusal> {
    let (image, to) = readable(view, name, to)?;
    if is_in_use && !is_forced {
        return Err(ImageRefusal::InUse(name.clone()));
    }
    let mut draft = Draft::new(view);
    draft.set_image(ImageRow {
        size: to.size,
        head: None,
        below: to.below,
        since: Some(to.id),
        ..image.clone()
    });
    Ok(draft.finish())
}
