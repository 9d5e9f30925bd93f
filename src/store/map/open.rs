//! How a map begins: as a new file, or out of the bytes of one.

use super::error::LayerMapError;
use super::format::StructureFlaw;
use super::geometry::{FRONT_BYTES, Geometry, SUPERBLOCK_BYTES, SUPERBLOCK_SPACING};
use super::layer::{FileWrite, LayerMap};
use super::node::NodeEntry;
use super::planted::{MapBug, is_planted};
use super::record::JournalPoint;
use super::replay::replay;
use super::superblock::{DecodeError, LayerIdentity, Superblock, superblock_offset};
use super::tree::Tree;

/// What a new map's file has.
#[derive(Debug)]
pub(crate) struct NewMap {
    /// To be written and synced. The journal is among it, with zeroes: a record then needs no allocation.
    pub(crate) writes: Vec<FileWrite>,
    /// The length that the sparse file may be given.
    pub(crate) file_length: u64,
}

/// The superblock that counts.
#[derive(Debug)]
pub(crate) struct MapFront {
    superblock: Superblock,
    is_fallback: bool,
}

impl MapFront {
    /// Bytes at the front of the file that [`read`](MapFront::read) wants.
    pub(crate) const BYTES: usize = FRONT_BYTES;

    /// Reads the superblocks out of the first bytes of a file.
    pub(crate) fn read(front: &[u8]) -> Result<Self, LayerMapError> {
        let slot = |at: usize| front.get(at..at + SUPERBLOCK_BYTES).unwrap_or_default();
        let (bytes_of_a, bytes_of_b) = (slot(0), slot(SUPERBLOCK_SPACING));
        let (a, b) = (Superblock::decode(bytes_of_a, true), Superblock::decode(bytes_of_b, false));
        match (a, b) {
            (Err(DecodeError::Refused(error)), _) | (_, Err(DecodeError::Refused(error))) => Err(error),
            (Ok(a), Ok(b)) => Self::newer(a, b),
            (Ok(only), Err(_)) => {
                let is_new = only.sequence == 1 && bytes_of_b.iter().all(|byte| *byte == 0);
                Ok(Self { superblock: only, is_fallback: !is_new })
            }
            (Err(_), Ok(only)) => Ok(Self { superblock: only, is_fallback: true }),
            (
                Err(DecodeError::Unreadable(StructureFlaw::Other)),
                Err(DecodeError::Unreadable(StructureFlaw::Other)),
            ) => Err(LayerMapError::NotAMap),
            (Err(_), Err(_)) => Err(LayerMapError::SuperblocksDamaged),
        }
    }

    fn newer(a: Superblock, b: Superblock) -> Result<Self, LayerMapError> {
        let (older, newer) = if a.sequence < b.sequence { (a, b) } else { (b, a) };
        let is_one_map = older.geometry == newer.geometry || older.geometry.grown() == Some(newer.geometry);
        if older.identity.layer != newer.identity.layer || !is_one_map {
            return Err(LayerMapError::SuperblocksDiffer);
        }
        if newer.sequence != older.sequence + 1 || newer.replay_from.position < older.replay_from.position {
            return Err(LayerMapError::Superblock("it does not follow the other one"));
        }
        Ok(Self { superblock: newer, is_fallback: false })
    }

    /// What must be read of the journal: offset and length in the file. If the newer superblock is damaged,
    /// it may have said that the journal has grown.
    pub(crate) fn ring(&self) -> (u64, usize) {
        let geometry = &self.superblock.geometry;
        match self.is_fallback && !is_planted(MapBug::RoomNotLookedAt) {
            true => geometry.ring_room(),
            false => geometry.ring(),
        }
    }

    pub(crate) fn identity(&self) -> &LayerIdentity {
        &self.superblock.identity
    }

    /// Replays the journal, of which all bytes that [`ring`](Self::ring) names are in `ring`.
    ///
    /// What the file has was perhaps never synced: after the death of a process the page cache has records
    /// that no medium has. So the caller syncs data and map before it serves what this says.
    pub(crate) fn open(self, ring: &[u8]) -> Result<LayerMap, LayerMapError> {
        if ring.len() != self.ring().1 {
            return Err(LayerMapError::Journal { position: 0, what: "the file is cut off" });
        }
        let Self { superblock, is_fallback } = self;
        let geometry = superblock.geometry;
        let replay = replay(&superblock, ring, is_fallback)?;
        let mut identity = superblock.identity;
        identity.size = replay.size;
        let mut map = LayerMap {
            identity,
            geometry,
            tree: Tree::new(geometry, superblock.roots, geometry.pages(replay.largest)),
            hidden_from: replay.hidden_from,
            generation: replay.generation + 1,
            sequence: superblock.sequence,
            end: replay.end,
            needed_from: superblock.replay_from.position,
            pending: Default::default(),
            changes: 0,
            commits: Default::default(),
            dirty: Default::default(),
            checkpoint: None,
            log: None,
            replayed: replay.runs,
            holds: 0,
            is_failed: false,
            is_read_only: superblock.is_read_only,
            is_fallback,
        };
        map.make_replayed(0..u64::MAX);
        Ok(map)
    }
}

impl LayerMap {
    /// The file of a new map, in which all blocks are ABSENT.
    pub(crate) fn create(identity: &LayerIdentity, geometry: Geometry) -> Result<NewMap, LayerMapError> {
        let geometry = geometry.checked()?;
        identity.check(&geometry)?;
        let superblock = Superblock {
            identity: identity.clone(),
            geometry,
            sequence: 1,
            generation: 0,
            written_s: identity.created_s,
            hidden_from: geometry.blocks(identity.size),
            replay_from: JournalPoint::BEGINNING,
            durable_to: JournalPoint::BEGINNING,
            roots: vec![NodeEntry::EMPTY; geometry.roots as usize],
            is_read_only: false,
        };
        let (offset, length) = geometry.ring();
        let writes = vec![
            FileWrite { offset: superblock_offset(1), bytes: superblock.encode() },
            FileWrite { offset: superblock_offset(2), bytes: vec![0; SUPERBLOCK_BYTES] },
            FileWrite { offset, bytes: vec![0; length] },
        ];
        Ok(NewMap { writes, file_length: geometry.file_length(identity.size) })
    }
}
