//! Oracle: a map from chunks of the disk to what they have, and trees counted by hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;
use uuid::Uuid;

use super::node::{MAGIC, ManifestNode};
use super::*;
use crate::store::pack::{ChunkHash, ChunkHint, ChunkKind, ChunkSpace, HashAlgorithm};
use crate::store::structure::seal;

/// What names of nodes are derived with.
const NODES: &str = "ringnbd 2026-11-28 node of a manifest";
const CHUNK: u64 = 512;
const SPACE: ChunkSpace =
    ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: CHUNK as u32, domain: Uuid::nil() };

#[derive(Default)]
struct KeptNodes {
    nodes: HashMap<ChunkHash, Vec<u8>>,
    puts: usize,
    gets: usize,
}

impl ManifestNodes for KeptNodes {
    type Error = &'static str;

    fn get(&mut self, node: &NamedChunk) -> Result<Vec<u8>, &'static str> {
        self.gets += 1;
        self.nodes.get(&node.hash).cloned().ok_or("it is missing")
    }

    fn put(
        &mut self,
        hash: &ChunkHash,
        bytes: &[u8],
        hashed: usize,
    ) -> Result<Option<ChunkHint>, &'static str> {
        assert_eq!(
            hash.0,
            *blake3::Hasher::new_derive_key(NODES).update(&bytes[..hashed]).finalize().as_bytes()
        );
        assert!(bytes.len() <= 16 << 10);
        self.puts += 1;
        self.nodes.insert(*hash, bytes.to_vec());
        Ok(Some(ChunkHint { pack: 1, slot: self.puts as u32 }))
    }
}

fn named(number: u8) -> ManifestEntry {
    ManifestEntry::Named(NamedChunk { hash: ChunkHash([number; 32]), hint: None })
}

type Disk = BTreeMap<u64, ManifestEntry>;

/// A root made of `older` and changes, which are in order.
fn changed(nodes: &mut KeptNodes, older: &ManifestRoot, chunks: u64, changes: &Disk) -> ManifestRoot {
    let changes = changes.iter().map(|(chunk, entry)| Ok((*chunk, *entry)));
    updated(nodes, older, chunks * CHUNK, changes).unwrap()
}

fn made(nodes: &mut KeptNodes, chunks: u64, disk: &Disk) -> ManifestRoot {
    changed(nodes, &ManifestRoot::zeroes(SPACE, 0), chunks, disk)
}

/// What is not zeroes; runs of the base are written out, so they must be short.
fn walked(nodes: &mut KeptNodes, root: &ManifestRoot) -> Disk {
    let (mut found, mut end) = (Disk::new(), 0);
    walk(nodes, root, &mut |start, count, entry| {
        assert_eq!(start, end, "no chunk is left out");
        assert!(count > 0);
        end = start + count;
        if *entry != ManifestEntry::Zero {
            found.extend((start..end).map(|chunk| (chunk, *entry)));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(end, root.chunks());
    found
}

fn of(disk: &Disk, chunk: u64) -> ManifestEntry {
    disk.get(&chunk).copied().unwrap_or(ManifestEntry::Zero)
}

fn entry() -> impl Strategy<Value = ManifestEntry> {
    prop_oneof![Just(ManifestEntry::Zero), Just(ManifestEntry::Base), (1..4_u8).prop_map(named)]
}

/// A size, and changes within it: many near its end and near edges of nodes.
fn step() -> impl Strategy<Value = (u64, Vec<(u64, u64, ManifestEntry)>)> {
    let size = prop_oneof![
        0..4_u64,
        250..260_u64,
        65_530..65_540_u64,
        1..300_000_u64,
        (1_u64 << 24) - 2..(1 << 24) + 3
    ];
    (size, prop::collection::vec((any::<u64>(), 0..520_u64, entry()), 0..6))
}

/// The changes of a step as a map: each begins somewhere and has a length.
fn changes(chunks: u64, runs: &[(u64, u64, ManifestEntry)]) -> Disk {
    let mut disk = Disk::new();
    for (at, length, entry) in runs.iter().filter(|_| chunks > 0) {
        let start = match at % 4 {
            0 => chunks.saturating_sub(length / 2),
            1 => (at / 4 % chunks) / 256 * 256,
            2 => 0,
            _ => at / 4 % chunks,
        };
        disk.extend((start..(start + length).min(chunks)).map(|chunk| (chunk, *entry)));
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_manifest_is_what_a_map_of_chunks_is(
        steps in prop::collection::vec(step(), 1..5),
        probes in prop::collection::vec(any::<u64>(), 8),
    ) {
        let (mut nodes, mut disk) = (KeptNodes::default(), Disk::new());
        let mut root = ManifestRoot::zeroes(SPACE, 0);
        for (chunks, runs) in steps {
            let (older, older_disk) = (root, disk.clone());
            let new = changes(chunks, &runs);
            root = changed(&mut nodes, &older, chunks, &new);
            disk.retain(|chunk, _| *chunk < chunks);
            disk.extend(new);
            disk.retain(|_, entry| *entry != ManifestEntry::Zero);

            prop_assert_eq!(&walked(&mut nodes, &root), &disk);
            for chunk in probes.iter().filter(|_| chunks > 0).map(|probe| probe % chunks).chain(disk.keys().copied().take(5)) {
                prop_assert_eq!(find(&mut nodes, &root, chunk).unwrap(), of(&disk, chunk));
            }
            prop_assert!(find(&mut nodes, &root, chunks).is_err());
            // The same disk at once has the same root.
            let at_once = made(&mut KeptNodes::default(), chunks, &disk);
            prop_assert_eq!(at_once, root);

            let mut found = BTreeSet::new();
            differences(&mut nodes, &older, &root, &mut |start, count, one, other| {
                for chunk in start..start + count {
                    assert!(found.last().is_none_or(|last| *last < chunk), "they are in order");
                    assert_eq!((*one, *other), (of(&older_disk, chunk), of(&disk, chunk)));
                    found.insert(chunk);
                }
                Ok(())
            }).unwrap();
            let either: BTreeSet<u64> = older_disk.keys().chain(disk.keys()).copied().collect();
            let expected: BTreeSet<u64> =
                either.into_iter().filter(|chunk| of(&older_disk, *chunk) != of(&disk, *chunk)).collect();
            prop_assert_eq!(&found, &expected);
            let mut back = BTreeSet::new();
            differences(&mut nodes, &root, &older, &mut |start, count, _, _| {
                back.extend(start..start + count);
                Ok(())
            }).unwrap();
            prop_assert_eq!(back, expected);
        }
    }

    /// L3: bytes of a node that anybody may have made, under the name that they have.
    #[test]
    fn any_bytes_are_refused_or_are_what_would_be_written(
        is_named in any::<bool>(),
        kinds in prop::collection::vec(any::<u8>(), 64),
        few in prop::collection::vec((0..64_usize, 0..4_u8), 0..4),
        changes in prop::collection::vec((0..200_usize, any::<u8>()), 0..3),
        rest in prop::collection::vec(any::<u8>(), 0..150),
        level in 0..2_u32,
    ) {
        let mut bytes = vec![0; 64];
        bytes.extend(if is_named { kinds } else { vec![0; 64] });
        few.iter().for_each(|(at, kind)| bytes[64 + at] = *kind);
        bytes.extend(&rest);
        bytes[..8].copy_from_slice(&MAGIC);
        (bytes[8], bytes[32]) = (1, level as u8);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let names: usize =
            bytes[64..128].iter().map(|byte| [0, 2, 4, 6].iter().filter(|at| byte >> **at & 3 == 2).count()).sum();
        let hashed = bytes.len().min(128 + 32 * names);
        seal(&mut bytes[..hashed]);
        let hash = ChunkHash(*blake3::Hasher::new_derive_key(NODES).update(&bytes[..hashed]).finalize().as_bytes());
        let node = ManifestNode::decode::<Infallible>(&bytes, &SPACE, hash, level);
        if let Ok(node) = node {
            let (again, hashed_again) = node.encode();
            prop_assert_eq!((again.len(), hashed_again), (bytes.len(), hashed));
        }
    }
}

/// Of a disk with three levels: a top, inner nodes of 65,536 chunks, leaves of 256.
#[test]
fn only_nodes_above_changes_are_read_and_written() {
    let mut nodes = KeptNodes::default();
    let chunks = 1_u64 << 24;
    let everywhere: Disk = (0..chunks).step_by(40_000).map(|chunk| (chunk, named(1))).collect();
    let root = made(&mut nodes, chunks, &everywhere);
    let inner: BTreeSet<u64> = everywhere.keys().map(|chunk| chunk / 65_536).collect();
    assert_eq!(nodes.puts, 1 + inner.len() + everywhere.len());

    for (places, expected) in [
        (vec![5], 3),
        (vec![5, 6, 255], 3),
        (vec![5, 256], 4),
        (vec![5, 65_536], 5),
        (vec![5, 300, 65_536, 9_000_000, chunks - 1], 1 + 4 + 5),
        (vec![], 0),
    ] {
        (nodes.puts, nodes.gets) = (0, 0);
        let changes = places.iter().map(|place| (*place, named(9))).collect();
        let new = changed(&mut nodes, &root, chunks, &changes);
        assert_eq!(nodes.puts, expected, "{places:?}");
        assert!(nodes.gets <= expected, "{places:?}");
        nodes.gets = 0;
        let mut found = Vec::new();
        differences(&mut nodes, &root, &new, &mut |start, count, _, _| {
            found.extend(start..start + count);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, places);
        assert!(nodes.gets <= 2 * expected, "equal nodes are not read");
    }
    // What changes nothing writes nothing.
    nodes.puts = 0;
    assert_eq!(changed(&mut nodes, &root, chunks, &everywhere), root);
    assert_eq!(nodes.puts, 0);
}

#[test]
fn the_largest_disk_has_one_node_a_level() {
    let mut nodes = KeptNodes::default();
    let chunks = (1_u64 << 63) / CHUNK;
    let last = Disk::from([(chunks - 1, named(1))]);
    let root = made(&mut nodes, chunks, &last);
    assert_eq!((root.level(), nodes.puts), (6, 7));
    assert_eq!(find(&mut nodes, &root, chunks - 1), Ok(named(1)));
    assert_eq!(walked(&mut nodes, &root), last);
    // Growing by all of its levels adds one node for each, and writes nothing twice.
    let small = made(&mut nodes, 3, &Disk::from([(2, named(2))]));
    nodes.puts = 0;
    let grown = changed(&mut nodes, &small, chunks, &last);
    assert_eq!(nodes.puts, 7 + 5, "a top, and six nodes on the way to each end but the old leaf");
    assert_eq!(changed(&mut nodes, &grown, 3, &Disk::new()), small);
    let too_large = updated(&mut nodes, &small, (1 << 63) + 1, []);
    assert!(matches!(too_large, Err(ManifestError::Size { .. })));
}

#[test]
fn base_and_zeroes_need_no_nodes() {
    let mut nodes = KeptNodes::default();
    let all: Disk = (0..65_536).map(|chunk| (chunk, ManifestEntry::Base)).collect();
    let root = made(&mut nodes, 65_536, &all);
    assert_eq!((root.top, nodes.puts), (ManifestEntry::Base, 0));
    assert_eq!(find(&mut nodes, &root, 70), Ok(ManifestEntry::Base));
    // Behind the end are zeroes, so a disk that ends within a node has the nodes above its end.
    let shorter = changed(&mut nodes, &root, 65_000, &Disk::new());
    assert_eq!(nodes.puts, 2);
    let grown = changed(&mut nodes, &shorter, 65_536, &Disk::new());
    assert_eq!(find(&mut nodes, &grown, 64_999), Ok(ManifestEntry::Base));
    assert_eq!(find(&mut nodes, &grown, 65_000), Ok(ManifestEntry::Zero));
}

#[test]
fn changes_must_be_in_order_and_of_the_disk() {
    let zeroes = ManifestRoot::zeroes(SPACE, 1000 * CHUNK);
    for places in [vec![5, 5], vec![300, 5], vec![5, 300, 256], vec![1000], vec![999, 2000]] {
        let changes = places.iter().map(|place| Ok((*place, named(1))));
        let refused = updated(&mut KeptNodes::default(), &zeroes, zeroes.size, changes);
        assert!(matches!(refused, Err(ManifestError::Order { .. })), "{places:?}");
    }
    let stopped =
        updated(&mut KeptNodes::default(), &zeroes, zeroes.size, [Ok((1, named(1))), Err("stopped")]);
    assert_eq!(stopped, Err(ManifestError::Nodes("stopped")));
}

/// A node may have other hints under its name; they are what its reader is told.
#[test]
fn hints_are_no_part_of_a_name() {
    let mut node = ManifestNode::uniform(0, ManifestEntry::Zero);
    let hints = [None, Some(ChunkHint { pack: 7, slot: 9 })];
    let written = hints.map(|hint| {
        node.entries[3] = ManifestEntry::Named(NamedChunk { hash: ChunkHash([1; 32]), hint });
        node.encode()
    });
    let [(first, hashed), (second, _)] = &written;
    assert_eq!(first[..*hashed], second[..*hashed]);
    let hash = SPACE.hash(ChunkKind::Node, &first[..*hashed]);
    for ((bytes, _), expected) in written.iter().zip(hints) {
        let node = ManifestNode::decode::<Infallible>(bytes, &SPACE, hash, 0).unwrap();
        let ManifestEntry::Named(NamedChunk { hint, .. }) = node.entries[3] else { panic!("it has a name") };
        assert_eq!(hint, expected);
    }
}

#[test]
fn a_changed_byte_of_a_node_is_noticed() {
    let mut nodes = KeptNodes::default();
    let root = made(&mut nodes, 300, &Disk::from([(1, named(1)), (270, ManifestEntry::Base)]));
    let ManifestEntry::Named(top) = root.top else { panic!("it has nodes") };
    let whole = nodes.nodes[&top.hash].clone();
    let hashed = whole.len() - 2 * 12;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        nodes.nodes.insert(top.hash, bytes);
        let found = find(&mut nodes, &root, 1);
        assert_eq!(found.is_err(), at < hashed, "byte {at}: {found:?}");
    }
    for length in 0..whole.len() {
        nodes.nodes.insert(top.hash, whole[..length].to_vec());
        assert!(find(&mut nodes, &root, 1).is_err(), "{length} bytes");
    }
    nodes.nodes.clear();
    assert_eq!(find(&mut nodes, &root, 1), Err(ManifestError::Nodes("it is missing")));
}

/// What is all of the base has the root that changes of each chunk give.
#[test]
fn a_disk_of_the_base_is_made_at_once() {
    for chunks in [0, 1, 10, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000] {
        let mut nodes = KeptNodes::default();
        let disk: Disk = (0..chunks).map(|chunk| (chunk, ManifestEntry::Base)).collect();
        let expected = changed(&mut nodes, &ManifestRoot::zeroes(SPACE, 0), chunks, &disk);
        let puts = nodes.puts;
        let made = all_of_base(&mut nodes, SPACE, chunks * CHUNK).unwrap();
        assert_eq!(made, expected, "{chunks}");
        assert!(nodes.puts - puts <= 3, "a node a level");
    }
    let mut nodes = KeptNodes::default();
    all_of_base(&mut nodes, SPACE, 1 << 63).unwrap();
    let space = ChunkSpace { chunk_bytes: 1 << 20, ..SPACE };
    all_of_base(&mut nodes, space, (1 << 63) - 512).unwrap();
}

/// A way down finds what a walk finds, and the neighbours that are alike.
#[test]
fn a_way_down_ends_where_the_chunk_is() {
    let mut nodes = KeptNodes::default();
    let mut disk: Disk = (100..300).map(|chunk| (chunk, ManifestEntry::Base)).collect();
    disk.extend([(3, named(1)), (4, named(1)), (70_000, named(2))]);
    let root = changed(&mut nodes, &ManifestRoot::zeroes(SPACE, 0), 70_010, &disk);
    for chunk in (0..400).chain([65_535, 65_536, 69_999, 70_000, 70_009]) {
        let mut way = Descent::new::<Infallible>(&root, chunk).unwrap();
        while let Some(node) = way.wanted() {
            way.take::<Infallible>(&nodes.nodes[&node.hash]).unwrap();
        }
        let (end, entry) = way.run(chunk);
        assert_eq!(entry, find(&mut nodes, &root, chunk).unwrap(), "{chunk}");
        assert!(way.is_for(chunk) && end > chunk && end <= 70_010);
        for other in chunk..end.min(chunk + 300) {
            assert_eq!(find(&mut nodes, &root, other).unwrap(), entry, "{other}");
        }
    }
    assert!(Descent::new::<Infallible>(&root, 70_010).is_err());
}
