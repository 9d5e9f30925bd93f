//! A snapshot that comes from another store.

use super::decide::{bare_image, check_size, has_room, is_free};
use super::draft::Draft;
use super::id::{ImageId, LayerId, Minter, SnapshotId};
use super::name::StoreName;
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, DEEPEST, ImageRow, LayerRow, SnapshotKeeps, SnapshotRow};
use super::view::{CatalogChange, CatalogView};

/// A snapshot whose contents are in a new layer, or in that layer and the snapshot before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSnapshot {
    pub image: StoreName,
    pub snapshot: StoreName,
    /// It has this uuid wherever it goes, so that what was changed since can follow it.
    pub id: SnapshotId,
    /// The snapshot before it; none: it makes the image.
    pub from: Option<SnapshotId>,
    /// Its files are there and durable when the change is committed.
    pub layer: LayerId,
    pub size: u64,
}

/// Adds a snapshot to an image that is exactly as the one before it, or makes the image with it.
///
/// # Errors
/// The image is there already, or is missing; it is not as the snapshot before; a name is taken.
pub fn import_snapshot(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    new: &ImportedSnapshot,
) -> Result<CatalogChange, ImageRefusal> {
    check_size(new.size)?;
    has_room(view.snapshots.len(), 1, "snapshots")?;
    has_room(view.layers.len(), 1, "layers")?;
    if view.snapshot_by_id(new.id).is_some() {
        return Err(ImageRefusal::ImportedBefore(new.id));
    }
    let before = match new.from {
        None => {
            is_free(view, &new.image)?;
            has_room(view.images.len(), 1, "images")?;
            bare_image(ImageId(minter.mint()), new.image.clone(), new.size, minter.now_s)
        }
        Some(from) => as_it_was(view, &new.image, from)?,
    };
    if view.snapshot(before.id, &new.snapshot).is_some() {
        return Err(ImageRefusal::Exists(format!("{}@{}", new.image, new.snapshot)));
    }
    let mut draft = Draft::new(view);
    let below = Below { node: ChainNode::Layer(new.layer), bytes: new.size };
    draft.set_layer(LayerRow {
        id: new.layer,
        image: before.id,
        below: before.below.within(new.size),
        size: new.size,
        is_sealed: true,
        created_s: minter.now_s,
    });
    draft.set_snapshot(SnapshotRow {
        id: new.id,
        image: before.id,
        name: new.snapshot.clone(),
        size: new.size,
        below,
        parent: new.from,
        created_s: minter.now_s,
        is_held: false,
        keeps: SnapshotKeeps::Contents,
    });
    draft.set_image(ImageRow { size: new.size, below, since: Some(new.id), ..before });
    Ok(draft.finish())
}

/// The image, if nothing was written to it since its last snapshot, which is this one.
fn as_it_was(view: &CatalogView, name: &StoreName, from: SnapshotId) -> Result<ImageRow, ImageRefusal> {
    let row = view.image(name).ok_or_else(|| ImageRefusal::NoImage(name.clone()))?;
    let is_as_it_was = view.snapshot_by_id(from).is_some_and(|snapshot| {
        let is_its = snapshot.image == row.id && row.since == Some(from);
        is_its && row.head.is_none() && row.below == snapshot.below && row.size == snapshot.size
    });
    if !is_as_it_was {
        return Err(ImageRefusal::NotAsItWas { image: name.clone(), from });
    }
    if view.read_chain(row.below).layers.len() >= DEEPEST {
        return Err(ImageRefusal::TooDeep(name.clone()));
    }
    Ok(row.clone())
}
