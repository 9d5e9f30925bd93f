//! Snapshots that another store has written: they come as rows, and their bytes when they are read.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::decide::{bare_image, check_size, has_room, is_free};
use super::draft::Draft;
use super::foreign_rows::{ForeignRow, PackOrigin};
use super::id::{ImageId, LayerId, Minter, SnapshotId};
use super::name::StoreName;
use super::packed_rows::{ContentsRow, PackRow};
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, LayerRow, SnapshotKeeps, SnapshotRow};
use super::view::{CatalogChange, CatalogView};
use crate::store::manifest::{ManifestEntry, ManifestRoot, NamedChunk};
use crate::store::pack::{ChunkHint, ChunkSpace};

/// A pack of a snapshot that another store has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct ForeignPack {
    /// Who wrote it.
    pub(in crate::store) origin: PackOrigin,
    /// How often it had come to the tier before.
    pub(in crate::store) upload: u32,
    /// Its number in the store that the snapshot is from: the same if that one wrote it.
    pub(in crate::store) number: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) chunks: u32,
    /// 0 if it is not known.
    pub(in crate::store) footer_offset: u64,
}

/// A snapshot of another store, as it stands on a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct ForeignSnapshot {
    pub(in crate::store) tier: Uuid,
    /// Who made the snapshot. Hints of its root are numbers of that store.
    pub(in crate::store) store: Uuid,
    pub(in crate::store) id: SnapshotId,
    pub(in crate::store) snapshot: StoreName,
    pub(in crate::store) root: ManifestRoot,
    /// All packs that have chunks of it.
    pub(in crate::store) packs: Vec<ForeignPack>,
}

/// An image that begins with one.
#[derive(Debug)]
pub(in crate::store) struct NewForeignImage<'a> {
    pub(in crate::store) name: &'a StoreName,
    pub(in crate::store) from: &'a ForeignSnapshot,
    /// Made and durable before the change is committed.
    pub(in crate::store) id: ImageId,
    pub(in crate::store) layer: LayerId,
    /// This store: packs of its own may come back to it.
    pub(in crate::store) own: Uuid,
    /// The first number of a pack that is not reserved yet.
    pub(in crate::store) next_pack: u64,
}

impl CatalogView {
    /// Packs that other stores have written.
    pub(in crate::store) fn foreign_packs(&self) -> impl Iterator<Item = &ForeignRow> {
        self.foreign.values()
    }

    /// Packs that this store has written.
    pub(in crate::store) fn own_packs(&self) -> impl Iterator<Item = &PackRow> {
        self.packs.values().filter(|row| !self.is_foreign(row.number))
    }

    pub(in crate::store) fn is_foreign(&self, number: u64) -> bool {
        self.foreign.contains_key(&number)
    }
}

/// An image with one snapshot, which another store has written. Nothing of it has to be here.
///
/// # Errors
/// The name is taken, the snapshot has come before, or what is told of it cannot be.
pub(in crate::store) fn clone_foreign(
    view: &CatalogView,
    minter: &mut Minter<'_>,
    new: &NewForeignImage<'_>,
) -> Result<CatalogChange, ImageRefusal> {
    let NewForeignImage { name, from, id, layer, .. } = *new;
    is_free(view, name)?;
    let size = from.root.size;
    check_size(size)?;
    has_room(view.images.len(), 1, "images")?;
    has_room(view.snapshots.len(), 1, "snapshots")?;
    has_room(view.layers.len(), 1, "layers")?;
    has_room(view.contents.len(), 1, "ingested layers")?;
    has_room(view.packs.len(), from.packs.len(), "packs")?;
    if !from.root.space.is_possible() {
        return Err(ImageRefusal::ForeignRecord("its chunks have an impossible size"));
    }
    let (mut draft, now_s) = (Draft::new(view), minter.now_s);
    let below = Below { node: ChainNode::Layer(layer), bytes: size };
    draft.set_layer(LayerRow {
        id: layer,
        image: id,
        below: Below::NOTHING,
        size,
        is_sealed: true,
        created_s: now_s,
    });
    // The same snapshot may be there twice, as two images: the first has its uuid.
    let known = view.snapshot_by_id(from.id).is_some();
    let snapshot = if known { SnapshotId(minter.mint()) } else { from.id };
    draft.set_snapshot(SnapshotRow {
        id: snapshot,
        image: id,
        name: from.snapshot.clone(),
        size,
        below,
        parent: None,
        created_s: now_s,
        is_held: false,
        keeps: SnapshotKeeps::Contents,
    });
    let mut image = bare_image(id, name.clone(), size, now_s);
    (image.below, image.since) = (below, Some(snapshot));
    draft.set_image(image);
    let packs = ForeignListing::of(view, new, now_s)?;
    draft.set_contents(ContentsRow { layer, root: packs.translated(from) });
    let mut change = draft.finish();
    (change.packs, change.foreign, change.reserves_packs) = (packs.packs, packs.foreign, packs.reserved);
    Ok(change)
}

/// Rows of packs that come along.
struct ForeignListing {
    packs: BTreeMap<u64, Option<PackRow>>,
    foreign: BTreeMap<u64, Option<ForeignRow>>,
    reserved: u64,
    /// The numbers of this store, by those of the snapshot's.
    numbers: BTreeMap<u64, u64>,
}

impl ForeignListing {
    /// A pack that is known stays the one that it is.
    fn of(view: &CatalogView, new: &NewForeignImage<'_>, now_s: u64) -> Result<Self, ImageRefusal> {
        let from = new.from;
        let known: BTreeMap<PackOrigin, u64> =
            view.foreign.values().flat_map(|row| row.names().map(|name| (name, row.number))).collect();
        let mut listing =
            Self { packs: BTreeMap::new(), foreign: BTreeMap::new(), reserved: 0, numbers: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        for pack in &from.packs {
            let has_footer = pack.footer_offset == 0 || (4096..pack.bytes).contains(&pack.footer_offset);
            let is_possible = has_footer
                && pack.bytes >= 4096
                && pack.bytes <= super::rows::MOST_PACK_FILE
                && pack.number > 0
                && pack.origin.number > 0;
            if !is_possible || !seen.insert(pack.origin) {
                return Err(ImageRefusal::ForeignRecord("one of its packs is impossible, or is named twice"));
            }
            let is_own = pack.origin.store == new.own
                && view.has_pack(pack.origin.number)
                && !view.is_foreign(pack.origin.number);
            let number = match known.get(&pack.origin) {
                _ if is_own => pack.origin.number,
                Some(number) => *number,
                None => {
                    listing.reserved += 1;
                    new.next_pack + listing.reserved - 1
                }
            };
            if listing.numbers.insert(pack.number, number).is_some() {
                return Err(ImageRefusal::ForeignRecord("two of its packs have one number"));
            }
            if is_own {
                continue;
            }
            let name = PackOrigin { store: from.store, number: pack.number };
            let row = view.foreign.get(&number).cloned().unwrap_or_else(|| ForeignRow {
                number,
                origin: pack.origin,
                tier: from.tier,
                upload: pack.upload,
                footer_offset: pack.footer_offset,
                aliases: Vec::new(),
            });
            // What has another meaning already keeps it: a chunk that is not there is looked for.
            let is_taken = known.get(&name).is_some_and(|taken| *taken != number);
            let row = if is_taken { row } else { row.called(name) };
            // The latest one lives longest.
            let row = ForeignRow { upload: row.upload.max(pack.upload), ..row };
            if !known.contains_key(&pack.origin) {
                listing.packs.insert(number, Some(pack_row(number, pack, from.root.space, now_s)));
            }
            listing.foreign.insert(number, Some(row));
        }
        Ok(listing)
    }

    /// The root, with hints of this store.
    fn translated(&self, from: &ForeignSnapshot) -> ManifestRoot {
        let top = match from.root.top {
            ManifestEntry::Named(NamedChunk { hash, hint }) => {
                let hint = hint.and_then(|hint| {
                    self.numbers.get(&hint.pack).map(|pack| ChunkHint { pack: *pack, slot: hint.slot })
                });
                ManifestEntry::Named(NamedChunk { hash, hint })
            }
            plain => plain,
        };
        ManifestRoot { top, ..from.root }
    }
}

fn pack_row(number: u64, pack: &ForeignPack, space: ChunkSpace, created_s: u64) -> PackRow {
    PackRow { number, space, bytes: pack.bytes, chunks: pack.chunks, created_s }
}
