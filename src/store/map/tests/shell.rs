//! What `backend` does with a map, without waiting: loads what is asked for, writes what comes.

use uuid::Uuid;

use super::file::CutFile;
use crate::store::map::open::NewMap;
use crate::store::map::{
    BlockState, CheckpointStep, FileWrite, Geometry, LayerIdentity, LayerMap, LayerMapError, Lookup,
    MapFront, NodeAddress,
};

pub(super) fn identity(size: u64) -> LayerIdentity {
    LayerIdentity {
        store: Uuid::from_u128(1),
        image: Uuid::from_u128(2),
        layer: Uuid::from_u128(3),
        parent: Some(Uuid::from_u128(4)),
        name: "vm1".into(),
        created_s: 1_700_000_000,
        size,
        base: Some(b"golden.raw".to_vec()),
    }
}

/// A ring that laps every few records, pages of 64 blocks, and nodes of more than one sector.
pub(super) const TINY: Geometry = Geometry {
    block_bytes: 512,
    page_blocks: 64,
    slot_bytes: 1024,
    record_block_bytes: 512,
    ring_bytes: 10 * 512,
    ring_room_bytes: 10 * 512,
    fan_out: 2,
    inner_levels: 2,
    roots: 2,
};

/// The same, and the ring grows.
pub(super) const GROWING: Geometry = Geometry { ring_bytes: 5 * 512, ring_room_bytes: 40 * 512, ..TINY };

pub(super) fn create(size: u64, geometry: Geometry) -> CutFile {
    let mut file = CutFile::default();
    let NewMap { writes, .. } = LayerMap::create(&identity(size), geometry).unwrap();
    writes.iter().for_each(|write| file.write(write));
    file.sync();
    file
}

pub(super) fn open(file: &CutFile) -> Result<LayerMap, LayerMapError> {
    let front = MapFront::read(&file.read(0, MapFront::BYTES))?;
    let (offset, length) = front.ring();
    let mut map = front.open(&file.read(offset as usize, length))?;
    if map.is_fallback() {
        let mut node = None;
        while let Some(next) = map.next_live(node) {
            load(&mut map, file, next)?;
            map.evict_clean(1);
            node = Some(next);
        }
    }
    Ok(map)
}

pub(super) fn load(map: &mut LayerMap, file: &CutFile, node: NodeAddress) -> Result<(), LayerMapError> {
    let (offset, length) = map.address(node).expect("it is to be loaded");
    map.loaded(node, &file.read(offset as usize, length))
}

pub(super) fn load_missing(
    map: &mut LayerMap,
    file: &CutFile,
    start: u64,
    length: u64,
) -> Result<(), LayerMapError> {
    while let Some(node) = map.missing(start, length) {
        load(map, file, node)?;
    }
    Ok(())
}

/// The states of all blocks, as requests see them.
pub(super) fn states(map: &mut LayerMap, file: &CutFile) -> Result<Vec<BlockState>, LayerMapError> {
    let mut states = Vec::new();
    while (states.len() as u64) < map.blocks() {
        let at = states.len() as u64;
        match map.lookup(at, map.blocks() - at) {
            Lookup::Run(run) => {
                assert!(run.start == at && run.length > 0 && run.end() <= map.blocks());
                states.extend((0..run.length).map(|_| run.state));
            }
            Lookup::Load(node) => load(map, file, node)?,
        }
    }
    Ok(states)
}

/// A whole checkpoint, without a cut.
pub(super) fn checkpoint(map: &mut LayerMap, file: &mut CutFile) {
    map.begin_checkpoint(1_700_000_001);
    loop {
        match map.checkpoint_step() {
            CheckpointStep::Load(node) => load(map, file, node).unwrap(),
            CheckpointStep::Write(writes) => writes.iter().for_each(|write| file.write(write)),
            CheckpointStep::Grow { offset, length } => {
                file.write(&FileWrite { offset, bytes: vec![0; length] });
            }
            CheckpointStep::Superblock(write) => {
                file.sync();
                file.write(&write);
                file.sync();
                return map.end_checkpoint(true);
            }
        }
    }
}

/// Makes all changes durable, without a cut.
pub(super) fn flush(map: &mut LayerMap, file: &mut CutFile) {
    let mark = map.mark();
    while !map.is_committed(mark) {
        match map.begin_commit() {
            Ok(write) => {
                file.write(&write.expect("there are changes"));
                file.sync();
                map.end_commit(true);
            }
            Err(_) => checkpoint(map, file),
        }
    }
}
