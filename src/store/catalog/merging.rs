//! Chains become shorter: two layers become one, or an image gets a layer of all that it stands on.
//!
//! Either makes a new layer. Its files are complete and durable before these changes name it, and those of
//! the old layers go after them. A layer that is there is never changed: somebody may be reading it.

use super::decide::image;
use super::draft::Draft;
use super::id::{ImageId, LayerId, Minter};
use super::name::StoreName;
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, DEEPEST, ImageRow, LayerRow, MOST_ROWS, SnapshotKeeps, SnapshotRow};
use super::view::{CatalogChange, CatalogView};

/// A lower layer that is at most so many times as large as the upper one is worth to be copied with it.
const MOST_BELOW: u64 = 4;

/// Two sealed layers of which nothing but the upper one reads the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MergePair {
    pub upper: LayerId,
    pub lower: LayerId,
}

impl MergePair {
    /// Its rows, the upper one first.
    ///
    /// # Errors
    /// They cannot be merged, or not any more.
    pub fn rows<'a>(&self, view: &'a CatalogView) -> Result<[&'a LayerRow; 2], ImageRefusal> {
        let row = |id| view.layer(id).ok_or(ImageRefusal::NoLayer(id));
        let (upper, lower) = (row(self.upper)?, row(self.lower)?);
        let is_pair = upper.below.node == ChainNode::Layer(self.lower) && upper.is_sealed && lower.is_sealed;
        // What was ingested has no file of data any more.
        let has_data = [upper, lower].iter().all(|row| view.contents(row.id).is_none());
        match is_pair && has_data && view.readers(ChainNode::Layer(self.lower)) == 1 {
            true => Ok([upper, lower]),
            false => Err(ImageRefusal::NotMergeable(self.lower)),
        }
    }

    /// Bytes that are copied, at most.
    fn cost(self, bytes: &dyn Fn(LayerId) -> u64) -> u64 {
        bytes(self.upper).saturating_add(bytes(self.lower))
    }
}

/// Neighbours in the chain from a node on that may become one layer, the newest first.
#[must_use]
pub fn mergeable(view: &CatalogView, from: Below) -> Vec<MergePair> {
    let chain = view.chain(from).0;
    let pairs = chain.windows(2).map(|two| MergePair { upper: two[0].id, lower: two[1].id });
    pairs.filter(|pair| pair.rows(view).is_ok()).collect()
}

/// The pair that is the least to copy. So layers that were merged often are large, and are merged rarely:
/// each byte is copied a few times only.
#[must_use]
pub fn cheapest_merge(view: &CatalogView, from: Below, bytes: &dyn Fn(LayerId) -> u64) -> Option<MergePair> {
    mergeable(view, from).into_iter().min_by_key(|pair| pair.cost(bytes))
}

/// The pair of an image that is merged when nobody waits for it: the cheapest one of a chain that is half as
/// deep as it may be, so that few snapshots have to wait; of another the cheapest one that gives back much
/// for what is copied. A large layer below a small one stays: it would be copied with each snapshot that
/// goes.
#[must_use]
pub fn idle_merge(view: &CatalogView, row: &ImageRow, bytes: &dyn Fn(LayerId) -> u64) -> Option<MergePair> {
    let is_deep = view.read_depth(row) > DEEPEST / 2;
    let is_cheap = |pair: &MergePair| bytes(pair.lower) <= bytes(pair.upper).saturating_mul(MOST_BELOW);
    let pairs = mergeable(view, row.below).into_iter().filter(|pair| is_deep || is_cheap(pair));
    pairs.min_by_key(|pair| pair.cost(bytes))
}

/// Whether an image has to lose a layer before a snapshot of it can be taken.
///
/// # Errors
/// It is missing.
pub fn is_full(view: &CatalogView, name: &StoreName) -> Result<bool, ImageRefusal> {
    Ok(view.is_too_deep(image(view, name)?))
}

/// A layer takes the place of two: it holds what they held together, and stands on what the lower one stood
/// on, of which it shows `seen` bytes at most. All that named the upper one names it.
///
/// # Errors
/// They cannot be merged any more.
pub fn finish_merge(
    view: &CatalogView,
    pair: MergePair,
    merged: LayerId,
    seen: u64,
) -> Result<CatalogChange, ImageRefusal> {
    let [upper, lower] = pair.rows(view)?;
    let below = match lower.below.within(upper.below.bytes).within(seen) {
        Below { bytes: 0, .. } => Below::NOTHING,
        below => below,
    };
    let mut draft = Draft::new(view);
    draft.set_layer(LayerRow { id: merged, below, ..upper.clone() });
    let (from, to) = (ChainNode::Layer(pair.upper), ChainNode::Layer(merged));
    let moved = |below: Below| (below.node == from).then_some(Below { node: to, ..below });
    for row in view.layers.values() {
        if let Some(below) = moved(row.below) {
            draft.set_layer(LayerRow { below, ..row.clone() });
        }
    }
    // An image repeats what its head stands on.
    for row in view.images.values() {
        if let Some(below) = moved(row.below) {
            draft.set_image(ImageRow { below, ..row.clone() });
        }
    }
    for row in view.snapshots.values() {
        if let Some(below) = moved(row.below) {
            draft.set_snapshot(SnapshotRow { below, ..row.clone() });
        } else if row.below.node == ChainNode::Layer(pair.lower) {
            // It keeps changes only, or the two would be no pair.
            let below = Below { node: to, ..row.below };
            draft.set_snapshot(SnapshotRow { below, keeps: SnapshotKeeps::ChangesWithin, ..row.clone() });
        }
    }
    Ok(draft.finish())
}

/// Whether an image needs nothing but one layer below its head.
#[must_use]
pub fn is_flat(view: &CatalogView, row: &ImageRow) -> bool {
    let stands_alone = match row.below.node {
        ChainNode::Nothing => true,
        ChainNode::Base(_) => false,
        ChainNode::Layer(id) => view.layer(id).is_some_and(|layer| layer.below.node == ChainNode::Nothing),
    };
    stands_alone && row.origin.is_none()
}

/// An image stands on a layer that has all that it saw below it, `was`, and on nothing else: its origin and
/// its base may go. Its snapshots stay where they are. The layer is told with its size; without one the image
/// saw nothing but zeroes.
///
/// # Errors
/// It is missing, or stands on something else meanwhile.
pub fn finish_flatten(
    view: &CatalogView,
    minter: &Minter<'_>,
    id: ImageId,
    was: Below,
    flat: Option<(LayerId, u64)>,
) -> Result<CatalogChange, ImageRefusal> {
    let row = view.image_by_id(id).ok_or(ImageRefusal::Gone(id))?;
    if row.below != was {
        return Err(ImageRefusal::Moved(row.name.clone()));
    }
    if view.layers.len() >= MOST_ROWS {
        return Err(ImageRefusal::Full("layers"));
    }
    let mut draft = Draft::new(view);
    let mut below = Below::NOTHING;
    if let Some((flat, size)) = flat {
        let (image, created_s) = (id, minter.now_s);
        draft.set_layer(LayerRow { id: flat, image, below, size, is_sealed: true, created_s });
        below = Below { node: ChainNode::Layer(flat), ..was }.within(size);
    }
    if let Some(head) = row.head {
        let layer = view.layer(head).ok_or(ImageRefusal::NoLayer(head))?;
        draft.set_layer(LayerRow { below, ..layer.clone() });
    }
    draft.set_image(ImageRow { below, origin: None, ..row.clone() });
    Ok(draft.finish())
}
