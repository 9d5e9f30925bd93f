//! Which snapshots are to come to the tier by themselves, and how far the tier is behind.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::catalog::{
    CatalogExcerpt, CatalogView, ChainNode, ImageRow, LayerRow, NodeName, SnapshotRow, StoreName,
};
use super::collection_pins::HeldContents;
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, now_s};
use super::push_notes::{PushLag, PushNotes};

/// Snapshots that are told at once.
const MOST_DUE: usize = 16;
/// Images whose own lag is told: those that would lose most.
const MOST_LAGGING: usize = 100;

/// A snapshot that is not on the tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePush {
    pub node: NodeName,
    pub uuid: Uuid,
}

/// The oldest of them, and how many there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DuePushes {
    pub first: Vec<DuePush>,
    pub count: usize,
}

/// What the loss of a store would cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreLag {
    /// All images together: what several of them stand on counts once.
    pub all: PushLag,
    /// The images that would lose most, by their names; the first loses most.
    pub images: Vec<(StoreName, PushLag)>,
}

/// What whoever pushes a snapshot is told of it.
#[derive(Debug)]
pub(crate) struct PushedContents {
    pub(crate) store: Uuid,
    pub(crate) rows: CatalogExcerpt,
    /// A collection leaves its chunks alone meanwhile.
    pub(crate) held: Option<HeldContents>,
}

impl<M: LayerMaps> OpenStore<M> {
    /// The oldest snapshots that were taken at least so many seconds ago, whose contents are in packs, and of
    /// which nobody has noted that they are on the tier, or were taken out of it. `is_left` tells of those
    /// that have to wait.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn due_pushes(
        &self,
        age_s: u64,
        is_left: impl Fn(&NodeName, Uuid) -> bool,
    ) -> Result<DuePushes, StoreError> {
        let (view, notes, now_s) = (self.view()?, self.directory.push_notes(), now_s());
        let mut due: Vec<(u64, DuePush)> = Vec::new();
        for image in view.images() {
            for row in view.snapshots_of(image.id) {
                let is_old = now_s.saturating_sub(row.created_s) >= age_s;
                if !is_old || notes.is_settled(row.id.0) || !is_packed(view, row) {
                    continue;
                }
                let node = NodeName { image: image.name.clone(), snapshot: Some(row.name.clone()) };
                if !is_left(&node, row.id.0) {
                    due.push((row.created_s, DuePush { node, uuid: row.id.0 }));
                }
            }
        }
        let count = due.len();
        due.sort_by_key(|(created_s, _)| *created_s);
        due.truncate(MOST_DUE);
        Ok(DuePushes { first: due.into_iter().map(|(_, due)| due).collect(), count })
    }

    /// What the loss of the store would cost: bytes, and how old the oldest of what is not on the tier is.
    ///
    /// # Errors
    /// A change of the catalogue failed before; files cannot be looked at.
    pub fn push_lag(&self) -> Result<StoreLag, StoreError> {
        let (view, usage, notes) = (self.view()?, self.usage()?, self.directory.push_notes());
        let taken = |row: &LayerRow| {
            let packed = view.contents(row.id).and_then(|_| self.packed_space(row.id));
            usage.of(row.id).saturating_add(packed.map_or(0, |space| space.own_data))
        };
        Ok(lag_of_all(view, &notes, taken, now_s()))
    }

    /// What is needed to push a snapshot beside this store.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn contents_to_push(&self, node: &NodeName) -> Result<PushedContents, StoreError> {
        let rows = self.told(node, None)?;
        let contents = self.shape(node)?.contents;
        let held = contents.map(|contents| self.collection_pins().hold_contents(&contents.root));
        Ok(PushedContents { store: self.header().store, rows, held })
    }
}

/// Whether all of a snapshot is in packs, as far as the catalogue tells.
fn is_packed(view: &CatalogView, row: &SnapshotRow) -> bool {
    match row.below.node {
        ChainNode::Nothing => true,
        ChainNode::Base(_) => false,
        ChainNode::Layer(id) => {
            let (_, end) = view.chain(row.below);
            // What was cut off reads as zeroes, which contents do not say.
            let is_whole = |size: u64| row.below.bytes >= row.size.min(size);
            let contents = view.contents(id).is_some_and(|contents| is_whole(contents.root.size));
            contents && !matches!(end, ChainNode::Base(_))
        }
    }
}

fn lag_of_all(
    view: &CatalogView,
    notes: &PushNotes,
    taken: impl Fn(&LayerRow) -> u64,
    now_s: u64,
) -> StoreLag {
    let all = || view.images().flat_map(|image| view.snapshots_of(image.id));
    let is_pushed = |row: &&SnapshotRow| notes.pushed_s(row.id.0).is_some();
    let safe: BTreeSet<ChainNode> = all().filter(is_pushed).map(|row| row.below.node).collect();
    let mut lag = StoreLag::default();
    let mut counted = BTreeSet::new();
    for image in view.images() {
        let newer = view.image_chain(image).0.into_iter();
        let newer = newer.take_while(|row| !safe.contains(&ChainNode::Layer(row.id)));
        // What several images stand on is lost once.
        let (mut bytes, mut new_bytes) = (0_u64, 0_u64);
        for row in newer {
            let own = taken(row);
            bytes = bytes.saturating_add(own);
            new_bytes = new_bytes.saturating_add(if counted.insert(row.id) { own } else { 0 });
        }
        let is_safe = bytes == 0;
        let seconds = if is_safe { 0 } else { now_s.saturating_sub(last_safe_s(view, notes, image)) };
        lag.all.bytes = lag.all.bytes.saturating_add(new_bytes);
        lag.all.seconds = lag.all.seconds.max(seconds);
        lag.images.push((image.name.clone(), PushLag { bytes, seconds }));
    }
    lag.images.sort_by(|(one, lag), (other, more)| more.bytes.cmp(&lag.bytes).then_with(|| one.cmp(other)));
    lag.images.truncate(MOST_LAGGING);
    lag
}

/// Since when an image is not on the tier as it is.
fn last_safe_s(view: &CatalogView, notes: &PushNotes, image: &ImageRow) -> u64 {
    let snapshots = view.snapshots_of(image.id).into_iter().rev();
    let mut pushed = snapshots.filter(|row| notes.pushed_s(row.id.0).is_some());
    pushed.next().map_or(image.created_s, |row| row.created_s)
}

#[cfg(test)]
mod tests {
    use super::super::map_files::MapFiles;
    use super::super::push_notes::{note_push, note_withdrawal};
    use super::*;

    fn names(due: &DuePushes) -> Vec<String> {
        due.first.iter().map(|due| due.node.to_string()).collect()
    }

    #[test]
    fn due_is_what_is_in_packs_and_not_noted() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let mut store = OpenStore::init(&path, MapFiles).unwrap();
        let raw = house.path().join("raw");
        std::fs::write(&raw, [7; 1 << 20]).unwrap();
        let file = std::fs::File::open(&raw).unwrap();
        let name = "a".parse().unwrap();
        store.create_from(&name, (&raw, &file, 1 << 20), 1 << 20, |_| Ok(())).unwrap();
        store.snapshot(vec!["a@one".parse().unwrap()]).unwrap();
        assert_eq!(store.due_pushes(0, |_, _| false).unwrap(), DuePushes::default(), "it is in no pack");
        let lag = store.push_lag().unwrap();
        assert!(lag.all.bytes >= 1 << 20, "{lag:?}");
        assert_eq!(lag.images, [("a".parse().unwrap(), lag.all)]);
        store.checkpoint(&"a@one".parse().unwrap(), &mut |_| Ok(())).unwrap();
        store.clone_images("a@one".parse().unwrap(), &["b".parse().unwrap()]).unwrap();
        store.snapshot(vec!["b@two".parse().unwrap()]).unwrap();
        let due = store.due_pushes(0, |_, _| false).unwrap();
        assert_eq!((names(&due), due.count), (vec!["a@one".to_owned(), "b@two".to_owned()], 2));
        assert_eq!(store.due_pushes(3600, |_, _| false).unwrap().count, 0, "they are young");
        let left = store.due_pushes(0, |node, _| node.image.as_str() == "a").unwrap();
        assert_eq!(names(&left), ["b@two"]);
        let lag = store.push_lag().unwrap();
        assert!(lag.all.bytes > 0);
        // Both read it, and it would be lost once.
        assert_eq!(lag.images.iter().map(|(_, lag)| lag.bytes).collect::<Vec<_>>(), [lag.all.bytes; 2]);
        note_push(&path, due.first[0].uuid, 5).unwrap();
        assert_eq!(names(&store.due_pushes(0, |_, _| false).unwrap()), ["b@two"]);
        // What b reads is there, though not under its name.
        let lag = store.push_lag().unwrap();
        assert_eq!((lag.all, lag.images.len()), (PushLag::default(), 2));
        assert!(lag.images.iter().all(|(_, lag)| *lag == PushLag::default()), "{lag:?}");
        // Somebody took it out of the tier: that is no push that is missing, and not safe any more.
        note_withdrawal(&path, due.first[0].uuid).unwrap();
        assert_eq!(names(&store.due_pushes(0, |_, _| false).unwrap()), ["b@two"]);
        assert!(store.push_lag().unwrap().all.bytes > 0);
        note_push(&path, due.first[0].uuid, 5).unwrap();
        assert_eq!(store.push_lag().unwrap().all, PushLag::default());
        assert!(store.contents_to_push(&"a@one".parse().unwrap()).unwrap().held.is_some());
        assert!(store.contents_to_push(&"a".parse().unwrap()).is_err(), "it may be written");
    }
}
