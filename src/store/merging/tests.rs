//! Chains of real files against whole disks in memory. A disk is read sector by sector, by nothing but the
//! rows of the catalogue and the states of the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::base::look_at_base;
use crate::store::catalog::{CatalogView, ImageRefusal, NodeName};
use crate::store::collection_bug::{CollectionBug, plant};
use crate::store::commit_cut::{CommitCut, cut_commits};
use crate::store::map::BlockState;
use crate::store::map_medium::{OpenMap, UnsyncedMap, open_map};

const SECTOR: u64 = 512;
const IMAGES: [&str; 3] = ["a", "b", "c"];
const SNAPSHOTS: [&str; 4] = ["w", "x", "y", "z"];
/// Sectors of the largest disk here: some blocks, of which the last is not whole.
const SECTORS: u64 = 45;
/// Sectors of the base, which ends within a block.
const BASE_SECTORS: u64 = 21;

/// In memory, if that can be: thousands of syncs have no other use here.
fn house() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(image: &str, snapshot: Option<&str>) -> NodeName {
    NodeName { image: name(image), snapshot: snapshot.map(name) }
}

/// A store, and maps that were opened to read it.
struct Disks {
    house: TempDir,
    store: OpenStore<MapFiles>,
}

impl Disks {
    fn new() -> Self {
        let house = house();
        let store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let base: Vec<u8> = (0..BASE_SECTORS).flat_map(|sector| [200 + sector as u8; 512]).collect();
        std::fs::write(house.path().join("base"), base).unwrap();
        Self { house, store }
    }

    /// As after the death of a process.
    fn open_again(self) -> Self {
        let Self { house, store } = self;
        let path = store.path().to_owned();
        drop(store);
        Self { house, store: OpenStore::open_to_change(&path, MapFiles).unwrap() }
    }

    fn base(&self) -> std::path::PathBuf {
        self.house.path().join("base")
    }

    /// What a server does: data, then states.
    fn write(&mut self, image: &str, block: u64, bytes: Option<&[u8]>, blocks: u64) {
        self.store.give_head(&name(image)).unwrap();
        let head = self.store.image(&name(image)).unwrap().head.unwrap();
        let (data, file) = self.store.directory.open_layer(head).unwrap();
        let state = match bytes {
            Some(bytes) => {
                data.write_all_at(bytes, block * MAP_BLOCK).unwrap();
                BlockState::Data
            }
            None if block.is_multiple_of(2) => BlockState::Zero,
            None => BlockState::ZeroReserved,
        };
        let mut open = OpenMap { map: open_map(&data, &file).unwrap(), files: UnsyncedMap(&file) };
        open.set(block, blocks, state).unwrap();
        open.commit().unwrap();
    }

    fn view(&self) -> &CatalogView {
        self.store.view().unwrap()
    }

    fn read(&self, node: &NodeName) -> Vec<u8> {
        let row = self.store.image(&node.image).unwrap();
        match &node.snapshot {
            None => {
                let head = row.head.map(|head| Below { node: ChainNode::Layer(head), bytes: row.size });
                self.read_from(head.unwrap_or(row.below), row.size)
            }
            Some(snapshot) => {
                let row = self.view().snapshot(row.id, snapshot).unwrap();
                self.read_from(row.below, row.size)
            }
        }
    }

    fn read_from(&self, top: Below, size: u64) -> Vec<u8> {
        let mut maps = BTreeMap::new();
        let mut read = |mut below: Below, offset: u64| -> u8 {
            loop {
                if offset >= below.bytes {
                    return 0;
                }
                let id = match below.node {
                    ChainNode::Nothing => return 0,
                    ChainNode::Base(_) => return byte_at(&File::open(self.base()).unwrap(), offset),
                    ChainNode::Layer(id) => id,
                };
                let (data, map) = maps.entry(id).or_insert_with(|| {
                    let (data, map) = self.store.directory.open_layer(id).unwrap();
                    let map = MapReader::open_synced(&data, map).unwrap();
                    (data, map)
                });
                match map.run(offset / MAP_BLOCK, 1).unwrap().state {
                    BlockState::Data => return byte_at(data, offset),
                    BlockState::Zero | BlockState::ZeroReserved => return 0,
                    BlockState::Absent => below = self.view().layer(id).unwrap().below,
                }
            }
        };
        // The last byte of a sector tells of its end, too.
        (0..size / SECTOR).map(|sector| read(top, sector * SECTOR + SECTOR - 1)).collect()
    }

    fn depth(&self, image: &str) -> usize {
        self.view().image_chain(self.store.image(&name(image)).unwrap()).0.len()
    }
}

fn byte_at(file: &File, offset: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

/// How a copy ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Done,
    /// `progress` stops it at its call of this number.
    Stopped(usize),
    /// The process dies after so many steps, or before the catalogue is told.
    Died(usize),
    /// It dies when all is copied, beside the transaction of the catalogue.
    Cut(CommitCut),
}

#[derive(Debug, Clone)]
enum Step {
    Create(usize, u64, bool),
    Write(usize, u64, u64, u8),
    Zero(usize, u64, u64),
    Snapshot(usize, usize),
    Clone(usize, usize, usize),
    Remove(usize, Option<usize>),
    Resize(usize, u64),
    RollBack(usize, usize),
    Flatten(usize, Ending, bool),
    Merge(usize, usize, Ending),
}

fn step() -> impl Strategy<Value = Step> {
    let (image, snapshot) = (|| 0..IMAGES.len(), || 0..SNAPSHOTS.len());
    let (block, size) = (|| 0..SECTORS.div_ceil(8), || 1..=SECTORS);
    let ending = || {
        prop_oneof![
            3 => Just(Ending::Done),
            1 => (0..6usize).prop_map(Ending::Stopped),
            1 => (0..6usize).prop_map(Ending::Died),
            1 => prop_oneof![Just(CommitCut::BeforeCatalog), Just(CommitCut::BehindCatalog)].prop_map(Ending::Cut),
        ]
    };
    prop_oneof![
        2 => (image(), size(), any::<bool>()).prop_map(|(image, size, base)| Step::Create(image, size, base)),
        8 => (image(), block(), 1..4u64, 1..=190u8)
            .prop_map(|(image, block, blocks, value)| Step::Write(image, block, blocks, value)),
        3 => (image(), block(), 1..4u64).prop_map(|(image, block, blocks)| Step::Zero(image, block, blocks)),
        5 => (image(), snapshot()).prop_map(|(image, to)| Step::Snapshot(image, to)),
        2 => (image(), snapshot(), image()).prop_map(|(image, from, to)| Step::Clone(image, from, to)),
        3 => (image(), proptest::option::weighted(0.8, snapshot()))
            .prop_map(|(image, snapshot)| Step::Remove(image, snapshot)),
        3 => (image(), size()).prop_map(|(image, size)| Step::Resize(image, size)),
        1 => (image(), snapshot()).prop_map(|(image, to)| Step::RollBack(image, to)),
        2 => (image(), ending(), any::<bool>())
            .prop_map(|(image, ending, served)| Step::Flatten(image, ending, served)),
        6 => (image(), 0..4usize, ending())
            .prop_map(|(image, which, ending)| Step::Merge(image, which, ending)),
    ]
}

/// An image and its snapshots, a byte for each sector.
#[derive(Debug, Clone, Default)]
struct Whole {
    bytes: Vec<u8>,
    snapshots: BTreeMap<usize, Vec<u8>>,
}

type Model = BTreeMap<usize, Whole>;

fn compare(model: &Model, disks: &Disks) {
    for (image, whole) in model {
        assert_eq!(disks.read(&node(IMAGES[*image], None)), whole.bytes, "{}", IMAGES[*image]);
        for (snapshot, bytes) in &whole.snapshots {
            let node = node(IMAGES[*image], Some(SNAPSHOTS[*snapshot]));
            assert_eq!(disks.read(&node), *bytes, "{node}");
        }
    }
}

fn copied(mut disks: Disks, chain: ChainCopy, ending: Ending) -> Disks {
    let mut chain = chain;
    match ending {
        Ending::Done | Ending::Stopped(_) => {
            let mut calls = 0;
            let result = disks.store.copy_chain(chain, &mut |_| {
                calls += 1;
                match ending {
                    Ending::Stopped(number) if calls > number => Err(StoreError::Interrupted),
                    _ => Ok(()),
                }
            });
            match ending {
                Ending::Stopped(number) if calls > number => {
                    assert!(matches!(result, Err(StoreError::Interrupted)));
                }
                _ => drop(result.unwrap()),
            }
            assert_eq!(disks.store.unknown_layers().unwrap(), Vec::<String>::new());
            disks
        }
        Ending::Cut(at) => {
            let result = cut(at, || disks.store.copy_chain(chain, &mut |_| Ok(())));
            assert!(matches!(result, Err(StoreError::Interrupted)));
            whole_after_an_interruption(disks)
        }
        Ending::Died(steps) => {
            for _ in 0..steps {
                chain.step().unwrap();
            }
            drop(chain);
            let disks = disks.open_again();
            assert_eq!(disks.store.lost().unwrap(), 1, "what was begun");
            disks.store.remove_lost(0).unwrap();
            disks
        }
    }
}

/// The process ends beside the next transaction of the catalogue.
fn cut<T>(at: CommitCut, change: impl FnOnce() -> T) -> T {
    cut_commits(Some(at));
    let result = change();
    cut_commits(None);
    result
}

/// What the next process finds: every layer that the catalogue names, and others in `lost/`.
fn whole_after_an_interruption(disks: Disks) -> Disks {
    let disks = disks.open_again();
    assert_eq!(disks.store.check().unwrap(), Vec::<String>::new());
    disks.store.remove_lost(0).unwrap();
    disks
}

/// Does one step in both; steps that are not possible do nothing.
fn both(model: &mut Model, mut disks: Disks, step: Step) -> Disks {
    match step {
        Step::Create(image, sectors, on_base) => {
            if model.contains_key(&image) {
                return disks;
            }
            let of = name(IMAGES[image]);
            let mut bytes = vec![0; sectors as usize];
            if on_base {
                let base = look_at_base(&disks.base()).unwrap();
                disks.store.create_on_base(&of, Some(sectors * SECTOR), base).unwrap();
                (0..BASE_SECTORS.min(sectors)).for_each(|at| bytes[at as usize] = 200 + at as u8);
            } else {
                disks.store.create_empty(&of, sectors * SECTOR).unwrap();
            }
            model.insert(image, Whole { bytes, ..Whole::default() });
        }
        Step::Write(image, block, blocks, value) => {
            let Some(whole) = model.get_mut(&image) else { return disks };
            let Some((sectors, blocks)) = within(whole, block, blocks) else { return disks };
            // What is behind the end of the disk was there before it shrank.
            let mut bytes = vec![0xee; (blocks * MAP_BLOCK) as usize];
            for (number, at) in sectors.clone().enumerate() {
                whole.bytes[at] = value.wrapping_add(number as u8 % 8);
                bytes[number * 512..][..512].fill(whole.bytes[at]);
            }
            disks.write(IMAGES[image], block, Some(&bytes), blocks);
        }
        Step::Zero(image, block, blocks) => {
            let Some(whole) = model.get_mut(&image) else { return disks };
            let Some((sectors, blocks)) = within(whole, block, blocks) else { return disks };
            whole.bytes[sectors].fill(0);
            disks.write(IMAGES[image], block, None, blocks);
        }
        Step::Snapshot(image, to) => {
            let Some(whole) = model.get_mut(&image).filter(|whole| !whole.snapshots.contains_key(&to)) else {
                return disks;
            };
            disks.store.make_room(&name(IMAGES[image]), &mut |_| Ok(())).unwrap();
            match disks.store.snapshot(vec![node(IMAGES[image], Some(SNAPSHOTS[to]))]) {
                Ok(()) => drop(whole.snapshots.insert(to, whole.bytes.clone())),
                Err(StoreError::Refused(ImageRefusal::TooDeep(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::Clone(image, from, to) => {
            let found = model.get(&image).and_then(|whole| whole.snapshots.get(&from)).cloned();
            if let Some(bytes) = found.filter(|_| !model.contains_key(&to)) {
                let from = node(IMAGES[image], Some(SNAPSHOTS[from]));
                disks.store.clone_images(from, &[name(IMAGES[to])]).unwrap();
                model.insert(to, Whole { bytes, ..Whole::default() });
            }
        }
        Step::Remove(image, snapshot) => {
            let of = node(IMAGES[image], snapshot.map(|index| SNAPSHOTS[index]));
            if disks.store.remove(&of, true).is_ok() {
                match snapshot {
                    Some(snapshot) => drop(model.get_mut(&image).unwrap().snapshots.remove(&snapshot)),
                    None => drop(model.remove(&image)),
                }
            }
        }
        Step::Resize(image, sectors) => {
            let Some(whole) = model.get_mut(&image) else { return disks };
            disks.store.resize(&name(IMAGES[image]), sectors * SECTOR, true).unwrap();
            whole.bytes.resize(sectors as usize, 0);
        }
        Step::RollBack(image, to) => {
            let found = model.get(&image).and_then(|whole| whole.snapshots.get(&to)).cloned();
            if let Some(bytes) = found {
                disks.store.roll_back(node(IMAGES[image], Some(SNAPSHOTS[to]))).unwrap();
                model.get_mut(&image).unwrap().bytes = bytes;
            }
        }
        Step::Flatten(image, ending, is_served) => {
            if !model.contains_key(&image) {
                return disks;
            }
            let of = name(IMAGES[image]);
            let Some(chain) = disks.store.begin_flatten(&of, is_served).unwrap() else { return disks };
            disks = copied(disks, chain, ending);
            if matches!(ending, Ending::Done) {
                let row = disks.store.image(&of).unwrap();
                assert!(catalog::is_flat(disks.view(), row) && row.origin.is_none());
            }
            compare(model, &disks);
        }
        Step::Merge(image, which, ending) => {
            if !model.contains_key(&image) {
                return disks;
            }
            let below = disks.store.image(&name(IMAGES[image])).unwrap().below;
            let pairs = catalog::mergeable(disks.view(), below);
            let Some(pair) = pairs.get(which % pairs.len().max(1)) else { return disks };
            let (chain, before) = (disks.store.begin_merge(*pair).unwrap(), disks.depth(IMAGES[image]));
            disks = copied(disks, chain, ending);
            if matches!(ending, Ending::Done) {
                assert!(disks.depth(IMAGES[image]) < before);
            }
            compare(model, &disks);
        }
    }
    disks
}

/// Sectors and blocks of a range, as far as the disk has them.
fn within(whole: &Whole, block: u64, blocks: u64) -> Option<(std::ops::Range<usize>, u64)> {
    let (start, end) = (block as usize * 8, ((block + blocks) as usize * 8).min(whole.bytes.len()));
    (start < end).then(|| (start..end, ((end - start) as u64).div_ceil(8)))
}

fn run(steps: Vec<Step>) {
    let (mut model, mut disks) = (Model::new(), Disks::new());
    for step in steps {
        disks = both(&mut model, disks, step);
    }
    compare(&model, &disks);
    let disks = disks.open_again();
    compare(&model, &disks);
    assert_eq!(disks.store.lost().unwrap(), 0);
    assert_eq!(disks.store.check().unwrap(), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// C2 and S4: whatever becomes of chains, each image and snapshot reads as before, also when a copy is
    /// stopped or its process dies.
    #[test]
    fn disks_read_the_same_when_chains_become_shorter(steps in proptest::collection::vec(step(), 1..60)) {
        run(steps);
    }
}

/// C2: files of layers go when the catalogue has said that nothing needs them, and not before: whatever
/// removes them is interrupted on both sides of its transaction.
fn layers_stay_until_nothing_needs_them() {
    for at in [CommitCut::BeforeCatalog, CommitCut::BehindCatalog] {
        let mut steps = vec![Step::Create(0, 40, true), Step::Write(0, 1, 2, 7), Step::Snapshot(0, 0)];
        steps.extend([Step::Write(0, 0, 2, 9), Step::Snapshot(0, 1), Step::Write(0, 2, 1, 11)]);
        steps.extend([Step::Clone(0, 1, 1), Step::Remove(0, Some(0)), Step::Merge(0, 0, Ending::Cut(at))]);
        steps.push(Step::Flatten(1, Ending::Cut(at), false));
        let (mut model, mut disks) = (Model::new(), Disks::new());
        for step in steps {
            disks = both(&mut model, disks, step);
        }
        let of = node(IMAGES[1], None);
        cut(at, || disks.store.remove(&of, true)).unwrap_err();
        if at == CommitCut::BehindCatalog {
            model.remove(&1);
        }
        let mut disks = whole_after_an_interruption(disks);
        compare(&model, &disks);
        let of = node(IMAGES[0], Some(SNAPSHOTS[1]));
        if at == CommitCut::BehindCatalog {
            cut(at, || disks.store.remove(&of, false)).unwrap_err();
            model.get_mut(&0).unwrap().snapshots.remove(&1);
        }
        compare(&model, &whole_after_an_interruption(disks));
    }
}

#[test]
fn no_layer_is_deleted_early() {
    layers_stay_until_nothing_needs_them();
}

#[test]
fn the_planted_bug_is_found() {
    plant(Some(CollectionBug::LayerDeletedEarly));
    let found = std::panic::catch_unwind(layers_stay_until_nothing_needs_them);
    plant(None);
    cut_commits(None);
    assert!(found.is_err(), "LayerDeletedEarly is not found");
}

/// An image grew after it was cut, and its layers were merged over a base: what was cut off stays away.
#[test]
fn a_merge_brings_nothing_back() {
    let mut steps = vec![Step::Create(0, 40, true), Step::Write(0, 1, 2, 7), Step::Snapshot(0, 0)];
    steps.extend([Step::Resize(0, 11), Step::Resize(0, 45), Step::Write(0, 5, 1, 9), Step::Snapshot(0, 1)]);
    steps.extend([
        Step::Zero(0, 0, 1),
        Step::Snapshot(0, 2),
        Step::Remove(0, Some(0)),
        Step::Remove(0, Some(1)),
    ]);
    steps.extend([Step::Merge(0, 0, Ending::Done), Step::Merge(0, 0, Ending::Done)]);
    run(steps);
}

/// A disk that ended within a block of the base shows no more of it when it grows.
#[test]
fn what_was_cut_off_within_a_block_stays_away() {
    let resizes = [Step::Resize(0, 9), Step::Resize(0, 12)];
    run([Step::Create(0, 20, true), Step::Write(0, 0, 1, 1)].into_iter().chain(resizes.clone()).collect());
    run([Step::Create(0, 20, true)].into_iter().chain(resizes).collect());
}

/// C3, with deletion and without a server: a thousand snapshots of which a few are kept.
#[test]
fn a_thousand_snapshots_leave_a_short_chain() {
    let mut disks = Disks::new();
    let mut random = crate::random::Random::new(5);
    let mut bytes = vec![0; 80];
    let mut kept: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    disks.store.create_empty(&name("vm"), 80 * SECTOR).unwrap();
    for number in 0..1000u64 {
        let (block, value) = (random.below(10), (number % 250) as u8 + 1);
        disks.write("vm", block, Some(&[value; 4096]), 1);
        bytes[block as usize * 8..][..8].fill(value);
        disks.store.make_room(&name("vm"), &mut |_| Ok(())).unwrap();
        disks.store.snapshot(vec![node("vm", Some(&number.to_string()))]).unwrap();
        kept.insert(number, bytes.clone());
        assert!(disks.depth("vm") <= 8);
        if kept.len() > 5 {
            let gone = *kept.keys().nth(random.below(6) as usize).unwrap();
            kept.remove(&gone);
            disks.store.remove(&node("vm", Some(&gone.to_string())), false).unwrap();
        }
        if number % 50 == 0 || number == 999 {
            let all = kept.iter().map(|(number, bytes)| (Some(number.to_string()), bytes));
            for (snapshot, bytes) in all.chain([(None, &bytes)]) {
                assert_eq!(disks.read(&node("vm", snapshot.as_deref())), *bytes, "{number}, {snapshot:?}");
            }
        }
    }
    assert_eq!(disks.store.unknown_layers().unwrap(), Vec::<String>::new());
}

/// A disk of many pages: the map is written with few leaves in memory, and holes take no room.
#[test]
fn holes_stay_holes_and_pages_come_and_go() {
    const SIZE: u64 = 10 << 30;
    let mut disks = Disks::new();
    disks.store.create_empty(&name("vm"), SIZE).unwrap();
    let blocks = |from: u64| (from..SIZE / MAP_BLOCK).step_by(7_000).collect::<BTreeSet<u64>>();
    for (layer, from) in [0, 3_500].into_iter().enumerate() {
        disks.store.give_head(&name("vm")).unwrap();
        let head = disks.store.image(&name("vm")).unwrap().head.unwrap();
        let (data, file) = disks.store.directory.open_layer(head).unwrap();
        let mut open = OpenMap { map: open_map(&data, &file).unwrap(), files: UnsyncedMap(&file) };
        for block in blocks(from) {
            data.write_all_at(&[layer as u8 + 1; 4096], block * MAP_BLOCK).unwrap();
            open.set(block, 1, BlockState::Data).unwrap();
        }
        open.commit().unwrap();
        disks.store.snapshot(vec![node("vm", Some(SNAPSHOTS[layer]))]).unwrap();
    }
    disks.store.remove(&node("vm", Some("w")), false).unwrap();
    let pair = disks.store.cheapest_merge(&name("vm")).unwrap().unwrap();
    let chain = disks.store.begin_merge(pair).unwrap();
    let merged = chain.layer();
    disks.store.copy_chain(chain, &mut |_| Ok(())).unwrap();
    assert_eq!(disks.depth("vm"), 1);
    let (data, map) = disks.store.directory.open_layer(merged).unwrap();
    let (lower, upper) = (blocks(0), blocks(3_500));
    let room = data.metadata().unwrap().blocks() * 512;
    assert!(room <= (lower.len() + upper.len()) as u64 * MAP_BLOCK * 2, "{room} bytes");
    let mut map = MapReader::open_synced(&data, map).unwrap();
    let mut at = 0;
    let mut found = BTreeSet::new();
    while at < SIZE / MAP_BLOCK {
        let run = map.run(at, SIZE / MAP_BLOCK - at).unwrap();
        if run.state == BlockState::Data {
            assert_eq!(run.length, 1);
            assert_eq!(byte_at(&data, at * MAP_BLOCK), if lower.contains(&at) { 1 } else { 2 });
            found.insert(at);
        }
        at = run.end();
    }
    assert_eq!(found, lower.union(&upper).copied().collect());
}

/// A base that became shorter is no base with a hole.
#[test]
fn a_base_that_was_cut_ends_the_copy() {
    let mut disks = Disks::new();
    let base = look_at_base(&disks.base()).unwrap();
    disks.store.create_on_base(&name("vm"), None, base).unwrap();
    let mut chain = disks.store.begin_flatten(&name("vm"), false).unwrap().unwrap();
    File::options().write(true).open(disks.base()).unwrap().set_len(512).unwrap();
    let error = loop {
        match chain.step() {
            Ok(progress) => assert!(!progress.is_done()),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains(Path::new("base").to_str().unwrap()), "{error}");
    disks.store.abandon_copy(chain);
    assert!(matches!(disks.store.begin_flatten(&name("vm"), false), Err(StoreError::BaseDiffers { .. })));
}

/// What is merged when nobody waits: a large layer is not copied for each small one above it that goes.
#[test]
fn a_large_layer_is_copied_for_a_small_one_only_if_the_chain_is_deep() {
    let mut disks = Disks::new();
    disks.store.create_empty(&name("vm"), 1 << 20).unwrap();
    let take = |disks: &mut Disks, number: usize, blocks: u64| {
        disks.write("vm", 0, Some(&vec![number as u8; (blocks * MAP_BLOCK) as usize]), blocks);
        disks.store.snapshot(vec![node("vm", Some(&number.to_string()))]).unwrap();
    };
    let gone = |disks: &mut Disks, number: usize| {
        disks.store.remove(&node("vm", Some(&number.to_string())), false).unwrap();
    };
    [100, 2, 2].into_iter().enumerate().for_each(|(number, blocks)| take(&mut disks, number, blocks));
    gone(&mut disks, 0);
    assert_eq!(disks.store.idle_merge(&name("vm")).unwrap(), None);
    assert!(disks.store.cheapest_merge(&name("vm")).unwrap().is_some());
    // Both small layers are of one size.
    gone(&mut disks, 1);
    let small = disks.store.idle_merge(&name("vm")).unwrap().unwrap();
    assert_eq!(Some(small), disks.store.cheapest_merge(&name("vm")).unwrap());
    let chain = disks.store.begin_merge(small).unwrap();
    disks.store.copy_chain(chain, &mut |_| Ok(())).unwrap();
    assert_eq!(disks.store.idle_merge(&name("vm")).unwrap(), None);
    (3..6).for_each(|number| take(&mut disks, number, 1));
    let deep = disks.store.idle_merge(&name("vm")).unwrap().unwrap();
    assert_eq!(disks.view().layer(deep.lower).unwrap().below.node, ChainNode::Nothing, "the large one");
}
