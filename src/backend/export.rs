//! An export opened for the whole server: files, memory and facts that all shards share.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use super::application::ApplicationDevice;
use super::inode::Inode;
use super::lock::{Access, ImageLock, LockError, may_go_without};
use super::memory::MemoryStore;
use super::open_error::OpenError;
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::{ExportUri, FaultOptions, Locking};
use crate::exec::lock;
use crate::ring::SharedMapping;
use crate::sys;

/// An open export, shared by all shards; each makes its own [`Device`](super::Device) of it.
#[derive(Debug)]
pub struct Export {
    facts: DeviceFacts,
    pub(super) store: Store,
    pub(super) faults: Vec<FaultOptions>,
}

/// Where the bytes live.
#[derive(Debug, Clone)]
pub(super) enum Store {
    File(Arc<FileStore>),
    Memory(Arc<MemoryStore>),
    Null,
    Application(ApplicationDevice),
}

/// An open file or block device.
#[derive(Debug)]
pub(super) struct FileStore {
    /// Through the page cache.
    pub(super) buffered: File,
    /// The same once more, for nothing but FUA; none when nobody may write.
    pub(super) durable: Option<File>,
    /// With O_DIRECT.
    pub(super) direct: Option<DirectFile>,
    pub(super) is_block_device: bool,
    /// Bytes that `fallocate` wants its ranges aligned to; 1 for files.
    pub(super) allocation_unit: u32,
    /// What its mapping holds is what a read brings.
    pub(super) can_be_mapped: bool,
    /// Its file system has no `RWF_NOWAIT`: whatever is done with it needs a worker thread.
    pub(super) always_blocks: bool,
    /// What it shares with other exports of the same file.
    pub(super) inode: Arc<Inode>,
    /// Bytes of one step of a prefetch, and of a punch or a zeroing.
    pub(super) read_ahead: u64,
    pub(super) allocation_step: u64,
    /// That mapping, which all shards share, once the first has made it; none when it cannot be made.
    pub(super) mapping: OnceLock<Option<SharedMapping>>,
}

/// Bytes that one `fallocate` changes at the most: some 15 ms where all of it is allocated.
const ALLOCATION_STEP: u64 = 64 << 20;
/// Bytes of a step of a simulated file.
#[cfg(feature = "sim")]
const SIMULATED_STEP: u64 = 64 << 10;

/// The second descriptor of an export that bypasses the page cache.
#[derive(Debug)]
pub(super) struct DirectFile {
    pub(super) file: File,
    /// Bytes that offsets and lengths must be multiples of.
    pub(super) alignment: u32,
    /// Bytes that addresses of memory must be multiples of.
    pub(super) memory_alignment: u32,
}

impl Export {
    /// Opens what a URI names. `read_only` refuses writes whatever the URI says. A file that others write, or
    /// that others read and this one would write, is waited for some seconds.
    ///
    /// # Errors
    /// [`OpenError`], a sentence with cause and remedy.
    pub fn open(uri: &ExportUri, read_only: bool) -> Result<Self, OpenError> {
        Self::open_with(uri, read_only, true)
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
            ExportUri::File {
                path,
                direct,
                mapped,
                read_only: uri_read_only,
                rotational,
                locking,
                shared,
                ..
            } => {
                let read_only = read_only || *uri_read_only;
                let (metadata, buffered) = open_buffered(path, read_only)?;
                let inode = Inode::of(&metadata);
                let locking = if may_lock { *locking } else { Locking::Off };
                lock_image(path, &metadata, &inode, locking, Access::new(read_only, *shared))?;
                open_file(path, (metadata, buffered, inode), *direct, *mapped, read_only, *rotational)
            }
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

    /// Serves a device of the application. `read_only` refuses writes whatever the device says.
    ///
    /// # Errors
    /// The device's facts contradict each other.
    pub fn of_device(device: &ApplicationDevice, read_only: bool) -> Result<Self, OpenError> {
        let mut facts = device.facts().map_err(OpenError::Device)?;
        facts.read_only |= read_only;
        Ok(Self { facts, store: Store::Application(device.clone()), faults: Vec::new() })
    }

    /// Whether all its clients are served by one shard, whichever it is.
    pub fn has_home(&self) -> bool {
        matches!(&self.store, Store::Application(device) if device.is_on_one_shard())
    }

    /// Whether it is a device of the application whose code has panicked.
    pub fn is_failed(&self) -> bool {
        matches!(&self.store, Store::Application(device) if device.has_failed())
    }

    fn without_file(size: u64, read_only: bool, store: Store) -> Self {
        let block_sizes = BlockSizes::default();
        let facts = DeviceFacts { size, read_only, rotational: false, fast_zero: true, block_sizes };
        Self { facts, store, faults: Vec::new() }
    }

    /// A simulated file. `sector`: a block device with sectors of so many bytes.
    #[cfg(feature = "sim")]
    pub fn simulated(
        tokens: crate::ring::sim::FileTokens,
        size: u64,
        read_only: bool,
        sector: Option<u32>,
    ) -> Self {
        let inode = Arc::new(Inode::default());
        if tokens.direct.is_some() && !read_only {
            inode.is_direct();
        }
        let direct = tokens.direct.map(|(file, alignment)| DirectFile {
            file,
            alignment,
            memory_alignment: alignment,
        });
        let facts = DeviceFacts {
            size,
            read_only,
            rotational: false,
            fast_zero: true,
            block_sizes: BlockSizes::default(),
        };
        let store = FileStore {
            buffered: tokens.buffered,
            durable: (!read_only).then_some(tokens.durable),
            direct,
            is_block_device: sector.is_some(),
            allocation_unit: sector.unwrap_or(1),
            can_be_mapped: true,
            always_blocks: false,
            inode,
            // Short, as simulated files are.
            read_ahead: SIMULATED_STEP,
            allocation_step: SIMULATED_STEP,
            mapping: OnceLock::new(),
        };
        Self { facts, store: Store::File(Arc::new(store)), faults: Vec::new() }
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

    /// Whether it is a file or a block device.
    pub fn is_file(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// What it can do.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }
}

fn open_file_with(path: &Path, read_only: bool, flags: OFlags) -> io::Result<File> {
    // O_NONBLOCK so that a FIFO is refused below instead of waited for.
    let flags = (flags | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path)
}

fn open_buffered(path: &Path, read_only: bool) -> Result<(Metadata, File), OpenError> {
    let explain = |error: io::Error| explain(path, read_only, error);
    let buffered = open_file_with(path, read_only, OFlags::empty()).map_err(explain)?;
    let metadata = buffered.metadata().map_err(explain)?;
    match metadata.is_file() || metadata.file_type().is_block_device() {
        true => Ok((metadata, buffered)),
        false => Err(OpenError::Kind(path.to_owned())),
    }
}

/// Whether a further descriptor is of the same file.
fn is_same(file: &File, metadata: &Metadata) -> io::Result<bool> {
    let other = file.metadata()?;
    Ok((other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
}

/// Keeps others out, for as long as any export of the file is open.
fn lock_image(
    path: &Path,
    metadata: &Metadata,
    inode: &Inode,
    locking: Locking,
    access: Access,
) -> Result<(), OpenError> {
    if locking == Locking::Off {
        return Ok(());
    }
    let mut held = lock(&inode.lock);
    let image = match &mut *held {
        Some(image) => image,
        none => {
            let file =
                open_file_with(path, true, OFlags::empty()).map_err(|error| explain(path, true, error))?;
            if !is_same(&file, metadata).map_err(|error| explain(path, true, error))? {
                return Err(OpenError::Replaced(path.to_owned()));
            }
            none.insert(ImageLock::new(file))
        }
    };
    match image.add(access) {
        Ok(()) => Ok(()),
        Err(LockError::InUse(holder)) => Err(OpenError::InUse { path: path.to_owned(), holder }),
        Err(LockError::Impossible(error)) if may_go_without(locking, &error) => {
            let what = "the file system has no locks: nothing keeps others from writing to this file";
            tracing::warn!(path = %path.display(), %error, "{what}");
            Ok(())
        }
        Err(LockError::Impossible(error)) => Err(OpenError::NoLocks(path.to_owned(), error)),
    }
}

fn open_file(
    path: &Path,
    (metadata, buffered, inode): (Metadata, File, Arc<Inode>),
    direct: bool,
    mapped: bool,
    read_only: bool,
    rotational: Option<bool>,
) -> Result<Export, OpenError> {
    let open = |flags: OFlags| open_file_with(path, read_only, flags);
    let explain = |error: io::Error| explain(path, read_only, error);
    let is_block_device = metadata.file_type().is_block_device();
    let size =
        rustix::fs::seek(&buffered, rustix::fs::SeekFrom::End(0)).map_err(|error| explain(error.into()))?;
    let sector = if is_block_device { rustix::fs::ioctl_blksszget(&buffered).unwrap_or(512) } else { 1 };
    let direct = match direct {
        false => None,
        true => Some(open(OFlags::DIRECT).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => OpenError::NoDirect(path.to_owned()),
            _ => explain(error),
        })?),
    };
    let durable = if read_only { None } else { Some(open(OFlags::empty()).map_err(explain)?) };
    for other in durable.iter().chain(&direct) {
        if !is_same(other, &metadata).map_err(explain)? {
            return Err(OpenError::Replaced(path.to_owned()));
        }
    }
    let direct = direct.map(|file| {
        let (offset, memory_alignment) = sys::direct_alignment(&file).unwrap_or((4096, 4096));
        let alignment = offset.max(memory_alignment).min(4096).max(sector);
        DirectFile { alignment, memory_alignment, file }
    });
    if direct.is_some() && !read_only {
        inode.is_direct();
    }
    let mut block_sizes = BlockSizes::default();
    if let Some(direct) = &direct
        && size.is_multiple_of(u64::from(direct.alignment))
    {
        // A size that is no multiple of it forbids advertising it ("Block size constraints"); then any
        // alignment is served.
        block_sizes.minimum = direct.alignment;
    }
    let rotational = rotational.unwrap_or_else(|| is_rotational(&metadata, is_block_device));
    let facts = DeviceFacts { size, read_only, rotational, fast_zero: true, block_sizes };
    let can_be_mapped = mapped && (is_block_device || is_local(&buffered));
    let always_blocks = has_no_nowait(direct.as_ref().map_or(&buffered, |direct| &direct.file));
    let store = FileStore {
        buffered,
        durable,
        direct,
        is_block_device,
        allocation_unit: sector,
        can_be_mapped,
        always_blocks,
        inode,
        read_ahead: read_ahead(&metadata, is_block_device),
        allocation_step: ALLOCATION_STEP,
        mapping: OnceLock::new(),
    };
    Ok(Export { facts, store: Store::File(Arc::new(store)), faults: Vec::new() })
}

fn explain(path: &Path, read_only: bool, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT) if has_parameters(&path) => OpenError::Parameters(path),
        Some(libc::ENOENT | libc::ENOTDIR) => OpenError::Missing(path),
        Some(libc::EACCES | libc::EPERM) => {
            OpenError::Permission { path, access: if read_only { "reading" } else { "writing" } }
        }
        Some(libc::EROFS) => OpenError::ReadOnly(path),
        Some(libc::EISDIR | libc::ENXIO) => OpenError::Kind(path),
        Some(libc::EMFILE | libc::ENFILE) => OpenError::OpenFiles(path),
        _ => OpenError::Other(path, error),
    }
}

/// Whether a path without a kind in front was meant to have parameters: one of them stands there, and a file
/// does without.
fn has_parameters(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let Some((file, parameters)) = text.split_once('?') else { return false };
    format!("file:{file}?{parameters}").parse::<ExportUri>().is_ok() && Path::new(file).exists()
}

/// What the kernel says of a block device's medium; a file is not asked, since what is below it may be
/// anything.
fn is_rotational(metadata: &std::fs::Metadata, is_block_device: bool) -> bool {
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let file = format!("/sys/dev/block/{major}:{minor}/queue/rotational");
    is_block_device && std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

/// Whether a file's reads cannot be tried without waiting, as on network file systems, FUSE and tmpfs.
fn has_no_nowait(file: &File) -> bool {
    /// Beyond any file: a read from the front would start a read-ahead and so fill the page cache.
    const BEYOND: u64 = 1 << 60;
    // The flag is checked before the range is, so any other answer says yes.
    let mut byte = [0];
    let buffer = &mut [std::io::IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(file, buffer, BEYOND, rustix::io::ReadWriteFlags::NOWAIT)
        == Err(rustix::io::Errno::OPNOTSUPP)
}

/// Bytes that a read-ahead on a file's device brings at the most.
fn read_ahead(metadata: &std::fs::Metadata, is_block_device: bool) -> u64 {
    /// The kernel's default, which few devices fall short of.
    const USUAL: u64 = 128 << 10;
    let device = if is_block_device { metadata.rdev() } else { metadata.dev() };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let read = |file: String| {
        let kibibytes: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        Some(kibibytes << 10)
    };
    // A partition has the queue of its disk; a network file system has only the first.
    let known = read(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))
        .or_else(|| read(format!("/sys/dev/block/{major}:{minor}/queue/read_ahead_kb")))
        .or_else(|| read(format!("/sys/dev/block/{major}:{minor}/../queue/read_ahead_kb")));
    known.unwrap_or(USUAL).clamp(64 << 10, 2 << 20)
}

/// Whether a file lies on a file system whose page cache is always true. On a network file system a read asks
/// the server whether it still is, and a mapping does not.
fn is_local(file: &File) -> bool {
    const BTRFS: u64 = 0x9123_683e;
    const EXT4: u64 = 0xef53;
    const F2FS: u64 = 0xf2f5_2010;
    const TMPFS: u64 = 0x0102_1994;
    const XFS: u64 = 0x5846_5342;
    rustix::fs::fstatfs(file)
        .is_ok_and(|system| [BTRFS, EXT4, F2FS, TMPFS, XFS].contains(&(system.f_type as u64)))
}

#[cfg(test)]
mod tests {
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
