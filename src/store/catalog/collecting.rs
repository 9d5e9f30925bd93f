//! Which contents are read, and packs that go.

use std::collections::BTreeSet;

use super::packed_rows::{ContentsRow, PackRow};
use super::rows::ChainNode;
use super::view::{CatalogChange, CatalogView, nodes_of};

impl CatalogView {
    /// The contents that somebody reads. Those of a layer are not read if nothing stands on it but layers
    /// that were ingested: their own contents have all that is needed of it.
    pub(in crate::store) fn read_contents(&self) -> impl Iterator<Item = &ContentsRow> {
        let unpacked = self.layers.values().filter(|row| !self.contents.contains_key(&row.id));
        let named = self.images.values().flat_map(nodes_of);
        let named = named.chain(self.images.values().map(|row| row.below.node));
        let named = named
            .chain(self.snapshots.values().filter(|row| !row.is_changes_only()).map(|row| row.below.node));
        let named: BTreeSet<ChainNode> = named.chain(unpacked.map(|row| row.below.node)).collect();
        named.into_iter().filter_map(|node| match node {
            ChainNode::Layer(id) => self.contents.get(&id),
            ChainNode::Nothing | ChainNode::Base(_) => None,
        })
    }
}

/// Takes packs away whose chunks are alive in none of them: what is needed of them was copied to `copies`.
/// Those that are `held` stay. Nothing goes as long as a copy is not listed.
pub(in crate::store) fn release_packs(
    view: &CatalogView,
    packs: &BTreeSet<u64>,
    held: &BTreeSet<u64>,
    copies: &BTreeSet<u64>,
) -> (CatalogChange, Vec<PackRow>) {
    if !copies.iter().all(|pack| view.has_pack(*pack)) {
        return (CatalogChange::default(), Vec::new());
    }
    let going = packs.difference(held).filter_map(|number| view.packs.get(number));
    let going: Vec<PackRow> = going.cloned().collect();
    let packs = going.iter().map(|row| (row.number, None)).collect();
    let is_foreign = |row: &&PackRow| view.foreign.contains_key(&row.number);
    let foreign = going.iter().filter(is_foreign).map(|row| (row.number, None)).collect();
    (CatalogChange { packs, foreign, ..CatalogChange::default() }, going)
}
