//! What a server opens of a store: the files of an image, and of what it stands on.

use std::fs::File;
use std::path::PathBuf;

use super::base::base_differs;
use super::catalog::{
    self, BaseId, Below, ChainNode, ImageRefusal, ImageRow, LayerId, LayerRow, NewSnapshot, NodeName,
    StoreName,
};
use super::copy::MAP_BLOCK;
use super::error::StoreError;
use super::foreign::PlacedPack;
use super::manifest::ManifestRoot;
use super::maps::{LayerDescription, LayerMaps};
use super::open_store::{OpenStore, now_s, random_uuid};
use super::pack::PackError;
use super::packs::PackPlace;

/// The files of an image or a snapshot.
#[derive(Debug)]
pub struct ImageFiles {
    /// Bytes of the disk.
    pub size: u64,
    /// The newest layer first. Of an image that is written that is its head.
    pub layers: Vec<ChainFiles>,
    /// What is below the last of them in packs.
    pub(crate) contents: Option<ChainContents>,
    /// What the last of them stands on.
    pub base: Option<ChainBase>,
}

/// What an image or a snapshot stands on, as the catalogue has it.
#[derive(Debug)]
pub struct ChainShape {
    /// Bytes of the disk.
    pub size: u64,
    /// The layer that takes the writes, if there is one.
    pub head: Option<LayerId>,
    /// The head first, if there is one, with the bytes of each that are seen from above.
    pub layers: Vec<(LayerId, u64)>,
    /// What is below the last of them in packs.
    pub(crate) contents: Option<ChainContents>,
    /// What the last of them stands on.
    pub base: Option<ChainBase>,
}

/// Where a chain ends in packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChainContents {
    pub(crate) layer: LayerId,
    pub(crate) root: ManifestRoot,
    /// Bytes of it that are seen from above.
    pub(crate) visible: u64,
}

/// The files of a layer in a chain.
#[derive(Debug)]
pub struct ChainFiles {
    pub id: LayerId,
    pub data: File,
    pub map: File,
    /// Bytes of it that are seen from above.
    pub visible: u64,
}

/// The file or device below all layers.
#[derive(Debug)]
pub struct ChainBase {
    pub id: BaseId,
    /// Bytes of it that are seen from above.
    pub visible: u64,
}

impl<M: LayerMaps> OpenStore<M> {
    /// Makes the head of an image, if it has none: its files, durably, and then the catalogue says so.
    ///
    /// # Errors
    /// A sentence.
    pub fn give_head(&mut self, name: &StoreName) -> Result<(), StoreError> {
        let row = self.image(name)?.clone();
        if row.head.is_some() {
            return Ok(());
        }
        let layer = LayerId(random_uuid());
        let change = self.decide(|view, minter| catalog::adopt_head(view, minter, row.id, layer))?;
        self.make_head(&row, layer)?;
        self.commit(&change).map(drop)
    }

    /// Makes the files of the head that is to take over from the one that an image has, durably. The
    /// catalogue does not know of them until [`OpenStore::record_snapshots`].
    ///
    /// # Errors
    /// A sentence.
    pub fn make_next_head(&self, name: &StoreName) -> Result<ChainFiles, StoreError> {
        let row = self.image(name)?;
        let id = LayerId(random_uuid());
        self.make_head(row, id)?;
        let (data, map) = self.directory.open_layer(id)?;
        Ok(ChainFiles { id, data, map, visible: row.size })
    }

    /// Removes the files of a next head that was never used.
    ///
    /// # Errors
    /// A sentence.
    pub fn discard_next_head(&self, id: LayerId) -> Result<(), StoreError> {
        assert!(
            self.view()?.layer(id).is_none() && !self.view()?.is_next_head(id),
            "the catalogue does not know it"
        );
        self.directory.remove_layer(id)
    }

    fn make_head(&self, row: &ImageRow, layer: LayerId) -> Result<(), StoreError> {
        let below = row.head.map_or(row.below.node, ChainNode::Layer);
        let parent = if let ChainNode::Layer(id) = below { Some(id.0) } else { None };
        let files = self.directory.begin_layer(layer, row.size.next_multiple_of(MAP_BLOCK))?;
        let description = LayerDescription {
            store: self.header().store,
            image: row.id.0,
            layer: layer.0,
            parent,
            name: row.name.to_string(),
            created_s: now_s(),
            size: row.size,
            place: self.place_on(
                row.head.map_or(row.below, |head| Below { node: ChainNode::Layer(head), bytes: row.size }),
            )?,
        };
        let made = self.maps.create(&files.map, &description, &[]);
        made.map_err(|why| StoreError::Map { layer, what: "made", why })?;
        files.finish()
    }

    /// Makes the head of an image that nobody has open one that can be sealed.
    ///
    /// # Errors
    /// A sentence.
    pub fn prepare_seal(&self, name: &StoreName) -> Result<(), StoreError> {
        let row = self.image(name)?;
        let Some(layer) = row.head else { return Ok(()) };
        let (data, map) = self.directory.open_layer(layer)?;
        let sealed = self.maps.seal(&data, &map, row.size);
        sealed.map_err(|why| StoreError::Map { layer, what: "sealed", why })
    }

    /// Whether snapshots can begin now, before anything is made for them.
    ///
    /// # Errors
    /// Why not.
    pub fn expect_snapshots(&self, group: &[NewSnapshot]) -> Result<(), StoreError> {
        self.decide(|view, minter| catalog::expect_snapshots(view, minter, group))
    }

    /// Makes snapshots of images that are served durable, as one change: the heads that are sealed are
    /// durable, and the next ones have taken over.
    ///
    /// # Errors
    /// A refusal, after which nothing has changed; of the catalogue, after which nobody knows.
    pub fn record_snapshots(&mut self, group: &[NewSnapshot]) -> Result<(), StoreError> {
        let change = self.decide(|view, minter| catalog::take_snapshots(view, minter, group))?;
        self.commit(&change).map(drop)
    }

    /// Gives an image that is served a larger size: its data first, then the catalogue. The map of its head
    /// follows at its home, or when it is opened the next time. Says which head that is.
    ///
    /// # Errors
    /// A sentence; the size is smaller, or none.
    pub fn grow_served(&mut self, name: &StoreName, size: u64) -> Result<Option<LayerId>, StoreError> {
        let change = self.decide(|view, _| catalog::resize(view, name, size, false))?;
        let head = self.image(name)?.head;
        if let Some(layer) = head {
            let (data, _) = self.directory.open_layer(layer)?;
            self.lengthen(layer, &data, size)?;
        }
        self.commit(&change)?;
        Ok(head)
    }

    /// The path of a base that is what it was when images began with it.
    ///
    /// # Errors
    /// A sentence; a base that is another file than it was.
    pub fn unchanged_base(&self, id: BaseId) -> Result<PathBuf, StoreError> {
        let row = self.view()?.base(id).expect("a base that is named has a row");
        let path = PathBuf::from(&row.path);
        match base_differs(row)? {
            Some(how) => Err(StoreError::BaseDiffers { path, how }),
            None => Ok(path),
        }
    }

    /// A file that goes when it is closed.
    ///
    /// # Errors
    /// The file system's.
    pub fn unnamed_file(&self) -> Result<File, StoreError> {
        self.directory.unnamed_file(&random_uuid().to_string())
    }

    /// What an image or a snapshot stands on.
    ///
    /// # Errors
    /// It is missing.
    pub fn shape(&self, node: &NodeName) -> Result<ChainShape, StoreError> {
        let view = self.view()?;
        let row = self.image(&node.image)?;
        let head = row.head.filter(|_| node.snapshot.is_none());
        let (size, top) = match &node.snapshot {
            None => {
                let head = head.map(|head| Below { node: ChainNode::Layer(head), bytes: row.size });
                (row.size, head.unwrap_or(row.below))
            }
            Some(name) => {
                let (image, snapshot) = (node.image.clone(), name.clone());
                let row = view.snapshot(row.id, name);
                let snapshot = row.ok_or(ImageRefusal::NoSnapshot { image, snapshot })?;
                if snapshot.is_changes_only() {
                    return Err(ImageRefusal::ChangesOnly(node.to_string()).into());
                }
                (snapshot.size, snapshot.below)
            }
        };
        let mut visible = size.min(top.bytes);
        let (rows, end) = view.chain(top);
        let mut layers = Vec::with_capacity(rows.len());
        let mut contents = None;
        for LayerRow { id, below, .. } in rows {
            match view.contents(*id) {
                Some(row) if contents.is_none() => {
                    contents = Some(ChainContents { layer: *id, root: row.root, visible });
                }
                None if contents.is_none() => layers.push((*id, visible)),
                // Nothing of it is read.
                _ => {}
            }
            visible = visible.min(below.bytes);
        }
        let base = match end {
            ChainNode::Base(id) => Some(ChainBase { id, visible }),
            ChainNode::Layer(_) | ChainNode::Nothing => None,
        };
        Ok(ChainShape { size, head, layers, contents, base })
    }

    /// The packs of the store, for those who read contents of layers from them.
    ///
    /// # Errors
    /// They are missing.
    pub(crate) fn pack_place(&self) -> Result<PackPlace, StoreError> {
        let missing = || {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            StoreError::at("open", &self.path().join("packs"))(gone)
        };
        self.directory.packs(self.header().store)?.ok_or_else(missing)
    }

    /// Opens a pack that the catalogue lists.
    ///
    /// # Errors
    /// It is not listed, or cannot be used.
    pub(crate) fn open_pack(&self, number: u64) -> Result<PlacedPack, PackError> {
        let gone = || PackError::Io(std::io::ErrorKind::NotFound.into());
        let view = self.view().map_err(|error| PackError::Io(std::io::Error::other(error.to_string())))?;
        let row = view.packs().find(|row| row.number == number).ok_or_else(gone)?;
        let place =
            self.pack_place().map_err(|error| PackError::Io(std::io::Error::other(error.to_string())))?;
        place.placed(number, row.space)
    }

    /// Opens the files of a layer of which so many bytes are seen from above.
    ///
    /// # Errors
    /// A sentence.
    pub fn layer_files(&self, id: LayerId, visible: u64) -> Result<ChainFiles, StoreError> {
        let (data, map) = self.directory.open_layer(id)?;
        Ok(ChainFiles { id, data, map, visible })
    }

    /// Opens the files of an image or a snapshot, but for its base.
    ///
    /// # Errors
    /// A sentence.
    pub fn files(&self, node: &NodeName) -> Result<ImageFiles, StoreError> {
        let ChainShape { size, head, layers: shape, contents, base } = self.shape(node)?;
        let mut layers = Vec::with_capacity(shape.len());
        for (id, visible) in shape {
            let files = self.layer_files(id, visible)?;
            if Some(id) == head {
                // The catalogue decides it, and an interruption may have kept the map from following.
                let sized = self.maps.resize(&files.data, &files.map, size);
                sized.map_err(|why| StoreError::Map { layer: id, what: "given its size", why })?;
            }
            layers.push(files);
        }
        Ok(ImageFiles { size, layers, contents, base })
    }
}
