//! Snapshots that keep no contents, only which parts of the disk have changed before them and since.
//!
//! They seal like any other. The layer that such a snapshot stands on is read by the image alone, so it may
//! become one with the layer above it ([`merging`](super::merging)); the record of changes of that one then
//! tells the two apart.

use std::collections::BTreeSet;

use super::catalog::{self, ChainNode, NewSnapshot, NodeName, SnapshotKeeps, SnapshotRow, StoreName};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

impl<M: LayerMaps> OpenStore<M> {
    /// Takes such snapshots, at one point in time and of images that nobody writes meanwhile. Those that are
    /// there already give their contents up.
    ///
    /// # Errors
    /// A sentence.
    pub fn keep_changes_only(&mut self, nodes: Vec<NodeName>) -> Result<(), StoreError> {
        let (there, new) = self.told_apart(nodes)?;
        if !new.is_empty() {
            self.take_snapshots(&NewSnapshot::group(new, true)?)?;
        }
        self.give_up_contents(&there)
    }

    /// Snapshots that are there, and those that are not.
    ///
    /// # Errors
    /// An image is missing, or one is the name of an image.
    pub fn told_apart(&self, nodes: Vec<NodeName>) -> Result<(Vec<NodeName>, Vec<NodeName>), StoreError> {
        let (mut there, mut new) = (Vec::new(), Vec::new());
        for node in nodes {
            if self.has_snapshot(&node)? { there.push(node) } else { new.push(node) }
        }
        // Whatever refuses it does so before the others are taken.
        self.decide(|view, _| catalog::give_up_contents(view, &there))?;
        Ok((there, new))
    }

    /// Snapshots keep only which parts have changed from now on. Nobody has them open.
    ///
    /// # Errors
    /// One is missing, held, or was cloned.
    pub fn give_up_contents(&mut self, nodes: &[NodeName]) -> Result<(), StoreError> {
        let change = self.decide(|view, _| catalog::give_up_contents(view, nodes))?;
        if change.is_empty() { Ok(()) } else { self.commit(&change).map(drop) }
    }

    /// Those of some images that have such snapshots.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn of_changes_only(&self, images: BTreeSet<StoreName>) -> Result<Vec<StoreName>, StoreError> {
        let view = self.view()?;
        let has_some =
            |name: &StoreName| view.image(name).is_some_and(|row| view.changes_only_of(row.id) > 0);
        Ok(images.into_iter().filter(has_some).collect())
    }

    /// Snapshots of which nothing is known any more, a sentence each. Who has no lock is not told of all
    /// records.
    pub(super) fn check_points(&self) -> Result<Vec<String>, StoreError> {
        let view = self.view()?;
        let is_known = |row: &SnapshotRow| match row.below.node {
            ChainNode::Layer(layer) => self
                .records
                .get(&layer)
                .is_some_and(|head| head.as_ref().is_some_and(|head| head.points.contains(&row.id))),
            ChainNode::Nothing | ChainNode::Base(_) => false,
        };
        let points = view.changes_only().filter(|row| row.keeps == SnapshotKeeps::ChangesWithin);
        let lost = points.filter(|row| self.directory.is_locked() && !is_known(row));
        Ok(lost
            .map(|row| {
                format!(
                    "what has changed since {} is not known any more, because a record is lost or damaged: remove it, and count changes from another snapshot",
                    view.full_name(row)
                )
            })
            .collect())
    }
}
