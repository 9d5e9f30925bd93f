//! Contents that come into a store. What is not complete is nothing: rows come last.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::arriving_delta::{ArrivingDelta, DeltaClaim, put};
use super::catalog::{
    self, Beginning, Below, CatalogChange, ChainNode, ImageId, ImageRefusal, ImportedSnapshot, LayerId,
    NewImage, NodeName, StoreName,
};
use super::copy::{CopiedBlocks, MAP_BLOCK, write_data};
use super::delta::{DeltaError, DeltaReader};
use super::error::StoreError;
use super::export::OnProgress;
use super::file_changes::set_length;
use super::map::Geometry;
use super::map_medium::MapFileError;
use super::map_writer::MapWriter;
use super::maps::{LayerDescription, LayerMaps};
use super::open_store::{OpenStore, now_s, random_uuid};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl<M: LayerMaps> OpenStore<M> {
    /// Makes an image of bytes that come one after the other. Without a size it has as many as come. `path`
    /// is where they come from, for people.
    ///
    /// # Errors
    /// A sentence; that of `progress`.
    pub fn import_stream(
        &mut self,
        name: &StoreName,
        size: Option<u64>,
        (path, source): (&Path, &mut dyn Read),
        progress: OnProgress<'_>,
    ) -> Result<(), StoreError> {
        if self.view()?.image(name).is_some() {
            return Err(ImageRefusal::Exists(name.to_string()).into());
        }
        let (image, layer) = (ImageId(random_uuid()), LayerId(random_uuid()));
        let made = self.take_stream((image, layer, name), size, (path, source), progress).and_then(|size| {
            let beginning = Beginning::Copied(layer);
            let new = NewImage { id: image, name: name.clone(), size, beginning };
            self.decide(|view, minter| catalog::create(view, minter, new))
        });
        let change = self.or_forget(layer, made)?;
        self.commit(&change).map(drop)
    }

    /// What cannot be removed is found, and moved to `lost/`, the next time.
    fn or_forget<T>(&self, layer: LayerId, made: Result<T, StoreError>) -> Result<T, StoreError> {
        if made.is_err() {
            let _removed = self.directory.remove_layer(layer);
        }
        made
    }

    fn take_stream(
        &self,
        (image, layer, name): (ImageId, LayerId, &StoreName),
        size: Option<u64>,
        (path, source): (&Path, &mut dyn Read),
        progress: OnProgress<'_>,
    ) -> Result<u64, StoreError> {
        let files = self.directory.begin_layer(layer, 0)?;
        let (mut copied, mut piece, mut at) = (CopiedBlocks::default(), vec![0; PIECE], 0);
        loop {
            progress(at)?;
            let length = fill(source, &mut piece).map_err(StoreError::named("read", path))?;
            let end = at + length as u64;
            if let Some(size) = size.filter(|size| end > *size) {
                return Err(StoreError::TooSmall { path: path.to_owned(), length: end, size });
            }
            if end > catalog::LARGEST_IMAGE {
                return Err(ImageRefusal::Size(end).into());
            }
            let written = write_data(&piece[..length], at, &files.data, &mut copied);
            written.map_err(StoreError::at("write", &self.directory.layer_path(layer)))?;
            at = end;
            if length < piece.len() {
                break;
            }
        }
        let size = size.unwrap_or_else(|| at.next_multiple_of(catalog::SIZE_UNIT));
        let grown = set_length(&files.data, size.next_multiple_of(MAP_BLOCK));
        grown.map_err(StoreError::at("give its size to", &self.directory.layer_path(layer)))?;
        let description = self.description(image, layer, Below::NOTHING, (name, size))?;
        let written = self.maps.create(&files.map, &description, copied.runs());
        written.map_err(|why| StoreError::Map { layer, what: "made", why })?;
        files.finish()?;
        Ok(size)
    }

    fn description(
        &self,
        image: ImageId,
        layer: LayerId,
        below: Below,
        (name, size): (&StoreName, u64),
    ) -> Result<LayerDescription, StoreError> {
        Ok(LayerDescription {
            store: self.header().store,
            image: image.0,
            layer: layer.0,
            parent: if let ChainNode::Layer(id) = below.node { Some(id.0) } else { None },
            name: name.to_string(),
            created_s: now_s(),
            size,
            place: self.place_on(below)?,
        })
    }

    /// Makes the snapshot of a delta, with the uuid that it has where it comes from. Its image must be
    /// exactly as the snapshot is that the delta begins with, and is made if it begins with nothing.
    ///
    /// # Errors
    /// A sentence; that of `progress`.
    pub fn import_delta(
        &mut self,
        mut arriving: ArrivingDelta<'_>,
        progress: OnProgress<'_>,
    ) -> Result<NodeName, StoreError> {
        let new = arriving.claim.row()?;
        // Whatever refuses it does so before the copy.
        let change = self.decide_import(&arriving.claim)?;
        let taken = self.take_delta(&new, &mut arriving.delta, progress);
        self.or_forget(new.layer, taken)?;
        self.commit(&change)?;
        Ok(arriving.claim.node())
    }

    /// The change of the catalogue, if a delta fits.
    pub(super) fn decide_import(&self, claim: &DeltaClaim) -> Result<CatalogChange, StoreError> {
        let new = claim.row()?;
        let change = self.decide(|view, minter| catalog::import_snapshot(view, minter, &new))?;
        let view = self.view()?;
        let from_size = new.from.and_then(|from| view.snapshot_by_id(from)).map_or(0, |row| row.size);
        if from_size != claim.from_size {
            return Err(DeltaError::Damaged("it begins with another size").into());
        }
        Ok(change)
    }

    /// What the map says of the layer of a delta.
    pub(super) fn describe_import(&self, new: &ImportedSnapshot) -> Result<LayerDescription, StoreError> {
        let row = self.view()?.image(&new.image);
        let (image, below) =
            row.map_or((ImageId(uuid::Uuid::nil()), Below::NOTHING), |row| (row.id, row.below));
        self.description(image, new.layer, below.within(new.size), (&new.image, new.size))
    }

    fn take_delta(
        &self,
        new: &ImportedSnapshot,
        delta: &mut DeltaReader<&mut dyn Read>,
        progress: OnProgress<'_>,
    ) -> Result<(), StoreError> {
        let layer = new.layer;
        let files = self.directory.begin_layer(layer, new.size.next_multiple_of(MAP_BLOCK))?;
        let bad_map = |error: MapFileError| StoreError::Map { layer, what: "made", why: error.to_string() };
        let description = self.describe_import(new)?;
        let file = files.map.try_clone().map_err(MapFileError::from).map_err(bad_map)?;
        let mut map = MapWriter::create_with(file, &description, Geometry::default()).map_err(bad_map)?;
        let path = self.directory.layer_path(layer);
        while let Some(part) = delta.next()? {
            let (start, end, state) = put(&part, &files.data, &path)?;
            map.set(start, end, state).map_err(bad_map)?;
            progress(end * MAP_BLOCK)?;
        }
        map.finish().map_err(bad_map)?;
        files.finish()
    }
}

/// Reads as much as there is.
fn fill(source: &mut dyn Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match source.read(&mut bytes[done..]) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
