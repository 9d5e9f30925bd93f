//! The map as a whole, one rule at a time.

use super::file::CutFile;
use super::shell::{TINY, checkpoint, create, flush, identity, load_missing, open, states};
use crate::store::map::geometry::SUPERBLOCK_SPACING;
use crate::store::map::states::BlockRun;
use crate::store::map::{
    BlockState, CheckpointStep, Geometry, LayerIdentity, LayerMap, LayerMapError, Lookup, MapFront, NoCommit,
};

const GIB: u64 = 1 << 30;

fn run(start: u64, length: u64, state: BlockState) -> Lookup {
    Lookup::Run(BlockRun { start, length, state })
}

/// Fills the journal with records of one block each, until it says that it is full.
pub(super) fn fill(map: &mut LayerMap, file: &mut CutFile) -> u64 {
    for records in 0.. {
        load_missing(map, file, records, 1).unwrap();
        let is_data = map.uniform(records, 1) == Some(Some(BlockState::Data));
        map.change(records, 1, if is_data { BlockState::Zero } else { BlockState::Data });
        match map.begin_commit() {
            Ok(write) => file.write(&write.unwrap()),
            Err(error) => {
                assert_eq!(error, NoCommit::RingFull);
                return records;
            }
        }
        file.sync();
        map.end_commit(true);
    }
    unreachable!()
}

#[test]
fn a_new_map_says_that_everything_is_absent_without_any_node() {
    let file = create(1 << 50, Geometry::default());
    let map = open(&file).unwrap();
    assert_eq!(*map.identity(), identity(1 << 50));
    assert_eq!((map.size(), map.blocks()), (1 << 50, 1 << 38));
    assert_eq!(map.lookup(5, 1 << 37), run(5, 1 << 37, BlockState::Absent));
    assert_eq!(map.uniform((1 << 38) - 1, 1), Some(Some(BlockState::Absent)));
    assert!(!map.has_pending() && !map.should_checkpoint() && map.is_committed(map.mark()));
}

#[test]
fn a_layer_has_no_more_than_its_geometry_allows() {
    let refused = |identity: LayerIdentity| LayerMap::create(&identity, Geometry::default()).unwrap_err();
    assert!(matches!(refused(identity((1 << 50) + 1)), LayerMapError::TooLarge { .. }));
    let long = LayerIdentity { name: "n".repeat(257), ..identity(0) };
    assert!(matches!(refused(long), LayerMapError::TooLong { most: 256, .. }));
    let long = LayerIdentity { base: Some(vec![0; 2049]), ..identity(0) };
    assert!(matches!(refused(long), LayerMapError::TooLong { most: 2048, .. }));
    let longest =
        LayerIdentity { name: "n".repeat(256), base: Some(vec![7; 2048]), parent: None, ..identity(9) };
    let new = LayerMap::create(&longest, Geometry::default()).unwrap();
    let mut file = CutFile::default();
    new.writes.iter().for_each(|write| file.write(write));
    assert_eq!(*open(&file).unwrap().identity(), longest);
    assert!(new.file_length >= 64 << 10);
}

#[test]
fn a_new_name_is_durable_with_the_next_checkpoint() {
    let mut file = create(100 * 512, TINY);
    let mut map = open(&file).unwrap();
    let renamed = LayerIdentity { name: "vm2".into(), parent: None, ..identity(100 * 512) };
    map.set_identity(renamed.clone()).unwrap();
    let long = LayerIdentity { name: "n".repeat(257), ..renamed.clone() };
    assert!(matches!(map.set_identity(long), Err(LayerMapError::TooLong { .. })));
    let on_disk = |file: &CutFile| MapFront::read(&file.read(0, MapFront::BYTES)).unwrap().identity().clone();
    assert_eq!(on_disk(&file), identity(100 * 512));
    checkpoint(&mut map, &mut file);
    assert_eq!(on_disk(&file), renamed);
    assert_eq!(*open(&file).unwrap().geometry(), TINY);
}

#[test]
fn what_is_written_is_found_again_by_journal_and_by_nodes() {
    let mut file = create(100 * GIB, Geometry::default());
    let mut map = open(&file).unwrap();
    // A page that is changed for the first time needs slots: its own, and three of inner nodes.
    let page = 8192;
    assert_eq!(map.new_slots(3 * page, page + 1).len(), 2 + 3);
    map.change(3 * page, page + 1, BlockState::Data);
    assert_eq!(map.new_slots(3 * page, page), []);
    assert_eq!(map.new_slots(200 * page, 1).len(), 1 + 1, "a leaf below an inner node of its own");
    map.change(200 * page - 1, 1, BlockState::ZeroReserved);
    let expected = [
        run(0, 3 * page, BlockState::Absent),
        run(3 * page, page + 1, BlockState::Data),
        run(4 * page + 1, 196 * page - 2, BlockState::Absent),
        run(200 * page - 1, 1, BlockState::ZeroReserved),
    ];
    let is_right = |map: &LayerMap| {
        let ends = expected.map(|lookup| match lookup {
            Lookup::Run(run) => run.start,
            Lookup::Load(_) => unreachable!(),
        });
        ends.into_iter().zip(expected).all(|(start, run)| map.lookup(start, 200 * page - start) == run)
    };
    assert!(is_right(&map));
    flush(&mut map, &mut file);
    let mut map = open(&file).unwrap();
    assert!(is_right(&map), "of the journal");
    checkpoint(&mut map, &mut file);
    let mut map = open(&file).unwrap();
    assert!(matches!(map.lookup(3 * page, 1), Lookup::Load(_)));
    assert_eq!(map.uniform(3 * page, 1), None);
    load_missing(&mut map, &file, 0, 200 * page).unwrap();
    assert!(is_right(&map), "of nodes");
    assert_eq!(map.uniform(3 * page + 5, 30), Some(Some(BlockState::Data)));
    assert_eq!(map.uniform(3 * page - 1, 2), Some(None));
}

#[test]
fn leaves_that_are_on_disk_can_be_evicted_and_others_stay() {
    let mut file = create(GIB, Geometry::default());
    let mut map = open(&file).unwrap();
    for page in 0..8 {
        map.change(page * 8192, 1, BlockState::Data);
    }
    map.evict_clean(0);
    assert_eq!(map.leaves_in_ram(), 8, "pending");
    flush(&mut map, &mut file);
    map.evict_clean(0);
    assert_eq!(map.leaves_in_ram(), 8, "not in nodes yet");
    checkpoint(&mut map, &mut file);
    map.change(0, 1, BlockState::Zero);
    map.evict_clean(3);
    assert_eq!(map.leaves_in_ram(), 3);
    map.evict_clean(0);
    assert_eq!(map.leaves_in_ram(), 1);
    assert_eq!(map.lookup(0, 1), run(0, 1, BlockState::Zero));
    load_missing(&mut map, &file, 7 * 8192, 1).unwrap();
    assert_eq!(map.lookup(7 * 8192, 2), run(7 * 8192, 1, BlockState::Data));
}

/// L1: a layer has a bounded number of leaves in memory, unless somebody needs them for a moment.
#[test]
fn leaves_go_unless_they_are_held() {
    let mut file = create(GIB, Geometry::default());
    let mut map = open(&file).unwrap();
    (0..20).for_each(|page| map.change(page * 8192, 1, BlockState::Data));
    flush(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    map.hold_leaves();
    map.hold_leaves();
    map.evict_some();
    map.release_leaves();
    map.evict_some();
    assert_eq!(map.leaves_in_ram(), 20, "it is still held once");
    map.release_leaves();
    map.evict_some();
    assert_eq!(map.leaves_in_ram(), 2);
    for page in 0..20 {
        map.evict_some();
        load_missing(&mut map, &file, page * 8192, 1).unwrap();
        assert_eq!(map.uniform(page * 8192, 1), Some(Some(BlockState::Data)));
        assert!(map.leaves_in_ram() <= 3);
    }
}

/// What a checkpoint took that failed is in no node that counts.
#[test]
fn leaves_of_a_checkpoint_that_failed_stay() {
    let mut file = create(GIB, Geometry::default());
    let mut map = open(&file).unwrap();
    (0..9).for_each(|page| map.change(page * 8192, 1, BlockState::Data));
    flush(&mut map, &mut file);
    map.begin_checkpoint(5);
    assert!(matches!(map.checkpoint_step(), CheckpointStep::Write(_)));
    map.end_checkpoint(false);
    map.evict_clean(0);
    for page in 0..9 {
        assert_eq!(map.uniform(page * 8192, 1), Some(Some(BlockState::Data)));
    }
}

/// An address that was given before a checkpoint is of no use after it, and does no harm.
#[test]
fn a_node_that_was_written_anew_meanwhile_is_not_loaded_from_its_old_slot() {
    let mut file = create(GIB, Geometry::default());
    let mut map = open(&file).unwrap();
    map.change(0, 1, BlockState::Data);
    flush(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    map.evict_clean(0);
    let node = map.missing(0, 1).unwrap();
    let (offset, length) = map.address(node).unwrap();
    let old = file.read(offset as usize, length);
    load_missing(&mut map, &file, 0, 1).unwrap();
    map.loaded(node, &old).unwrap();
    map.change(0, 1, BlockState::Zero);
    flush(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    map.evict_clean(0);
    assert_eq!(map.address(node), None);
    map.loaded(node, &old).unwrap();
    load_missing(&mut map, &file, 0, 1).unwrap();
    assert_eq!(map.uniform(0, 1), Some(Some(BlockState::Zero)));
}

#[test]
fn d6_the_journal_laps_and_its_space_is_given_up_by_checkpoints_only() {
    let mut file = create(400 * 512, TINY);
    let mut map = open(&file).unwrap();
    assert_eq!(fill(&mut map, &mut file), TINY.ring_blocks());
    assert!(map.should_checkpoint());
    assert_eq!(map.begin_commit(), Err(NoCommit::RingFull));
    map.begin_checkpoint(0);
    assert_eq!(map.begin_commit(), Err(NoCommit::RingFull), "the old superblock needs it");
    map.abandon_checkpoint();
    for _ in 0..5 {
        checkpoint(&mut map, &mut file);
        assert!(!map.should_checkpoint());
        flush(&mut map, &mut file);
        assert_eq!(fill(&mut map, &mut file), TINY.ring_blocks() - 1);
    }
}

#[test]
fn d5_after_a_failure_nothing_is_journaled_any_more() {
    let file = create(400 * 512, TINY);
    let mut map = open(&file).unwrap();
    map.change(0, 1, BlockState::Data);
    map.begin_commit().unwrap();
    map.end_commit(false);
    assert!(map.has_pending_in(0, 1), "FUA of the block must not believe that it is durable");
    map.change(1, 1, BlockState::Data);
    assert!(map.is_failed() && !map.should_checkpoint());
    assert_eq!(map.begin_commit(), Err(NoCommit::Failed));
    assert_eq!(map.begin_resize(0), Err(NoCommit::Failed));
    let mut map = open(&file).unwrap();
    map.begin_checkpoint(0);
    map.end_checkpoint(false);
    assert_eq!(map.begin_commit(), Err(NoCommit::Failed));
}

/// Flips a bit of the record at a position.
fn damage_record(file: &mut CutFile, position: u64) {
    file.flip((TINY.record_offset(position) as usize + 90) * 8);
}

#[test]
fn a_whole_record_behind_a_bad_one_is_damage_and_a_bad_last_one_is_dropped() {
    let mut file = create(400 * 512, TINY);
    let mut map = open(&file).unwrap();
    for block in 0..5 {
        map.change(block, 1, BlockState::Data);
        flush(&mut map, &mut file);
    }
    let mut torn = file.clone();
    damage_record(&mut torn, 4);
    let mut map = open(&torn).unwrap();
    assert_eq!(
        states(&mut map, &torn).unwrap()[..6],
        [[BlockState::Data; 4].as_slice(), &[BlockState::Absent; 2]].concat()
    );
    for position in 0..4 {
        let mut bad = file.clone();
        damage_record(&mut bad, position);
        assert_eq!(
            open(&bad).unwrap_err(),
            LayerMapError::Journal { position, what: "there is a later record behind one that is not whole" }
        );
    }
}

#[test]
fn the_older_superblock_serves_while_its_records_are_there() {
    let mut file = create(400 * 512, TINY);
    let mut map = open(&file).unwrap();
    fill(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    // The second superblock is the newer one.
    let damaged = |file: &CutFile| {
        let mut file = file.clone();
        file.flip((SUPERBLOCK_SPACING + 100) * 8);
        file
    };
    let old = damaged(&file);
    let (mut older, mut newer) = (open(&old).unwrap(), open(&file).unwrap());
    assert!(older.is_fallback() && !newer.is_fallback());
    assert_eq!(states(&mut older, &old).unwrap(), states(&mut newer, &file).unwrap());
    // The first record that is written over one that only the older superblock needs.
    flush(&mut map, &mut file);
    assert!(matches!(open(&damaged(&file)), Err(LayerMapError::Journal { .. })));
    assert!(open(&file).is_ok());
}

#[test]
fn a_file_that_is_no_map_or_another_ones_is_refused() {
    let mut file = create(400 * 512, TINY);
    let front = file.read(0, MapFront::BYTES);
    assert_eq!(MapFront::read(&[]).unwrap_err(), LayerMapError::NotAMap);
    assert_eq!(MapFront::read(&vec![0; MapFront::BYTES]).unwrap_err(), LayerMapError::NotAMap);
    assert!(matches!(MapFront::read(&front).unwrap().open(&[]), Err(LayerMapError::Journal { .. })));
    file.flip(100 * 8);
    assert_eq!(open(&file).unwrap_err(), LayerMapError::SuperblocksDamaged);
}

#[test]
fn what_was_cut_off_reads_as_zeroes_when_the_disk_grows_again() {
    let mut file = create(400 * 512, TINY);
    let mut map = open(&file).unwrap();
    let resize = |map: &mut LayerMap, file: &mut CutFile, blocks: u64| {
        let write = map.begin_resize(blocks * 512).unwrap().unwrap();
        file.write(&write);
        file.sync();
        map.end_commit(true);
    };
    // Nothing is there, so shrinking has nothing to hide but what is below.
    resize(&mut map, &mut file, 100);
    assert_eq!(map.blocks(), 100);
    resize(&mut map, &mut file, 500);
    for is_reopened in [false, true] {
        if is_reopened {
            checkpoint(&mut map, &mut file);
            map = open(&file).unwrap();
        }
        assert_eq!(map.lookup(50, 450), run(50, 50, BlockState::Absent));
        assert_eq!(map.lookup(100, 400), run(100, 400, BlockState::Zero));
        assert_eq!(map.uniform(99, 2), Some(None));
        assert_eq!(map.uniform(100, 1), Some(Some(BlockState::Zero)));
    }
}

/// One that looked at each page of the disk would take seconds, and 10,000 of them for ever.
#[test]
fn a_commit_looks_at_changed_pages_only() {
    let mut file = create(1 << 50, Geometry::default());
    let mut map = open(&file).unwrap();
    for turn in 0..10_000 {
        map.change(1 << 37, 1, if turn % 2 == 0 { BlockState::Data } else { BlockState::Zero });
        assert!(!map.has_pending_in(0, 1 << 36) && map.has_pending_in(0, 1 << 38));
        match map.begin_commit() {
            Ok(record) => file.write(&record.unwrap()),
            Err(NoCommit::RingFull) => {
                checkpoint(&mut map, &mut file);
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        map.end_commit(true);
    }
}
