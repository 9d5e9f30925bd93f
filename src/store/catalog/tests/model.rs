//! Images as plain arrays of bytes, beside the catalogue with layers that hold blocks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::consistency::checked;
use super::{Seeded, name};
use crate::store::catalog::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const SNAPSHOTS: [&str; 3] = ["x", "y", "z"];
/// Blocks of the largest image here.
const BLOCKS: u64 = 6;

#[derive(Debug, Clone)]
enum Step {
    Create(usize, u64),
    Write(usize, u64, u8),
    Snapshot(Vec<usize>, usize, bool),
    Clone(usize, usize, Vec<usize>),
    Remove(usize, Option<usize>, bool),
    Rename(usize, Option<usize>, usize),
    Resize(usize, u64),
    RollBack(usize, usize),
    Flatten(usize),
    Merge(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (image, snapshot, blocks) = (0..NAMES.len(), 0..SNAPSHOTS.len(), 1..=BLOCKS);
    let images = || proptest::collection::vec(0..NAMES.len(), 1..3);
    let (i, s) = (move || image.clone(), move || snapshot.clone());
    prop_oneof![
        2 => (i(), blocks.clone()).prop_map(|(image, blocks)| Step::Create(image, blocks)),
        6 => (i(), 0..BLOCKS, 1..=255u8).prop_map(|(image, block, value)| Step::Write(image, block, value)),
        4 => (images(), s(), any::<bool>()).prop_map(|(images, to, next)| Step::Snapshot(images, to, next)),
        3 => (i(), s(), images()).prop_map(|(image, from, to)| Step::Clone(image, from, to)),
        3 => (i(), proptest::option::of(s()), any::<bool>())
            .prop_map(|(image, snapshot, all)| Step::Remove(image, snapshot, all)),
        1 => (i(), proptest::option::of(s()), 0..3usize)
            .prop_map(|(image, snapshot, to)| Step::Rename(image, snapshot, to)),
        4 => (i(), blocks).prop_map(|(image, blocks)| Step::Resize(image, blocks)),
        1 => (i(), s()).prop_map(|(image, to)| Step::RollBack(image, to)),
        1 => i().prop_map(Step::Flatten),
        2 => (i(), 0..4usize).prop_map(|(image, depth)| Step::Merge(image, depth)),
    ]
}

fn is_mark(snapshot: usize) -> bool {
    snapshot == SNAPSHOTS.len() - 1
}

/// An image of the model.
#[derive(Debug, Clone, Default)]
struct Plain {
    bytes: Vec<u8>,
    snapshots: BTreeMap<usize, (Vec<u8>, u64)>,
    /// The number of the snapshot that it was cloned from.
    origin: Option<u64>,
}

#[derive(Default)]
struct Model {
    images: BTreeMap<usize, Plain>,
    snapshots_taken: u64,
    /// Numbers of snapshots that keep changes only: those that were called by the last name.
    marks: BTreeSet<u64>,
}

impl Model {
    fn has_clones(&self, number: u64) -> bool {
        self.images.values().any(|image| image.origin == Some(number))
    }
}

/// The catalogue, and what the files of its layers hold.
struct Under {
    view: CatalogView,
    layers: BTreeMap<LayerId, BTreeMap<u64, u8>>,
    seeded: Seeded,
    now_s: u64,
}

impl Under {
    fn new() -> Self {
        Self { view: CatalogView::default(), layers: BTreeMap::new(), seeded: Seeded::new(11), now_s: 0 }
    }

    /// Decides, applies, and removes what was released. True if it was done.
    fn decide(
        &mut self,
        call: impl FnOnce(&CatalogView, &mut Minter<'_>) -> Result<CatalogChange, ImageRefusal>,
    ) -> bool {
        self.now_s += 1;
        let before = self.view.clone();
        let Ok(change) = self.seeded.minting(self.now_s, |minter| call(&before, minter)) else {
            return false;
        };
        self.view.apply(&change);
        for layer in change.released_layers() {
            assert!(self.layers.remove(&layer).is_some(), "{layer} was released twice");
        }
        true
    }

    fn below(&self, mut below: Below, block: u64) -> u8 {
        loop {
            if block * SIZE_UNIT >= below.bytes {
                return 0;
            }
            let ChainNode::Layer(id) = below.node else { return 0 };
            match self.layers[&id].get(&block) {
                Some(value) => return *value,
                None => below = self.view.layer(id).expect("a layer that is needed is there").below,
            }
        }
    }

    fn read(&self, image: &ImageRow) -> Vec<u8> {
        let of = |block| match image.head {
            Some(head) => {
                let own = self.layers[&head].get(&block).copied();
                own.unwrap_or_else(|| self.below(self.view.layer(head).unwrap().below, block))
            }
            None => self.below(image.below, block),
        };
        (0..image.size / SIZE_UNIT).map(of).collect()
    }

    fn read_snapshot(&self, row: &SnapshotRow) -> Vec<u8> {
        (0..row.size / SIZE_UNIT).map(|block| self.below(row.below, block)).collect()
    }

    fn row(&self, image: usize) -> Option<ImageRow> {
        self.view.image(&name(NAMES[image])).cloned()
    }

    fn write(&mut self, image: usize, block: u64, value: u8) {
        let row = self.row(image).unwrap();
        let head = row.head.unwrap_or_else(|| {
            let layer = LayerId(self.seeded.uuid());
            self.layers.insert(layer, BTreeMap::new());
            assert!(self.decide(|view, minter| adopt_head(view, minter, row.id, layer)));
            layer
        });
        self.layers.get_mut(&head).unwrap().insert(block, value);
    }

    fn snapshot(&mut self, images: &[usize], to: usize, has_next: bool) -> bool {
        let mut group = Vec::new();
        for image in images {
            let next_head = has_next.then(|| LayerId(self.seeded.uuid()));
            group.push(NewSnapshot {
                image: name(NAMES[*image]),
                snapshot: name(SNAPSHOTS[to]),
                next_head,
                is_changes_only: is_mark(to),
            });
        }
        let done = self.decide(|view, minter| take_snapshots(view, minter, &group));
        if done {
            self.layers.extend(group.iter().filter_map(|new| Some((new.next_head?, BTreeMap::new()))));
        }
        done
    }

    /// As a head's map does: what lies between the sizes reads zero from now on.
    fn resize(&mut self, image: usize, blocks: u64) {
        let row = self.row(image).unwrap();
        if let Some(head) = row.head {
            let (old, new) = (row.size / SIZE_UNIT, blocks);
            let between = old.min(new)..old.max(new);
            self.layers.get_mut(&head).unwrap().extend(between.map(|block| (block, 0)));
        }
        assert!(self.decide(|view, _| resize(view, &row.name, blocks * SIZE_UNIT, true)));
    }

    fn flatten(&mut self, image: usize) -> bool {
        let row = self.row(image).unwrap();
        let all: BTreeMap<u64, u8> =
            (0..row.size / SIZE_UNIT).map(|block| (block, self.below(row.below, block))).collect();
        let flat = (row.below != Below::NOTHING).then(|| LayerId(self.seeded.uuid()));
        self.layers.extend(flat.map(|flat| (flat, all)));
        let flat = flat.map(|flat| (flat, row.size));
        assert!(self.decide(|view, minter| finish_flatten(view, minter, row.id, row.below, flat)));
        assert!(is_flat(&self.view, &self.row(image).unwrap()));
        true
    }

    fn merge(&mut self, image: usize, which: usize) {
        let row = self.row(image).unwrap();
        let pairs = mergeable(&self.view, row.below);
        let Some(pair) = pairs.get(which % pairs.len().max(1)) else { return };
        let upper = self.view.layer(pair.upper).unwrap();
        let limit = upper.below.bytes;
        let from = self.layers[&pair.lower].iter().filter(|(block, _)| *block * SIZE_UNIT < limit);
        let mut blocks: BTreeMap<u64, u8> = from.map(|(block, value)| (*block, *value)).collect();
        blocks.extend(self.layers[&pair.upper].iter().map(|(block, value)| (*block, *value)));
        // What is hidden is so by the state of its block, or by how much is seen of what is below.
        let seen = if which.is_multiple_of(2) { u64::MAX } else { limit };
        let merged = LayerId(self.seeded.uuid());
        self.layers.insert(merged, blocks);
        let before = self.view.image_chain(&row).0.len();
        assert!(self.decide(|view, _| finish_merge(view, *pair, merged, seen)));
        assert_eq!(self.view.image_chain(&self.row(image).unwrap()).0.len(), before - 1);
    }

    /// What is needed, found by walking from all images and snapshots.
    fn needed(&self) -> BTreeSet<LayerId> {
        let mut needed = BTreeSet::new();
        let mut follow = |below: Below| {
            let mut node = below.node;
            while let ChainNode::Layer(id) = node {
                needed.insert(id);
                node = self.view.layer(id).unwrap().below.node;
            }
        };
        for row in self.view.images() {
            let head = row.head.map(|id| Below { node: ChainNode::Layer(id), bytes: 0 });
            follow(head.unwrap_or(row.below));
            self.view.snapshots_of(row.id).iter().for_each(|snapshot| follow(snapshot.below));
        }
        needed
    }
}

/// Does one step in the model, and says whether it is possible there; the catalogue has to agree.
fn both(model: &mut Model, under: &mut Under, step: Step) {
    match step {
        Step::Create(image, blocks) => {
            let id = ImageId(under.seeded.uuid());
            let beginning = Beginning::Empty;
            let new = NewImage { id, name: name(NAMES[image]), size: blocks * SIZE_UNIT, beginning };
            let done = under.decide(|view, minter| create(view, minter, new));
            assert_eq!(done, !model.images.contains_key(&image));
            let plain = Plain { bytes: vec![0; blocks as usize], ..Plain::default() };
            model.images.entry(image).or_insert(plain);
        }
        Step::Write(image, block, value) => {
            let Some(plain) = model.images.get_mut(&image) else { return };
            if let Some(byte) = plain.bytes.get_mut(block as usize) {
                *byte = value;
                under.write(image, block, value);
            }
        }
        Step::Snapshot(images, to, has_next) => {
            let possible = images
                .iter()
                .all(|image| model.images.get(image).is_some_and(|plain| !plain.snapshots.contains_key(&to)));
            let is_set = images.iter().collect::<BTreeSet<_>>().len() == images.len();
            let deep =
                |image: &usize| under.row(*image).is_some_and(|row| under.view.image_chain(&row).0.len() > 8);
            let is_deep = images
                .iter()
                .any(|image| under.row(*image).is_some_and(|row| row.head.is_some()) && deep(image));
            let done = under.snapshot(&images, to, has_next);
            assert_eq!(done, possible && is_set && !is_deep);
            for image in images.iter().filter(|_| done) {
                model.snapshots_taken += 1;
                model.marks.extend(is_mark(to).then_some(model.snapshots_taken));
                let plain = model.images.get_mut(image).unwrap();
                plain.snapshots.insert(to, (plain.bytes.clone(), model.snapshots_taken));
            }
        }
        Step::Clone(image, from, to) => {
            let found = model.images.get(&image).and_then(|plain| plain.snapshots.get(&from)).cloned();
            let found = found.filter(|(_, number)| !model.marks.contains(number));
            let names: Vec<StoreName> = to.iter().map(|index| name(NAMES[*index])).collect();
            let from = (name(NAMES[image]), name(SNAPSHOTS[from]));
            let done = under.decide(|view, minter| make_clones(view, minter, (&from.0, &from.1), &names));
            let is_set = to.iter().collect::<BTreeSet<_>>().len() == to.len();
            let is_free = to.iter().all(|index| !model.images.contains_key(index));
            assert_eq!(done, found.is_some() && is_set && is_free);
            let Some((bytes, number)) = found.filter(|_| done) else { return };
            for index in to {
                let plain = Plain { bytes: bytes.clone(), origin: Some(number), ..Plain::default() };
                model.images.insert(index, plain);
            }
        }
        Step::Remove(image, snapshot, all) => remove_both(model, under, image, snapshot, all),
        Step::Rename(image, snapshot, to) => rename_both(model, under, image, snapshot, to),
        Step::Resize(image, blocks) => {
            let Some(plain) = model.images.get_mut(&image) else { return };
            plain.bytes.resize(blocks as usize, 0);
            under.resize(image, blocks);
        }
        Step::RollBack(image, to) => {
            let (of, snapshot) = (name(NAMES[image]), name(SNAPSHOTS[to]));
            let done = under.decide(|view, _| roll_back(view, &of, &snapshot, false, false));
            let found = model.images.get(&image).and_then(|plain| plain.snapshots.get(&to)).cloned();
            let found = found.filter(|(_, number)| !model.marks.contains(number));
            assert_eq!(done, found.is_some());
            if let Some((bytes, _)) = found {
                model.images.get_mut(&image).unwrap().bytes = bytes;
            }
        }
        Step::Flatten(image) => {
            if model.images.contains_key(&image) && under.flatten(image) {
                model.images.get_mut(&image).unwrap().origin = None;
            }
        }
        Step::Merge(image, depth) => {
            if model.images.contains_key(&image) {
                under.merge(image, depth);
            }
        }
    }
}

fn node(image: usize, snapshot: Option<usize>) -> NodeName {
    NodeName { image: name(NAMES[image]), snapshot: snapshot.map(|index| name(SNAPSHOTS[index])) }
}

fn remove_both(model: &mut Model, under: &mut Under, image: usize, snapshot: Option<usize>, all: bool) {
    let done = under.decide(|view, _| remove(view, &node(image, snapshot), all));
    let Some(plain) = model.images.get(&image).cloned() else { return assert!(!done) };
    match snapshot {
        Some(index) => {
            let possible = plain.snapshots.get(&index).is_some_and(|(_, number)| !model.has_clones(*number));
            assert_eq!(done, possible);
            if done {
                model.images.get_mut(&image).unwrap().snapshots.remove(&index);
            }
        }
        None => {
            let cloned = plain.snapshots.values().any(|(_, number)| model.has_clones(*number));
            assert_eq!(done, !cloned && (all || plain.snapshots.is_empty()));
            if done {
                model.images.remove(&image);
            }
        }
    }
}

fn rename_both(model: &mut Model, under: &mut Under, image: usize, snapshot: Option<usize>, to: usize) {
    let new = if snapshot.is_some() { SNAPSHOTS[to] } else { NAMES[to] };
    let done = under.decide(|view, _| rename(view, &node(image, snapshot), &name(new)));
    match snapshot {
        Some(index) => {
            let snapshots = model.images.get_mut(&image).map(|plain| &mut plain.snapshots);
            let possible =
                snapshots.as_ref().is_some_and(|all| all.contains_key(&index) && !all.contains_key(&to));
            assert_eq!(done, possible);
            if let Some(all) = snapshots.filter(|_| done) {
                let moved = all.remove(&index).unwrap();
                all.insert(to, moved);
            }
        }
        None => {
            assert_eq!(done, model.images.contains_key(&image) && !model.images.contains_key(&to));
            if let Some(moved) = done.then(|| model.images.remove(&image)).flatten() {
                model.images.insert(to, moved);
            }
        }
    }
}

fn compare(model: &Model, under: &Under) {
    let names: BTreeSet<String> = under.view.images().map(|row| row.name.to_string()).collect();
    let expected: BTreeSet<String> = model.images.keys().map(|index| NAMES[*index].to_owned()).collect();
    assert_eq!(names, expected);
    for (index, plain) in &model.images {
        let row = under.row(*index).unwrap();
        assert_eq!(under.read(&row), plain.bytes, "{}", row.name);
        assert_eq!(under.view.snapshots_of(row.id).len(), plain.snapshots.len());
        for (index, (bytes, number)) in &plain.snapshots {
            let snapshot = under.view.snapshot(row.id, &name(SNAPSHOTS[*index])).unwrap();
            assert_eq!(snapshot.is_changes_only(), model.marks.contains(number));
            if snapshot.is_changes_only() {
                continue;
            }
            assert_eq!(under.read_snapshot(snapshot), *bytes, "{}", under.view.full_name(snapshot));
        }
    }
    let kept: BTreeSet<LayerId> = under.layers.keys().copied().collect();
    assert_eq!(kept, under.needed(), "files of layers, and what images and snapshots need");
    let known: BTreeSet<LayerId> = under.view.layers().map(|row| row.id).collect();
    assert_eq!(known, kept);
    // The indexes that are kept up with each change are those of the rows.
    let rows = rows_of(&under.view);
    assert_eq!(checked(&rows).expect("rows fit together"), under.view);
    let total: u64 = under.layers.len() as u64;
    let figures = SpaceFigures { layer: &|_| 1, contents: &|_| None };
    for line in listing(&under.view, &figures) {
        assert_eq!(line.space.used, line.space.unique + line.space.shared);
        assert!(line.space.unique <= line.space.used && line.space.used <= total);
        assert_eq!(line.space.depth as u64, line.space.used);
        // What comes back is tried, where nothing prevents it.
        let node =
            NodeName { image: line.image.name.clone(), snapshot: line.snapshot.map(|row| row.name.clone()) };
        if let Ok(change) = remove(&under.view, &node, false) {
            assert_eq!(line.space.unique, change.released_layers().count() as u64, "{node}");
        }
    }
}

fn rows_of(view: &CatalogView) -> CatalogChange {
    let mut rows = CatalogChange::default();
    for row in view.images() {
        rows.images.insert(row.id, Some(row.clone()));
        rows.snapshots.extend(view.snapshots_of(row.id).iter().map(|row| (row.id, Some((*row).clone()))));
    }
    rows.layers.extend(view.layers().map(|row| (row.id, Some(row.clone()))));
    rows.bases.extend(view.bases().map(|row| (row.id, Some(row.clone()))));
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// C1, C2 and C4, of the catalogue: each image and snapshot has its own contents; a layer stays as long
    /// as one of them needs it, and no longer.
    #[test]
    fn images_hold_what_was_written_to_them(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut model, mut under) = (Model::default(), Under::new());
        for step in steps {
            both(&mut model, &mut under, step);
            compare(&model, &under);
        }
    }
}

/// The last snapshot that an image's contents went through is always one that there is, or none.
#[test]
fn removing_a_snapshot_hands_its_children_to_the_one_before_it() {
    let mut under = Under::new();
    let id = ImageId(Uuid::from_u128(1));
    let new = NewImage { id, name: name("a"), size: 512, beginning: Beginning::Empty };
    assert!(under.decide(|view, minter| create(view, minter, new)));
    for index in 0..3 {
        assert!(under.snapshot(&[0], index, false));
    }
    let parent = |under: &Under, index: usize| {
        let row = under.view.snapshot(id, &name(SNAPSHOTS[index])).unwrap();
        row.parent.map(|id| under.view.snapshot_by_id(id).unwrap().name.to_string())
    };
    assert_eq!(parent(&under, 2).as_deref(), Some("y"));
    assert!(under.decide(|view, _| remove(view, &node(0, Some(1)), false)));
    assert_eq!(parent(&under, 2).as_deref(), Some("x"));
    assert!(under.decide(|view, _| remove(view, &node(0, Some(2)), false)));
    let since = under.row(0).unwrap().since.unwrap();
    assert_eq!(under.view.snapshot_by_id(since).unwrap().name, name("x"));
    assert!(under.decide(|view, _| remove(view, &node(0, Some(0)), false)));
    assert_eq!(under.row(0).unwrap().since, None);
}

/// An image that was cut and has grown again without a head, over two layers that hold what was cut off.
#[test]
fn what_was_cut_off_does_not_come_back() {
    let (mut model, mut under) = (Model::default(), Under::new());
    let mut steps = vec![Step::Create(0, 6)];
    for (snapshot, value) in [(0, 1), (1, 2)] {
        steps.extend((0..6).map(|block| Step::Write(0, block, value)));
        steps.push(Step::Snapshot(vec![0], snapshot, false));
    }
    steps.extend([Step::Resize(0, 2), Step::Resize(0, 5), Step::Write(0, 0, 3), Step::Merge(0, 0)]);
    for step in steps {
        both(&mut model, &mut under, step);
        compare(&model, &under);
    }
    assert_eq!(under.read(&under.row(0).unwrap()), [3, 2, 0, 0, 0]);
}
