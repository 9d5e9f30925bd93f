//! How the journal grows.

use super::file::CutFile;
use super::shell::{GROWING, TINY, checkpoint, create, flush, open, states};
use super::whole::fill;
use crate::store::map::planted::{MapBug, plant};
use crate::store::map::{BlockState, CheckpointStep, FileWrite, Geometry, LayerMap, LayerMapError, NoCommit};

/// A commit of one block; whether there was room for it.
fn one(map: &mut LayerMap, file: &mut CutFile, block: u64) -> bool {
    map.change(block, 1, BlockState::Data);
    match map.begin_commit() {
        Ok(record) => file.write(&record.expect("there is a change")),
        Err(error) => {
            assert_eq!(error, NoCommit::RingFull);
            return false;
        }
    }
    file.sync();
    map.end_commit(true);
    true
}

/// Blocks with data in a layer that is opened.
fn data_blocks(file: &CutFile) -> Result<usize, LayerMapError> {
    let mut map = open(file)?;
    Ok(states(&mut map, file)?.iter().filter(|state| **state == BlockState::Data).count())
}

/// A map with a ring of eight, of which the records from 1 to 5 are there, and its superblock with a ring of
/// sixteen. So record 8 will have another place.
fn growing(file: &mut CutFile) -> (LayerMap, FileWrite) {
    let mut map = open(file).unwrap();
    assert!(one(&mut map, file, 0));
    checkpoint(&mut map, file);
    (1..5).for_each(|block| assert!(one(&mut map, file, block)));
    assert!(map.should_checkpoint());
    map.begin_checkpoint(0);
    loop {
        match map.checkpoint_step() {
            CheckpointStep::Load(node) => panic!("{node:?} is there"),
            CheckpointStep::Write(nodes) => nodes.iter().for_each(|node| file.write(node)),
            CheckpointStep::Grow { offset, length } => {
                assert_eq!((offset, length), ((64 << 10) + 8 * 512, 8 * 512));
                file.write(&FileWrite { offset, bytes: vec![0; length] });
                file.sync();
            }
            CheckpointStep::Superblock(superblock) => return (map, superblock),
        }
    }
}

/// Records are written until there is no room. Then the power is cut, before the superblock is there and
/// after.
fn records_beside_growth() -> Result<(), LayerMapError> {
    let mut file = create(400 * 512, Geometry { ring_bytes: 8 * 512, ring_room_bytes: 32 * 512, ..TINY });
    let (mut map, superblock) = growing(&mut file);
    let written = (5..).find(|block| !one(&mut map, &mut file, *block)).unwrap() as usize;
    assert_eq!(data_blocks(&file)?, written);
    file.write(&superblock);
    file.sync();
    assert_eq!(data_blocks(&file)?, written);
    map.end_checkpoint(true);
    flush(&mut map, &mut file);
    assert_eq!(written, 8, "the rest of the lap was used");
    assert_eq!(file.read((64 << 10) + 8 * 512, 8), b"rnbmJRNL", "the next record is behind the others");
    assert_eq!(data_blocks(&file)?, 9);
    Ok(())
}

#[test]
fn while_the_journal_grows_no_record_begins_another_lap() {
    records_beside_growth().unwrap();
    plant(Some(MapBug::LapBesideGrowth));
    let found = records_beside_growth();
    plant(None);
    println!("LapBesideGrowth is found: {}", found.unwrap_err());
}

#[test]
fn a_journal_grows_to_its_room_and_not_without_need_or_space() {
    let mut file = create(400 * 512, GROWING);
    let mut map = open(&file).unwrap();
    let blocks = |map: &LayerMap| map.geometry().ring_blocks();
    for _ in 0..10 {
        map.change(0, 1, BlockState::Data);
        flush(&mut map, &mut file);
        checkpoint(&mut map, &mut file);
    }
    assert_eq!(blocks(&map), 5, "little was used at a time");
    for _ in 0..3 {
        fill(&mut map, &mut file);
        map.begin_checkpoint(0);
        loop {
            match map.checkpoint_step() {
                CheckpointStep::Grow { .. } => map.stay_small(),
                CheckpointStep::Superblock(superblock) => {
                    file.write(&superblock);
                    file.sync();
                    break map.end_checkpoint(true);
                }
                CheckpointStep::Write(nodes) => nodes.iter().for_each(|node| file.write(node)),
                step @ CheckpointStep::Load(_) => panic!("{step:?}"),
            }
        }
        flush(&mut map, &mut file);
        assert_eq!(blocks(&map), 5, "there was no space for more");
    }
    for _ in 0..10 {
        fill(&mut map, &mut file);
        checkpoint(&mut map, &mut file);
        flush(&mut map, &mut file);
        let mut map = open(&file).unwrap();
        states(&mut map, &file).unwrap();
    }
    assert_eq!(blocks(&map), 40);
    assert_eq!(blocks(&open(&file).unwrap()), 40);
}
