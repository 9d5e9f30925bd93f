//! What takes rows away: removing, rolling back, and the bookkeeping of layers that were copied together.
//!
//! A layer goes with the last row that names it: an image by its head or by what it begins with, a
//! snapshot, or a layer above. So the layers of a removed snapshot stay as long as anything above them
//! does.

use super::decide::{image, snapshot};
use super::draft::Draft;
use super::id::LayerId;
use super::name::{NodeName, StoreName};
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, ImageRow, LayerRow, SnapshotRow};
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
    let (image, to) = snapshot(view, name, to)?;
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

/// The head of an image has all that it had from below: it needs nothing of its origin any more.
///
/// # Errors
/// It is missing, or has no head.
pub fn finish_flatten(view: &CatalogView, name: &StoreName) -> Result<CatalogChange, ImageRefusal> {
    let row = image(view, name)?;
    let head = row.head.ok_or_else(|| ImageRefusal::NoHead(name.clone()))?;
    let layer = view.layer(head).ok_or(ImageRefusal::NoLayer(head))?;
    let mut draft = Draft::new(view);
    draft.set_layer(LayerRow { below: Below::NOTHING, ..layer.clone() });
    draft.set_image(ImageRow { below: Below::NOTHING, origin: None, ..row.clone() });
    Ok(draft.finish())
}

/// A layer has all that it had from the one below it, and stands on what that one stands on. One node
/// changes, however many images there are above.
///
/// # Errors
/// It is missing, or stands on no layer.
pub fn finish_merge(view: &CatalogView, upper: LayerId) -> Result<CatalogChange, ImageRefusal> {
    let row = view.layer(upper).ok_or(ImageRefusal::NoLayer(upper))?;
    let ChainNode::Layer(lower) = row.below.node else {
        return Err(ImageRefusal::NothingBelow(upper.to_string()));
    };
    let lower = view.layer(lower).ok_or(ImageRefusal::NoLayer(lower))?;
    let below = lower.below.within(row.below.bytes);
    let mut draft = Draft::new(view);
    draft.set_layer(LayerRow { below, ..row.clone() });
    // An image repeats what its head stands on.
    if let Some(image) = view.image_by_id(row.image).filter(|image| image.head == Some(upper)) {
        draft.set_image(ImageRow { below, ..image.clone() });
    }
    Ok(draft.finish())
}
