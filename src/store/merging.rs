//! Chains of a store become shorter: [`catalog::finish_merge`] and [`catalog::finish_flatten`], with their
//! files.
//!
//! A copy runs in steps, and other things may be done to the store between them: what the copy was made of
//! does not change, and whether its result is still wanted is decided in the end. The order:
//!
//! 1. the files of the new layer are written, and made durable
//! 2. one transaction of the catalogue: the new layer, without the old ones
//! 3. the files of the old layers are removed; whoever has them open reads on
//!
//! Until 2 an interruption leaves a directory that nobody knows, and after it old ones: `lost/` gets them.

use std::fs::File;
use std::path::PathBuf;

use super::catalog::{
    self, BaseId, Below, ChainNode, ContentsRow, ImageId, ImageRow, LayerId, LayerRow, MergePair, StoreName,
};
use super::chain_reader::{BottomFile, ChainReader, SealedContents, SealedLayer};
use super::contents::ContentsReader;
use super::copy::MAP_BLOCK;
use super::error::StoreError;
use super::layer_copy::{CopyProgress, LayerCopy, made};
use super::layer_files::NewLayer;
use super::layer_place::LayerPlace;
use super::map_files::MapFiles;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;
use super::map_writer::MapWriter;
use super::maps::LayerDescription;
use super::open_store::{OpenStore, Released, now_s, random_uuid};

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyPurpose {
    Merge(MergePair),
    /// An image gets all that it sees below its head.
    Flatten {
        image: ImageId,
        was: Below,
    },
}

/// A chain that is becoming shorter.
pub struct ChainCopy {
    copy: LayerCopy,
    purpose: CopyPurpose,
}

impl ChainCopy {
    /// Copies a little more: a few MiB at most.
    ///
    /// # Errors
    /// A sentence. Then it is to be given up, by [`OpenStore::abandon_copy`].
    pub fn step(&mut self) -> Result<CopyProgress, StoreError> {
        self.copy.step()
    }

    /// The layer that is being made.
    #[must_use]
    pub fn layer(&self) -> LayerId {
        self.copy.layer
    }
}

fn read(layer: LayerId) -> impl FnOnce(MapFileError) -> StoreError {
    move |why| StoreError::Map { layer, what: "read", why: why.to_string() }
}

impl OpenStore<MapFiles> {
    fn sealed(&self, row: &LayerRow, visible: u64) -> Result<SealedLayer, StoreError> {
        let (data, map) = self.directory.open_layer(row.id)?;
        let map = MapReader::open_synced(&data, map).map_err(read(row.id))?;
        Ok(SealedLayer { id: row.id, data, map, visible })
    }

    /// The files of a new layer, without contents.
    fn new_files(
        &self,
        (image, size): (ImageId, u64),
        below: Below,
        (replaces, is_flat): (Vec<LayerId>, bool),
    ) -> Result<(LayerId, File, MapWriter), StoreError> {
        let layer = LayerId(random_uuid());
        let name = self.view()?.image_by_id(image).map_or_else(String::new, |row| row.name.to_string());
        let description = LayerDescription {
            store: self.header().store,
            image: image.0,
            layer: layer.0,
            parent: if let ChainNode::Layer(id) = below.node { Some(id.0) } else { None },
            name,
            created_s: now_s(),
            size,
            place: LayerPlace { replaces, is_flat, ..self.place_on(below)? },
        };
        let NewLayer { data, map, .. } =
            self.directory.begin_layer(layer, size.next_multiple_of(MAP_BLOCK))?;
        match MapWriter::create(map, &description) {
            Ok(map) => Ok((layer, data, map)),
            Err(error) => {
                let _removed = self.directory.remove_layer(layer);
                Err(made(layer)(error))
            }
        }
    }

    /// Begins to make one layer of two.
    ///
    /// # Errors
    /// A sentence; they cannot be merged.
    pub fn begin_merge(&self, pair: MergePair) -> Result<ChainCopy, StoreError> {
        let [upper, lower] = pair.rows(self.view()?)?;
        let layers = vec![self.sealed(upper, upper.size)?, self.sealed(lower, upper.below.bytes)?];
        let from = ChainReader { above: None, layers, contents: None, bottom: None };
        let below = if lower.below.node == ChainNode::Nothing { 0 } else { lower.below.bytes };
        let seen = from.seen(below);
        let own = from.layers[0].map.identity().base.as_deref().and_then(LayerPlace::decode);
        let earlier = own.map_or_else(Vec::new, |place| place.replaces);
        let replaces = std::iter::once(upper.id).chain(earlier).collect();
        let stands = lower.below.within(upper.below.bytes).within(seen);
        let (layer, data, map) = self.new_files((upper.image, upper.size), stands, (replaces, false))?;
        let copy = LayerCopy::new(layer, (upper.size, seen), from, data, map);
        Ok(ChainCopy { copy, purpose: CopyPurpose::Merge(pair) })
    }

    /// Begins to give an image a layer of its own with all that it sees below its head. None: it stands on
    /// nothing else already. What the head hides is left out, unless the image is served: what its head has
    /// is not known to be durable then.
    ///
    /// # Errors
    /// A sentence; its base is another file than it was.
    pub fn begin_flatten(&self, name: &StoreName, is_served: bool) -> Result<Option<ChainCopy>, StoreError> {
        self.begin_flatten_with(name, is_served, &|_| None)
    }

    /// The same, with bases that are open already: whoever has them open may be able to open no other file.
    ///
    /// # Errors
    /// A sentence; its base is not open, and another file than it was.
    pub fn begin_flatten_with(
        &self,
        name: &StoreName,
        is_served: bool,
        opened: &dyn Fn(BaseId) -> Option<File>,
    ) -> Result<Option<ChainCopy>, StoreError> {
        let row = self.image(name)?;
        if catalog::is_flat(self.view()?, row) {
            return Ok(None);
        }
        let (image, was, size) = (row.id, row.below, row.size);
        let from = self.chain_below(row, row.head.filter(|_| !is_served), opened)?;
        let replaces = if let ChainNode::Layer(id) = was.node { vec![id] } else { Vec::new() };
        let (layer, data, map) = self.new_files((image, size), Below::NOTHING, (replaces, true))?;
        // Nothing is below the new layer.
        let copy = LayerCopy::new(layer, (size, 0), from, data, map);
        Ok(Some(ChainCopy { copy, purpose: CopyPurpose::Flatten { image, was } }))
    }

    /// What an image sees below its head, and through `above`.
    fn chain_below(
        &self,
        row: &ImageRow,
        above: Option<LayerId>,
        opened: &dyn Fn(BaseId) -> Option<File>,
    ) -> Result<ChainReader, StoreError> {
        let view = self.view()?;
        let above = match above {
            None => None,
            Some(head) => {
                let (data, map) = self.directory.open_layer(head)?;
                Some((head, MapReader::open_synced(&data, map).map_err(read(head))?))
            }
        };
        let (rows, end) = view.chain(row.below);
        let (mut layers, mut visible) = (Vec::with_capacity(rows.len()), row.below.bytes.min(row.size));
        let mut contents = None;
        for row in rows {
            match view.contents(row.id) {
                // Nothing is read of layers below contents.
                _ if contents.is_some() => {}
                Some(found) => contents = Some(self.sealed_contents(found, visible)?),
                None => layers.push(self.sealed(row, visible)?),
            }
            visible = visible.min(row.below.bytes);
        }
        let bottom = match end {
            ChainNode::Base(id) => {
                let (path, file) = match (opened(id), view.base(id)) {
                    (Some(file), Some(row)) => (PathBuf::from(&row.path), file),
                    _ => {
                        let path = self.unchanged_base(id)?;
                        let file = File::open(&path).map_err(StoreError::named("open", &path))?;
                        (path, file)
                    }
                };
                Some(BottomFile { path, file, visible })
            }
            ChainNode::Nothing | ChainNode::Layer(_) => None,
        };
        Ok(ChainReader { above, layers, contents, bottom })
    }

    fn sealed_contents(&self, found: &ContentsRow, visible: u64) -> Result<SealedContents, StoreError> {
        let place = self.pack_place()?;
        // They may go from the catalogue before the copy is done.
        let held = place.pins.hold_contents(&found.root);
        let reader = ContentsReader::new(place.shelf(found.root.space), found.root);
        Ok(SealedContents { id: found.layer, reader, visible, _held: held })
    }

    /// The chain is the shorter one from now on, durably. If it has changed so that the copy does not fit any
    /// more, it is given up.
    ///
    /// # Errors
    /// A sentence.
    pub fn finish_copy(&mut self, chain: ChainCopy) -> Result<Released, StoreError> {
        let ChainCopy { copy, purpose } = chain;
        let (layer, size, seen) = (copy.layer, copy.size, copy.seen);
        let decided = copy.finish().and_then(|()| {
            self.directory.sync_layer(layer)?;
            self.keep_what_changed(purpose, layer)?;
            self.decide(|view, minter| match purpose {
                CopyPurpose::Merge(pair) => catalog::finish_merge(view, pair, layer, seen),
                CopyPurpose::Flatten { image, was } => {
                    // It may have been the clone of an image that nobody had written.
                    let flat = (was.node != ChainNode::Nothing).then_some((layer, size));
                    catalog::finish_flatten(view, minter, image, was, flat)
                }
            })
        });
        let is_named = decided.as_ref().is_ok_and(|change| change.made_layers().any(|made| made == layer));
        if !is_named {
            self.directory.remove_layer(layer)?;
        }
        self.commit(&decided?)
    }

    /// What has changed since snapshots stays known, although maps go that told it.
    fn keep_what_changed(&mut self, purpose: CopyPurpose, layer: LayerId) -> Result<(), StoreError> {
        match purpose {
            CopyPurpose::Merge(pair) => self.keep_changes_of_merged(pair, layer),
            CopyPurpose::Flatten { image, .. } => {
                let name = self.view()?.image_by_id(image).map(|row| row.name.clone());
                let name = name.ok_or(catalog::ImageRefusal::Gone(image))?;
                self.keep_changes(&name, layer)
            }
        }
    }

    /// Gives a copy up: nothing has changed.
    pub fn abandon_copy(&self, chain: ChainCopy) {
        let layer = chain.layer();
        drop(chain);
        // What cannot be removed is found, and moved to lost/, the next time.
        let _removed = self.directory.remove_layer(layer);
    }

    /// A whole copy. `progress` is told how far it is, may wait, and ends the copy by its error.
    fn copy_chain(
        &mut self,
        mut chain: ChainCopy,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<Released, StoreError> {
        loop {
            let stepped = chain.step().and_then(|done| progress(done).map(|()| done));
            match stepped {
                Ok(done) if done.is_done() => return self.finish_copy(chain),
                Ok(_) => {}
                Err(error) => {
                    self.abandon_copy(chain);
                    return Err(error);
                }
            }
        }
    }

    /// Two layers of an image that may become one, and are the least to copy.
    ///
    /// # Errors
    /// It is missing.
    pub fn cheapest_merge(&self, name: &StoreName) -> Result<Option<MergePair>, StoreError> {
        let bytes = |layer| self.directory.layer_usage(layer).map_or(0, |usage| usage.data);
        Ok(catalog::cheapest_merge(self.view()?, self.image(name)?.below, &bytes))
    }

    /// Two layers of an image that are merged when nobody waits for it.
    ///
    /// # Errors
    /// It is missing.
    pub fn idle_merge(&self, name: &StoreName) -> Result<Option<MergePair>, StoreError> {
        let bytes = |layer| self.directory.layer_usage(layer).map_or(0, |usage| usage.data);
        Ok(catalog::idle_merge(self.view()?, self.image(name)?, &bytes))
    }

    /// Images of whose layers some can be merged.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn mergeable_images(&self) -> Result<Vec<StoreName>, StoreError> {
        let view = self.view()?;
        let can_be = |row: &&ImageRow| !catalog::mergeable(view, row.below).is_empty();
        Ok(view.images().filter(can_be).map(|row| row.name.clone()).collect())
    }

    /// Whether an image has to lose a layer before it can have a snapshot.
    ///
    /// # Errors
    /// It is missing.
    pub fn is_full(&self, name: &StoreName) -> Result<bool, StoreError> {
        Ok(catalog::is_full(self.view()?, name)?)
    }

    /// Two layers of an image that have to become one before it can have a snapshot; none if it can have one,
    /// or if nothing can be merged.
    ///
    /// # Errors
    /// It is missing.
    pub fn needed_merge(&self, name: &StoreName) -> Result<Option<MergePair>, StoreError> {
        if self.is_full(name)? { self.cheapest_merge(name) } else { Ok(None) }
    }

    /// Merges layers of an image until it can have a snapshot, or none is left that can be merged. Says how
    /// often it has.
    ///
    /// # Errors
    /// A sentence, or what `progress` says: some were merged then, and the image is as it was.
    pub fn make_room(
        &mut self,
        name: &StoreName,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        let mut merged = 0;
        while catalog::is_full(self.view()?, name)?
            && let Some(pair) = self.cheapest_merge(name)?
        {
            let chain = self.begin_merge(pair)?;
            self.copy_chain(chain, progress)?;
            merged += 1;
        }
        Ok(merged)
    }

    /// Gives an image a layer of its own with all that it sees below its head. False: it had that already.
    ///
    /// # Errors
    /// A sentence, or what `progress` says: the image is as it was.
    pub fn flatten(
        &mut self,
        name: &StoreName,
        progress: &mut dyn FnMut(CopyProgress) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(chain) = self.begin_flatten(name, false)? else { return Ok(false) };
        self.copy_chain(chain, progress)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
