//! Packs that shards read by themselves.
//!
//! What is verified once and not compressed lies in its pack as the disk has it. If it is in the page cache
//! too, a READ is answered from there as from any file, without a helper thread. The file of a pack is open
//! once for the whole server, and once among the files of each ring that needs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

use crate::backend::context::ShardContext;
use crate::backend::file::FileDevice;
use crate::backend::file_store::FileStore;
use crate::backend::open_error::OpenError;
use crate::exec::lock;

/// Packs that a shard reads at once by itself.
const MOST_ON_SHARD: usize = 256;

/// The file of a pack, as the whole server has it.
#[derive(Debug)]
pub(super) struct ServedPack {
    store: Arc<FileStore>,
    size: u64,
}

impl ServedPack {
    /// Whether what is in the page cache of it may be sent from there.
    pub(super) fn can_be_mapped(&self) -> bool {
        self.store.can_be_mapped
    }
}

/// The packs of a store of which shards have the file. A pack never changes, and no other one ever gets its
/// number.
#[derive(Debug, Default)]
pub(super) struct ServedPacks(Mutex<BTreeMap<u64, Weak<ServedPack>>>);

impl ServedPacks {
    /// The file of a pack, of which `open` is a descriptor.
    pub(super) fn of(&self, number: u64, open: &File) -> Result<Arc<ServedPack>, OpenError> {
        let mut known = lock(&self.0);
        if let Some(file) = known.get(&number).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let open = open.try_clone().map_err(|error| OpenError::Other("a pack".into(), error))?;
        let (store, facts) = FileStore::of_open(open)?;
        let file = Arc::new(ServedPack { store: Arc::new(store), size: facts.size });
        known.retain(|_, file| file.strong_count() > 0);
        known.insert(number, Arc::downgrade(&file));
        Ok(file)
    }
}

/// A pack among the files of a ring.
pub(super) struct ShardPack {
    pub(super) device: FileDevice,
    file: Arc<ServedPack>,
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
