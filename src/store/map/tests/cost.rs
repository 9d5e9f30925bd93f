//! What first writes cost beside the writes of their data: records of the journal, and checkpoints.
//!
//! These are counts, so they are the same on any machine.

use super::shell::{create, open};
use crate::random::Random;
use crate::store::map::{BlockState, CheckpointStep, Geometry, LayerMap, NoCommit};

/// Writes that are answered between one FLUSH and the next.
const BETWEEN_FLUSHES: u64 = 32;
/// FLUSHes until the journal has its whole size, and sixteen times what makes a checkpoint due then.
const GROWING: u64 = 1024;
const FLUSHES: u64 = 16 * 512;

/// Writes to the map's file, and their bytes.
#[derive(Default)]
struct Cost {
    writes: u64,
    bytes: u64,
}

impl Cost {
    fn add(&mut self, bytes: usize) {
        self.writes += 1;
        self.bytes += bytes as u64;
    }

    fn checkpoint(&mut self, map: &mut LayerMap) {
        map.begin_checkpoint(1_700_000_001);
        loop {
            match map.checkpoint_step() {
                CheckpointStep::Load(node) => panic!("nothing was evicted, and {node:?} is to be loaded"),
                CheckpointStep::Write(nodes) => nodes.iter().for_each(|node| self.add(node.bytes.len())),
                CheckpointStep::Grow { length, .. } => self.add(length),
                CheckpointStep::Superblock(superblock) => {
                    self.add(superblock.bytes.len());
                    return map.end_checkpoint(true);
                }
            }
        }
    }

    /// As `backend/image/commit.rs` does it.
    fn flush(&mut self, map: &mut LayerMap) {
        loop {
            match map.begin_commit() {
                Ok(record) => {
                    self.add(record.expect("there are changes").bytes.len());
                    break map.end_commit(true);
                }
                Err(NoCommit::RingFull) => self.checkpoint(map),
                Err(error) => panic!("{error}"),
            }
        }
        if map.should_checkpoint() {
            self.checkpoint(map);
        }
    }
}

/// Writes and bytes for each first write of a block anywhere on a disk, the data itself included.
fn of_a_first_write(gib: u64) -> (f64, f64) {
    let geometry = Geometry::default();
    let mut map = open(&create(gib << 30, geometry)).unwrap();
    let (mut random, mut cost) = (Random::new(gib), Cost::default());
    let mut flushes = |map: &mut LayerMap, cost: &mut Cost, count| {
        for _ in 0..count {
            for _ in 0..BETWEEN_FLUSHES {
                map.change(random.below(map.blocks()), 1, BlockState::Data);
            }
            cost.flush(map);
        }
    };
    flushes(&mut map, &mut cost, GROWING);
    assert_eq!(map.geometry().ring_bytes, geometry.ring_room_bytes);
    let Cost { writes, bytes } = std::mem::take(&mut cost);
    println!(
        "{gib} GiB: until the journal has its size, {writes} writes and {} KiB beside those of data",
        bytes >> 10
    );
    flushes(&mut map, &mut cost, FLUSHES);
    let all = (FLUSHES * BETWEEN_FLUSHES) as f64;
    (1.0 + cost.writes as f64 / all, f64::from(geometry.block_bytes) + cost.bytes as f64 / all)
}

/// What the design wants, to two digits, for a disk that is written to all the time.
#[test]
fn a_first_write_is_little_more_than_its_data() {
    for (gib, most_writes, most_bytes) in [(20, 1.075, 4400.0), (100, 1.25, 5120.0)] {
        let (writes, bytes) = of_a_first_write(gib);
        println!("{gib} GiB: {writes:.3} writes and {bytes:.0} bytes for each");
        assert!(writes <= most_writes && bytes <= most_bytes, "{gib} GiB: {writes} writes, {bytes} bytes");
    }
}
