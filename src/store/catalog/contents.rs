//! Layers whose contents are in packs, and the packs.
//!
//! A sealed layer is *ingested*: what it has, and what is read through it from below, is written to packs as
//! chunks, and a row says where that begins. From then on reads that reach the layer end there, except that
//! some chunks are those of the base. Its file of data goes. Its map and its row stay: they tell what has
//! changed since the layer below.
//!
//! The oldest layer of a chain comes first, so what is below an ingested layer was ingested, or is no layer.
//!
//! A number is reserved for a pack, durably, before there is a file of that name, and is never used again.
//! The pack has a row when it is finished and durable. A file without a row is rubbish.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::codec::{RowError, RowReader, RowWriter};
use super::decide::{has_room, image};
use super::draft::Draft;
use super::encoding::StoredRow;
use super::id::LayerId;
use super::name::StoreName;
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, DEEPEST, ImageRow, LayerRow};
use super::view::{CatalogChange, CatalogView};
use crate::store::manifest::{ManifestEntry, ManifestRoot, NamedChunk};
use crate::store::pack::{ChunkHash, ChunkHint, ChunkSpace, HashAlgorithm};

/// Where the contents of a layer begin that are in packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct ContentsRow {
    pub(in crate::store) layer: LayerId,
    pub(in crate::store) root: ManifestRoot,
}

/// A pack that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct PackRow {
    pub(in crate::store) number: u64,
    pub(in crate::store) space: ChunkSpace,
    /// Bytes of its file.
    pub(in crate::store) bytes: u64,
    pub(in crate::store) chunks: u32,
    pub(in crate::store) created_s: u64,
}

/// A chain as reads go through it.
#[derive(Debug)]
pub(in crate::store) struct ReadChain<'a> {
    /// Those that have files of data, newest first.
    pub(in crate::store) layers: Vec<&'a LayerRow>,
    /// The first one that was ingested: nothing but the base is read below it.
    pub(in crate::store) contents: Option<(&'a LayerRow, &'a ContentsRow)>,
}

/// What an ingest begins with, and what must be the same at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct IngestPlan {
    pub(in crate::store) layer: LayerId,
    pub(in crate::store) size: u64,
    pub(in crate::store) below: Below,
    /// The contents of the layer below.
    pub(in crate::store) older: Option<ManifestRoot>,
}

fn write_space(to: &mut RowWriter, space: ChunkSpace) {
    to.u32(space.algorithm as u32).u32(space.chunk_bytes).uuid(space.domain);
}

fn read_space(from: &mut RowReader<'_>) -> Result<ChunkSpace, RowError> {
    let algorithm = HashAlgorithm::of_number(from.u32()?).ok_or(RowError::Value)?;
    let space = ChunkSpace { algorithm, chunk_bytes: from.u32()?, domain: from.uuid()? };
    if space.is_possible() { Ok(space) } else { Err(RowError::Value) }
}

fn write_entry(to: &mut RowWriter, entry: &ManifestEntry) {
    let (tag, chunk) = match entry {
        ManifestEntry::Zero => (0, None),
        ManifestEntry::Base => (1, None),
        ManifestEntry::Named(chunk) => (2, Some(chunk)),
    };
    let hint = chunk.and_then(|chunk| chunk.hint).unwrap_or(ChunkHint { pack: 0, slot: 0 });
    to.u8(tag)
        .bytes(&chunk.map_or([0; ChunkHash::BYTES], |chunk| chunk.hash.0))
        .u64(hint.pack)
        .u32(hint.slot);
}

fn read_entry(from: &mut RowReader<'_>) -> Result<ManifestEntry, RowError> {
    let (tag, hash) = (from.u8()?, ChunkHash(from.array()?));
    let hint = ChunkHint { pack: from.u64()?, slot: from.u32()? };
    let is_plain = hash.0 == [0; ChunkHash::BYTES] && hint.pack == 0;
    match tag {
        _ if hint.pack == 0 && hint.slot != 0 => Err(RowError::Value),
        0 if is_plain => Ok(ManifestEntry::Zero),
        1 if is_plain => Ok(ManifestEntry::Base),
        2 => Ok(ManifestEntry::Named(NamedChunk { hash, hint: (hint.pack != 0).then_some(hint) })),
        _ => Err(RowError::Value),
    }
}

impl StoredRow for ContentsRow {
    const TABLE: &'static str = "contents";

    fn key(&self) -> Uuid {
        self.layer.0
    }

    fn write(&self, to: &mut RowWriter) {
        write_space(to, self.root.space);
        to.u64(self.root.size);
        write_entry(to, &self.root.top);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let (space, size) = (read_space(from)?, from.u64()?);
        Ok(Self { layer: LayerId(key), root: ManifestRoot { space, size, top: read_entry(from)? } })
    }
}

impl StoredRow for PackRow {
    const TABLE: &'static str = "packs";

    fn key(&self) -> Uuid {
        Uuid::from_u128(self.number.into())
    }

    fn write(&self, to: &mut RowWriter) {
        write_space(to, self.space);
        to.u64(self.bytes).u32(self.chunks).u64(self.created_s);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let number = u64::try_from(key.as_u128()).map_err(|_| RowError::Value)?;
        let space = read_space(from)?;
        Ok(Self { number, space, bytes: from.u64()?, chunks: from.u32()?, created_s: from.u64()? })
    }
}

impl CatalogChange {
    /// Reserves the next number of a pack.
    pub(in crate::store) fn reserve_pack() -> Self {
        Self { reserves_pack: true, ..Self::default() }
    }

    /// A pack is finished and durable.
    pub(in crate::store) fn list_pack(row: PackRow) -> Self {
        Self { packs: [(row.number, Some(row))].into(), ..Self::default() }
    }
}

impl CatalogView {
    pub(in crate::store) fn packs(&self) -> impl Iterator<Item = &PackRow> {
        self.packs.values()
    }

    pub(in crate::store) fn has_pack(&self, number: u64) -> bool {
        self.packs.contains_key(&number)
    }

    /// The contents of a layer, if it was ingested.
    pub(in crate::store) fn contents(&self, layer: LayerId) -> Option<&ContentsRow> {
        self.contents.get(&layer)
    }

    /// All layers that were ingested.
    pub(in crate::store) fn all_contents(&self) -> impl Iterator<Item = &ContentsRow> {
        self.contents.values()
    }

    /// The layers from a place on as reads go through them.
    pub(in crate::store) fn read_chain(&self, from: Below) -> ReadChain<'_> {
        let mut layers = self.chain(from).0;
        let first = layers.iter().position(|row| self.contents.contains_key(&row.id));
        let contents = first.map(|first| (layers[first], &self.contents[&layers[first].id]));
        layers.truncate(first.unwrap_or(layers.len()));
        ReadChain { layers, contents }
    }

    /// Layers that reads of an image go through, its head too.
    pub(super) fn read_depth(&self, image: &ImageRow) -> usize {
        let node = image.head.map_or(image.below.node, ChainNode::Layer);
        self.read_chain(Below { node, bytes: image.size }).layers.len()
    }

    /// The layer that is ingested next on the way to all that is sealed below this place.
    pub(in crate::store) fn next_ingest(&self, from: Below) -> Option<IngestPlan> {
        let chain = self.read_chain(from);
        let row = chain.layers.last().filter(|row| row.is_sealed)?;
        let older = chain.contents.map(|(_, contents)| contents.root);
        Some(IngestPlan { layer: row.id, size: row.size, below: row.below, older })
    }
}

/// Whether an image has contents in packs below its layers.
///
/// # Errors
/// It has: what is asked for is not possible.
pub(in crate::store) fn check_unpacked(view: &CatalogView, name: &StoreName) -> Result<(), ImageRefusal> {
    match view.read_chain(image(view, name)?.below).contents {
        Some(_) => Err(ImageRefusal::InPacks(name.clone())),
        None => Ok(()),
    }
}

/// The contents of a layer are in packs, which are durable, from now on.
///
/// # Errors
/// The layer is gone, or stands on something else; or a pack is not there any more.
pub(in crate::store) fn finish_ingest(
    view: &CatalogView,
    plan: &IngestPlan,
    root: ManifestRoot,
    packs: &BTreeSet<u64>,
) -> Result<CatalogChange, ImageRefusal> {
    let row = view.layer(plan.layer).ok_or(ImageRefusal::NoLayer(plan.layer))?;
    let of_below = |id| view.contents(id).map(|contents| contents.root);
    let older = if let ChainNode::Layer(id) = plan.below.node { of_below(id) } else { None };
    let is_as_it_was = row.is_sealed
        && row.below == plan.below
        && row.size == plan.size
        && root.size == plan.size
        && older == plan.older
        && view.contents(plan.layer).is_none();
    if !is_as_it_was || !packs.iter().all(|pack| view.has_pack(*pack)) {
        return Err(ImageRefusal::NotIngestible(plan.layer));
    }
    has_room(view.contents.len(), 1, "ingested layers")?;
    let mut draft = Draft::new(view);
    draft.set_contents(ContentsRow { layer: plan.layer, root });
    Ok(draft.finish())
}

/// Whether an image has as many layers as it may, so that a snapshot would be one too many.
pub(super) fn is_too_deep(view: &CatalogView, row: &ImageRow) -> bool {
    row.head.is_some() && view.read_depth(row) > DEEPEST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::{checksum, decode, encode};
    use super::*;

    const SPACE: ChunkSpace =
        ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 4096, domain: Uuid::from_u128(7) };

    fn contents(top: ManifestEntry) -> ContentsRow {
        ContentsRow { layer: LayerId(Uuid::from_u128(1)), root: ManifestRoot { space: SPACE, size: 5, top } }
    }

    #[test]
    fn rows_read_as_themselves() {
        let hash = ChunkHash([3; 32]);
        let named = |hint| ManifestEntry::Named(NamedChunk { hash, hint });
        let place = ChunkHint { pack: 9, slot: 4 };
        for top in [ManifestEntry::Zero, ManifestEntry::Base, named(None), named(Some(place))] {
            let row = contents(top);
            let read: ContentsRow = decode(row.key(), &encode(&row)).unwrap();
            assert_eq!(read, row);
            // Equal names are equal, wherever they are.
            let hint = |entry| if let ManifestEntry::Named(chunk) = entry { chunk.hint } else { None };
            assert_eq!(hint(read.root.top), hint(top));
        }
        let row = PackRow { number: 3, space: SPACE, bytes: 1, chunks: 2, created_s: 4 };
        assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_reads_as_itself(
            mut body in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..200usize,
        ) {
            let row = contents(ManifestEntry::Base);
            let good = encode(&row);
            let mut mixed = good[..cut.min(good.len() - 8)].to_vec();
            mixed.append(&mut body);
            for table in [ContentsRow::TABLE, PackRow::TABLE] {
                let mut bytes = mixed.clone();
                bytes.extend(checksum(table, row.key(), &mixed));
                if let Ok(row) = decode::<ContentsRow>(row.key(), &bytes) {
                    prop_assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
                }
                if let Ok(row) = decode::<PackRow>(row.key(), &bytes) {
                    prop_assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
                }
            }
        }
    }
}
