//! A delta that comes into a store: what it says of itself, and its contents.
//!
//! While a server has the store, the command that has the delta writes the files of the new layer itself, as
//! exports read layers themselves. The server's part is in `delta_layer`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::catalog::{ImportedSnapshot, LayerId, NodeName, SnapshotId, StoreName};
use super::copy::MAP_BLOCK;
use super::delta::{DeltaError, DeltaHead, DeltaPart, DeltaReader};
use super::directory::StoreDirectory;
use super::error::StoreError;
use super::export::OnProgress;
use super::file_changes::write_all_at;
use super::map::BlockState;
use super::map_medium::{FEW_LEAVES, MapFileError, OpenMap, UnsyncedMap, open_map};
use super::open_store::random_uuid;

/// Parts of a delta after which the states of their blocks go to the map's file.
const COMMIT_PARTS: usize = 256;

/// The snapshot that a delta makes. Uuids are texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaClaim {
    pub image: StoreName,
    pub snapshot: StoreName,
    /// The uuid of the snapshot.
    pub to: String,
    /// That of the one before it; none: it makes the image.
    pub from: Option<String>,
    /// Bytes of the disk before.
    pub from_size: u64,
    pub size: u64,
    /// The layer that gets its contents.
    pub layer: String,
}

/// A delta of which the header was read.
pub struct ArrivingDelta<'a> {
    pub(super) claim: DeltaClaim,
    pub(super) delta: DeltaReader<&'a mut dyn Read>,
}

fn uuid(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|_| DeltaError::Damaged("what it names is no uuid").into())
}

impl DeltaClaim {
    fn of(image: &StoreName, snapshot: StoreName, head: &DeltaHead) -> Self {
        Self {
            image: image.clone(),
            snapshot,
            to: head.to.to_string(),
            from: head.from.map(|from| from.to_string()),
            from_size: head.from_size,
            size: head.to_size,
            layer: random_uuid().to_string(),
        }
    }

    /// What the catalogue is to have.
    pub(super) fn row(&self) -> Result<ImportedSnapshot, StoreError> {
        Ok(ImportedSnapshot {
            image: self.image.clone(),
            snapshot: self.snapshot.clone(),
            id: SnapshotId(uuid(&self.to)?),
            from: self.from.as_deref().map(uuid).transpose()?.map(SnapshotId),
            layer: LayerId(uuid(&self.layer)?),
            size: self.size,
        })
    }

    /// The snapshot.
    #[must_use]
    pub fn node(&self) -> NodeName {
        NodeName { image: self.image.clone(), snapshot: Some(self.snapshot.clone()) }
    }
}

impl<'a> ArrivingDelta<'a> {
    /// Reads the header. Without a name the snapshot keeps its own.
    ///
    /// # Errors
    /// It is no delta, or cannot be read.
    pub fn begin(
        image: &StoreName,
        snapshot: Option<StoreName>,
        source: &'a mut dyn Read,
    ) -> Result<Self, StoreError> {
        let delta = DeltaReader::begin(source)?;
        let snapshot = snapshot.map_or_else(|| delta.head().name.parse(), Ok)?;
        Ok(Self { claim: DeltaClaim::of(image, snapshot, delta.head()), delta })
    }

    #[must_use]
    pub const fn claim(&self) -> &DeltaClaim {
        &self.claim
    }

    /// Writes the contents into the layer that the server has made for it. The server makes them durable. If
    /// that ends early, the layer is removed.
    ///
    /// # Errors
    /// A sentence; that of `progress`.
    pub fn fill(&mut self, store: &Path, progress: OnProgress<'_>) -> Result<(), StoreError> {
        let directory = StoreDirectory::open_to_read(store)?;
        let filled = self.fill_in(&directory, progress);
        if filled.is_err() {
            self.give_up_in(&directory);
        }
        filled
    }

    /// Removes the layer: the server does not want it.
    pub fn give_up(&self, store: &Path) {
        if let Ok(directory) = StoreDirectory::open_to_read(store) {
            self.give_up_in(&directory);
        }
    }

    fn give_up_in(&self, directory: &StoreDirectory) {
        if let Ok(row) = self.claim.row() {
            // What cannot be removed is found, and moved to lost/, when the store is opened the next time.
            let _removed = directory.remove_layer(row.layer);
        }
    }

    fn fill_in(&mut self, directory: &StoreDirectory, progress: OnProgress<'_>) -> Result<(), StoreError> {
        let layer = self.claim.row()?.layer;
        let path = directory.layer_path(layer);
        let bad_map = |error: MapFileError| StoreError::Map { layer, what: "made", why: error.to_string() };
        let (data, map) = directory.open_layer_to_fill(layer)?;
        let mut open = OpenMap { map: open_map(&data, &map).map_err(bad_map)?, files: UnsyncedMap(&map) };
        let mut parts = 0;
        while let Some(part) = self.delta.next()? {
            let (start, end, state) = put(&part, &data, &path)?;
            open.set(start, end - start, state).map_err(bad_map)?;
            parts += 1;
            if parts % COMMIT_PARTS == 0 {
                open.commit().map_err(bad_map)?;
                open.map.evict_clean(FEW_LEAVES);
            }
            progress(end * MAP_BLOCK)?;
        }
        open.commit().map_err(bad_map)
    }
}

/// Writes the data of a part. The blocks that it has, from the first to behind the last, and their state.
pub(super) fn put(
    part: &DeltaPart<'_>,
    data: &File,
    path: &Path,
) -> Result<(u64, u64, BlockState), StoreError> {
    let (offset, length, state) = match part {
        DeltaPart::Data { offset, bytes } => {
            write_all_at(data, bytes, *offset).map_err(StoreError::at("write", path))?;
            (*offset, bytes.len() as u64, BlockState::Data)
        }
        DeltaPart::Zeroes { offset, length } => (*offset, *length, BlockState::Zero),
    };
    Ok((offset / MAP_BLOCK, (offset + length).div_ceil(MAP_BLOCK), state))
}
