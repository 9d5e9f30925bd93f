//! A delta comes into a store that a server has open, which checks, begins and ends that:
//!
//! 1. the server looks whether the delta fits, and makes the files of an empty layer
//! 2. the command that has the delta writes its contents into them
//! 3. the server makes the layer durable and looks again; one transaction of the catalogue names it
//!
//! Until 3 nobody reads the layer. If the command dies before, its directory is one that the catalogue does
//! not know: it goes to `lost/` when the store is opened the next time.

use super::arriving_delta::DeltaClaim;
use super::catalog::{LayerId, NodeName};
use super::copy::MAP_BLOCK;
use super::error::StoreError;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

impl<M: LayerMaps> OpenStore<M> {
    /// Makes an empty layer for a delta that fits.
    ///
    /// # Errors
    /// A sentence; the delta does not fit.
    pub(super) fn begin_delta(&self, claim: &DeltaClaim) -> Result<(), StoreError> {
        let new = claim.row()?;
        let _change = self.decide_import(claim)?;
        let description = self.describe_import(&new)?;
        let files = self.directory.begin_layer(new.layer, new.size.next_multiple_of(MAP_BLOCK))?;
        let made = self.maps.create(&files.map, &description, &[]);
        let made = made.map_err(|why| StoreError::Map { layer: new.layer, what: "made", why });
        let made = made.and_then(|()| files.finish());
        if made.is_err() {
            let _removed = self.directory.remove_layer(new.layer);
        }
        made
    }

    /// The snapshot is there, if the delta still fits. Nobody has its image open.
    ///
    /// # Errors
    /// A sentence; nothing has changed.
    pub(super) fn finish_delta(&mut self, claim: &DeltaClaim) -> Result<NodeName, StoreError> {
        let new = claim.row()?;
        let change = self.decide_import(claim)?;
        self.is_of_delta(new.layer, new.size)?;
        let (data, map) = self.directory.open_layer(new.layer)?;
        let sealed = self.maps.seal(&data, &map, new.size);
        sealed.map_err(|why| StoreError::Map { layer: new.layer, what: "sealed", why })?;
        self.directory.sync_layer(new.layer)?;
        self.commit(&change)?;
        Ok(claim.node())
    }

    /// Whether a layer is one that was made for a delta of this size, and that nothing names yet.
    fn is_of_delta(&self, layer: LayerId, size: u64) -> Result<(), StoreError> {
        let view = self.view()?;
        if view.layer(layer).is_some() || view.is_next_head(layer) {
            return Err(StoreError::NotArriving(layer));
        }
        let (data, map) = self.directory.open_layer(layer).map_err(|_| StoreError::NotArriving(layer))?;
        let bad = |error: MapFileError| StoreError::Map { layer, what: "read", why: error.to_string() };
        let map = MapReader::open_synced(&data, map).map_err(bad)?;
        let identity = map.identity();
        let is_its = identity.store == self.header().store && identity.layer == layer.0 && map.size() == size;
        if is_its { Ok(()) } else { Err(StoreError::NotArriving(layer)) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::arriving_delta::ArrivingDelta;
    use crate::store::catalog::{ImageRefusal, StoreName};
    use crate::store::delta::{DeltaHead, DeltaWriter};
    use crate::store::map_files::MapFiles;
    use crate::store::open_store::random_uuid;
    use uuid::Uuid;

    const SIZE: u64 = 64 << 10;

    fn vm() -> StoreName {
        "vm".parse().unwrap()
    }

    /// A delta that writes one block, and zeroes one.
    fn delta(from: Option<Uuid>, to: Uuid, name: &str, byte: u8) -> Vec<u8> {
        let (store, image) = (random_uuid(), random_uuid());
        let from_size = if from.is_some() { SIZE } else { 0 };
        let name = name.to_owned();
        let head = DeltaHead { store, image, from, to, from_size, to_size: SIZE, created_s: 5, name };
        let mut writer = DeltaWriter::begin(Vec::new(), &head).unwrap();
        writer.data(4096 * u64::from(byte), &[byte; 4096]).unwrap();
        writer.zeroes(4096 * 12, 4096).unwrap();
        writer.end().unwrap()
    }

    fn import(store: &mut OpenStore<MapFiles>, path: &Path, bytes: &[u8]) -> Result<NodeName, StoreError> {
        let mut source = bytes;
        let mut arriving = ArrivingDelta::begin(&vm(), None, &mut source)?;
        store.begin_delta(arriving.claim())?;
        arriving.fill(path, &mut |_| Ok(()))?;
        let claim = arriving.claim().clone();
        let done = store.finish_delta(&claim);
        if done.is_err() {
            arriving.give_up(path);
        }
        done
    }

    #[test]
    fn a_delta_comes_in_beside_a_server_or_leaves_nothing() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let mut store = OpenStore::init(&path, MapFiles).unwrap();
        let (a, b) = (random_uuid(), random_uuid());
        assert_eq!(import(&mut store, &path, &delta(None, a, "a", 1)).unwrap().to_string(), "vm@a");
        let second = delta(Some(a), b, "b", 2);
        // Another parent, half of it, and one that comes while the image changes.
        for (bytes, words) in [
            (delta(Some(b), random_uuid(), "c", 3), "is not as the snapshot"),
            (second[..second.len() - 1].to_vec(), "ends too early"),
            (delta(None, random_uuid(), "c", 3), "exists already"),
            (delta(Some(a), a, "c", 3), "already"),
        ] {
            let refused = import(&mut store, &path, &bytes).unwrap_err();
            assert!(refused.is_refusal() && refused.to_string().contains(words), "{refused}");
            assert_eq!(store.directory.layer_names().unwrap().len(), 1, "nothing is left");
        }
        let mut source = &*second;
        let mut arriving = ArrivingDelta::begin(&vm(), None, &mut source).unwrap();
        store.begin_delta(arriving.claim()).unwrap();
        arriving.fill(&path, &mut |_| Ok(())).unwrap();
        store.give_head(&vm()).unwrap();
        let claim = arriving.claim().clone();
        let moved = store.finish_delta(&claim).unwrap_err();
        assert!(matches!(moved, StoreError::Refused(ImageRefusal::NotAsItWas { .. })), "{moved}");
        arriving.give_up(&path);
        let back = NodeName { image: vm(), snapshot: Some("a".parse().unwrap()) };
        store.roll_back(back).unwrap();
        import(&mut store, &path, &second).unwrap();
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        drop(store);
        let store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        assert_eq!(store.lost().unwrap(), 0);
        assert_eq!(store.view().unwrap().counts().snapshots, 2);
    }

    #[test]
    fn no_layer_of_others_is_taken() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let mut store = OpenStore::init(&path, MapFiles).unwrap();
        store.create_empty(&"other".parse().unwrap(), SIZE).unwrap();
        store.give_head(&"other".parse().unwrap()).unwrap();
        let head = store.image(&"other".parse().unwrap()).unwrap().head.unwrap();
        let bytes = delta(None, random_uuid(), "a", 1);
        let mut source = &*bytes;
        let claim = ArrivingDelta::begin(&vm(), None, &mut source).unwrap().claim().clone();
        for (layer, words) in [
            (head.to_string(), "no import has begun"),
            (claim.layer.clone(), "no import has begun"),
            ("../../etc".to_owned(), "no uuid"),
        ] {
            let claim = DeltaClaim { layer, ..claim.clone() };
            let refused = store.finish_delta(&claim).unwrap_err();
            assert!(refused.is_refusal() && refused.to_string().contains(words), "{refused}");
        }
        assert!(store.begin_delta(&DeltaClaim { layer: head.to_string(), ..claim }).is_err(), "it is there");
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
    }
}
