//! A catalogue that is lost, made again of the maps of all layers.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::catalog::{
    self, Below, CatalogView, ChainNode, FoundLayer, ImageId, LayerId, Minter, RebuiltRows, StoreCatalog,
};
use super::directory::StoreDirectory;
use super::error::StoreError;
use super::layer_place::{LayerPlace, PlacedSnapshot};
use super::map::LayerMap;
use super::map_medium::{LayerPair, MapFileError, open_head_map};
use super::maps::LayerMaps;
use super::open_store::{OpenStore, now_s, random_uuid};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuiltCatalog {
    pub images: usize,
    pub snapshots: usize,
    /// Layers that are nobody's now, a sentence each.
    pub left: Vec<String>,
}

impl<M: LayerMaps> OpenStore<M> {
    /// What a map tells of a layer that is to stand on something.
    pub(super) fn place_on(&self, below: Below) -> Result<LayerPlace, StoreError> {
        let view = self.view()?;
        let base = match below.node {
            ChainNode::Base(id) => view.base(id).map(Into::into),
            ChainNode::Layer(_) | ChainNode::Nothing => None,
        };
        let snapshots = snapshots_of(view, below.node);
        Ok(LayerPlace { below_bytes: below.bytes, base, snapshots, ..LayerPlace::default() })
    }
}

fn snapshots_of(view: &CatalogView, node: ChainNode) -> Vec<PlacedSnapshot> {
    let ChainNode::Layer(layer) = node else { return Vec::new() };
    let Some(image) = view.layer(layer).map(|row| row.image) else { return Vec::new() };
    let rows = view.snapshots_of(image).into_iter().filter(|row| row.below.node == node);
    // What has no contents cannot be made again.
    let rows = rows.filter(|row| !row.is_changes_only());
    rows.map(|row| PlacedSnapshot { id: row.id, image, name: row.name.clone() }).collect()
}

/// Makes the catalogue of a store again that is missing or cannot be read; the old one goes to `lost/`.
///
/// # Errors
/// A sentence; the catalogue can be read.
pub fn rebuild_catalog(path: &Path, patience: Duration) -> Result<RebuiltCatalog, StoreError> {
    let directory = StoreDirectory::open_without_catalog(path, patience)?;
    if directory.catalog_file().is_ok_and(|file| StoreCatalog::open(file).is_ok()) {
        return Err(StoreError::CatalogIsWhole(path.to_owned()));
    }
    let mut left = Vec::new();
    let (mut store, mut found) = (None, Vec::new());
    for name in directory.layer_names()? {
        let id = Uuid::try_parse(&name).ok().map(LayerId).filter(|id| id.to_string() == name);
        match id
            .ok_or_else(|| "it is not called as a layer is".to_owned())
            .and_then(|id| look(&directory, id))
        {
            Ok((of, layer)) if *store.get_or_insert(of) == of => found.push(layer),
            Ok(_) => left.push(format!("layers/{name} belongs to another store")),
            Err(why) => left.push(format!("layers/{}: {why}", name.escape_default())),
        }
    }
    let Some(store) = store else { return Err(StoreError::NoLayers(path.to_owned())) };
    let mut minter = Minter { now_s: now_s(), uuid: &mut random_uuid };
    let damaged = |source| StoreError::Catalog { path: path.to_owned(), source };
    let rebuilt = catalog::rebuild(found, &mut minter).map_err(|error| damaged(error.into()))?;
    let RebuiltRows { rows, lost, spare } = rebuilt;
    left.extend(
        lost.iter().map(|id| format!("layers/{id}: what it stands on is missing, or its size is none")),
    );
    left.extend(spare.iter().map(|id| format!("layers/{id}: a copy of layers that are there themselves")));
    let counts = directory.replace_catalog(|file| {
        let mut catalog = StoreCatalog::create(file, store, now_s())?;
        catalog.commit(&rows)?;
        Ok(catalog.view()?.counts())
    })?;
    Ok(RebuiltCatalog { images: counts.images, snapshots: counts.snapshots, left })
}

/// Reads the map of a layer; first it makes durable what a server has answered that was killed.
fn look(directory: &StoreDirectory, id: LayerId) -> Result<(Uuid, FoundLayer), String> {
    let (data, map) = directory.open_layer(id).map_err(|error| error.to_string())?;
    let map = open_head_map(&LayerPair { data: &data, map: &map });
    let found = map.map_err(|error: MapFileError| error.to_string())?;
    if found.identity().layer != id.0 {
        return Err("its map belongs to another layer".to_owned());
    }
    Ok((found.identity().store, found_layer(id, &found)))
}

fn found_layer(id: LayerId, map: &LayerMap) -> FoundLayer {
    let identity = map.identity();
    let told = identity.base.as_deref().and_then(LayerPlace::decode);
    let is_complete = told.is_some();
    let place = told.unwrap_or(LayerPlace { below_bytes: identity.size, ..LayerPlace::default() });
    // What was cut off does not come back.
    let seen = map.hidden_from().saturating_mul(u64::from(map.geometry().block_bytes));
    FoundLayer {
        id,
        image: ImageId(identity.image),
        name: identity.name.clone(),
        size: map.size(),
        created_s: identity.created_s,
        is_complete,
        parent: identity.parent.map(LayerId),
        below_bytes: place.below_bytes.min(seen).min(map.size()),
        base: place.base.map(|base| (base.kind, base.path, base.identity)),
        replaces: place.replaces,
        is_flat: place.is_flat,
        snapshots: place.snapshots.into_iter().map(|of| (of.id, of.image, of.name)).collect(),
    }
}
