//! Snapshots that are being taken of images which are written meanwhile.
//!
//! ```text
//! begin     a row for each image: what is being sealed, and what takes over
//!           the next heads take the writes; nothing of them is promised to be durable
//! take      snapshots and heads, and the rows go
//! ```
//!
//! Whoever finds such rows in a store that nobody serves knows what an interruption has left. After a kill
//! the next heads may have writes that were answered, so they are kept, and the sealed ones are made durable
//! first. After a power cut nothing was promised that they have, so they go.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::decide::{NewSnapshot, expect_snapshots, head, image, sealed};
use super::draft::Draft;
use super::id::{ImageId, LayerId, Minter, SnapshotId};
use super::refusal::ImageRefusal;
use super::rows::{ImageRow, MapPlace, TentativeRow};
use super::view::{CatalogChange, CatalogView};

impl CatalogView {
    /// What was begun and is not over.
    pub fn tentative(&self) -> impl Iterator<Item = &TentativeRow> {
        self.tentative.values()
    }

    /// The same of one image.
    pub fn tentative_of(&self, image: ImageId) -> impl Iterator<Item = &TentativeRow> {
        self.tentative().filter(move |row| row.image == image)
    }

    /// Whether a layer is to take over.
    #[must_use]
    pub fn is_next_head(&self, layer: LayerId) -> bool {
        self.tentative().any(|row| row.next_head == Some(layer))
    }
}

/// Snapshots of images that go on meanwhile begin. `boot` is this one.
///
/// # Errors
/// They could not be taken, or an earlier one of an image is not over.
pub fn begin_snapshots(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    group: &[NewSnapshot],
    boot: Uuid,
    places: &BTreeMap<LayerId, MapPlace>,
) -> Result<CatalogChange, ImageRefusal> {
    expect_snapshots(view, minter, group)?;
    let mut change = CatalogChange::default();
    let number = minter.mint();
    for new in group {
        let row = image(view, &new.image)?;
        let place = new.next_head.and_then(|next| places.get(&next)).copied().unwrap_or_default();
        let id = SnapshotId(minter.mint());
        let begun = TentativeRow {
            id,
            group: number,
            image: row.id,
            snapshot: Some(new.snapshot.clone()),
            is_changes_only: new.is_changes_only,
            head: row.head,
            next_head: new.next_head,
            boot,
            place,
        };
        change.tentative.insert(id, Some(begun));
    }
    Ok(change)
}

/// Forgets what was begun of images: no next head of them has taken over.
#[must_use]
pub fn withdraw(view: &CatalogView, images: &[ImageId]) -> CatalogChange {
    let mut change = CatalogChange::default();
    let rows = view.tentative().filter(|row| images.contains(&row.image));
    change.tentative.extend(rows.map(|row| (row.id, None)));
    change
}

/// Snapshots of images failed after their next heads may have taken over. Those of `durable` have taken over
/// for good; the other ones of `gone` have not and never will; the rest stays tentative.
///
/// # Errors
/// An image is missing, or not as it was.
pub fn go_on_without_snapshots(
    view: &CatalogView,
    minter: &Minter<'_>,
    images: &[ImageId],
    durable: &[ImageId],
    gone: &[ImageId],
) -> Result<CatalogChange, ImageRefusal> {
    let mut draft = Draft::new(view);
    for row in view.tentative().filter(|row| images.contains(&row.image)) {
        let is_durable = durable.contains(&row.image);
        if !is_durable && !gone.contains(&row.image) && row.next_head.is_some() {
            draft.set_tentative(TentativeRow { snapshot: None, is_changes_only: false, ..row.clone() });
            continue;
        }
        draft.end_tentative(row.id);
        if let Some(next) = row.next_head.filter(|_| is_durable) {
            let own = view.image_by_id(row.image).ok_or(ImageRefusal::Gone(row.image))?;
            let below = sealed(view, &mut draft, own)?;
            let after = ImageRow { head: row.next_head, below, ..own.clone() };
            draft.set_layer(head(next, &after, minter.now_s));
            draft.set_image(after);
        }
    }
    Ok(draft.finish())
}
