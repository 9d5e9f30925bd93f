//! Which images and snapshots need what is damaged, and where on their disks.
//!
//! Manifests share most of their nodes. A node below which nothing is damaged is looked at once, however many
//! manifests have it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use super::report::{ChunkUse, MOST_NAMES, MOST_USES};
use crate::store::catalog::{Below, CatalogView, ChainNode, LayerId};
use crate::store::manifest::{ManifestRoot, ManifestSurveyor, NamedChunk, survey};
use crate::store::pack::ChunkHash;
use crate::store::pack_shelf::PackShelf;

/// Nodes that are remembered to be without damage: as many as a disk of 16 TiB has.
const MOST_CLEAN: usize = 1 << 20;

/// Places that are told of in all.
const MOST_PLACES: usize = 1 << 14;

/// Places where something is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) told: Vec<ChunkUse>,
    pub(super) more: u64,
}

impl Uses {
    /// Adds a place; one behind the last one, of the same disks, becomes a part of it. `left`: places that
    /// may still be told of, for all that is damaged.
    fn add(
        &mut self,
        (names, more_names): &(Vec<String>, usize),
        (start, length): (u64, u64),
        left: &mut usize,
    ) {
        if let Some(last) = self.told.last_mut()
            && last.names == *names
            && last.start + last.length == start
        {
            last.length += length;
        } else if self.told.len() < MOST_USES && *left > 0 {
            *left -= 1;
            self.told.push(ChunkUse { names: names.clone(), more_names: *more_names, start, length });
        } else {
            self.more += 1;
        }
    }
}

/// What is looked for.
#[derive(Debug, Default)]
pub(super) struct DamageUses {
    pub(super) by_hash: BTreeMap<ChunkHash, Uses>,
    /// Of packs of which nothing can be read.
    pub(super) by_pack: BTreeMap<u64, Uses>,
}

struct UseSearch<'a> {
    shelf: Arc<PackShelf>,
    found: &'a mut DamageUses,
    root: ManifestRoot,
    names: (Vec<String>, usize),
    clean: HashSet<ChunkHash>,
    /// Places that may still be told of.
    left: usize,
    /// Places that were found so far, to tell whether there were any below a node.
    count: u64,
    /// The count at the beginning of each node that is looked at.
    begun: Vec<u64>,
}

impl ManifestSurveyor for UseSearch<'_> {
    fn look(&mut self, chunk: &NamedChunk, first: u64, count: u64, is_node: bool) -> Option<Vec<u8>> {
        let bytes = u64::from(self.root.space.chunk_bytes);
        let start = first.saturating_mul(bytes);
        let length = count.saturating_mul(bytes).min(self.root.size.saturating_sub(start));
        if let Some(uses) = self.found.by_hash.get_mut(&chunk.hash) {
            uses.add(&self.names, (start, length), &mut self.left);
            self.count += 1;
            return None;
        }
        let pack = chunk.hint.map(|hint| hint.pack);
        if let Some(uses) = pack.and_then(|pack| self.found.by_pack.get_mut(&pack)) {
            uses.add(&self.names, (start, length), &mut self.left);
            self.count += 1;
            return None;
        }
        if !is_node || self.clean.contains(&chunk.hash) {
            return None;
        }
        // What cannot be read and was good a moment ago is found the next time.
        let found = self.shelf.read(chunk).ok()?;
        self.begun.push(self.count);
        Some(found.to_vec())
    }

    fn end(&mut self, node: &NamedChunk, is_all: bool) {
        let begun = self.begun.pop();
        if is_all && begun == Some(self.count) && self.clean.len() < MOST_CLEAN {
            self.clean.insert(node.hash);
        }
    }
}

/// Looks where all of it is needed.
pub(super) fn find_uses(view: &CatalogView, shelf: &Arc<PackShelf>, found: &mut DamageUses) {
    let (mut clean, mut left) = (HashSet::new(), MOST_PLACES);
    for (root, names) in roots(view) {
        let mut search = UseSearch {
            shelf: Arc::clone(shelf),
            found: &mut *found,
            root,
            names,
            clean: std::mem::take(&mut clean),
            left,
            count: 0,
            begun: Vec::new(),
        };
        // A root that is not possible cannot be read by anybody.
        let _possible = survey::<Infallible>(&root, &mut search);
        (clean, left) = (search.clean, search.left);
    }
}

/// The manifests that something reads, with those that do.
fn roots(view: &CatalogView) -> Vec<(ManifestRoot, (Vec<String>, usize))> {
    let mut by_layer: BTreeMap<LayerId, (ManifestRoot, (Vec<String>, usize))> = BTreeMap::new();
    let mut add = |below: Below, name: &dyn Fn() -> String| {
        let Some((row, contents)) = view.read_chain(below).contents else { return };
        let (_, (names, more)) = by_layer.entry(row.id).or_insert((contents.root, Default::default()));
        if names.len() < MOST_NAMES { names.push(name()) } else { *more += 1 }
    };
    for image in view.images() {
        let node = image.head.map_or(image.below.node, ChainNode::Layer);
        add(Below { node, bytes: image.size }, &|| image.name.to_string());
        for snapshot in view.snapshots_of(image.id).into_iter().filter(|row| !row.is_changes_only()) {
            add(snapshot.below, &|| view.full_name(snapshot));
        }
    }
    by_layer.into_values().collect()
}

/// What is in packs that are unusable.
pub(super) fn of_packs(packs: &BTreeSet<u64>) -> BTreeMap<u64, Uses> {
    packs.iter().map(|pack| (*pack, Uses::default())).collect()
}
