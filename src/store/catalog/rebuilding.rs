//! A lost catalogue, made again of what the maps of layers tell.
//!
//! Rows that no layer tells of are lost: images that were never written since they began, and names that were
//! given later. Each layer becomes a snapshot, so that all contents are there that a snapshot may have had.
//! An image stands on its newest layer, which is sealed, so that nothing changes that was there.

use std::collections::{BTreeMap, BTreeSet};

use super::consistency::{Inconsistency, checked};
use super::decide::{bare_image, check_size};
use super::id::{BaseId, ImageId, LayerId, Minter, SnapshotId};
use super::name::StoreName;
use super::rows::{
    BaseIdentity, BaseKind, BaseRow, Below, ChainNode, DEEPEST, ImageRow, LONGEST_PATH, LayerRow,
    SnapshotKeeps, SnapshotRow,
};
use super::view::CatalogChange;

/// Bytes of a name that are left for a number behind it.
const LONGEST_BEGINNING: usize = 100;
/// What an image is called whose name cannot be read.
const NAMELESS: &str = "image";
/// Snapshots whose names are not known.
const RECOVERED: &str = "recovered";
/// Layers of a chain that anything was ever made with, and more.
const DEEPEST_FOUND: usize = 64;

/// A layer that was found, as its map tells of it.
#[derive(Debug, Clone)]
pub struct FoundLayer {
    pub id: LayerId,
    pub image: ImageId,
    /// The image's name when the layer was made.
    pub name: String,
    pub size: u64,
    pub created_s: u64,
    /// Its map says where it belongs: it was finished, and not by an older version.
    pub is_complete: bool,
    /// What it stood on when it was made, and bytes of that that are seen through it.
    pub parent: Option<LayerId>,
    pub below_bytes: u64,
    pub base: Option<(BaseKind, String, BaseIdentity)>,
    /// Layers whose place it took, the latest first; with `is_flat` for its own image only.
    pub replaces: Vec<LayerId>,
    pub is_flat: bool,
    /// Snapshots of what is below it.
    pub snapshots: Vec<(SnapshotId, ImageId, StoreName)>,
}

/// What came of it.
#[derive(Debug)]
pub struct RebuiltRows {
    pub rows: CatalogChange,
    /// Layers that stand on one that is not there, or have a size that no image has.
    pub lost: Vec<LayerId>,
    /// Copies of layers that are there themselves.
    pub spare: Vec<LayerId>,
}

/// What was found, by what is asked of it.
struct FoundLayers {
    layers: BTreeMap<LayerId, FoundLayer>,
    /// Who took the place of a layer that is not there.
    heirs: BTreeMap<LayerId, LayerId>,
    /// Layers that took the place of all that was below an image.
    flat: Vec<LayerId>,
}

impl FoundLayers {
    fn new(all: Vec<FoundLayer>) -> Self {
        let layers: BTreeMap<LayerId, FoundLayer> = all.into_iter().map(|layer| (layer.id, layer)).collect();
        let (mut heirs, mut flat) = (BTreeMap::new(), Vec::new());
        for layer in layers.values() {
            if layer.is_flat {
                flat.push(layer.id);
            }
            for replaced in layer.replaces.iter().filter(|id| !layers.contains_key(id)) {
                heirs.entry(*replaced).or_insert(layer.id);
            }
        }
        Self { layers, heirs, flat }
    }

    /// What a layer stands on; none if it is not there.
    fn below(&self, layer: &FoundLayer) -> Option<ChainNode> {
        if layer.parent.is_none_or(|parent| !self.layers.contains_key(&parent))
            && let Some(flat) = self.flat_below(layer)
        {
            return Some(ChainNode::Layer(flat));
        }
        match (layer.parent, &layer.base) {
            (None, None) => Some(ChainNode::Nothing),
            // Its base has a row of its own later.
            (None, Some(_)) => Some(ChainNode::Base(BaseId(layer.id.0))),
            (Some(parent), _) if self.layers.contains_key(&parent) => Some(ChainNode::Layer(parent)),
            (Some(parent), _) => self.heirs.get(&parent).map(|heir| ChainNode::Layer(*heir)),
        }
    }

    /// The layer that took the place of what a layer of the same image says to stand on.
    fn flat_below(&self, layer: &FoundLayer) -> Option<LayerId> {
        let is_it = |flat: &&FoundLayer| {
            let was = match layer.parent {
                Some(parent) => flat.replaces.contains(&parent),
                None => layer.base.is_some() && flat.replaces.is_empty(),
            };
            was && flat.image == layer.image && flat.id != layer.id && flat.created_s >= layer.created_s
        };
        self.flat.iter().map(|id| &self.layers[id]).find(is_it).map(|flat| flat.id)
    }
}

/// Rows for what was found.
///
/// # Errors
/// The maps contradict each other.
pub fn rebuild(found: Vec<FoundLayer>, minter: &mut Minter<'_>) -> Result<RebuiltRows, Inconsistency> {
    let found = FoundLayers::new(found);
    let (below, mut lost) = standing(&found);
    let spare = spare(&found, &below);
    lost.retain(|id| !spare.contains(id));
    let below: BTreeMap<LayerId, ChainNode> =
        below.into_iter().filter(|(id, _)| !spare.contains(id)).collect();
    let mut rows = CatalogChange::default();
    let bases = bases(&found, &below, &mut rows, minter);
    for (id, node) in &below {
        let layer = &found.layers[id];
        let node = if let ChainNode::Base(_) = node { ChainNode::Base(bases[id]) } else { *node };
        let bytes = if node == ChainNode::Nothing { 0 } else { layer.below_bytes };
        let row = LayerRow {
            id: *id,
            image: layer.image,
            below: Below { node, bytes },
            size: layer.size,
            is_sealed: true,
            created_s: layer.created_s,
        };
        rows.layers.insert(*id, Some(row));
    }
    images(&found, &mut rows);
    snapshots(&found, &mut rows, minter);
    checked(&rows)?;
    Ok(RebuiltRows { rows, lost, spare: spare.into_iter().collect() })
}

/// What each layer stands on, of those whose chain is whole; and the others.
fn standing(found: &FoundLayers) -> (BTreeMap<LayerId, ChainNode>, Vec<LayerId>) {
    let mut above: BTreeMap<LayerId, Vec<LayerId>> = BTreeMap::new();
    let mut whole = BTreeMap::new();
    let mut next: Vec<(LayerId, usize)> = Vec::new();
    for layer in found.layers.values().filter(|layer| check_size(layer.size).is_ok()) {
        match found.below(layer) {
            None => {}
            Some(ChainNode::Layer(below)) => above.entry(below).or_default().push(layer.id),
            Some(node) => {
                whole.insert(layer.id, node);
                next.push((layer.id, 1));
            }
        }
    }
    // From the bottom up, so that a circle is never entered.
    while let Some((below, depth)) = next.pop() {
        let stand = if depth < DEEPEST_FOUND { above.remove(&below).unwrap_or_default() } else { Vec::new() };
        for id in stand {
            whole.insert(id, ChainNode::Layer(below));
            next.push((id, depth + 1));
        }
    }
    let lost = found.layers.keys().copied().filter(|id| !whole.contains_key(id)).collect();
    (whole, lost)
}

/// Copies that were never used, or not yet: what they were made of is there.
fn spare(found: &FoundLayers, below: &BTreeMap<LayerId, ChainNode>) -> BTreeSet<LayerId> {
    let used: BTreeSet<ChainNode> = below.values().copied().collect();
    let stands: BTreeSet<(ImageId, ChainNode)> =
        below.iter().map(|(id, node)| (found.layers[id].image, *node)).collect();
    let is_spare = |layer: &&FoundLayer| {
        let latest = layer.replaces.first().filter(|replaced| found.layers.contains_key(replaced));
        let is_there = latest.is_some_and(|replaced| {
            // An image that was never written may stand on a flat one, beside those who stand on the old one.
            !layer.is_flat || stands.contains(&(layer.image, ChainNode::Layer(*replaced)))
        });
        is_there && !used.contains(&ChainNode::Layer(layer.id))
    };
    found.layers.values().filter(is_spare).map(|layer| layer.id).collect()
}

/// A row for each base, and the base of each layer that stands on one.
fn bases(
    found: &FoundLayers,
    below: &BTreeMap<LayerId, ChainNode>,
    rows: &mut CatalogChange,
    minter: &mut Minter<'_>,
) -> BTreeMap<LayerId, BaseId> {
    let mut known: Vec<BaseRow> = Vec::new();
    let mut of = BTreeMap::new();
    for id in below.iter().filter(|(_, node)| matches!(node, ChainNode::Base(_))).map(|(id, _)| *id) {
        let Some((kind, path, identity)) = found.layers[&id].base.clone() else { continue };
        debug_assert!(path.len() <= LONGEST_PATH, "a superblock has no room for a longer one");
        let same = known.iter().find(|row| (row.kind, &row.path, &row.identity) == (kind, &path, &identity));
        let base = match same {
            Some(row) => row.id,
            None => {
                let id = BaseId(minter.mint());
                known.push(BaseRow { id, kind, path, identity, created_s: minter.now_s });
                id
            }
        };
        of.insert(id, base);
    }
    rows.bases.extend(known.into_iter().map(|row| (row.id, Some(row))));
    of
}

/// Layers from one on, the newest first.
fn chain(rows: &CatalogChange, from: LayerId) -> Vec<LayerId> {
    let row = |id: &LayerId| rows.layers.get(id).and_then(Option::as_ref);
    let next = |id: &LayerId| match row(id)?.below.node {
        ChainNode::Layer(below) => Some(below),
        ChainNode::Base(_) | ChainNode::Nothing => None,
    };
    std::iter::successors(Some(from), next).collect()
}

/// A row for each image that a layer was made for.
fn images(found: &FoundLayers, rows: &mut CatalogChange) {
    let used: BTreeSet<ChainNode> = rows.layers.values().flatten().map(|row| row.below.node).collect();
    // Layers that another one of their image stands on.
    let mut covered: BTreeSet<(ImageId, LayerId)> = BTreeSet::new();
    for row in rows.layers.values().flatten() {
        covered.extend(chain(rows, row.id).into_iter().skip(1).map(|below| (row.image, below)));
    }
    let mut newest: BTreeMap<ImageId, LayerRow> = BTreeMap::new();
    let rank = |row: &LayerRow| (found.layers[&row.id].is_complete, row.created_s, row.id);
    for row in rows.layers.values().flatten().filter(|row| !covered.contains(&(row.image, row.id))) {
        if newest.get(&row.image).is_none_or(|other| rank(row) > rank(other)) {
            newest.insert(row.image, row.clone());
        }
    }
    let mut taken = BTreeSet::new();
    for (id, top) in newest {
        let name = free_name(&found.layers[&top.id].name, &mut taken);
        let bare = bare_image(id, name, top.size, top.created_s);
        let below = Below { node: ChainNode::Layer(top.id), bytes: top.size };
        let is_full = chain(rows, top.id).len() > DEEPEST;
        if is_full && !used.contains(&ChainNode::Layer(top.id)) {
            // With one more layer it would be deeper than any may be.
            let head = LayerRow { is_sealed: false, below: top.below.within(top.size), ..top.clone() };
            rows.images.insert(id, Some(ImageRow { head: Some(top.id), below: head.below, ..bare }));
            rows.layers.insert(top.id, Some(head));
        } else {
            rows.images.insert(id, Some(ImageRow { below, ..bare }));
        }
    }
}

/// One or more snapshots of each sealed layer.
fn snapshots(found: &FoundLayers, rows: &mut CatalogChange, minter: &mut Minter<'_>) {
    let mut known: BTreeMap<LayerId, Vec<&(SnapshotId, ImageId, StoreName)>> = BTreeMap::new();
    for row in rows.layers.values().flatten() {
        if let ChainNode::Layer(below) = row.below.node {
            known.entry(below).or_default().extend(&found.layers[&row.id].snapshots);
        }
    }
    let mut taken: BTreeMap<ImageId, BTreeSet<StoreName>> = BTreeMap::new();
    let mut made: BTreeMap<SnapshotId, SnapshotRow> = BTreeMap::new();
    let mut sealed: Vec<&LayerRow> = rows.layers.values().flatten().filter(|row| row.is_sealed).collect();
    sealed.sort_by_key(|row| (row.created_s, row.id));
    let of = |id, image, name, layer: &LayerRow| SnapshotRow {
        id,
        image,
        name,
        size: layer.size,
        below: Below { node: ChainNode::Layer(layer.id), bytes: layer.size },
        parent: None,
        created_s: layer.created_s,
        is_held: false,
        keeps: SnapshotKeeps::Contents,
    };
    for layer in &sealed {
        for (id, image, name) in known.get(&layer.id).into_iter().flatten() {
            let has_image = rows.images.contains_key(image);
            if has_image && !made.contains_key(id) && taken.entry(*image).or_default().insert(name.clone()) {
                made.insert(*id, of(*id, *image, name.clone(), layer));
            }
        }
    }
    let named: BTreeSet<ChainNode> = made.values().map(|row| row.below.node).collect();
    for layer in sealed.into_iter().filter(|layer| !named.contains(&ChainNode::Layer(layer.id))) {
        let id = SnapshotId(minter.mint());
        let name = free_name(RECOVERED, taken.entry(layer.image).or_default());
        made.insert(id, of(id, layer.image, name, layer));
    }
    rows.snapshots.extend(made.into_iter().map(|(id, row)| (id, Some(row))));
}

/// A name that is not taken, and is from now on.
fn free_name(wanted: &str, taken: &mut BTreeSet<StoreName>) -> StoreName {
    let wanted = if wanted.parse::<StoreName>().is_ok() { wanted } else { NAMELESS };
    // Names are ASCII.
    let beginning = &wanted[..wanted.len().min(LONGEST_BEGINNING)];
    let numbered = (2_u64..).map(|number| format!("{beginning}-{number}"));
    let names = std::iter::once(wanted.to_owned()).chain(numbered);
    let mut free = names.filter_map(|name| name.parse().ok()).filter(|name| !taken.contains(name));
    let name: StoreName = free.next().expect("there are more numbers than names");
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn layer(id: u128, image: u128, parent: Option<u128>) -> FoundLayer {
        FoundLayer {
            id: LayerId(Uuid::from_u128(id)),
            image: ImageId(Uuid::from_u128(image)),
            name: format!("vm{image}"),
            size: 1 << 20,
            created_s: id as u64,
            is_complete: true,
            parent: parent.map(|parent| LayerId(Uuid::from_u128(parent))),
            below_bytes: 1 << 20,
            base: None,
            replaces: Vec::new(),
            is_flat: false,
            snapshots: Vec::new(),
        }
    }

    fn rebuilt(found: Vec<FoundLayer>) -> RebuiltRows {
        let mut next = 1 << 100;
        let mut uuid = || {
            next += 1;
            Uuid::from_u128(next)
        };
        rebuild(found, &mut Minter { now_s: 5, uuid: &mut uuid }).unwrap()
    }

    fn below(rows: &RebuiltRows, id: u128) -> Option<u128> {
        let row = rows.rows.layers[&LayerId(Uuid::from_u128(id))].as_ref().unwrap();
        match row.below.node {
            ChainNode::Layer(id) => Some(id.0.as_u128()),
            _ => None,
        }
    }

    #[test]
    fn layers_find_what_took_the_place_of_their_parents() {
        let replaces = |ids: &[u128], layer: FoundLayer| FoundLayer {
            replaces: ids.iter().map(|id| LayerId(Uuid::from_u128(*id))).collect(),
            ..layer
        };
        // 2 and 1 became 7; 5 stood on 2. 9 is a copy of 3 and 7 that was not used, because 3 is there.
        let rows = rebuilt(vec![
            layer(5, 1, Some(2)),
            layer(3, 2, Some(7)),
            replaces(&[2], layer(7, 1, None)),
            replaces(&[3], layer(9, 2, None)),
            layer(20, 3, Some(19)),
            FoundLayer { size: 1000, ..layer(21, 3, None) },
        ]);
        assert_eq!((below(&rows, 5), below(&rows, 3), below(&rows, 7)), (Some(7), Some(7), None));
        let ids = |of: &[LayerId]| of.iter().map(|id| id.0.as_u128()).collect::<Vec<_>>();
        assert_eq!((ids(&rows.spare), ids(&rows.lost)), (vec![9], vec![20, 21]));
        assert_eq!(rows.rows.images.len(), 2);
        assert_eq!(rows.rows.snapshots.len(), 3);
    }

    #[test]
    fn a_flat_layer_is_its_own_images() {
        let flat = FoundLayer { is_flat: true, replaces: vec![layer(1, 0, None).id], ..layer(9, 3, None) };
        let found = |first: Option<FoundLayer>| {
            let all = [layer(5, 3, Some(1)), layer(6, 4, Some(1)), flat.clone()];
            rebuilt(all.into_iter().chain(first).collect())
        };
        let gone = found(None);
        assert_eq!(below(&gone, 5), Some(9));
        // What it was made of has all that anybody has.
        let there = found(Some(layer(1, 0, None)));
        assert_eq!((below(&there, 5), below(&there, 6), there.spare.len()), (Some(1), Some(1), 1));
    }

    proptest! {
        /// Whatever maps say, rows fit together.
        #[test]
        fn any_layers_make_a_catalogue(
            layers in prop::collection::vec((0..12_u128, 0..4_u128, prop::option::of(0..14_u128),
                prop::collection::vec(0..14_u128, 0..3), any::<bool>(), 0..3_u64, "[a-c.]{0,3}"), 0..14)
        ) {
            let found = layers.into_iter().map(|(id, image, parent, replaces, is_flat, created_s, name)| {
                let replaces = replaces.into_iter().map(|id| LayerId(Uuid::from_u128(id))).collect();
                let snapshots = name.parse().ok().map(|name| {
                    (SnapshotId(Uuid::from_u128(image)), ImageId(Uuid::from_u128(id % 4)), name)
                });
                let snapshots = snapshots.into_iter().collect();
                FoundLayer { replaces, is_flat, created_s, name, snapshots, ..layer(id, image, parent) }
            });
            let found: Vec<FoundLayer> = found.collect();
            let ids: BTreeSet<LayerId> = found.iter().map(|layer| layer.id).collect();
            let rows = rebuilt(found);
            let told = rows.rows.layers.len() + rows.lost.len() + rows.spare.len();
            prop_assert_eq!(told, ids.len());
        }
    }
}
