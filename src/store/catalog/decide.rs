//! What is done to images, as functions from the rows to a change of them. Nothing here touches a disk.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::id::{BaseId, ImageId, LayerId, Minter, SnapshotId};
use super::name::{NameError, NodeName, StoreName};
use super::refusal::ImageRefusal;
use super::rows::{
    BaseIdentity, BaseKind, BaseRow, Below, ChainNode, ImageRow, LARGEST_IMAGE, LONGEST_PATH, LayerRow,
    MOST_CHANGES_ONLY, MOST_ROWS, SIZE_UNIT, SnapshotKeeps, SnapshotRow,
};
use super::view::{CatalogChange, CatalogView};

/// What an image begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// Zeroes.
    Empty,
    /// A layer whose files hold all of it and are durable.
    Copied(LayerId),
    /// A file or device outside of the store.
    Base { kind: BaseKind, path: String, identity: BaseIdentity },
}

/// An image that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Chosen by the caller: a copied layer was made for it.
    pub id: ImageId,
    pub name: StoreName,
    pub size: u64,
    pub beginning: Beginning,
}

/// A snapshot that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    pub image: StoreName,
    pub snapshot: StoreName,
    /// The head that takes over, if its files are there and durable.
    pub next_head: Option<LayerId>,
    /// It keeps no contents, only which parts have changed.
    pub is_changes_only: bool,
}

impl NewSnapshot {
    /// Snapshots of images that have no next head yet.
    ///
    /// # Errors
    /// One is the name of an image.
    pub fn group(nodes: Vec<NodeName>, is_changes_only: bool) -> Result<Vec<Self>, NameError> {
        let new = |node: NodeName| {
            let (image, snapshot) = node.into_snapshot()?;
            Ok(Self { image, snapshot, next_head: None, is_changes_only })
        };
        nodes.into_iter().map(new).collect()
    }
}

pub(super) fn image<'a>(view: &'a CatalogView, name: &StoreName) -> Result<&'a ImageRow, ImageRefusal> {
    view.image(name).ok_or_else(|| ImageRefusal::NoImage(name.clone()))
}

pub(super) fn snapshot<'a>(
    view: &'a CatalogView,
    of: &StoreName,
    name: &StoreName,
) -> Result<(&'a ImageRow, &'a SnapshotRow), ImageRefusal> {
    let image = image(view, of)?;
    let found = view.snapshot(image.id, name);
    let missing = || ImageRefusal::NoSnapshot { image: of.clone(), snapshot: name.clone() };
    found.map(|row| (image, row)).ok_or_else(missing)
}

/// The same, of one that keeps its contents.
pub(super) fn readable<'a>(
    view: &'a CatalogView,
    of: &StoreName,
    name: &StoreName,
) -> Result<(&'a ImageRow, &'a SnapshotRow), ImageRefusal> {
    let (image, row) = snapshot(view, of, name)?;
    if row.is_changes_only() { Err(ImageRefusal::ChangesOnly(view.full_name(row))) } else { Ok((image, row)) }
}

/// Whether a number of bytes is a size of an image.
///
/// # Errors
/// It is not.
pub fn check_size(size: u64) -> Result<(), ImageRefusal> {
    match size > 0 && size <= LARGEST_IMAGE && size.is_multiple_of(SIZE_UNIT) {
        true => Ok(()),
        false => Err(ImageRefusal::Size(size)),
    }
}

pub(super) fn has_room(have: usize, more: usize, what: &'static str) -> Result<(), ImageRefusal> {
    if have.saturating_add(more) > MOST_ROWS { Err(ImageRefusal::Full(what)) } else { Ok(()) }
}

pub(super) fn is_free(view: &CatalogView, name: &StoreName) -> Result<(), ImageRefusal> {
    if view.image(name).is_some() { Err(ImageRefusal::Exists(name.to_string())) } else { Ok(()) }
}

pub(super) fn bare_image(id: ImageId, name: StoreName, size: u64, created_s: u64) -> ImageRow {
    ImageRow {
        id,
        name,
        size,
        head: None,
        below: Below::NOTHING,
        origin: None,
        since: None,
        created_s,
        pairs: BTreeMap::new(),
        quota: None,
        is_held: false,
        writer_generation: 0,
    }
}

/// An image that is empty, copied or on a base.
///
/// # Errors
/// The name is taken, or the size is none.
pub fn create(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    new: NewImage,
) -> Result<CatalogChange, ImageRefusal> {
    is_free(view, &new.name)?;
    check_size(new.size)?;
    has_room(view.images.len(), 1, "images")?;
    let mut draft = Draft::new(view);
    let mut row = bare_image(new.id, new.name, new.size, minter.now_s);
    match new.beginning {
        Beginning::Empty => {}
        Beginning::Copied(layer) => {
            has_room(view.layers.len(), 1, "layers")?;
            row.head = Some(layer);
            draft.set_layer(head(layer, &row, minter.now_s));
        }
        Beginning::Base { kind, path, identity } => {
            let bytes = identity.size;
            let id = base(view, &mut draft, minter, kind, path, identity)?;
            row.below = Below { node: ChainNode::Base(id), bytes }.within(row.size);
        }
    }
    draft.set_image(row);
    Ok(draft.finish())
}

/// The row of a base: the one that is there, or a new one.
fn base(
    view: &CatalogView,
    draft: &mut Draft<'_>,
    minter: &mut Minter<'_>,
    kind: BaseKind,
    path: String,
    identity: BaseIdentity,
) -> Result<BaseId, ImageRefusal> {
    let same = |row: &&BaseRow| row.kind == kind && row.path == path && row.identity == identity;
    if let Some(row) = view.bases.values().find(same) {
        return Ok(row.id);
    }
    if path.len() > LONGEST_PATH {
        return Err(ImageRefusal::LongPath);
    }
    has_room(view.bases.len(), 1, "bases")?;
    let id = BaseId(minter.mint());
    draft.set_base(BaseRow { id, kind, path, identity, created_s: minter.now_s });
    Ok(id)
}

/// The layer that takes the writes of an image.
pub(super) fn head(id: LayerId, image: &ImageRow, created_s: u64) -> LayerRow {
    LayerRow { id, image: image.id, below: image.below, size: image.size, is_sealed: false, created_s }
}

/// Whether snapshots can begin, before anything is made for them.
///
/// # Errors
/// Why not.
pub fn expect_snapshots(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    group: &[NewSnapshot],
) -> Result<(), ImageRefusal> {
    for new in group {
        if view.tentative_of(image(view, &new.image)?.id).next().is_some() {
            return Err(ImageRefusal::Unfinished(new.image.clone()));
        }
    }
    take_snapshots(view, minter, group).map(drop)
}

/// Snapshots of several images at one point in time. The head of each is sealed by it, so the caller has made
/// sure that its files are complete and durable. What was begun of them is over.
///
/// # Errors
/// A name is missing or taken, or an image has as many layers as it may.
pub fn take_snapshots(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    group: &[NewSnapshot],
) -> Result<CatalogChange, ImageRefusal> {
    has_room(view.snapshots.len(), group.len(), "snapshots")?;
    has_room(view.layers.len(), group.iter().filter(|new| new.next_head.is_some()).count(), "layers")?;
    let mut draft = Draft::new(view);
    let mut seen = std::collections::BTreeSet::new();
    for new in group {
        let row = image(view, &new.image)?;
        if !seen.insert(row.id) {
            return Err(ImageRefusal::Twice(new.image.to_string()));
        }
        if view.snapshot(row.id, &new.snapshot).is_some() {
            return Err(ImageRefusal::Exists(format!("{}@{}", new.image, new.snapshot)));
        }
        if new.is_changes_only && view.changes_only_of(row.id) >= MOST_CHANGES_ONLY {
            return Err(ImageRefusal::ManyChanges(row.name.clone()));
        }
        view.tentative_of(row.id).for_each(|begun| draft.end_tentative(begun.id));
        take_snapshot(view, &mut draft, minter, row, new)?;
    }
    Ok(draft.finish())
}

/// The head of an image is sealed, if it has one; where the image stands then.
pub(super) fn sealed(
    view: &CatalogView,
    draft: &mut Draft<'_>,
    image: &ImageRow,
) -> Result<Below, ImageRefusal> {
    let Some(sealed) = image.head else { return Ok(image.below) };
    let row = view.layer(sealed).ok_or(ImageRefusal::NoLayer(sealed))?;
    draft.set_layer(LayerRow { is_sealed: true, size: image.size, ..row.clone() });
    Ok(Below { node: ChainNode::Layer(sealed), bytes: image.size })
}

fn take_snapshot(
    view: &CatalogView,
    draft: &mut Draft<'_>,
    minter: &mut Minter<'_>,
    image: &ImageRow,
    new: &NewSnapshot,
) -> Result<(), ImageRefusal> {
    if image.head.is_some() && view.is_too_deep(image) {
        return Err(ImageRefusal::TooDeep(image.name.clone()));
    }
    let mut after = ImageRow { below: sealed(view, draft, image)?, ..image.clone() };
    let id = SnapshotId(minter.mint());
    draft.set_snapshot(SnapshotRow {
        id,
        image: image.id,
        name: new.snapshot.clone(),
        size: image.size,
        below: after.below,
        parent: image.since,
        created_s: minter.now_s,
        is_held: false,
        keeps: if new.is_changes_only { SnapshotKeeps::Changes } else { SnapshotKeeps::Contents },
    });
    after.since = Some(id);
    after.head = new.next_head;
    if let Some(next) = new.next_head {
        draft.set_layer(head(next, &after, minter.now_s));
    }
    draft.set_image(after);
    Ok(())
}

/// Images that begin as a snapshot is, in one change. Each is one row.
///
/// # Errors
/// The snapshot is missing, or a name is taken or stands there twice.
pub fn make_clones(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    from: (&StoreName, &StoreName),
    names: &[StoreName],
) -> Result<CatalogChange, ImageRefusal> {
    let origin = readable(view, from.0, from.1)?.1;
    has_room(view.images.len(), names.len(), "images")?;
    let mut draft = Draft::new(view);
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        is_free(view, name)?;
        if !seen.insert(name) {
            return Err(ImageRefusal::Twice(name.to_string()));
        }
        let bare = bare_image(ImageId(minter.mint()), name.clone(), origin.size, minter.now_s);
        draft.set_image(ImageRow {
            below: origin.below,
            origin: Some(origin.id),
            since: Some(origin.id),
            ..bare
        });
    }
    Ok(draft.finish())
}

/// Another name for an image or a snapshot. What was made from it goes by its id, and stays.
///
/// # Errors
/// It is missing, or the name is taken.
pub fn rename(view: &CatalogView, node: &NodeName, to: &StoreName) -> Result<CatalogChange, ImageRefusal> {
    let mut draft = Draft::new(view);
    match &node.snapshot {
        None => {
            let row = image(view, &node.image)?;
            is_free(view, to)?;
            draft.set_image(ImageRow { name: to.clone(), ..row.clone() });
        }
        Some(name) => {
            let (image, row) = snapshot(view, &node.image, name)?;
            if view.snapshot(image.id, to).is_some() {
                return Err(ImageRefusal::Exists(format!("{}@{to}", image.name)));
            }
            draft.set_snapshot(SnapshotRow { name: to.clone(), ..row.clone() });
        }
    }
    Ok(draft.finish())
}

/// Another size for an image. The catalogue decides: if the image has a head, its map is given the same size
/// after this change is durable, and whoever opens a head gives its map the catalogue's size before anything
/// else. So an interruption between the two brings back nothing that was cut off.
///
/// # Errors
/// It is missing, the size is none, or smaller without `may_shrink`.
pub fn resize(
    view: &CatalogView,
    name: &StoreName,
    size: u64,
    may_shrink: bool,
) -> Result<CatalogChange, ImageRefusal> {
    let row = image(view, name)?;
    check_size(size)?;
    if size < row.size && !may_shrink {
        return Err(ImageRefusal::Shrinks { image: name.clone(), have: row.size, want: size });
    }
    let mut draft = Draft::new(view);
    // A head's map hides what is below by whole blocks, and a disk may end within one.
    let after = ImageRow { size, below: row.below.within(size), ..row.clone() };
    if let Some(id) = row.head {
        let layer = view.layer(id).ok_or(ImageRefusal::NoLayer(id))?;
        draft.set_layer(LayerRow { size, below: after.below, ..layer.clone() });
    }
    draft.set_image(after);
    Ok(draft.finish())
}

/// An image gets its head: its files are there and durable. Only after this change is durable may a FLUSH
/// or a FUA of it be answered.
///
/// # Errors
/// It is missing, or has a head.
pub fn adopt_head(
    view: &CatalogView,
    minter: &Minter<'_>,
    id: ImageId,
    layer: LayerId,
) -> Result<CatalogChange, ImageRefusal> {
    let row = view.image_by_id(id).ok_or(ImageRefusal::Gone(id))?;
    if row.head.is_some() {
        return Err(ImageRefusal::HasHead(row.name.clone()));
    }
    has_room(view.layers.len(), 1, "layers")?;
    let mut draft = Draft::new(view);
    draft.set_layer(head(layer, row, minter.now_s));
    draft.set_image(ImageRow { head: Some(layer), ..row.clone() });
    Ok(draft.finish())
}

/// A server opens images to write: each has a writer generation that no other opening had.
///
/// # Errors
/// One is missing.
pub fn begin_writing(view: &CatalogView, names: &[StoreName]) -> Result<CatalogChange, ImageRefusal> {
    let mut draft = Draft::new(view);
    for name in names {
        let row = image(view, name)?;
        draft.set_image(ImageRow { writer_generation: row.writer_generation + 1, ..row.clone() });
    }
    Ok(draft.finish())
}
