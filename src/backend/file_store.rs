//! A file or block device, opened for the whole server.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use super::inode::Inode;
use super::lock::may_go_without;
use super::open_error::OpenError;
use super::prepared::{FilePurpose, PreparedFile};
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::{ExportUri, Locking};
use crate::exec::lock;
use crate::ring::SharedMapping;
use crate::sys::{self, Access, ImageLock, LockError};

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
    /// The number of the block device, or of the one that its file system is on.
    pub(super) disk: u64,
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

/// Gives a descriptor of a file for a purpose.
type OpenFile<'a> = dyn FnMut(FilePurpose) -> io::Result<File> + 'a;

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileOptions {
    /// O_DIRECT, without the page cache.
    pub(super) direct: bool,
    /// What is in the page cache may be sent from there.
    pub(super) mapped: bool,
    pub(super) read_only: bool,
    /// What to tell clients; `None` asks the device.
    pub(super) rotational: Option<bool>,
    pub(super) locking: Locking,
    /// Others may write too.
    pub(super) shared: bool,
}

impl FileOptions {
    /// Those of a URI; `None` if it names no file.
    pub(super) fn of(uri: &ExportUri, read_only: bool, may_lock: bool) -> Option<Self> {
        let ExportUri::File { direct, mapped, read_only: of_uri, rotational, locking, shared, .. } = uri
        else {
            return None;
        };
        Some(Self {
            direct: *direct,
            mapped: *mapped,
            read_only: read_only || *of_uri,
            rotational: *rotational,
            locking: if may_lock { *locking } else { Locking::Off },
            shared: *shared,
        })
    }
}

impl FileStore {
    /// Opens a file or block device. One that others write, or that others read and this one would write, is
    /// waited for some seconds.
    pub(super) fn open(path: &Path, how: &FileOptions) -> Result<(Self, DeviceFacts), OpenError> {
        Self::open_by(path, how, &mut |purpose| {
            let flags = if purpose == FilePurpose::Direct { OFlags::DIRECT } else { OFlags::empty() };
            open_file_with(path, how.read_only || purpose == FilePurpose::Lock, flags)
        })
    }

    /// The same of descriptors that another process has opened.
    pub(super) fn of_prepared(
        path: &Path,
        how: &FileOptions,
        mut files: PreparedFile,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        Self::open_by(path, how, &mut |purpose| files.take(purpose))
    }

    /// A file that is open, of which nothing is ever written: for whoever may open none.
    pub(super) fn of_open(file: File) -> Result<(Self, DeviceFacts), OpenError> {
        let (locking, rotational) = (Locking::Off, Some(false));
        let how =
            FileOptions { direct: false, mapped: true, read_only: true, rotational, locking, shared: false };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut file = Some(file);
        let gone = || io::Error::other("a second descriptor of it is wanted");
        Self::open_by(Path::new(&path), &how, &mut |_purpose| file.take().ok_or_else(gone))
    }

    fn open_by(
        path: &Path,
        how: &FileOptions,
        open: &mut OpenFile<'_>,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let (metadata, buffered) = open_buffered(path, how.read_only, open)?;
        let inode = Inode::of(&metadata);
        let access = Access::new(how.read_only, how.shared);
        lock_image((path, &metadata), &inode, how.locking, access, open)?;
        open_file(path, (metadata, buffered, inode), how, open)
    }

    /// A simulated file. `sector`: a block device with sectors of so many bytes.
    #[cfg(feature = "sim")]
    pub(super) fn simulated(
        tokens: crate::ring::sim::FileTokens,
        size: u64,
        read_only: bool,
        sector: Option<u32>,
    ) -> (Self, DeviceFacts) {
        let inode = Arc::new(Inode::default());
        if tokens.direct.is_some() && !read_only {
            inode.is_direct();
        }
        let direct = tokens.direct.map(|(file, alignment)| DirectFile {
            file,
            alignment,
            memory_alignment: alignment,
        });
        let block_sizes = BlockSizes::default();
        let facts = DeviceFacts { size, read_only, rotational: false, fast_zero: true, block_sizes };
        let store = Self {
            buffered: tokens.buffered,
            durable: (!read_only).then_some(tokens.durable),
            direct,
            is_block_device: sector.is_some(),
            disk: 0,
            allocation_unit: sector.unwrap_or(1),
            can_be_mapped: true,
            always_blocks: false,
            inode,
            // Short, as simulated files are.
            read_ahead: SIMULATED_STEP,
            allocation_step: SIMULATED_STEP,
            mapping: OnceLock::new(),
        };
        (store, facts)
    }
}

fn open_file_with(path: &Path, read_only: bool, flags: OFlags) -> io::Result<File> {
    // O_NONBLOCK so that a FIFO is refused below instead of waited for.
    let flags = (flags | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path)
}

fn open_buffered(
    path: &Path,
    read_only: bool,
    open: &mut OpenFile<'_>,
) -> Result<(Metadata, File), OpenError> {
    let explain = |error: io::Error| explain(path, read_only, error);
    let buffered = open(FilePurpose::Buffered).map_err(explain)?;
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
    (path, metadata): (&Path, &Metadata),
    inode: &Inode,
    locking: Locking,
    access: Access,
    open: &mut OpenFile<'_>,
) -> Result<(), OpenError> {
    if locking == Locking::Off {
        return Ok(());
    }
    let mut held = lock(&inode.lock);
    let image = match &mut *held {
        Some(image) => image,
        none => {
            let file = open(FilePurpose::Lock).map_err(|error| explain(path, true, error))?;
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
    &FileOptions { direct, mapped, read_only, rotational, .. }: &FileOptions,
    open: &mut OpenFile<'_>,
) -> Result<(FileStore, DeviceFacts), OpenError> {
    let explain = |error: io::Error| explain(path, read_only, error);
    let is_block_device = metadata.file_type().is_block_device();
    let size =
        rustix::fs::seek(&buffered, rustix::fs::SeekFrom::End(0)).map_err(|error| explain(error.into()))?;
    let sector = if is_block_device { rustix::fs::ioctl_blksszget(&buffered).unwrap_or(512) } else { 1 };
    let direct = match direct {
        false => None,
        true => Some(open(FilePurpose::Direct).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => OpenError::NoDirect(path.to_owned()),
            _ => explain(error),
        })?),
    };
    let durable = if read_only { None } else { Some(open(FilePurpose::Durable).map_err(explain)?) };
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
        disk: if is_block_device { metadata.rdev() } else { metadata.dev() },
        allocation_unit: sector,
        can_be_mapped,
        always_blocks,
        inode,
        read_ahead: read_ahead(&metadata, is_block_device),
        allocation_step: ALLOCATION_STEP,
        mapping: OnceLock::new(),
    };
    Ok((store, facts))
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
