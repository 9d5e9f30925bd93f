//! Oracle: the bytes of each disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::store::base::look_at_base;
use crate::store::catalog::StoreName;
use crate::store::collection_bug::plant;
use crate::store::export::RawOutput;
use crate::store::map_files::MapFiles;
use crate::store::map_files::change_states;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Gives blocks of an image contents, as a server does.
fn write(store: &mut OpenStore<MapFiles>, image: &StoreName, block: u64, bytes: &[u8]) {
    store.give_head(image).unwrap();
    let head = store.image(image).unwrap().head.unwrap();
    let (data, map) = store.directory.open_layer(head).unwrap();
    data.write_all_at(bytes, block * MAP_BLOCK).unwrap();
    let state = if is_zero(bytes) { BlockState::Zero } else { BlockState::Data };
    change_states(&data, &map, block, bytes.len() as u64 / MAP_BLOCK, state);
}

fn try_read(store: &OpenStore<MapFiles>, node: &NodeName) -> Result<Vec<u8>, StoreError> {
    let file = tempfile::tempfile().unwrap();
    let mut out: RawOutput<'_, File> = RawOutput::Sparse(&file);
    store.export_raw(node, (Path::new("out"), &mut out), &mut |_| Ok(()))?;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

fn read(store: &OpenStore<MapFiles>, of: &str) -> Vec<u8> {
    try_read(store, &node(of)).unwrap()
}

fn ingest(store: &mut OpenStore<MapFiles>, of: &str) -> usize {
    store.ingest(&node(of), &mut |_| Ok(())).unwrap()
}

/// Bytes that do not compress, and are others for another seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn store() -> (tempfile::TempDir, PathBuf, OpenStore<MapFiles>) {
    let house = tempfile::tempdir().unwrap();
    let path = house.path().join("store");
    let store = OpenStore::init(&path, MapFiles).unwrap();
    (house, path, store)
}

fn packed(store: &OpenStore<MapFiles>) -> u64 {
    store.usage().unwrap().packs
}

/// A1: the same data in two images is stored once.
#[test]
fn equal_data_is_stored_once() {
    let (_house, path, mut store) = store();
    let bytes = noise(1, 1 << 20);
    for image in ["a", "b"] {
        store.create_empty(&name(image), 4 << 20).unwrap();
        write(&mut store, &name(image), 16, &bytes);
    }
    store.snapshot(vec![node("a@1"), node("b@1")]).unwrap();
    assert_eq!(store.header().incompatible, 0, "older programs know it");
    assert_eq!(ingest(&mut store, "a@1"), 1);
    assert_eq!(store.header().incompatible, 1);
    let once = packed(&store);
    assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&once), "{once}");
    assert_eq!(ingest(&mut store, "b@1"), 1);
    assert_eq!((packed(&store), ingest(&mut store, "b")), (once, 0));
    assert_eq!(read(&store, "a@1"), read(&store, "b"));
    assert_eq!(store.usage().unwrap().data.len(), 0, "no layer has data any more");
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    assert_eq!(store.check_maps().unwrap(), Vec::<String>::new());
    // A6: without its index the store has the same, and finds it again.
    drop(store);
    std::fs::remove_file(path.join("index.redb")).unwrap();
    let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
    store.create_empty(&name("c"), 4 << 20).unwrap();
    write(&mut store, &name("c"), 16, &bytes);
    assert_eq!(store.checkpoint(&node("c@1"), &mut |_| Ok(())).unwrap(), 1);
    assert_eq!((packed(&store), read(&store, "c@1")), (once, read(&store, "a")));
}

/// A3: an ingest that ends anywhere, by a kill or by an error, leaves a store with the same contents, and
/// goes on. `kept`: the process ends without giving it up.
#[test]
fn an_ingest_ends_anywhere_and_goes_on() {
    let bytes = noise(2, 12 << 20);
    for steps in 0..8 {
        for is_killed in [false, true] {
            let (_house, path, mut store) = store();
            store.create_empty(&name("vm"), 16 << 20).unwrap();
            write(&mut store, &name("vm"), 100, &bytes);
            let before = read(&store, "vm");
            store.snapshot(vec![node("vm@1")]).unwrap();
            let mut ingest = store.begin_ingest(&node("vm@1")).unwrap().unwrap();
            for _ in 0..steps {
                store.ingest_step(&mut ingest).unwrap();
            }
            match is_killed {
                true => drop(ingest),
                false => store.abandon_ingest(ingest),
            }
            assert_eq!(read(&store, "vm@1"), before);
            drop(store);
            let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
            assert_eq!(read(&store, "vm@1"), before);
            let kept = packed(&store);
            assert_eq!(kept > 0, steps > 0 && !is_killed, "{steps}");
            assert_eq!(self::ingest(&mut store, "vm@1"), 1);
            assert_eq!(read(&store, "vm"), before);
            assert!(packed(&store) < (12 << 20) + (256 << 10), "nothing was written twice");
            let files = std::fs::read_dir(path.join("packs")).unwrap().count();
            assert_eq!(files, store.view().unwrap().packs().count());
        }
    }
}

/// Which layers come into packs by themselves, whatever order they are told in.
#[test]
fn layers_are_due_when_they_are_old_and_sooner_in_long_chains() {
    let (_house, _path, mut store) = store();
    let vm = name("vm");
    store.create_empty(&vm, 1 << 20).unwrap();
    write(&mut store, &vm, 0, &noise(1, 4096));
    assert_eq!(store.due_layers(0).unwrap().count, 0, "it is written");
    for number in 0..5u8 {
        write(&mut store, &vm, number.into(), &noise(number, 4096));
        store.snapshot(vec![node(&format!("vm@{number}"))]).unwrap();
        let counts = [0, 59, 3600].map(|age| store.due_layers(age).unwrap().count);
        let sealed = usize::from(number) + 1;
        assert_eq!(counts, [sealed, if sealed < 5 { 0 } else { 5 }, 0]);
    }
    let before = read(&store, "vm");
    for left in (0..5).rev() {
        let layer = store.due_layers(0).unwrap().first[0];
        let mut ingest = store.begin_layer_ingest(layer).unwrap().unwrap();
        while !store.ingest_step(&mut ingest).unwrap().is_done() {}
        assert_eq!(ingest.looked_at(), ingest.counts().bytes());
        store.finish_ingest(ingest).unwrap();
        assert_eq!(store.due_layers(0).unwrap().count, left);
    }
    assert!(read(&store, "vm") == before);
    assert!(store.begin_layer_ingest(LayerId(uuid::Uuid::nil())).unwrap().is_none());
}

/// An interruption between the catalogue and the removal of the data.
#[test]
fn data_that_was_left_behind_goes() {
    let (_house, path, mut store) = store();
    store.create_empty(&name("vm"), 1 << 20).unwrap();
    write(&mut store, &name("vm"), 0, &noise(3, 8192));
    store.snapshot(vec![node("vm@1")]).unwrap();
    ingest(&mut store, "vm@1");
    let layer = store.view().unwrap().layers().next().unwrap().id;
    let data = path.join("layers").join(layer.to_string()).join("data");
    assert!(!data.exists());
    std::fs::write(&data, "left behind").unwrap();
    drop(store);
    drop(OpenStore::open_to_change(&path, MapFiles).unwrap());
    assert!(!data.exists());
}

/// A4, L3: whichever byte of a pack is another, an image reads as it was or not at all.
#[test]
fn every_flipped_byte_of_a_pack_is_noticed() {
    flip_every_byte();
}

#[test]
fn damage_that_reads_as_zeroes_is_found() {
    plant(Some(CollectionBug::DamageReadsAsZeroes));
    let found = std::panic::catch_unwind(flip_every_byte);
    plant(None);
    assert!(found.is_err(), "DamageReadsAsZeroes is not found");
}

fn flip_every_byte() {
    let (_house, path, mut store) = store();
    store.create_empty(&name("vm"), 4 * CHUNK).unwrap();
    write(&mut store, &name("vm"), 0, &noise(4, MAP_BLOCK as usize));
    write(&mut store, &name("vm"), 40, &[7; 8192]);
    store.snapshot(vec![node("vm@1")]).unwrap();
    ingest(&mut store, "vm@1");
    let expected = read(&store, "vm@1");
    let pack = path.join("packs/1.pack");
    let (good, mut refused) = (std::fs::read(&pack).unwrap(), 0);
    let file = File::options().write(true).open(&pack).unwrap();
    for (at, byte) in good.iter().enumerate() {
        file.write_all_at(&[byte ^ 0x55], at as u64).unwrap();
        match try_read(&store, &node("vm@1")) {
            Ok(bytes) => assert!(bytes == expected, "byte {at} gives wrong data"),
            Err(_) => refused += 1,
        }
        file.write_all_at(&[*byte], at as u64).unwrap();
    }
    // Gaps between payloads are nobody's.
    assert!(refused > 4096, "{refused} of {}", good.len());
    for length in [0, 100, good.len() as u64 / 2, good.len() as u64 - 1] {
        file.set_len(length).unwrap();
        assert!(try_read(&store, &node("vm@1")).is_err(), "cut to {length}");
        assert!(!store.check().unwrap().is_empty());
    }
    // A5: a missing pack is an error, and other images are not touched.
    std::fs::remove_file(&pack).unwrap();
    store.create_empty(&name("other"), 1 << 20).unwrap();
    assert!(try_read(&store, &node("vm")).is_err());
    assert_eq!(read(&store, "other"), vec![0; 1 << 20]);
}

/// What an image had in packs and of its base is its own, and its origin, its base and their packs may go.
#[test]
fn an_image_is_flattened_that_has_contents_in_packs() {
    let (house, _path, mut store) = store();
    let base = house.path().join("base");
    std::fs::write(&base, noise(1, 3 << 20)).unwrap();
    store.create_on_base(&name("golden"), Some(8 << 20), look_at_base(&base).unwrap()).unwrap();
    // A block that is zero within a chunk, and data behind the base.
    write(&mut store, &name("golden"), 16, &noise(2, 9 * MAP_BLOCK as usize));
    write(&mut store, &name("golden"), 27, &noise(3, 2 * MAP_BLOCK as usize));
    write(&mut store, &name("golden"), 1200, &noise(4, 1 << 20));
    store.checkpoint(&node("golden@1"), &mut |_| Ok(())).unwrap();
    store.clone_images(node("golden@1"), &[name("vm")]).unwrap();
    write(&mut store, &name("vm"), 20, &noise(5, MAP_BLOCK as usize));
    let expected = read(&store, "vm");
    assert!(store.flatten(&name("vm"), &mut |_| Ok(())).unwrap());
    assert!(read(&store, "vm") == expected);
    store.remove(&node("golden"), true).unwrap();
    assert!(store.collect_packs(&mut |_| Ok(())).unwrap().packs_removed > 0);
    std::fs::remove_file(&base).unwrap();
    assert_eq!(packed(&store), 0);
    assert!(read(&store, "vm") == expected && !store.flatten(&name("vm"), &mut |_| Ok(())).unwrap());
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    // It comes into packs again.
    store.checkpoint(&node("vm@1"), &mut |_| Ok(())).unwrap();
    assert!(read(&store, "vm@1") == expected);
}

/// A2: what an image that is being flattened still reads stays, though other contents have taken over.
#[test]
fn what_is_being_flattened_is_not_collected() {
    let (_house, _path, mut store) = store();
    let vm = name("vm");
    store.create_empty(&vm, 2 << 20).unwrap();
    write(&mut store, &vm, 0, &noise(1, 2 << 20));
    store.checkpoint(&node("vm@1"), &mut |_| Ok(())).unwrap();
    // A block of each chunk.
    (0..32).for_each(|chunk| write(&mut store, &vm, chunk * 16 + 3, &noise(2, MAP_BLOCK as usize)));
    store.snapshot(vec![node("vm@2")]).unwrap();
    store.remove(&node("vm@1"), false).unwrap();
    let expected = read(&store, "vm");
    let mut copy = store.begin_flatten(&vm, false).unwrap().unwrap();
    assert_eq!(ingest(&mut store, "vm@2"), 1);
    assert_eq!(store.collect_packs(&mut |_| Ok(())).unwrap().packs_removed, 0);
    while !copy.step().unwrap().is_done() {}
    store.finish_copy(copy).unwrap();
    assert!(read(&store, "vm") == expected && read(&store, "vm@2") == expected);
    assert!(store.collect_packs(&mut |_| Ok(())).unwrap().packs_removed > 0, "nobody reads it any more");
    assert!(read(&store, "vm") == expected && read(&store, "vm@2") == expected);
}

#[derive(Debug, Clone)]
enum Step {
    Write { block: u64, blocks: u64, seed: u8 },
    Zero { block: u64, blocks: u64 },
    Resize(u64),
    Checkpoint,
    Snapshot,
    Flatten,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..120u64, 1..40u64, 1..4u8).prop_map(|(block, blocks, seed)| Step::Write { block, blocks, seed }),
        2 => (0..120u64, 1..60u64).prop_map(|(block, blocks)| Step::Zero { block, blocks }),
        2 => (1..960u64).prop_map(|sectors| Step::Resize(sectors * 512)),
        3 => Just(Step::Checkpoint),
        2 => Just(Step::Snapshot),
        1 => Just(Step::Flatten),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// An image on a base, whose snapshots are ingested or not, and which is flattened: each reads as it was.
    #[test]
    fn images_on_a_base_read_as_they_were(
        base_bytes in 1..400_000usize,
        sectors in 1..960u64,
        steps in proptest::collection::vec(step(), 1..20),
    ) {
        let (house, path, mut store) = store();
        let base = noise(9, base_bytes);
        std::fs::write(house.path().join("base"), &base).unwrap();
        let found = look_at_base(&house.path().join("base")).unwrap();
        let vm = name("vm");
        store.create_on_base(&vm, Some(sectors * 512), found).unwrap();
        let mut disk = base;
        disk.resize(sectors as usize * 512, 0);
        let mut points: Vec<(String, Vec<u8>)> = Vec::new();
        for step in &steps {
            let blocks_in = disk.len() as u64 / MAP_BLOCK;
            match step {
                Step::Write { block, blocks, .. } | Step::Zero { block, blocks } if *block < blocks_in => {
                    let seed = if let Step::Write { seed, .. } = step { *seed } else { 0 };
                    let length = (*blocks).min(blocks_in - block) * MAP_BLOCK;
                    let bytes = if seed == 0 { vec![0; length as usize] } else { noise(seed, length as usize) };
                    write(&mut store, &vm, *block, &bytes);
                    let at = (block * MAP_BLOCK) as usize;
                    disk[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::Write { .. } | Step::Zero { .. } => {}
                Step::Resize(size) => {
                    store.resize(&vm, *size, true).unwrap();
                    disk.resize(*size as usize, 0);
                }
                Step::Checkpoint | Step::Snapshot => {
                    let point = format!("s{}", points.len());
                    if store.is_full(&vm).unwrap() {
                        continue;
                    }
                    match step {
                        Step::Checkpoint => drop(store.checkpoint(&node(&format!("vm@{point}")), &mut |_| Ok(())).unwrap()),
                        _ => store.snapshot(vec![node(&format!("vm@{point}"))]).unwrap(),
                    }
                    points.push((point, disk.clone()));
                }
                Step::Flatten => drop(store.flatten(&vm, &mut |_| Ok(())).unwrap()),
                Step::Reopen => {
                    drop(store);
                    store = OpenStore::open_to_change(&path, MapFiles).unwrap();
                }
            }
        }
        prop_assert!(read(&store, "vm") == disk, "the image has other contents");
        for (point, disk) in &points {
            prop_assert!(read(&store, &format!("vm@{point}")) == *disk, "{point} has other contents");
        }
        prop_assert_eq!(store.check().unwrap(), Vec::<String>::new());
    }
}
