//! System calls that no crate wraps safely: mappings, extents of files, direct I/O limits.
//!
//! Beside `ring/` the only place with `unsafe`. A leaf.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::ByteRange;

mod byte_lock;
pub(crate) mod confine;
mod credentials;
mod image_lock;
mod nbd_device;
mod netlink;
mod process;
mod shared_memory;
mod shared_words;
mod slice;
mod watched;

pub(crate) use byte_lock::{Holder, lock_byte, lock_byte_alone, other_holder, unlock_byte};
pub(crate) use credentials::{UnixCredentials, peer_credentials};
pub(crate) use image_lock::{Access, ImageLock, LockError, PATIENCE};
pub use nbd_device::{NbdIoctl, nbd_ioctl};
pub use netlink::join_netlink_group;
pub(crate) use process::take_passed_descriptor;
pub use process::{close_on_exec_from, ignore_signals};
pub(crate) use shared_memory::SharedMemory;
pub(crate) use shared_words::SharedWords;
pub(crate) use slice::set_slice;
pub use watched::WatchedDescriptor;

/// The dirty pages of a range begin to be written back. Nothing is durable by it.
///
/// # Errors
/// The kernel's.
pub(crate) fn begin_writeback(file: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    let (offset, length) = (range.start.cast_signed(), (range.end - range.start).cast_signed());
    let descriptor = file.as_raw_fd();
    // SAFETY: an open descriptor and numbers; the kernel writes no memory of ours.
    match unsafe { libc::sync_file_range(descriptor, offset, length, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Anonymous private memory, zero at first, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: *mut u8,
    length: usize,
}

// SAFETY: a mapping is plain memory, owned by one value; it is not tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes; pages come when they are touched.
    ///
    /// # Errors
    /// The kernel's, mostly `ENOMEM`.
    pub(crate) fn anonymous(length: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // The interpreter (see tests/README.md) knows plain mappings only, and no advice.
        let flags = MapFlags::PRIVATE | if cfg!(miri) { MapFlags::empty() } else { MapFlags::NORESERVE };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        if cfg!(miri) {
            return Ok(Self { address: address.cast(), length });
        }
        // Fewer, larger pages: copies miss the TLB less often, and pinning takes fewer steps. Where there are
        // none, small ones do. SAFETY: the range is the mapping just made.
        let _advice = unsafe { rustix::mm::madvise(address, length, rustix::mm::Advice::LinuxHugepage) };
        Ok(Self { address: address.cast(), length })
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one we mapped, and nothing borrows from it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.address.cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A run of a file's blocks that are reserved but hold no data yet (`FIEMAP_EXTENT_UNWRITTEN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileExtent {
    pub range: ByteRange,
    /// It reads as zeroes although its blocks are reserved.
    pub unwritten: bool,
}

const FIEMAP_BATCH: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; FIEMAP_BATCH],
}

/// The mapped extents of a file that touch `range`, in order, at most 64; an empty answer means all of it is
/// a hole.
///
/// # Errors
/// `EOPNOTSUPP` and others where the file system has no such call.
pub(crate) fn mapped_extents(file: BorrowedFd<'_>, range: ByteRange) -> io::Result<Vec<FileExtent>> {
    const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
    const EXTENT_UNWRITTEN: u32 = 0x800;
    let mut query = Fiemap {
        start: range.offset(),
        length: range.length(),
        flags: 0,
        mapped_extents: 0,
        extent_count: FIEMAP_BATCH as u32,
        reserved: 0,
        extents: [FiemapExtent::default(); FIEMAP_BATCH],
    };
    // SAFETY: the argument is a `struct fiemap` with room for `extent_count` extents; the kernel writes no
    // further.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut query) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let found = query.extents.iter().take(query.mapped_extents as usize);
    Ok(found
        .filter_map(|extent| {
            let range = ByteRange::new(extent.logical, extent.length)?;
            Some(FileExtent { range, unwritten: extent.flags & EXTENT_UNWRITTEN != 0 })
        })
        .collect())
}

/// Bytes of a block device now. No lock is taken for it, as `lseek` takes one that a long discard holds.
///
/// # Errors
/// The kernel's, when it is no block device.
pub(crate) fn device_size(device: BorrowedFd<'_>) -> io::Result<u64> {
    const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
    let mut size = 0_u64;
    // SAFETY: the kernel writes one `u64` through the argument, and no more.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(size) }
}

/// The alignment that O_DIRECT asks of offsets and of memory for this file, in bytes; `None` where the kernel
/// does not tell.
pub(crate) fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: zero is a valid `struct statx`, and the call writes only that.
    let (result, status) = unsafe {
        let mut status: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_DIOALIGN;
        (libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &raw mut status), status)
    };
    let known =
        result == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_offset_align != 0;
    known.then_some((status.stx_dio_offset_align, status.stx_dio_mem_align))
}

/// A counter that wakes a shard's ring from another thread.
///
/// All rings between two looks of the shard are one write. So the shard [listens](Doorbell::listen) before it
/// looks at what was announced.
#[derive(Debug)]
pub(crate) struct Doorbell {
    counter: OwnedFd,
    /// It was rung since the shard listened.
    rung: AtomicBool,
}

impl Doorbell {
    /// A new one, silent.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub(crate) fn new() -> io::Result<Self> {
        let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { counter, rung: AtomicBool::new(false) })
    }

    /// Rings it; true for the first time since the shard listened. What is announced must be in its place
    /// before.
    pub(crate) fn ring(&self) -> bool {
        if self.rung.swap(true, Ordering::AcqRel) {
            return false;
        }
        // The counter cannot overflow: it is read far more often than 2^64 times.
        let rung = rustix::io::write(&self.counter, &1_u64.to_ne_bytes());
        debug_assert!(rung.is_ok());
        true
    }

    /// From now on it rings again. The shard looks at what was announced after this; what comes later rings.
    pub(crate) fn listen(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Whether it was rung since the last call, or is within so many seconds; rings again from then on.
    #[cfg(test)]
    pub(crate) fn was_rung(&self, seconds: i64) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut waited = [PollFd::new(&self.counter, PollFlags::IN)];
        let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let rung = poll(&mut waited, Some(&patience)).unwrap() > 0;
        if rung {
            rustix::io::read(&self.counter, &mut [0; 8][..]).unwrap();
            self.listen();
        }
        rung
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` when the CPU is not there or not allowed.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Page faults of the calling thread that had to wait for a page to be read.
pub(crate) fn major_faults() -> u64 {
    // SAFETY: all-zero is a valid `rusage`, which the call fills; it keeps no pointer to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    usage.ru_majflt as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_tell_reserved_from_written() {
        let file = tempfile::tempfile_in(std::env::current_dir().unwrap()).unwrap();
        file.set_len(1 << 20).unwrap();
        use rustix::fs::{FallocateFlags, fallocate};
        fallocate(&file, FallocateFlags::empty(), 65_536, 65_536).unwrap();
        match mapped_extents(file.as_fd(), ByteRange::new(0, 1 << 20).unwrap()) {
            Ok(extents) => {
                assert_eq!(extents[0].range, ByteRange::new(65_536, 65_536).unwrap());
                assert!(extents[0].unwritten);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
        }
    }
}
