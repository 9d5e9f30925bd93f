//! The maps of a store: verified as a whole, and made again of the data where one is lost.

use super::catalog::{LayerId, LayerRow, StoreName};
use super::copy::{MAP_BLOCK, next_data};
use super::error::StoreError;
use super::layer_copy::made;
use super::map::{BlockState, Geometry, LayerMapError};
use super::map_files::MapFiles;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::map_writer::MapWriter;
use super::maps::LayerDescription;
use super::open_store::OpenStore;

impl OpenStore<MapFiles> {
    /// Everything that is wrong with the maps of layers, a sentence each. Every node is read. A layer whose
    /// files are missing is told by [`OpenStore::check`].
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn check_maps(&self) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        for row in self.view()?.layers() {
            match self.verified(row) {
                Ok(None) | Err(StoreError::LayerMissing { .. }) => {}
                Ok(Some(why)) => found.push(format!("the layer {}: {why}", row.id)),
                Err(error) => found.push(error.to_string()),
            }
        }
        Ok(found)
    }

    /// What is wrong with the map of a layer.
    fn verified(&self, row: &LayerRow) -> Result<Option<MapFlaw>, StoreError> {
        let opened = match self.view()?.contents(row.id) {
            Some(_) => MapReader::open(self.directory.open_map(row.id)?),
            None => {
                let (data, map) = self.directory.open_layer(row.id)?;
                MapReader::open_synced(&data, map)
            }
        };
        let map = match opened.and_then(MapReader::verified) {
            Ok(map) => map,
            Err(error) => return Ok(Some(MapFlaw::Unusable(error))),
        };
        let (identity, store) = (map.identity(), self.header().store);
        // A head gets the size that the catalogue says when it is opened.
        let has_size = !row.is_sealed || map.size() == row.size;
        Ok(match () {
            () if identity.layer != row.id.0 => Some(MapFlaw::Foreign("layer")),
            () if identity.store != store => Some(MapFlaw::Foreign("store")),
            () if !has_size => Some(MapFlaw::Size { map: map.size(), row: row.size }),
            () => None,
        })
    }

    /// Makes the maps of an image's layers again that cannot be used: all that the file system has of a
    /// layer's data counts as written. The old maps go to `lost/`.
    ///
    /// It is a guess. What was trimmed or zeroed may show again what was there before or is below, and what
    /// was written and never flushed may be there.
    ///
    /// # Errors
    /// A sentence: a newer version has written a map, or a file cannot be read or written.
    pub fn rebuild_maps(&self, name: &StoreName) -> Result<Vec<LayerId>, StoreError> {
        let row = self.image(name)?;
        let mut rebuilt = Vec::new();
        for layer in self.view()?.image_chain(row).0 {
            match self.verified(layer) {
                Ok(None) => continue,
                Ok(Some(MapFlaw::Unusable(error @ MapFileError::Map(LayerMapError::Newer { .. })))) => {
                    return Err(made(layer.id)(error));
                }
                Ok(Some(_)) | Err(StoreError::LayerMissing { .. }) => {}
                Err(error) => return Err(error),
            }
            self.rebuild_map(layer, name)?;
            rebuilt.push(layer.id);
        }
        Ok(rebuilt)
    }

    fn rebuild_map(&self, row: &LayerRow, name: &StoreName) -> Result<(), StoreError> {
        let data = self.directory.open_data(row.id)?;
        let description = LayerDescription {
            store: self.header().store,
            image: row.image.0,
            layer: row.id.0,
            parent: match row.below.node {
                super::catalog::ChainNode::Layer(id) => Some(id.0),
                _ => None,
            },
            name: name.to_string(),
            created_s: row.created_s,
            size: row.size,
            place: self.place_on(row.below)?,
        };
        self.directory.replace_map(row.id, |file| {
            let failed = |error: std::io::Error| made(row.id)(error.into());
            // A head goes on being written.
            let geometry = Geometry::default();
            let mut map = MapWriter::create_with(file, &description, geometry).map_err(made(row.id))?;
            let mut at = 0;
            while let Some((start, end)) = next_data(&data, at, row.size).map_err(failed)? {
                let (first, last) = (start / MAP_BLOCK, end.div_ceil(MAP_BLOCK));
                map.set(first, last, BlockState::Data).map_err(made(row.id))?;
                at = end;
            }
            map.finish().map_err(made(row.id))
        })
    }
}

/// What is wrong with a map.
#[derive(Debug, thiserror::Error)]
enum MapFlaw {
    #[error("{0}")]
    Unusable(MapFileError),
    #[error("its map belongs to another {0}: restore its files from a backup")]
    Foreign(&'static str),
    #[error(
        "its map is of a disk of {map} bytes, and the catalogue says {row}: restore its files from a backup"
    )]
    Size { map: u64, row: u64 },
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::map_medium::{OpenMap, UnsyncedMap, open_map};

    const SIZE: u64 = 100 << 20;

    /// A store with an image on which each page has a block, by name, and its head.
    fn written() -> (tempfile::TempDir, OpenStore<MapFiles>, LayerId) {
        let house = tempfile::tempdir().unwrap();
        let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let name = "vm".parse().unwrap();
        store.create_empty(&name, SIZE).unwrap();
        store.give_head(&name).unwrap();
        let head = store.image(&name).unwrap().head.unwrap();
        let (data, file) = store.directory.open_layer(head).unwrap();
        let mut open = OpenMap { map: open_map(&data, &file).unwrap(), files: UnsyncedMap(&file) };
        for block in [1, 9000, 25_000] {
            data.write_all_at(&[7; 4096], block * MAP_BLOCK).unwrap();
            open.set(block, 1, BlockState::Data).unwrap();
        }
        open.set(2, 5, BlockState::Zero).unwrap();
        open.commit().unwrap();
        open.checkpoint().unwrap();
        (house, store, head)
    }

    fn map_file(store: &OpenStore<MapFiles>, layer: LayerId) -> File {
        store.directory.open_layer(layer).unwrap().1
    }

    #[test]
    fn each_node_is_looked_at() {
        let (_house, store, head) = written();
        assert_eq!(store.check_maps().unwrap(), Vec::<String>::new());
        let file = map_file(&store, head);
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let is_node = |at: &usize| bytes[*at..].starts_with(b"rnbmNODE");
        let nodes: Vec<usize> = (0..bytes.len()).step_by(4096).filter(is_node).collect();
        // Three leaves, and one inner node of each level.
        assert_eq!(nodes.len(), 6);
        for at in nodes {
            file.write_all_at(&[bytes[at + 200] ^ 1], at as u64 + 200).unwrap();
            let found = store.check_maps().unwrap();
            assert!(found.len() == 1 && found[0].contains("is damaged"), "{found:?}");
            assert!(found[0].contains(&head.to_string()), "{found:?}");
            file.write_all_at(&[bytes[at + 200]], at as u64 + 200).unwrap();
        }
        assert_eq!(store.check_maps().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_lost_map_is_made_of_the_data() {
        let (_house, store, head) = written();
        let name = "vm".parse().unwrap();
        assert_eq!(store.rebuild_maps(&name).unwrap(), [], "nothing is wrong");
        let file = map_file(&store, head);
        file.write_all_at(&[0; 64 << 10], 0).unwrap();
        assert_eq!(store.check_maps().unwrap().len(), 1);
        assert_eq!(store.rebuild_maps(&name).unwrap(), [head]);
        assert_eq!(store.check_maps().unwrap(), Vec::<String>::new());
        assert_eq!(store.lost().unwrap(), 1, "the old map");
        let (data, file) = store.directory.open_layer(head).unwrap();
        let mut map = MapReader::open_synced(&data, file).unwrap();
        let blocks: Vec<u64> = (0..SIZE / MAP_BLOCK)
            .filter(|block| map.run(*block, 1).unwrap().state == BlockState::Data)
            .collect();
        assert_eq!(blocks, [1, 9000, 25_000]);
        std::fs::remove_file(store.directory.layer_path(head).join("map")).unwrap();
        assert_eq!(store.rebuild_maps(&name).unwrap(), [head], "a map that is gone");
        assert_eq!(store.remove_lost(0).unwrap(), 1);
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
    }
}
