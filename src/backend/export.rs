//! An export opened for the whole server: files, memory and facts that all shards share.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use super::application::ApplicationDevice;
use super::file_store::{FileOptions, FileStore};
use super::image::{ImageHandle, ImageStatus, ImageStore, ServedStore, image_facts};
use super::launch::LaunchCommand;
use super::memory::MemoryStore;
use super::open_error::OpenError;
use super::prepared::PreparedFile;
use super::remote::{RemoteStatus, RemoteStore};
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::{ExportUri, FaultOptions, ImageUri};
use crate::ring::SharedMapping;
use crate::store::catalog::{MOST_LAYERS, NodeName};
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;

/// An open export, shared by all shards; each makes its own [`Device`](super::Device) of it.
#[derive(Debug)]
pub struct Export {
    facts: DeviceFacts,
    pub(super) store: Store,
    pub(super) faults: Vec<FaultOptions>,
    pub(super) instance: u32,
}

/// Where the bytes live.
#[derive(Debug, Clone)]
pub(super) enum Store {
    File(Arc<FileStore>),
    Memory(Arc<MemoryStore>),
    Null,
    Application(ApplicationDevice),
    Image(Arc<ImageStore>),
    Remote(Arc<RemoteStore>),
}

/// What exports may have in common, so that requests of one delay those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Backing {
    /// A disk, by its number.
    Disk(u64),
    /// No device but the shard itself.
    Shard,
    /// Nothing: what is behind it is not known here.
    Alone,
}

impl Export {
    fn over(facts: DeviceFacts, store: Store) -> Self {
        // A hasher's keys are random, and another one's are others.
        let instance = RandomState::new().hash_one(()) as u32;
        Self { facts, store, faults: Vec::new(), instance }
    }

    /// Opens what a URI names. `read_only` refuses writes whatever the URI says. A file that others write, or
    /// that others read and this one would write, is waited for some seconds.
    ///
    /// # Errors
    /// [`OpenError`], a sentence with cause and remedy.
    pub fn open(uri: &ExportUri, read_only: bool) -> Result<Self, OpenError> {
        Self::open_with(uri, read_only, true)
    }

    /// Opens what a URI names, its file by descriptors that another process has opened.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn of_prepared(
        uri: &ExportUri,
        read_only: bool,
        files: PreparedFile,
    ) -> Result<Self, OpenError> {
        match uri {
            ExportUri::Fault { options, inner } => {
                let mut export = Self::of_prepared(inner, read_only, files)?;
                export.faults.insert(0, (**options).clone());
                Ok(export)
            }
            ExportUri::File { path, .. } => {
                let how = FileOptions::of(uri, read_only, true).expect("it is a file");
                let (store, facts) = FileStore::of_prepared(path, &how, files)?;
                Ok(Self::over(facts, Store::File(Arc::new(store))))
            }
            _ => Self::open(uri, read_only),
        }
    }

    /// Serves what a command serves; `launcher` starts it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn of_command(
        uri: &ExportUri,
        read_only: bool,
        launcher: Arc<dyn LaunchCommand>,
    ) -> Result<Self, OpenError> {
        match uri {
            ExportUri::Fault { options, inner } => {
                let mut export = Self::of_command(inner, read_only, launcher)?;
                export.faults.insert(0, (**options).clone());
                Ok(export)
            }
            ExportUri::Command(command) => {
                let (store, facts) = RemoteStore::of_command(command, launcher, read_only)?;
                Ok(Self::over(facts, Store::Remote(Arc::new(store))))
            }
            _ => Self::open(uri, read_only),
        }
    }

    /// The same bytes for writers too, or for readers only. `None` where that needs files to be opened anew.
    pub fn with_access(&self, read_only: bool) -> Option<Self> {
        match &self.store {
            Store::Memory(_) | Store::Null => {
                let facts = DeviceFacts { read_only, ..self.facts.clone() };
                let (store, faults) = (self.store.clone(), self.faults.clone());
                // The same bytes: nothing is lost of what was written to them.
                Some(Self { facts, store, faults, instance: self.instance })
            }
            Store::File(_) | Store::Application(_) | Store::Image(_) | Store::Remote(_) => None,
        }
    }

    /// As [`Export::open`], without a lock: to see whether it can be opened, beside a server that has it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn look_at(uri: &ExportUri, read_only: bool) -> Result<Self, OpenError> {
        Self::open_with(uri, read_only, false)
    }

    fn open_with(uri: &ExportUri, read_only: bool, may_lock: bool) -> Result<Self, OpenError> {
        match uri {
            ExportUri::File { path, .. } => {
                let how = FileOptions::of(uri, read_only, may_lock).expect("it is a file");
                let (store, facts) = FileStore::open(path, &how)?;
                Ok(Self::over(facts, Store::File(Arc::new(store))))
            }
            ExportUri::Image(image) => {
                let (store, facts) = ImageStore::open(image, read_only, may_lock)?;
                Ok(Self::over(facts, Store::Image(Arc::new(store))))
            }
            ExportUri::Remote(remote) => {
                let (store, facts) = RemoteStore::open(remote, read_only)?;
                Ok(Self::over(facts, Store::Remote(Arc::new(store))))
            }
            ExportUri::Command(command) => Err(OpenError::NoLauncher(command.to_string())),
            ExportUri::Memory { size } => {
                let store = MemoryStore::new(*size).map_err(|error| OpenError::Memory(*size, error))?;
                Ok(Self::without_file(*size, read_only, Store::Memory(Arc::new(store))))
            }
            ExportUri::Application { .. } => Err(OpenError::Device("is known to the application alone")),
            ExportUri::Null { size } => Ok(Self::without_file(*size, read_only, Store::Null)),
            ExportUri::Fault { options, inner } => {
                let mut export = Self::open_with(inner, read_only, may_lock)?;
                export.faults.insert(0, (**options).clone());
                Ok(export)
            }
        }
    }

    /// Opens an image or a snapshot of a store, on the store's thread. `how` says what a URI would, and where
    /// it is counts for nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_stored(
        store: &mut OpenStore<MapFiles>,
        served: &Arc<ServedStore>,
        node: &NodeName,
        how: &ImageUri,
    ) -> Result<Self, OpenError> {
        let (store, facts) = ImageStore::open_node(store, served, node, (how, how.read_only, true))?;
        Ok(Self::over(facts, Store::Image(Arc::new(store))))
    }

    /// What an image of a size can do.
    pub fn facts_of_image(size: u64, read_only: bool) -> DeviceFacts {
        image_facts(size, read_only, false)
    }

    /// The image or snapshot of a store that it is.
    pub fn stored(&self) -> Option<(&Arc<ServedStore>, &NodeName)> {
        let Store::Image(image) = &self.store else { return None };
        image.served().map(|served| (served.store(), served.name()))
    }

    /// Serves a device of the application. `read_only` refuses writes whatever the device says.
    ///
    /// # Errors
    /// The device's facts contradict each other.
    pub fn of_device(device: &ApplicationDevice, read_only: bool) -> Result<Self, OpenError> {
        let mut facts = device.facts().map_err(OpenError::Device)?;
        facts.read_only |= read_only;
        Ok(Self::over(facts, Store::Application(device.clone())))
    }

    /// One of a file that is open.
    pub(super) fn of_file(facts: DeviceFacts, store: FileStore, faults: Vec<FaultOptions>) -> Self {
        Self { faults, ..Self::over(facts, Store::File(Arc::new(store))) }
    }

    /// Whether all its clients are served by one shard, whichever it is.
    pub fn has_home(&self) -> bool {
        match &self.store {
            Store::Application(device) => device.is_on_one_shard(),
            Store::Image(_) | Store::Remote(_) => true,
            Store::File(_) | Store::Memory(_) | Store::Null => false,
        }
    }

    /// What it may have in common with other exports. A fault that delays it counts as a device of its own.
    pub(crate) fn backing(&self) -> Backing {
        match &self.store {
            _ if !self.faults.is_empty() => Backing::Alone,
            Store::File(file) => Backing::Disk(file.disk),
            Store::Image(image) => Backing::Disk(image.disk()),
            Store::Memory(_) | Store::Null => Backing::Shard,
            Store::Application(_) | Store::Remote(_) => Backing::Alone,
        }
    }

    /// Whether it has layers.
    pub fn is_image(&self) -> bool {
        matches!(&self.store, Store::Image(_))
    }

    /// Whether it is a device of the application whose code has panicked.
    pub fn is_failed(&self) -> bool {
        matches!(&self.store, Store::Application(device) if device.has_failed())
    }

    /// Whether a client that finds the same [`Device::instance`](super::Device::instance) again may believe
    /// that all that was written is still there. What is behind an application or another server may be lost
    /// while this process lives.
    pub(crate) fn has_instance(&self) -> bool {
        match &self.store {
            Store::File(_) | Store::Memory(_) | Store::Null | Store::Image(_) => true,
            Store::Application(_) | Store::Remote(_) => false,
        }
    }

    /// The meta contexts of another server that are passed on.
    pub(crate) fn passed_contexts(&self) -> &[Arc<str>] {
        match &self.store {
            Store::Remote(remote) => remote.passed_contexts(),
            _ => &[],
        }
    }

    fn without_file(size: u64, read_only: bool, store: Store) -> Self {
        let block_sizes = BlockSizes::default();
        let facts = DeviceFacts { size, read_only, rotational: false, fast_zero: true, block_sizes };
        Self::over(facts, store)
    }

    /// A simulated file. `sector`: a block device with sectors of so many bytes.
    #[cfg(feature = "sim")]
    pub fn simulated(
        tokens: crate::ring::sim::FileTokens,
        size: u64,
        read_only: bool,
        sector: Option<u32>,
    ) -> Self {
        let (store, facts) = FileStore::simulated(tokens, size, read_only, sector);
        Self::over(facts, Store::File(Arc::new(store)))
    }

    /// A simulated image, opened as a server does that starts.
    ///
    /// # Panics
    /// A map of its layers cannot be used.
    #[cfg(feature = "sim")]
    pub fn simulated_image(world: &crate::ring::sim::World, image: &super::image::SimulatedImage) -> Self {
        let opened = ImageStore::simulated(world, image);
        let (store, facts) = opened.unwrap_or_else(|error| panic!("an image does not open: {error}"));
        Self::over(facts, Store::Image(Arc::new(store)))
    }

    /// An export of a simulated server, reached by `way`.
    #[cfg(feature = "sim")]
    pub fn simulated_remote(
        way: super::remote::SimulatedWay,
        size: u64,
        reconnect: std::time::Duration,
        connections: usize,
    ) -> Self {
        let (store, facts) = RemoteStore::simulated(way, size, reconnect, connections);
        Self::over(facts, Store::Remote(store))
    }

    /// Whether its reads can be answered from the page cache.
    #[cfg(test)]
    pub(crate) fn can_be_mapped(&self) -> bool {
        matches!(&self.store, Store::File(file) if file.can_be_mapped && file.direct.is_none())
    }

    /// Bytes of address space in which its file is mapped for replies that are sent from the page cache:
    /// once, whatever the number of shards. 0 before the first shard started, and for what is not mapped.
    pub fn mapped_bytes(&self) -> u64 {
        let Store::File(file) = &self.store else { return 0 };
        file.mapping.get().and_then(Option::as_ref).map_or(0, SharedMapping::length)
    }

    /// What is told of an image; none for what is none.
    pub(crate) fn image_status(&self) -> Option<ImageStatus> {
        match &self.store {
            Store::Image(image) => Some(image.status()),
            _ => None,
        }
    }

    /// What is told of an export that stands on another server or a command; none for what does not.
    pub(crate) fn remote_status(&self) -> Option<RemoteStatus> {
        match &self.store {
            Store::Remote(remote) => Some(remote.status()),
            Store::Image(image) => image.remote_status(),
            _ => None,
        }
    }

    /// Files and block devices that its bytes live in: as many devices a shard has of it.
    pub fn files(&self) -> usize {
        match &self.store {
            Store::File(_) => 1,
            Store::Image(image) => image.files(),
            Store::Remote(remote) => remote.files(),
            Store::Memory(_) | Store::Null | Store::Application(_) => 0,
        }
    }

    /// No image has more.
    pub const MOST_FILES_OF_IMAGE: usize = 2 * (MOST_LAYERS + 1) + 1;

    /// The image of a store that it is, if it is one.
    pub fn image(&self) -> Option<ImageHandle> {
        match &self.store {
            Store::Image(image) => ImageHandle::of(image),
            _ => None,
        }
    }

    /// Where an image notes changes for the time after a kill. At the end it removes its file there.
    pub fn log_directory(&self) -> Option<PathBuf> {
        match &self.store {
            Store::Image(image) => image.log_directory(),
            _ => None,
        }
    }

    /// Bytes of it now: an image may have grown since it was opened.
    pub fn size(&self) -> u64 {
        match &self.store {
            Store::Image(image) => image.size(),
            Store::File(_) | Store::Memory(_) | Store::Null | Store::Application(_) | Store::Remote(_) => {
                self.facts.size
            }
        }
    }

    /// What it can do; its size is the one with which it was opened.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    #[test]
    fn errors_name_cause_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = Export::open(&ExportUri::file(&missing), false).unwrap_err().to_string();
        assert!(error.contains("does not exist") && error.contains("truncate"), "{error}");
        let error = Export::open(&ExportUri::file(directory.path()), false).unwrap_err().to_string();
        assert!(error.contains("neither a regular file"), "{error}");
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = Export::open(&ExportUri::file(&fifo), true).unwrap_err().to_string();
        assert!(error.contains("neither a regular file"), "{error}");
    }

    #[test]
    fn exports_of_one_file_share_what_is_known_of_it() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let (path, link, other) =
            (directory.path().join("a"), directory.path().join("b"), directory.path().join("c"));
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        File::create(&other).unwrap().set_len(1 << 20).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        let inode = |path: &Path, parameters: &str| {
            let uri = format!("file:{}{parameters}", path.display()).parse().unwrap();
            match Export::open(&uri, false).unwrap().store {
                Store::File(store) => Arc::clone(&store.inode),
                store => panic!("not a file: {store:?}"),
            }
        };
        let first = inode(&path, "");
        assert!(Arc::ptr_eq(&first, &inode(&link, "?readonly=true")));
        assert!(!Arc::ptr_eq(&first, &inode(&other, "")));
        assert!(!first.has_direct());
        let direct = format!("file:{}?direct=true", link.display()).parse().unwrap();
        match Export::open(&direct, false) {
            Ok(_) => assert!(first.has_direct(), "its buffered writes must pass the gate"),
            Err(error) => assert!(matches!(error, OpenError::NoDirect(_)), "{error}"),
        }
    }

    #[test]
    fn an_odd_size_is_kept_and_served_at_any_alignment() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let path = directory.path().join("odd");
        File::create(&path).unwrap().set_len(1_000_001).unwrap();
        let uri = format!("file:{}?direct=true", path.display()).parse().unwrap();
        match Export::open(&uri, false) {
            Ok(export) => {
                assert_eq!(export.facts().size, 1_000_001);
                assert_eq!(export.facts().block_sizes.minimum, 1);
            }
            Err(error) => assert!(matches!(error, OpenError::NoDirect(_)), "{error}"),
        }
    }
}
