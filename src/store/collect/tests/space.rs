//! Oracle: what a disk has, by the test's own books; and what comes back of packs when something is removed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Random;
use crate::store::describe::NodeDescription;

/// Chunks of random disks are of so many kinds, so that they have some in common.
const KINDS: u64 = 30;

/// Writes some chunks and brings them into packs, by a snapshot.
fn grow(store: &mut Store, image: &str, snapshot: u64, disk: &mut Disk, random: &mut Random) {
    for _ in 0..1 + random.below(8) {
        let (at, kind) = (random.below(CHUNKS), 1 + random.below(KINDS) as u16);
        write(store, image, at, kind);
        disk.insert(at, kind);
    }
    checkpoint(store, &format!("{image}@{snapshot}"));
}

/// Images, snapshots and clones, and what each has.
fn random_store(store: &mut Store, random: &mut Random) -> BTreeMap<String, Disk> {
    let mut disks = BTreeMap::new();
    for image in ["a", "b"] {
        store.create_empty(&name(image), CHUNKS * CHUNK).unwrap();
        let mut disk = Disk::new();
        for snapshot in 1..=1 + random.below(3) {
            grow(store, image, snapshot, &mut disk, random);
            disks.insert(format!("{image}@{snapshot}"), disk.clone());
        }
        disks.insert(image.to_owned(), disk);
    }
    store.clone_images(node("a@1"), &[name("c"), name("d")]).unwrap();
    let mut disk = disks["a@1"].clone();
    disks.insert("d".to_owned(), disk.clone());
    grow(store, "c", 1, &mut disk, random);
    disks.insert("c@1".to_owned(), disk.clone());
    disks.insert("c".to_owned(), disk);
    disks
}

fn told(store: &Store) -> Vec<NodeDescription> {
    store.describe_all().unwrap().nodes
}

/// USED and SHARED of each by the test's books.
fn check_books(nodes: &[NodeDescription], disks: &BTreeMap<String, Disk>, what: &str) {
    for told in nodes {
        let disk = &disks[&told.name];
        let others = disks.iter().filter(|(of, _)| **of != told.name);
        let others: BTreeSet<u16> = others.flat_map(|(_, disk)| disk.values().copied()).collect();
        let alone: BTreeSet<u16> = disk.values().copied().filter(|kind| !others.contains(kind)).collect();
        let shared = (disk.len() - alone.len()) as u64 * CHUNK;
        assert_eq!((told.used, told.shared), (disk.len() as u64 * CHUNK, shared), "{what}: {}", told.name);
        assert!(!told.estimated, "{what}: {}", told.name);
    }
}

/// After a collection UNIQUE is to the byte what the removal of an image or a snapshot gives back.
#[test]
fn what_is_unique_comes_back() {
    for seed in 0..8 {
        let (_house, path, mut store) = new_store();
        let mut random = Random::new(seed);
        let mut disks = random_store(&mut store, &mut random);
        assert!(told(&store).iter().all(|node| node.estimated), "seed {seed}: nothing was counted");
        let mut needed = collect(&mut store).bytes_needed;
        // It is known after a restart too.
        drop(store);
        let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        while !disks.is_empty() {
            let nodes = told(&store);
            check_books(&nodes, &disks, &format!("seed {seed}"));
            let all = store.describe_store().unwrap();
            assert_eq!((all.needed, all.estimated), (needed, false), "seed {seed}");
            // Which can go is tried: what has clones or snapshots stays.
            let from = random.below(nodes.len() as u64) as usize;
            let mut order = nodes.iter().cycle().skip(from).take(nodes.len());
            let gone = order.find(|told| store.remove(&node(&told.name), false).is_ok()).unwrap();
            disks.remove(&gone.name);
            let left = collect(&mut store).bytes_needed;
            assert_eq!(needed - left, gone.unique, "seed {seed}: {}", gone.name);
            needed = left;
        }
        assert_eq!(needed, 0, "seed {seed}");
    }
}

/// A node of a manifest that is there very often is not looked at as often.
#[test]
fn a_disk_of_one_chunk_is_counted_by_its_places() {
    let (_house, _path, mut store) = new_store();
    let disk = packed_image(&mut store, "same", &[7; CHUNKS as usize]);
    packed_image(&mut store, "other", &[8]);
    let found = collect(&mut store);
    let same = store.describe(&node("same")).unwrap();
    assert_eq!((same.used, same.unique), (disk.len() as u64 * CHUNK, 0), "its snapshot needs it too");
    store.remove(&node("same@1"), false).unwrap();
    let same = store.describe(&node("same")).unwrap();
    // Nothing else came or went: what was counted is still exact.
    assert!(same.unique > CHUNK && same.unique < found.bytes_needed && !same.estimated);
    assert_eq!(same.shared, (CHUNKS - 1) * CHUNK, "it has the chunk more than once");
}

/// What came into packs since the collection is estimated, and nothing is said to be exact.
#[test]
fn an_ingest_makes_estimates_of_what_was_counted() {
    let (_house, _path, mut store) = new_store();
    packed_image(&mut store, "vm", &[1, 2, 3, 4]);
    collect(&mut store);
    write(&mut store, "vm", 0, 9);
    checkpoint(&mut store, "vm@2");
    let first = store.describe(&node("vm@1")).unwrap();
    assert!(first.estimated && store.describe_store().unwrap().estimated);
    // One of its chunks was replaced.
    assert!((CHUNK..CHUNK + CHUNK / 4).contains(&first.unique), "{first:?}");
    assert_eq!(first.shared, 3 * CHUNK);
    collect(&mut store);
    assert!(!store.describe(&node("vm@1")).unwrap().estimated);
}
