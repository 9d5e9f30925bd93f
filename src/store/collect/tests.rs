//! Oracle: the bytes of each disk, and which chunks a test has written.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::collection_bug::plant;
use crate::store::copy::MAP_BLOCK;
use crate::store::export::RawOutput;
use crate::store::map::BlockState;
use crate::store::map_files::{MapFiles, change_states};

const CHUNK: u64 = SPACE.chunk_bytes as u64;
/// Chunks of each disk.
const CHUNKS: u64 = 24;

type Store = OpenStore<MapFiles>;

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A chunk that does not compress, and is another one for another seed.
fn chunk(seed: u16) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Gives a chunk of an image contents, as a server does.
fn write(store: &mut Store, image: &str, at: u64, seed: u16) {
    store.give_head(&name(image)).unwrap();
    let head = store.image(&name(image)).unwrap().head.unwrap();
    let (data, map) = store.directory.open_layer(head).unwrap();
    data.write_all_at(&chunk(seed), at * CHUNK).unwrap();
    let blocks = CHUNK / MAP_BLOCK;
    change_states(&data, &map, at * blocks, blocks, BlockState::Data);
}

fn try_read(store: &Store, of: &str) -> Result<Vec<u8>, StoreError> {
    let file = tempfile::tempfile().unwrap();
    let mut out: RawOutput<'_, std::fs::File> = RawOutput::Sparse(&file);
    store.export_raw(&node(of), (Path::new("out"), &mut out), &mut |_| Ok(()))?;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

/// What a disk has: seeds by chunk.
type Disk = BTreeMap<u64, u16>;

fn bytes_of(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; (CHUNKS * CHUNK) as usize];
    for (at, seed) in disk {
        bytes[(at * CHUNK) as usize..((at + 1) * CHUNK) as usize].copy_from_slice(&chunk(*seed));
    }
    bytes
}

fn new_store() -> (tempfile::TempDir, PathBuf, Store) {
    let house = tempfile::tempdir().unwrap();
    let path = house.path().join("store");
    let store = OpenStore::init(&path, MapFiles).unwrap();
    (house, path, store)
}

/// An image with chunks of these seeds in packs, under a snapshot.
fn packed_image(store: &mut Store, image: &str, seeds: &[u16]) -> Disk {
    store.create_empty(&name(image), CHUNKS * CHUNK).unwrap();
    let disk: Disk = (0..).zip(seeds.iter().copied()).collect();
    disk.iter().for_each(|(at, seed)| write(store, image, *at, *seed));
    checkpoint(store, &format!("{image}@1"));
    disk
}

fn checkpoint(store: &mut Store, of: &str) {
    store.checkpoint(&node(of), &mut |_| Ok(())).unwrap();
}

fn collect(store: &mut Store) -> CollectedPacks {
    store.collect_packs(&mut |_| Ok(())).unwrap()
}

fn remove(store: &mut Store, of: &str) {
    store.remove(&node(of), true).unwrap();
}

fn check(store: &Store, images: &BTreeMap<String, Disk>) {
    for (of, disk) in images {
        let found = try_read(store, of).unwrap_or_else(|error| panic!("{of}: {error}"));
        assert!(found == bytes_of(disk), "{of} has other contents");
    }
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

fn packs(store: &Store) -> Vec<u64> {
    store.view().unwrap().packs().map(|row| row.number).collect()
}

fn files(path: &Path) -> usize {
    std::fs::read_dir(path.join("packs")).unwrap().count()
}

fn at(image: &str, disk: &Disk) -> BTreeMap<String, Disk> {
    [(image.to_owned(), disk.clone()), (format!("{image}@1"), disk.clone())].into()
}

/// A2: what no image needs goes, and what two images need stays for the one that is left.
#[test]
fn what_nothing_needs_goes() {
    let (_house, path, mut store) = new_store();
    let kept = packed_image(&mut store, "kept", &[1, 2, 3]);
    packed_image(&mut store, "gone", &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!((collect(&mut store).packs_removed, packs(&store).len()), (0, 2), "all of it is needed");
    remove(&mut store, "gone");
    let found = collect(&mut store);
    assert_eq!((found.packs_removed, found.packs_written, found.bytes_copied), (1, 0, 0), "{found:?}");
    assert_eq!((packs(&store), files(&path)), (vec![1], 1));
    check(&store, &at("kept", &kept));
    remove(&mut store, "kept");
    assert_eq!(collect(&mut store).packs_removed, 1);
    assert_eq!((packs(&store).len(), files(&path), collect(&mut store).bytes_needed), (0, 0, 0));
    // Numbers are not used again.
    let disk = packed_image(&mut store, "new", &[1]);
    assert_eq!(packs(&store), [3]);
    check(&store, &at("new", &disk));
}

/// D8: on a full disk nothing can be copied, but packs can go of which nothing is needed.
#[test]
fn what_needs_no_copy_goes_first() {
    let (_house, _path, mut store) = new_store();
    packed_image(&mut store, "dead", &[200, 201, 202]);
    let images = half_needed(&mut store);
    remove(&mut store, "dead");
    let mut collection = store.begin_collection().unwrap().unwrap();
    while collection.found().bytes_copied == 0 {
        store.collection_step(&mut collection).unwrap();
    }
    assert_eq!(collection.found().packs_removed, 1);
    store.abandon_collection(collection);
    check(&store, &images);
}

/// Contents of a layer between two that were ingested are not read by anybody, though its row stays.
#[test]
fn what_only_a_removed_snapshot_had_goes() {
    let (_house, _path, mut store) = new_store();
    let mut disk = packed_image(&mut store, "vm", &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (chunk, seed) in (0..8).zip(100..) {
        write(&mut store, "vm", chunk, seed);
        disk.insert(chunk, seed);
    }
    checkpoint(&mut store, "vm@2");
    assert_eq!(collect(&mut store).packs_removed, 0);
    remove(&mut store, "vm@1");
    assert_eq!(collect(&mut store).packs_removed, 1);
    check(&store, &[("vm".to_owned(), disk.clone()), ("vm@2".to_owned(), disk)].into());
}

/// Two images of which one goes, whose chunks are side by side in the packs.
fn half_needed(store: &mut Store) -> BTreeMap<String, Disk> {
    let mut images = BTreeMap::new();
    packed_image(store, "gone", &(0..20).collect::<Vec<_>>());
    for (image, seeds) in [("a", [1, 5, 9]), ("b", [9, 13, 40])] {
        let disk = packed_image(store, image, &seeds);
        images.extend(at(image, &disk));
    }
    remove(store, "gone");
    images
}

/// A1, A2: chunks that move are found by all who need them, and are there once.
#[test]
fn what_is_needed_of_a_pack_moves() {
    let (_house, path, mut store) = new_store();
    let images = half_needed(&mut store);
    let found = collect(&mut store);
    assert!(found.packs_removed >= 1 && found.packs_written == 1, "{found:?}");
    assert!(found.bytes_garbage * 20 <= found.bytes_needed + found.bytes_garbage, "{found:?}");
    check(&store, &images);
    assert_eq!(files(&path), packs(&store).len());
    // What is there is found, not written again.
    let before = store.usage().unwrap().packs;
    let disk = packed_image(&mut store, "c", &[1, 5, 9, 13, 40]);
    let grown = store.usage().unwrap().packs - before;
    assert!(grown < 32 << 10, "a manifest, and no chunk: {grown}");
    check(&store, &at("c", &disk));
    let again = collect(&mut store);
    assert_eq!((again.packs_removed, again.bytes_needed > found.bytes_needed), (0, true), "{again:?}");
    drop(store);
    std::fs::remove_file(path.join("index.redb")).unwrap();
    let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
    check(&store, &images);
    assert_eq!(collect(&mut store).packs_removed, 0);
}

/// A3: whichever step is the last before a kill or an error, the store opens clean and nothing is lost.
fn ends_anywhere() {
    for is_killed in [true, false] {
        for steps in 0.. {
            let (_house, path, mut store) = new_store();
            let images = half_needed(&mut store);
            let mut collection = store.begin_collection().unwrap().unwrap();
            for _ in 0..steps {
                store.collection_step(&mut collection).unwrap();
            }
            let is_done = collection.is_done();
            match is_killed {
                true => drop(collection),
                false => {
                    store.abandon_collection(collection);
                }
            }
            check(&store, &images);
            drop(store);
            let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
            check(&store, &images);
            assert_eq!(files(&path), packs(&store).len(), "what has no row is in lost/");
            let found = collect(&mut store);
            assert!(found.bytes_garbage * 20 <= found.bytes_needed + found.bytes_garbage, "{found:?}");
            assert_eq!(collect(&mut store).packs_removed, 0, "one pass is enough");
            check(&store, &images);
            if is_done {
                assert!(steps > 4, "{steps}");
                break;
            }
        }
    }
}

#[test]
fn a_collection_ends_anywhere_and_nothing_is_lost() {
    ends_anywhere();
}

/// What an ingest finds while a collection runs stays, whatever comes first.
fn an_ingest_beside_a_collection() {
    for before in 0..8 {
        for between in 0..4 {
            let (_house, path, mut store) = new_store();
            let mut images = half_needed(&mut store);
            let mut collection = store.begin_collection().unwrap().unwrap();
            for _ in 0..before {
                store.collection_step(&mut collection).unwrap();
            }
            // Chunks that are needed, that were garbage, and new ones.
            store.create_empty(&name("new"), CHUNKS * CHUNK).unwrap();
            let disk: Disk = (0..).zip([1, 2, 3, 40, 50, 51]).collect();
            disk.iter().for_each(|(at, seed)| write(&mut store, "new", *at, *seed));
            store.snapshot(vec![node("new@1")]).unwrap();
            let mut ingest = store.begin_ingest(&node("new@1")).unwrap().unwrap();
            while !store.ingest_step(&mut ingest).unwrap().is_done() {}
            for _ in 0..between {
                store.collection_step(&mut collection).unwrap();
            }
            let ingested = store.finish_ingest(ingest);
            while !collection.is_done() {
                store.collection_step(&mut collection).unwrap();
            }
            drop(collection);
            ingested.unwrap();
            images.extend(at("new", &disk));
            check(&store, &images);
            drop(store);
            let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
            collect(&mut store);
            check(&store, &images);
        }
    }
}

#[test]
fn an_ingest_beside_a_collection_loses_nothing() {
    an_ingest_beside_a_collection();
}

/// An ingest whose layer is gone meanwhile comes to an end, and is refused: what it reads is not damaged.
#[test]
fn what_an_ingest_stands_on_stays() {
    let (_house, _path, mut store) = new_store();
    packed_image(&mut store, "gone", &[1, 2, 3, 4]);
    write(&mut store, "gone", 0, 100);
    store.snapshot(vec![node("gone@2")]).unwrap();
    let mut ingest = store.begin_ingest(&node("gone@2")).unwrap().unwrap();
    remove(&mut store, "gone");
    assert_eq!(collect(&mut store).packs_removed, 0);
    while !store.ingest_step(&mut ingest).unwrap().is_done() {}
    assert!(matches!(store.finish_ingest(ingest), Err(StoreError::Refused(_))));
    assert!(collect(&mut store).packs_removed > 0);
}

/// A chunk that is in a pack which went is written again.
fn a_chunk_comes_back() {
    let (_house, _path, mut store) = new_store();
    packed_image(&mut store, "gone", &[1, 2, 3]);
    let index = store.chunk_index(&store.pack_place().unwrap()).unwrap();
    let keys: Vec<_> = store.open_pack(1).unwrap().read().unwrap().keys().unwrap();
    remove(&mut store, "gone");
    assert_eq!(collect(&mut store).packs_removed, 1);
    // As after a kill before the index has followed.
    index.add(1, keys).unwrap();
    let disk = packed_image(&mut store, "new", &[1, 2]);
    check(&store, &at("new", &disk));
}

#[test]
fn an_index_that_is_behind_does_no_harm() {
    a_chunk_comes_back();
}

#[test]
fn planted_bugs_are_found() {
    for (bug, find) in [
        (CollectionBug::GcIgnoresPins, an_ingest_beside_a_collection as fn()),
        (CollectionBug::DedupAgainstDeadPack, a_chunk_comes_back),
        (CollectionBug::CatalogBeforePack, ends_anywhere),
    ] {
        plant(Some(bug));
        let found = std::panic::catch_unwind(find);
        plant(None);
        assert!(found.is_err(), "{bug:?} is not found");
    }
}

/// What is open reads on, though the catalogue has forgotten it.
#[test]
fn what_is_held_stays() {
    let (_house, _path, mut store) = new_store();
    packed_image(&mut store, "gone", &[1, 2, 3]);
    let root = store.view().unwrap().read_contents().next().unwrap().root;
    let held = store.collection_pins().hold_contents(&root);
    remove(&mut store, "gone");
    assert_eq!((collect(&mut store).packs_removed, packs(&store).len()), (0, 1));
    drop(held);
    assert_eq!(collect(&mut store).packs_removed, 1);
}

/// A5: what cannot be told is not guessed, and a pack that cannot be read stays.
#[test]
fn damage_costs_no_other_pack() {
    let (_house, path, mut store) = new_store();
    let images = half_needed(&mut store);
    let pack = path.join("packs/1.pack");
    let good = std::fs::read(&pack).unwrap();
    // A chunk that is needed of a pack that would go.
    let begins = chunk(5)[..16].to_vec();
    let middle = good.windows(16).position(|bytes| bytes == begins).unwrap();
    let mut bad = good.clone();
    bad[middle + 100] ^= 1;
    std::fs::write(&pack, &bad).unwrap();
    let found = collect(&mut store);
    assert_eq!(found.packs_unreadable, 1, "{found:?}");
    assert!(packs(&store).contains(&1));
    assert!(try_read(&store, "a").is_err());
    assert!(try_read(&store, "b").unwrap() == bytes_of(&images["b"]));
    std::fs::write(&pack, &good).unwrap();
    assert!(collect(&mut store).packs_removed >= 1);
    check(&store, &images);
    // A footer: nobody knows what of the pack is needed.
    let (first, rest) = (packs(&store)[0], packs(&store).len());
    let pack = path.join(format!("packs/{first}.pack"));
    let good = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &good[..good.len() - 1]).unwrap();
    match store.collect_packs(&mut |_| Ok(())) {
        Ok(found) => assert_eq!(found.packs_unreadable, 1),
        // Nodes were in it.
        Err(error) => assert!(error.to_string().contains("store check"), "{error}"),
    }
    assert_eq!(packs(&store).len(), rest);
    std::fs::write(&pack, &good).unwrap();
    check(&store, &images);
}

/// One at a time, and whoever stops it loses nothing.
#[test]
fn one_collection_runs_at_a_time() {
    let (_house, _path, mut store) = new_store();
    let images = half_needed(&mut store);
    let collection = store.begin_collection().unwrap().unwrap();
    let refused = store.begin_collection().unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("already"), "{refused}");
    store.abandon_collection(collection);
    let mut steps = 0;
    let stopped = store.collect_packs(&mut |_| {
        steps += 1;
        if steps > 3 { Err(StoreError::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(StoreError::Interrupted)));
    check(&store, &images);
    assert!(collect(&mut store).packs_removed > 0);
    check(&store, &images);
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        image: usize,
        at: u64,
        seed: u16,
    },
    Checkpoint(usize),
    Clone(usize),
    RemoveSnapshot(usize),
    RemoveImage(usize),
    Collect,
    /// So many steps of a collection that is killed.
    CollectSome(usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4usize, 0..CHUNKS, 0..60u16).prop_map(|(image, at, seed)| Step::Write { image, at, seed }),
        4 => (0..4usize).prop_map(Step::Checkpoint),
        2 => (0..8usize).prop_map(Step::Clone),
        3 => (0..8usize).prop_map(Step::RemoveSnapshot),
        1 => (0..4usize).prop_map(Step::RemoveImage),
        2 => Just(Step::Collect),
        1 => (0..12usize).prop_map(Step::CollectSome),
        1 => Just(Step::Reopen),
    ]
}

/// Carries a step out; what is refused changes nothing.
fn perform(store: &mut Store, model: &mut BTreeMap<String, Disk>, step: &Step, serial: usize) {
    let images: Vec<String> = model.keys().filter(|of| !of.contains('@')).cloned().collect();
    let snapshots: Vec<String> = model.keys().filter(|of| of.contains('@')).cloned().collect();
    let pick = |all: &[String], at: usize| (!all.is_empty()).then(|| all[at % all.len()].clone());
    match step {
        Step::Write { image, at, seed } => {
            let image = pick(&images, *image).unwrap_or_else(|| "vm".to_owned());
            if !model.contains_key(&image) {
                store.create_empty(&name(&image), CHUNKS * CHUNK).unwrap();
            }
            write(store, &image, *at, *seed);
            model.entry(image).or_default().insert(*at, *seed);
        }
        Step::Checkpoint(image) => {
            let Some(image) = pick(&images, *image) else { return };
            let snapshot = format!("{image}@s{serial}");
            checkpoint(store, &snapshot);
            model.insert(snapshot, model[&image].clone());
        }
        Step::Clone(snapshot) => {
            let Some(snapshot) = pick(&snapshots, *snapshot) else { return };
            let image = format!("c{serial}");
            store.clone_images(node(&snapshot), &[name(&image)]).unwrap();
            model.insert(image, model[&snapshot].clone());
        }
        Step::RemoveSnapshot(snapshot) => {
            let Some(snapshot) = pick(&snapshots, *snapshot) else { return };
            if store.remove(&node(&snapshot), false).is_ok() {
                model.remove(&snapshot);
            }
        }
        Step::RemoveImage(image) => {
            let Some(image) = pick(&images, *image) else { return };
            if store.remove(&node(&image), true).is_ok() {
                model.retain(|of, _| *of != image && !of.starts_with(&format!("{image}@")));
            }
        }
        Step::Collect => {
            let found = collect(store);
            // 95 % of the garbage is gone after one pass.
            assert!(found.bytes_garbage * 20 <= found.bytes_needed + found.bytes_garbage, "{found:?}");
        }
        Step::CollectSome(steps) => {
            let Some(mut collection) = store.begin_collection().unwrap() else { return };
            for _ in 0..*steps {
                store.collection_step(&mut collection).unwrap();
            }
        }
        Step::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A2: beside writes, clones, deletes and ingest no chunk goes that something reaches.
    #[test]
    fn lives_of_a_store_lose_nothing(steps in proptest::collection::vec(step(), 1..40)) {
        let (_house, path, mut store) = new_store();
        let mut model = BTreeMap::new();
        for (serial, step) in steps.iter().enumerate() {
            perform(&mut store, &mut model, step, serial);
            if matches!(step, Step::Reopen | Step::CollectSome(_)) {
                drop(store);
                store = OpenStore::open_to_change(&path, MapFiles).unwrap();
            }
            if !matches!(step, Step::Write { .. }) {
                check(&store, &model);
            }
        }
        collect(&mut store);
        check(&store, &model);
        // What is needed is there once, and little else.
        let seeds: BTreeSet<u16> = model.values().flat_map(BTreeMap::values).copied().collect();
        let most = seeds.len() as u64 * (CHUNK + 1024) + (128 << 10);
        prop_assert!(store.usage().unwrap().packs <= most + most / 10, "{} of {most}", store.usage().unwrap().packs);
    }
}

mod space;
