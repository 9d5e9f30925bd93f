//! Which layers come into packs without being asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::id::LayerId;
use super::rows::{Below, ChainNode};
use super::view::CatalogView;

/// A chain is long from so many sealed layers on that reads go through.
const LONG: usize = 5;
/// The layers of a long chain are due after this part of the time.
const SOONER: u64 = 60;

impl CatalogView {
    /// Layers that have been sealed for `age_s` seconds and are not in packs, those first that have been for
    /// the longest. In long chains a sixtieth of that is enough.
    pub(in crate::store) fn due_layers(&self, now_s: u64, age_s: u64) -> Vec<LayerId> {
        let hasty = self.layers_of_long_chains();
        let since = self.sealed_since();
        let is_due = |(layer, since): &(&LayerId, &u64)| {
            let age = if hasty.contains(layer) { age_s / SOONER } else { age_s };
            since.saturating_add(age) <= now_s
        };
        let mut due: Vec<(u64, LayerId)> =
            since.iter().filter(is_due).map(|(layer, since)| (*since, *layer)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, layer)| layer).collect()
    }

    /// Sealed layers that are not in packs, and when the first thing came that stands on them.
    fn sealed_since(&self) -> BTreeMap<LayerId, u64> {
        let images = self.images.values().map(|row| (row.below.node, row.created_s));
        let snapshots = self.snapshots.values().filter(|row| !row.is_changes_only());
        let snapshots = snapshots.map(|row| (row.below.node, row.created_s));
        let layers = self.layers.values().map(|row| (row.below.node, row.created_s));
        let mut since: BTreeMap<LayerId, u64> = BTreeMap::new();
        for (node, created_s) in snapshots.chain(layers).chain(images) {
            let ChainNode::Layer(id) = node else { continue };
            let is_waiting =
                self.layers.get(&id).is_some_and(|row| row.is_sealed) && !self.contents.contains_key(&id);
            if is_waiting {
                let first = since.entry(id).or_insert(created_s);
                *first = created_s.min(*first);
            }
        }
        since
    }

    fn layers_of_long_chains(&self) -> BTreeSet<LayerId> {
        let mut found = BTreeSet::new();
        for image in self.images.values() {
            let node = image.head.map_or(image.below.node, ChainNode::Layer);
            let layers = self.read_chain(Below { node, bytes: image.size }).layers;
            let sealed = layers.iter().filter(|row| row.is_sealed).map(|row| row.id);
            if sealed.clone().count() >= LONG {
                found.extend(sealed);
            }
        }
        found
    }
}
