//! Packs that shards read by themselves.
//!
//! What is verified once and not compressed lies in its pack as the disk has it. If it is in the page cache
//! too, a READ is answered from there as from any file, without a helper thread. The file of a pack is open
//! once for the whole server, and once among the files of each ring that needs it.
//!
//! The cache of a pack that another store has written gives its bytes back when there is no room, and then
//! reads as zeroes. What is read of it is verified by its checksums each time, and nothing is sent from the
//! page cache: what does not fit is fetched by a helper thread.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

use crate::backend::context::ShardContext;
use crate::backend::file::FileDevice;
use crate::backend::file_store::FileStore;
use crate::backend::open_error::OpenError;
use crate::exec::lock;
use crate::store::foreign::PartialPack;
use crate::store::pack_shelf::KnownPlace;

/// Packs that a shard reads at once by itself.
const MOST_ON_SHARD: usize = 256;

/// The file of a pack, as the whole server has it.
#[derive(Debug)]
pub(super) struct ServedPack {
    store: Arc<FileStore>,
    size: u64,
    /// The cache that the file is of a pack of another store.
    cache: Option<Arc<PartialPack>>,
}

impl ServedPack {
    /// Whether what is in the page cache of it may be sent from there.
    pub(super) fn can_be_mapped(&self) -> bool {
        self.store.can_be_mapped
    }

    /// Whether bytes of it may go, so that each read must be verified.
    pub(super) const fn is_cache(&self) -> bool {
        self.cache.is_some()
    }
}

/// The packs of a store of which shards have the file. A pack never changes, and no other one ever gets its
/// number.
#[derive(Debug, Default)]
pub(super) struct ServedPacks(Mutex<BTreeMap<u64, Weak<ServedPack>>>);

impl ServedPacks {
    /// The file of the pack that a place is in.
    pub(super) fn of(&self, place: &KnownPlace) -> Result<Arc<ServedPack>, OpenError> {
        let mut known = lock(&self.0);
        if let Some(file) = known.get(&place.number).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let open = place.file().try_clone().map_err(|error| OpenError::Other("a pack".into(), error))?;
        let (store, facts) = FileStore::of_open(open)?;
        let file = Arc::new(ServedPack { store: Arc::new(store), size: facts.size, cache: place.cache() });
        known.retain(|_, file| file.strong_count() > 0);
        known.insert(place.number, Arc::downgrade(&file));
        Ok(file)
    }
}

/// A pack among the files of a ring.
pub(super) struct ShardPack {
    pub(super) device: FileDevice,
    file: Arc<ServedPack>,
}

impl ShardPack {
    /// Whether bytes of it may go, so that each read must be verified.
    pub(super) fn is_cache(&self) -> bool {
        self.file.is_cache()
    }

    /// It was read: a cache that was read goes after those that were not.
    pub(super) fn used(&self) {
        if let Some(cache) = &self.file.cache {
            cache.used();
        }
    }
}

/// The pack of a file, among the files of a ring for all images of the shard.
///
/// # Errors
/// There is no room for another one.
pub(super) fn open_on_shard(file: Arc<ServedPack>, context: &ShardContext) -> io::Result<Rc<ShardPack>> {
    if let Some(pack) = context.shared.find(|pack: &ShardPack| Arc::ptr_eq(&pack.file, &file)) {
        return Ok(pack);
    }
    if context.shared.count() >= MOST_ON_SHARD {
        return Err(io::Error::from_raw_os_error(libc::ENFILE));
    }
    let device = FileDevice::new(Arc::clone(&file.store), file.size, context)?;
    let pack = Rc::new(ShardPack { device, file });
    context.shared.add(&pack);
    Ok(pack)
}
