//! Lives of an image: what has changed between any two points of it, and what deltas restore.
//!
//! The oracle has for each block of each point in time its byte and a number that no other write of the block
//! had. Two points differ where the bytes do, and may be said to differ where the numbers do.

pub(super) mod power;
mod readers;
mod sectors;
pub(super) mod small;
mod worlds;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::arriving_delta::ArrivingDelta;
use super::catalog::{self, ImageRefusal, NodeName, StoreName};
use super::copy::MAP_BLOCK;
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
    /// Sets are rounded since.
    was_flattened: bool,
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
        Self { house, store, disk, snapshots: Vec::new(), numbers: 0, was_flattened: false }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn path(&self) -> PathBuf {
        self.house.path().join("store")
    }

    fn snapshot(&mut self) {
        let number = self.number();
        let name: StoreName = format!("s{number}").parse().unwrap();
        match self.store.snapshot(vec![node(Some(&name))]) {
            Ok(()) => self.snapshots.push((name, self.disk.clone())),
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
            Step::Snapshot => self.snapshot(),
            Step::RollBack(index) => {
                let Some((index, to)) = self.chosen(*index) else { return };
                self.store.roll_back(to).unwrap();
                self.disk = self.snapshots[index].1.clone();
            }
            Step::Remove(index) => {
                let Some((index, gone)) = self.chosen(*index) else { return };
                self.store.remove(&gone, false).unwrap();
                self.snapshots.remove(index);
            }
            Step::Rename(index) => {
                let Some((index, old)) = self.chosen(*index) else { return };
                let new: StoreName = format!("r{}", self.number()).parse().unwrap();
                self.store.rename(&old, &new).unwrap();
                self.snapshots[index].0 = new;
            }
            Step::Resize(blocks) => {
                let (old, new) = (self.disk.len() as u64, *blocks);
                self.store.resize(&vm(), new * MAP_BLOCK, true).unwrap();
                let number = self.number();
                self.disk.truncate(new as usize);
                self.disk.resize(new.max(old.min(new)) as usize, (0, number));
            }
            Step::Flatten => self.flatten(),
            Step::Ingest(of) => {
                let of = of.and_then(|index| self.chosen(index));
                let of = of.map_or_else(|| node(None), |(_, snapshot)| snapshot);
                self.store.ingest(&of, &mut |_| Ok(())).unwrap();
            }
        }
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
        for (name, disk) in &points {
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
            assert!(!told || may, "{a} and {b} do not differ in block {block}");
        }
    }

    /// B2: a first snapshot and deltas from one to the next make the same disks elsewhere.
    fn restore(&mut self) {
        let house = tempfile::tempdir().unwrap();
        let mut other = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let mut before: Option<NodeName> = None;
        let snapshots: Vec<(StoreName, Disk)> = self.snapshots.iter().take(8).cloned().collect();
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
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// B1, B2: rollbacks, removals in the middle, other names, sizes and flattening among it.
    #[test]
    fn what_changed_is_told_and_restored(blocks in 1..300u64, steps in proptest::collection::vec(step(), 1..24)) {
        let mut life = Life::begin(blocks);
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
    life.store.keep_changes_of_merged(&[upper, flat], into).unwrap();
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
