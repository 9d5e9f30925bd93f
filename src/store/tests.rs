//! Lives of an image: what has changed between any two points of it, and what deltas restore.
//!
//! The oracle has for each block of each point in time its byte and a number that no other write of the block
//! had. Two points differ where the bytes do, and may be said to differ where the numbers do.

#[cfg(feature = "tier")]
mod fleet;
pub(super) mod power;
mod readers;
mod rolled_back;
mod sectors;
pub(super) mod small;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::arriving_delta::ArrivingDelta;
use super::catalog::{self, ImageRefusal, NodeName, StoreName};
use super::copy::MAP_BLOCK;
use super::delta::{DeltaPart, DeltaReader};
use super::error::StoreError;
use super::export::RawOutput;
use super::map::BlockState;
use super::map_files::{MapFiles, change_states};
use super::open_store::OpenStore;

/// Blocks of a unit of a set that was written down.
const UNIT: u64 = 16;

#[derive(Debug, Clone)]
enum Step {
    Write {
        start: u64,
        blocks: u64,
        zero: bool,
    },
    Snapshot,
    RollBack(usize),
    Remove(usize),
    Rename(usize),
    Resize(u64),
    Flatten,
    /// A snapshot that keeps changes only.
    Mark,
    GiveUp(usize),
    Merge,
    /// Of a snapshot, or of the image.
    Ingest(Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..300u64, 1..60u64, any::<bool>()).prop_map(|(start, blocks, zero)| Step::Write { start, blocks, zero }),
        4 => Just(Step::Snapshot),
        1 => any::<usize>().prop_map(Step::RollBack),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => any::<usize>().prop_map(Step::Rename),
        1 => (1..300u64).prop_map(Step::Resize),
        1 => Just(Step::Flatten),
        3 => Just(Step::Mark),
        1 => any::<usize>().prop_map(Step::GiveUp),
        3 => Just(Step::Merge),
        2 => any::<Option<usize>>().prop_map(Step::Ingest),
    ]
}

/// Byte and number of each block.
type Disk = Vec<(u8, u64)>;

struct Life {
    house: tempfile::TempDir,
    store: OpenStore<MapFiles>,
    disk: Disk,
    /// Newest last.
    snapshots: Vec<(StoreName, Disk)>,
    numbers: u64,
    /// Those that keep changes only.
    marks: BTreeSet<StoreName>,
    /// Sets are rounded since.
    was_flattened: bool,
    /// More may be told than has changed: what a disk that was cut hid of layers that became one.
    is_vague: bool,
}

fn import(store: &mut OpenStore<MapFiles>, mut delta: &[u8]) -> Result<NodeName, StoreError> {
    let arriving = ArrivingDelta::begin(&vm(), None, &mut delta)?;
    store.import_delta(arriving, &mut |_| Ok(()))
}

fn vm() -> StoreName {
    "vm".parse().unwrap()
}

fn node(snapshot: Option<&StoreName>) -> NodeName {
    NodeName { image: vm(), snapshot: snapshot.cloned() }
}

/// Gives blocks of an image a byte, as a server does.
fn write(store: &mut OpenStore<MapFiles>, start: u64, blocks: u64, byte: u8) {
    store.give_head(&vm()).unwrap();
    let head = store.view().unwrap().image(&vm()).unwrap().head.unwrap();
    let (data, map) = store.directory.open_layer(head).unwrap();
    let bytes = vec![byte; (blocks * MAP_BLOCK) as usize];
    data.write_all_at(&bytes, start * MAP_BLOCK).unwrap();
    change_states(&data, &map, start, blocks, if byte == 0 { BlockState::Zero } else { BlockState::Data });
}

fn read(store: &OpenStore<MapFiles>, node: &NodeName) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    let mut out: RawOutput<'_, File> = RawOutput::Sparse(&file);
    store.export_raw(node, (Path::new("out"), &mut out), &mut |_| Ok(())).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn delta(store: &OpenStore<MapFiles>, from: Option<&NodeName>, to: &NodeName) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.export_delta(from, to, (Path::new("out"), &mut bytes), &mut |_| Ok(()))?;
    Ok(bytes)
}

impl Life {
    fn begin(blocks: u64) -> Self {
        let house = tempfile::tempdir().unwrap();
        let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        store.create_empty(&vm(), blocks * MAP_BLOCK).unwrap();
        let disk = vec![(0, 0); blocks as usize];
        let (snapshots, marks) = Default::default();
        Self { house, store, disk, snapshots, numbers: 0, marks, was_flattened: false, is_vague: false }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn path(&self) -> PathBuf {
        self.house.path().join("store")
    }

    fn snapshot(&mut self, is_mark: bool) {
        let number = self.number();
        let name: StoreName = format!("s{number}").parse().unwrap();
        let taken = match is_mark {
            true => self.store.keep_changes_only(vec![node(Some(&name))]),
            false => self.store.snapshot(vec![node(Some(&name))]),
        };
        match taken {
            Ok(()) => {
                self.marks.extend(is_mark.then(|| name.clone()));
                self.snapshots.push((name, self.disk.clone()));
            }
            Err(StoreError::Refused(ImageRefusal::TooDeep(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn chosen(&self, index: usize) -> Option<(usize, NodeName)> {
        let index = index.checked_rem(self.snapshots.len())?;
        Some((index, node(Some(&self.snapshots[index].0))))
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write { start, blocks, zero } => {
                let size = self.disk.len() as u64;
                let (start, number) = (start % size, self.number());
                let blocks = (*blocks).min(size - start);
                let byte = if *zero { 0 } else { number as u8 | 1 };
                write(&mut self.store, start, blocks, byte);
                self.disk[start as usize..(start + blocks) as usize].fill((byte, number));
            }
            Step::Snapshot => self.snapshot(false),
            Step::Mark => self.snapshot(true),
            Step::GiveUp(index) => {
                let Some((index, of)) = self.chosen(*index) else { return };
                self.store.keep_changes_only(vec![of]).unwrap();
                self.marks.insert(self.snapshots[index].0.clone());
            }
            Step::Merge => self.merge(),
            Step::RollBack(index) => {
                let Some((index, to)) = self.chosen(*index) else { return };
                if self.marks.contains(&self.snapshots[index].0) {
                    return is_changes_only(self.store.roll_back(to).map(drop));
                }
                self.store.roll_back(to).unwrap();
                self.disk = self.snapshots[index].1.clone();
            }
            Step::Remove(index) => {
                let Some((index, gone)) = self.chosen(*index) else { return };
                self.store.remove(&gone, false).unwrap();
                let (name, _) = self.snapshots.remove(index);
                self.marks.remove(&name);
            }
            Step::Rename(index) => {
                let Some((index, old)) = self.chosen(*index) else { return };
                let new: StoreName = format!("r{}", self.number()).parse().unwrap();
                self.store.rename(&old, &new).unwrap();
                let old = std::mem::replace(&mut self.snapshots[index].0, new.clone());
                if self.marks.remove(&old) {
                    self.marks.insert(new);
                }
            }
            Step::Resize(blocks) => {
                let (old, new) = (self.disk.len() as u64, *blocks);
                self.store.resize(&vm(), new * MAP_BLOCK, true).unwrap();
                let number = self.number();
                self.is_vague |= new < old;
                self.disk.truncate(new as usize);
                self.disk.resize(new.max(old.min(new)) as usize, (0, number));
            }
            Step::Flatten => self.flatten(),
            Step::Ingest(of) => {
                let of = of.and_then(|index| self.chosen(index));
                let of = of.map_or_else(|| node(None), |(_, snapshot)| snapshot);
                if of.snapshot.as_ref().is_some_and(|name| self.marks.contains(name)) {
                    return is_changes_only(self.store.ingest(&of, &mut |_| Ok(())).map(drop));
                }
                self.store.ingest(&of, &mut |_| Ok(())).unwrap();
            }
        }
    }

    /// Two layers become one, if that is possible.
    fn merge(&mut self) {
        let Some(pair) = self.store.cheapest_merge(&vm()).unwrap() else { return };
        let mut copy = self.store.begin_merge(pair).unwrap();
        while !copy.step().unwrap().is_done() {}
        self.store.finish_copy(copy).unwrap();
        // Sets are rounded, unless nothing was told apart.
        self.was_flattened |= !self.marks.is_empty();
    }

    /// What the image has from below comes into a layer of its own.
    fn flatten(&mut self) {
        self.was_flattened |= self.store.flatten(&vm(), &mut |_| Ok(())).unwrap();
    }

    /// Two layers, which have a snapshot each, are copied into one.
    fn become_flat(&mut self) {
        for start in [3, 10] {
            self.take(&Step::Write { start, blocks: 2, zero: false });
            self.take(&Step::Snapshot);
        }
        self.take(&Step::Flatten);
        assert!(self.was_flattened);
    }

    /// Opened again, as after the end of a process.
    fn reopen(mut self) -> Self {
        let path = self.path();
        drop(self.store);
        self.store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        self
    }

    fn check(&self) {
        let mut points: Vec<(NodeName, &Disk)> = vec![(node(None), &self.disk)];
        points.extend(self.snapshots.iter().map(|(name, disk)| (node(Some(name)), disk)));
        let is_mark = |name: &NodeName| name.snapshot.as_ref().is_some_and(|name| self.marks.contains(name));
        for (name, disk) in &points {
            if is_mark(name) {
                assert_eq!(self.store.size_of(name).unwrap(), disk.len() as u64 * MAP_BLOCK);
                is_changes_only(self.store.map(name, &mut |_| Ok(())));
                is_changes_only(delta(&self.store, None, name).map(drop));
                continue;
            }
            let bytes = read(&self.store, name);
            assert_eq!(bytes.len() as u64, disk.len() as u64 * MAP_BLOCK);
            for (block, (byte, _)) in bytes.chunks(MAP_BLOCK as usize).zip(*disk) {
                assert!(block.iter().all(|found| found == byte), "{name} has other contents");
            }
        }
        for (a, of_a) in &points {
            for (b, of_b) in &points {
                self.check_difference((a, of_a), (b, of_b));
            }
        }
    }

    fn check_difference(&self, (a, of_a): (&NodeName, &Disk), (b, of_b): (&NodeName, &Disk)) {
        let blocks = of_a.len().max(of_b.len());
        let mut told = vec![false; blocks];
        let mut last = 0;
        let said = self.store.differences(a, b, &mut |part| {
            assert!(part.start >= last && part.end > part.start, "parts are in order");
            last = part.end;
            told[(part.start / MAP_BLOCK) as usize..(part.end / MAP_BLOCK) as usize].fill(true);
            Ok(())
        });
        said.unwrap();
        let differs =
            |block: usize, by: fn(&(u8, u64)) -> u64| of_a.get(block).map(by) != of_b.get(block).map(by);
        for (block, told) in told.into_iter().enumerate() {
            let unit = UNIT as usize;
            let around = match self.was_flattened {
                true => block / unit * unit..(block / unit * unit + unit).min(blocks),
                false => block..block + 1,
            };
            assert!(told || !differs(block, |at| at.0.into()), "{a} and {b} differ in block {block}");
            let may = around.into_iter().any(|block| differs(block, |at| at.1));
            assert!(!told || may || self.is_vague, "{a} and {b} do not differ in block {block}");
        }
    }

    /// B2: a first snapshot and deltas from one to the next make the same disks elsewhere.
    fn restore(&mut self) {
        let house = tempfile::tempdir().unwrap();
        let mut other = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let mut before: Option<NodeName> = None;
        let contents = self.snapshots.iter().filter(|(name, _)| !self.marks.contains(name));
        let snapshots: Vec<(StoreName, Disk)> = contents.take(8).cloned().collect();
        for (number, (name, disk)) in snapshots.iter().enumerate() {
            let from = node(Some(name));
            let bytes = match number % 2 {
                0 => delta(&self.store, before.as_ref(), &from).unwrap(),
                _ => self.delta_of_reader(before.as_ref(), &from),
            };
            let made = import(&mut other, &bytes).unwrap();
            assert_eq!(made, from);
            assert_eq!(other.snapshot_uuid(&made).unwrap(), self.store.snapshot_uuid(&from).unwrap());
            let restored = read(&other, &made);
            assert_eq!(restored.len() as u64, disk.len() as u64 * MAP_BLOCK);
            assert!(restored == read(&self.store, &from), "{made} was restored otherwise");
            assert!(restored == read(&other, &node(None)), "the image is as its last snapshot");
            before = Some(from);
        }
        assert_eq!(other.check().unwrap(), Vec::<String>::new());
        self.restore_from_marks();
    }

    /// B2: the contents of a snapshot that keeps none, and the delta from it, make those of another one.
    fn restore_from_marks(&self) {
        for (mark, disk) in self.snapshots.iter().filter(|(name, _)| self.marks.contains(name)) {
            for (to, expected) in self.snapshots.iter().filter(|(name, _)| !self.marks.contains(name)) {
                let bytes = delta(&self.store, Some(&node(Some(mark))), &node(Some(to))).unwrap();
                let mut restored: Vec<u8> = disk.iter().map(|(byte, _)| *byte).collect();
                restored.resize(expected.len(), 0);
                let mut reader = DeltaReader::begin(&*bytes).unwrap();
                while let Some(part) = reader.next().unwrap() {
                    let (offset, length, byte) = match part {
                        DeltaPart::Data { offset, bytes } => (offset, bytes.len() as u64, None),
                        DeltaPart::Zeroes { offset, length } => (offset, length, Some(0)),
                    };
                    let blocks = (offset / MAP_BLOCK) as usize..((offset + length) / MAP_BLOCK) as usize;
                    for block in blocks {
                        restored[block] = byte.unwrap_or(expected[block].0);
                    }
                }
                assert!(restored.iter().eq(expected.iter().map(|(byte, _)| byte)), "{to} of {mark}");
            }
        }
    }
}

fn is_changes_only(done: Result<(), StoreError>) {
    match done {
        Err(StoreError::Refused(ImageRefusal::ChangesOnly(_))) => {}
        other => panic!("it has no contents: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// B1, B2: rollbacks, removals in the middle, other names, sizes and flattening among it.
    #[test]
    fn what_changed_is_told_and_restored(
        blocks in 1..300u64,
        has_base in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        let mut life = if has_base { Life::on_base(blocks) } else { Life::begin(blocks) };
        for step in &steps {
            life.take(step);
        }
        life.check();
        let mut life = life.reopen();
        life.check();
        life.check_readers();
        life.restore();
    }
}

/// A snapshot that keeps changes only costs no layer: its blocks come into the next one, and what has changed
/// before it and since stays known to the block's unit.
#[test]
fn b1_marks_cost_no_layer_and_stay_exact() {
    let mut life = Life::begin(256);
    for start in [0, 40, 80, 120] {
        life.take(&Step::Write { start, blocks: 4, zero: false });
        life.take(&Step::Mark);
    }
    life.take(&Step::Write { start: 160, blocks: 4, zero: false });
    let layers = |life: &Life| life.store.view().unwrap().counts().layers;
    assert_eq!(layers(&life), 5);
    (0..4).for_each(|_| life.merge());
    assert_eq!(layers(&life), 2, "one layer, and the head");
    life.check();
    let mut life = life.reopen();
    life.check();
    // Removing one in the middle changes nothing for the others, and the image's removal leaves nothing.
    life.take(&Step::Remove(1));
    life.check();
    life.take(&Step::Mark);
    life.take(&Step::Merge);
    assert_eq!(layers(&life), 1);
    life.check();
    let mut life = life.reopen();
    life.check_readers();
    life.store.remove(&node(None), true).unwrap();
    assert_eq!(std::fs::read_dir(life.path().join("changed")).unwrap().count(), 0);
    assert_eq!(layers(&life), 0);
}

/// A record that is lost is no answer, rather than a wrong one.
#[test]
fn a_mark_without_its_record_is_not_told_of() {
    let mut life = Life::begin(64);
    for start in [0, 20] {
        life.take(&Step::Write { start, blocks: 4, zero: false });
        life.take(&Step::Mark);
    }
    life.merge();
    let (first, second) = (node(Some(&life.snapshots[0].0)), node(Some(&life.snapshots[1].0)));
    let path = life.path();
    let record = std::fs::read_dir(path.join("changed")).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&record).unwrap();
    drop(life.store);
    for bad in [None, Some(&good[..120])] {
        match bad {
            None => std::fs::remove_file(&record).unwrap(),
            Some(bad) => std::fs::write(&record, bad).unwrap(),
        }
        let store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        let said = store.differences(&first, &node(None), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("no history in common"), "{said}");
        let wrong = store.check().unwrap();
        assert!(wrong.len() == 1 && wrong[0].contains(&format!("since {first} is not known")), "{wrong:?}");
        store.differences(&second, &node(None), &mut |_| Ok(())).unwrap();
        assert_eq!(store.tracked_snapshots(&node(None)).unwrap().len(), 1);
    }
}

#[test]
fn a_damaged_record_is_no_answer() {
    let mut life = Life::begin(64);
    life.become_flat();
    life.take(&Step::Snapshot);
    life.take(&Step::Write { start: 40, blocks: 1, zero: false });
    life.check();
    let (first, second) = (node(Some(&life.snapshots[0].0)), node(Some(&life.snapshots[2].0)));
    let names = |store: &OpenStore<MapFiles>| store.tracked_snapshots(&node(None)).unwrap().len();
    assert_eq!(names(&life.store), 3);
    let path = life.path();
    let record = std::fs::read_dir(path.join("changed")).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&record).unwrap();
    drop(life.store);
    for at in [10, 45, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&record, bad).unwrap();
        let store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        let said = store.differences(&first, &node(None), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("cannot be used") || said.contains("no history in common"), "{said}");
        store.differences(&second, &node(None), &mut |_| Ok(())).unwrap();
        // A header that is damaged is seen before a client asks.
        assert_eq!(names(&store), if at == good.len() - 1 { 3 } else { 1 });
    }
}

#[test]
fn merging_keeps_a_record_and_removal_drops_it() {
    let mut life = Life::begin(64);
    life.become_flat();
    life.take(&Step::Write { start: 40, blocks: 1, zero: false });
    life.take(&Step::Snapshot);
    let (flat, upper) = {
        let view = life.store.view().unwrap();
        let chain = view.image_chain(view.image(&vm()).unwrap()).0;
        (chain[1].id, chain[0].id)
    };
    let into = catalog::LayerId(super::open_store::random_uuid());
    life.store.keep_changes_of_merged(catalog::MergePair { upper, lower: flat }, into).unwrap();
    let merged = life.store.directory.change_record(into).unwrap();
    let flat_record = life.store.directory.change_record(flat).unwrap();
    assert_eq!(
        (merged.anchor, merged.set.run(0, 1 << 18)),
        (flat_record.anchor, (false, 2 * UNIT * MAP_BLOCK))
    );
    assert!(merged.set.run(40 * MAP_BLOCK, 1 << 18).0, "what the upper one has is in it");
    // The layer never came: its record is rubbish.
    let path = life.path();
    let files = || std::fs::read_dir(path.join("changed")).unwrap().count();
    assert_eq!(files(), 2);
    let mut life = life.reopen();
    assert_eq!(files(), 1);
    life.store.remove(&node(None), true).unwrap();
    assert_eq!(files(), 0);
}

/// Refused, and nothing of it stays.
#[test]
fn a_delta_with_a_flipped_byte_is_never_applied() {
    let house = tempfile::tempdir().unwrap();
    let mut store = OpenStore::init(&house.path().join("a"), MapFiles).unwrap();
    store.create_empty(&vm(), 512).unwrap();
    let (one, two) = (node(Some(&"one".parse().unwrap())), node(Some(&"two".parse().unwrap())));
    write(&mut store, 0, 1, 3);
    store.snapshot(vec![one.clone()]).unwrap();
    write(&mut store, 0, 1, 4);
    store.snapshot(vec![two.clone()]).unwrap();
    let (whole, change) = (delta(&store, None, &one).unwrap(), delta(&store, Some(&one), &two).unwrap());
    let mut other = OpenStore::init(&house.path().join("b"), MapFiles).unwrap();
    let refused = import(&mut other, &change).unwrap_err();
    assert!(matches!(refused, StoreError::Refused(ImageRefusal::NoImage(_))), "{refused}");
    import(&mut other, &whole).unwrap();
    let before = other.view().unwrap().clone();
    for at in 0..change.len() {
        let mut bad = change.clone();
        bad[at] ^= 1 << (at % 8);
        import(&mut other, &bad).unwrap_err();
        import(&mut other, &change[..at]).unwrap_err();
        assert!(other.view().unwrap() == &before && other.directory.layer_names().unwrap().len() == 1);
    }
    // Another parent, one that came before, and an image that was written.
    assert!(matches!(import(&mut other, &whole), Err(StoreError::Refused(ImageRefusal::ImportedBefore(_)))));
    let loose = node(Some(&"loose".parse().unwrap()));
    other.snapshot(vec![loose.clone()]).unwrap();
    assert!(matches!(import(&mut other, &change), Err(StoreError::Refused(ImageRefusal::NotAsItWas { .. }))));
    other.remove(&loose, false).unwrap();
    write(&mut other, 0, 1, 9);
    assert!(matches!(import(&mut other, &change), Err(StoreError::Refused(ImageRefusal::NotAsItWas { .. }))));
    other.roll_back(one).unwrap();
    import(&mut other, &change).unwrap();
    assert_eq!(read(&other, &two), [4; 512]);
}

/// A stream makes what a file makes; an end that comes too early, or too late, makes nothing.
#[test]
fn a_stream_becomes_an_image() {
    let house = tempfile::tempdir().unwrap();
    let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
    let mut bytes = vec![0; 3 << 20];
    bytes[5000..9000].fill(1);
    bytes[2 << 20..].fill(2);
    bytes.truncate((3 << 20) - 100);
    let import = |store: &mut OpenStore<MapFiles>, size: Option<u64>, stop: u64| {
        let progress = &mut |done| if done < stop { Ok(()) } else { Err(StoreError::Interrupted) };
        store.import_stream(&vm(), size, (Path::new("-"), &mut &*bytes), progress)
    };
    assert!(matches!(import(&mut store, Some(1 << 20), u64::MAX), Err(StoreError::TooSmall { .. })));
    assert!(matches!(import(&mut store, None, 2 << 20), Err(StoreError::Interrupted)));
    assert_eq!((store.view().unwrap().counts().images, store.directory.layer_names().unwrap().len()), (0, 0));
    import(&mut store, None, u64::MAX).unwrap();
    bytes.resize(3 << 20, 0);
    bytes.truncate(((3 << 20) - 100_usize).next_multiple_of(512));
    assert!(read(&store, &node(None)) == bytes);
    let mut parts = BTreeMap::new();
    let tell = &mut |part: super::export::NodePart| {
        *parts.entry((part.depth, part.has_data)).or_insert(0) += part.end - part.start;
        Ok(())
    };
    store.map(&node(None), tell).unwrap();
    let data = (1 << 20) + 8192;
    assert_eq!(parts, BTreeMap::from([((0, false), (2 << 20) - 8192), ((1, true), data)]));
}
