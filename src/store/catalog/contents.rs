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

use super::decide::has_room;
use super::draft::Draft;
use super::id::LayerId;
use super::packed_rows::{ContentsRow, PackRow};
use super::refusal::ImageRefusal;
use super::rows::{Below, ChainNode, DEEPEST, ImageRow, LayerRow};
use super::view::{CatalogChange, CatalogView};
use crate::store::manifest::ManifestRoot;

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

impl CatalogChange {
    /// Reserves the next number of a pack.
    pub(in crate::store) fn reserve_pack() -> Self {
        Self { reserves_packs: 1, ..Self::default() }
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

    pub(in crate::store) fn pack(&self, number: u64) -> Option<&PackRow> {
        self.packs.get(&number)
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

    /// Whether an image has as many layers as it may, so that a snapshot would be one too many.
    pub(super) fn is_too_deep(&self, image: &ImageRow) -> bool {
        image.head.is_some() && self.read_depth(image) > DEEPEST
    }

    /// The layer that is ingested next on the way to all that is sealed below this place.
    pub(in crate::store) fn next_ingest(&self, from: Below) -> Option<IngestPlan> {
        let chain = self.read_chain(from);
        let row = chain.layers.last().filter(|row| row.is_sealed)?;
        let older = chain.contents.map(|(_, contents)| contents.root);
        Some(IngestPlan { layer: row.id, size: row.size, below: row.below, older })
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
