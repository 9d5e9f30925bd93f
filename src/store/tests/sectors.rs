//! Sizes that end within a block: what was cut off stays away when a disk grows again, whoever has the block.

use super::*;

const SECTOR: u64 = 512;
/// Blocks of the disk.
const BLOCKS: u64 = 8;

/// What has the block that the end comes to lie in, when it is cut.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Base,
    Layer,
    /// A layer, and a head that has others.
    LayerBelowHead,
    Head,
}

/// What is done while the disk is small.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Nothing,
    Snapshot,
    /// A block that is not the last one gets a head.
    Write,
    Flatten,
}

struct Disk8 {
    store: OpenStore<MapFiles>,
    bytes: Vec<u8>,
    house: tempfile::TempDir,
}

impl Disk8 {
    fn begin(owner: Owner) -> Self {
        let house = tempfile::tempdir().unwrap();
        let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let bytes = vec![7; (BLOCKS * MAP_BLOCK) as usize];
        if let Owner::Base = owner {
            let base = house.path().join("base");
            std::fs::write(&base, &bytes).unwrap();
            store.create_on_base(&vm(), None, crate::store::base::look_at_base(&base).unwrap()).unwrap();
        } else {
            store.create_empty(&vm(), BLOCKS * MAP_BLOCK).unwrap();
            write(&mut store, 0, BLOCKS, 7);
        }
        let mut disk = Self { store, bytes, house };
        if !matches!(owner, Owner::Head) {
            disk.snapshot("first");
        }
        if let Owner::LayerBelowHead = owner {
            disk.write(0, 6);
        }
        disk
    }

    fn write(&mut self, block: u64, byte: u8) {
        write(&mut self.store, block, 1, byte);
        self.bytes[(block * MAP_BLOCK) as usize..((block + 1) * MAP_BLOCK) as usize].fill(byte);
    }

    fn snapshot(&mut self, name: &str) {
        self.store.snapshot(vec![node(Some(&name.parse().unwrap()))]).unwrap();
    }

    fn resize(&mut self, size: u64) {
        self.store.resize(&vm(), size, true).unwrap();
        self.bytes.resize(size as usize, 0);
    }
}

fn expect(disk: &Disk8, what: &str) {
    assert!(read(&disk.store, &node(None)) == disk.bytes, "{what}: old bytes are seen");
}

fn expect_told(disk: &Disk8, (before, old): (&NodeName, &[u8]), what: &str) {
    let mut told = vec![false; old.len().max(disk.bytes.len())];
    let each = &mut |part: std::ops::Range<u64>| {
        told[part.start as usize..part.end as usize].fill(true);
        Ok(())
    };
    disk.store.differences(before, &node(None), each).unwrap();
    for (at, told) in told.into_iter().enumerate() {
        assert!(told || old.get(at) == disk.bytes.get(at), "{what}: byte {at} has changed");
    }
}

fn cut_and_grow(owner: Owner, meanwhile: Meanwhile, end: u64, grown: u64) {
    let what = format!("{owner:?} {meanwhile:?} {end} {grown}");
    let mut disk = Disk8::begin(owner);
    let first = node(Some(&"first".parse().unwrap()));
    let old = disk.bytes.clone();
    disk.resize(end);
    expect(&disk, &what);
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Snapshot => disk.snapshot("small"),
        Meanwhile::Write => disk.write(0, 5),
        Meanwhile::Flatten => {
            disk.store.flatten(&vm(), &mut |_| Ok(())).unwrap();
        }
    }
    disk.resize(grown);
    expect(&disk, &what);
    if !matches!(owner, Owner::Head) {
        expect_told(&disk, (&first, &old), &what);
    }
    // What it is then can be taken elsewhere.
    disk.snapshot("last");
    expect(&disk, &what);
    let last = node(Some(&"last".parse().unwrap()));
    if !matches!(owner, Owner::Head) {
        let mut other = OpenStore::init(&disk.house.path().join("other"), MapFiles).unwrap();
        let all = delta(&disk.store, None, &first).unwrap();
        import(&mut other, &all).unwrap();
        let part = delta(&disk.store, Some(&first), &last).unwrap();
        import(&mut other, &part).unwrap();
        assert!(read(&other, &last) == disk.bytes, "{what}: a delta has old bytes");
    }
    disk.store.flatten(&vm(), &mut |_| Ok(())).unwrap();
    expect(&disk, &what);
    assert_eq!(disk.store.check().unwrap(), Vec::<String>::new(), "{what}");
}

#[test]
fn what_was_cut_off_within_a_block_does_not_come_back() {
    for owner in [Owner::Base, Owner::Layer, Owner::LayerBelowHead, Owner::Head] {
        for meanwhile in [Meanwhile::Nothing, Meanwhile::Snapshot, Meanwhile::Write, Meanwhile::Flatten] {
            for end in [2 * MAP_BLOCK + SECTOR, 3 * MAP_BLOCK - SECTOR] {
                for grown in [end + SECTOR, BLOCKS * MAP_BLOCK, (BLOCKS + 1) * MAP_BLOCK + SECTOR] {
                    cut_and_grow(owner, meanwhile, end, grown);
                }
            }
        }
    }
}

/// Cut twice: the smallest size counts.
#[test]
fn what_was_cut_off_twice_does_not_come_back() {
    for owner in [Owner::Base, Owner::Layer, Owner::LayerBelowHead, Owner::Head] {
        let mut disk = Disk8::begin(owner);
        for size in [
            5 * MAP_BLOCK + SECTOR,
            6 * MAP_BLOCK,
            2 * MAP_BLOCK + 3 * SECTOR,
            4 * MAP_BLOCK + SECTOR,
            8 * MAP_BLOCK,
        ] {
            disk.resize(size);
            expect(&disk, &format!("{owner:?} {size}"));
        }
    }
}
