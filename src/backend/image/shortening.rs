//! What is below the head of an image becomes fewer layers of the same contents, while clients go on.
//!
//! The catalogue has changed before, and the files of the layers that go are unlinked. An image that has them
//! open may read on from them for ever; it follows because they take room, and because chains are to stay
//! short.
//!
//! Requests that come get another [chain](super::chain). A reply that waits to be sent from a file that goes
//! holds its mapping, and a read that is queued holds the place among the ring's files, until either is over.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::ImageDevice;
use super::chain::{BaseLink, Chain, ChainLink, OpenLayer, RegisteredLayer};
use super::contents::{ContentsLink, ServedContents};
use super::layer_files::LayerFiles;
use super::open::open_layer;
use super::store::{ImageStore, StoreLinks};
use crate::backend::context::ShardContext;
use crate::backend::open_error::OpenError;
use crate::store::catalog::LayerId;
use crate::store::map::LayerMap;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::serving::ChainShape;

/// What an image stands on, as the catalogue has it, with the files of what it does not have open yet.
#[derive(Debug)]
pub struct ShorterChain {
    pub(super) shape: ChainShape,
    pub(super) new: Vec<(Arc<LayerFiles>, LayerMap)>,
    /// What is below its layers in packs.
    pub(super) contents: Option<ServedContents>,
}

/// What became of an image that was to go on with fewer layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShortenOutcome {
    /// It has.
    Shorter,
    /// It goes on as it was: its head is another than the one that the catalogue had.
    OtherHead,
    /// It goes on as it was: its home has no place for the files.
    NoRoom(String),
}

/// Told once, on the thread of the home: it must not wait. It is dropped if nothing was done.
type TellOutcome = Box<dyn FnOnce(ShortenOutcome) + Send>;

/// Has an image go on with fewer layers.
pub struct ShortenTask {
    chain: Box<ShorterChain>,
    told: TellOutcome,
}

impl fmt::Debug for ShortenTask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain.fmt(formatter)
    }
}

impl ShortenTask {
    /// A task; `told` is called on the thread of the home and must not wait.
    pub fn new(chain: ShorterChain, told: impl FnOnce(ShortenOutcome) + Send + 'static) -> Self {
        Self { chain: Box::new(chain), told: Box::new(told) }
    }
}

impl ImageStore {
    /// Whether the catalogue has another chain for it than the one that is open.
    pub(super) fn is_behind(&self, store: &OpenStore<MapFiles>) -> Result<bool, OpenError> {
        let Some(served) = self.served().filter(|_| self.sealed_options().is_some()) else {
            return Ok(false);
        };
        let shape = store.shape(served.name()).map_err(OpenError::Store)?;
        let open: Vec<LayerId> = self.layers().iter().filter_map(|layer| layer.id).collect();
        let packed = self.links().contents.map(|contents| contents.layer);
        let is_same = shape.contents.map(|contents| contents.layer) == packed;
        Ok(!is_same || !shape.layers.iter().map(|(id, _)| id).eq(&open))
    }

    /// Opens what it needs to go on with the chain that the catalogue has for it.
    pub(super) fn shorter_chain(&self, store: &OpenStore<MapFiles>) -> Result<ShorterChain, OpenError> {
        let served = self.served().ok_or(OpenError::Image("belongs to no store"))?;
        let how = self.sealed_options().ok_or(OpenError::Image("keeps its layers"))?;
        let shape = store.shape(served.name()).map_err(OpenError::Store)?;
        let open: Vec<Option<LayerId>> = self.layers().iter().map(|layer| layer.id).collect();
        let mut new = Vec::new();
        for (id, visible) in shape.layers.iter().filter(|(id, _)| !open.contains(&Some(*id))) {
            let files = store.layer_files(*id, *visible).map_err(OpenError::Store)?;
            let ((files, map), _) = open_layer(files, &how)?;
            new.push((Arc::new(files), map));
        }
        let reads = (self.verify(), how.mapped && !how.direct);
        let contents = shape.contents.as_ref().map(|contents| served.store().contents(contents, reads));
        Ok(ShorterChain { shape, new, contents })
    }
}

impl ImageDevice {
    /// Goes on with another chain of the same contents.
    pub(super) fn shorten(&self, task: ShortenTask, context: &ShardContext) {
        let ShortenTask { chain, told } = task;
        told(match self.try_to_shorten(*chain, context) {
            Ok(true) => ShortenOutcome::Shorter,
            Ok(false) => ShortenOutcome::OtherHead,
            Err(error) => ShortenOutcome::NoRoom(error.to_string()),
        });
    }

    fn try_to_shorten(
        &self,
        ShorterChain { shape, new, contents }: ShorterChain,
        context: &ShardContext,
    ) -> io::Result<bool> {
        let before = self.chain();
        if shape.head.is_some() && shape.head != before.head().id {
            return Ok(false);
        }
        let mut known: BTreeMap<LayerId, (Arc<LayerFiles>, Rc<OpenLayer>)> = BTreeMap::new();
        for (files, link) in self.store.layers().into_iter().zip(&before.layers) {
            known.extend(files.id.map(|id| (id, (files, Rc::clone(&link.layer)))));
        }
        for (files, map) in new {
            let layer = RegisteredLayer::new(&files, &self.store, context)?.open(map);
            known.extend(files.id.map(|id| (id, (files, Rc::new(layer)))));
        }
        let found: Option<Vec<_>> =
            shape.layers.iter().map(|(id, visible)| Some((known.remove(id)?, *visible))).collect();
        // A snapshot was taken since its files were opened.
        let Some(found) = found.filter(|found| !found.is_empty()) else { return Ok(false) };
        let (layers, links): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|((files, layer), visible)| {
                (Arc::new(LayerFiles { visible, ..(*files).clone() }), ChainLink { layer, visible })
            })
            .unzip();
        let base_bytes = shape.base.as_ref().map(|base| base.visible);
        let base = before
            .base
            .clone()
            .zip(base_bytes)
            .map(|(base, visible)| BaseLink { visible: visible.min(base.visible), ..base });
        let base_bytes = base.as_ref().map(|base| base.visible);
        self.store.gets_links(StoreLinks { layers, contents: contents.clone(), base_bytes });
        let contents = contents.map(|of| Rc::new(ContentsLink::new(of)));
        let next = Chain { store: Arc::clone(&self.store), layers: links, contents, base };
        self.chain.replace(Rc::new(next));
        Ok(true)
    }
}
