//! A store begins.

use std::path::Path;

use super::catalog::ChunkCompression;
use super::directory::StoreDirectory;
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, now_s, random_uuid};

impl<M: LayerMaps> OpenStore<M> {
    /// Makes a store.
    ///
    /// # Errors
    /// A sentence.
    pub fn init(path: &Path, maps: M) -> Result<Self, StoreError> {
        Self::init_with(path, maps, ChunkCompression::default())
    }

    /// The same, which says how what comes into packs is compressed.
    ///
    /// # Errors
    /// A sentence.
    pub fn init_with(path: &Path, maps: M, compression: ChunkCompression) -> Result<Self, StoreError> {
        Self::with(StoreDirectory::init(path, random_uuid(), now_s(), compression)?, maps)
    }
}
