//! An image on its home shard: a head, which takes the writes, sealed layers below it, and a base.
//!
//! ```text
//! read       head ► layers, newest first ► base ► zeroes: the first that has a block is where it is read
//! write      to the head's data, then the block's state in memory, then the answer
//! flush      the head's data, then one record of the states that are new
//! ```
//!
//! A layer is a file of data, in which a block lies where it lies on the disk, and a map
//! ([`LayerMap`]), which knows for each block whether the layer has it. The data is never read where the map
//! does not say so. Each file of data is a [`FileDevice`]: what it can send from the page cache leaves the
//! same way as from a raw file.
//!
//! The maps live with the store while no shard has the image open, so nothing that was answered is forgotten
//! when an idle device is closed.

mod commit;
mod discard;
mod extents;
mod nodes;
mod open;
mod read;
mod served_store;
#[cfg(feature = "sim")]
mod simulated;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use super::context::ShardContext;
use super::file::FileDevice;
use super::registered::Registered;
use crate::exec::lock;
use crate::ring::FileIndex;
use crate::store::map::LayerMap;
#[cfg(feature = "sim")]
pub use simulated::{SimulatedBlock, SimulatedImage, SimulatedLayer};
pub(super) use store::ImageStore;

/// An image, open on its home shard.
pub(super) struct ImageDevice {
    store: Arc<ImageStore>,
    /// The head first; at least one.
    layers: Vec<OpenLayer>,
    base: Option<FileDevice>,
    registered: Registered,
    /// The log of changes is half full.
    commit_is_due: Cell<bool>,
}

/// A layer of it.
struct OpenLayer {
    map: RefCell<LayerMap>,
    data: FileDevice,
    /// Bytes of it that are seen from above.
    visible: u64,
    /// None for a map that lives in memory only.
    map_file: Option<FileIndex>,
}

impl ImageDevice {
    /// Opens it here.
    ///
    /// # Errors
    /// `EBUSY` while another shard has it open; no room for its files.
    pub(super) fn open(store: &Arc<ImageStore>, context: &ShardContext) -> io::Result<Self> {
        let mut registered = Registered::new(&context.ring);
        let mut files = Vec::with_capacity(store.layers.len());
        for layer in &store.layers {
            let map_file = layer.map.as_ref().map(|map| registered.add(map)).transpose()?;
            let data = FileDevice::new(Arc::clone(&layer.data), store.data_bytes(), context)?;
            files.push((data, layer.visible, map_file));
        }
        let base = store.base.as_ref();
        let base = base.map(|base| FileDevice::new(Arc::clone(&base.file), base.size, context));
        let base = base.transpose()?;
        let maps = lock(&store.parked).take().ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
        let layers = files.into_iter().zip(maps);
        let layers = layers.map(|((data, visible, map_file), map)| {
            let map = RefCell::new(map);
            OpenLayer { map, data, visible, map_file }
        });
        let (store, layers, commit_is_due) = (Arc::clone(store), layers.collect(), Cell::new(false));
        Ok(Self { store, layers, base, registered, commit_is_due })
    }

    /// Descriptors that the ring has.
    pub(super) fn files(&self) -> usize {
        let data = self.layers.iter().map(|layer| &layer.data).chain(&self.base);
        self.registered.count() + data.map(FileDevice::files).sum::<usize>()
    }

    fn head(&self) -> &OpenLayer {
        &self.layers[0]
    }
}

impl Drop for ImageDevice {
    fn drop(&mut self) {
        let maps = self.layers.drain(..).map(|layer| layer.map.into_inner());
        *lock(&self.store.parked) = Some(maps.collect());
    }
}
