//! What it costs to open a large map.

use std::cell::Cell;
use std::io;
use std::time::Instant;

use uuid::Uuid;

use super::*;
use crate::store::copy::MAP_BLOCK;
use crate::store::map::{FileWrite, Geometry, LayerIdentity, MapFront};
use crate::store::map_medium::{
    FEW_LEAVES, LayerMedium, UnsyncedMap, load_each_node, open_map, open_map_of, read_at, write_all,
};
use crate::store::pending::FoundLog;

/// Counts what is read.
struct Counted<'a>(&'a File, Cell<usize>);

impl LayerMedium for Counted<'_> {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.set(self.1.get() + bytes.len());
        read_at(self.0, bytes, offset)
    }

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        write_all(self.0, writes)
    }

    fn sync_map(&self) -> io::Result<()> {
        Ok(())
    }

    fn left_log(&self, _identity: &LayerIdentity) -> Option<FoundLog> {
        None
    }
}

/// A map of so many blocks, all of them DATA, whose journal is nearly as full as it may be.
fn dense(blocks: u64) -> File {
    let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
    let layer = LayerDescription {
        store: Uuid::nil(),
        image: Uuid::nil(),
        layer: Uuid::from_u128(1),
        parent: None,
        name: String::new(),
        created_s: 0,
        size: blocks * MAP_BLOCK,
        place: Default::default(),
    };
    let open = || file.try_clone().unwrap();
    let mut writer = MapWriter::create_with(open(), &layer, Geometry::default()).unwrap();
    writer.set(0, blocks, BlockState::Data).unwrap();
    writer.finish().unwrap();
    let mut open = OpenMap { map: open_map(&file, &file).unwrap(), files: UnsyncedMap(&file) };
    let page = u64::from(Geometry::default().page_blocks);
    let pages = blocks / page;
    for number in 0..100_000 {
        if open.map.should_checkpoint() {
            break;
        }
        open.set(number % pages * page + number / pages * 7 % page, 1, BlockState::Zero).unwrap();
        if number % 1000 == 999 {
            open.commit().unwrap();
        }
    }
    file
}

fn expect_few_reads(blocks: u64) {
    let file = dense(blocks);
    let medium = Counted(&file, Cell::new(0));
    let begun = Instant::now();
    let mut map = open_map_of(&medium).unwrap();
    println!("{blocks} blocks: opened in {:?}, {} bytes read", begun.elapsed(), medium.1.get());
    let ring = Geometry::default().ring_bytes as usize;
    assert_eq!((map.leaves_in_ram(), medium.1.get()), (0, MapFront::BYTES + ring));
    let begun = Instant::now();
    load_each_node(&mut map, &medium).unwrap();
    println!("all nodes: {:?}, {} leaves left", begun.elapsed(), map.leaves_in_ram());
    // Those stay that records have changed since the last checkpoint.
    map.begin_checkpoint(1);
    let mut open = OpenMap { map, files: UnsyncedMap(&file) };
    open.checkpoint_steps().unwrap();
    open.map.end_checkpoint(true);
    open.map.evict_clean(FEW_LEAVES);
    assert_eq!(open.map.leaves_in_ram(), FEW_LEAVES);
}

/// L1: what is read to open a map does not grow with the disk.
#[test]
fn l1_a_dense_map_opens_without_its_nodes() {
    expect_few_reads(1 << 22);
}

/// L1, with figures: `cargo test --release --lib dense_tebibyte -- --ignored --nocapture`
#[test]
#[ignore = "a map of 256 MiB, and figures that only a quiet machine has"]
fn a_dense_tebibyte() {
    expect_few_reads(1 << 28);
}
