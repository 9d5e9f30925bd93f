//! The operating system's calls that no crate wraps safely for us: mappings, extents of files, direct I/O limits.
//!
//! Beside `ring/` the only place with `unsafe`. A leaf.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::block::ByteRange;

pub mod confine;

/// Anonymous private memory, zero at first, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
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
    pub fn anonymous(length: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        // Fewer, larger pages: copies miss the TLB less often, and pinning takes fewer steps. Where there are none, small ones do.
        // SAFETY: the range is the mapping just made.
        let _advice = unsafe { rustix::mm::madvise(address, length, rustix::mm::Advice::LinuxHugepage) };
        Ok(Self { address: address.cast(), length })
    }

    /// The first byte.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> usize {
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

/// Memory that several shards read and write at once, sparse: the `mem:` export.
///
/// Copies go word by word through relaxed atomics, so that racing requests (which the protocol allows: either content may be
/// seen) are no data race of the program. On every machine that io_uring runs on these are plain moves.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
    length: u64,
}

// SAFETY: all access to the bytes is atomic; discarding pages is the kernel's and atomic per page.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `length` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// The kernel's, mostly `ENOMEM`.
    pub fn new(length: u64) -> io::Result<Self> {
        let rounded =
            length.max(1).checked_next_multiple_of(4096).and_then(|bytes| usize::try_from(bytes).ok());
        let rounded = rounded.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { mapping: Mapping::anonymous(rounded)?, length })
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn cells(&self, offset: u64, length: usize) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
        assert!(offset.checked_add(length as u64).is_some_and(|end| end <= self.length), "beyond the memory");
        // SAFETY: the range is inside the mapping, which lives as long as `self`; atomics have the size of their integers, and no other
        // kind of reference to these bytes exists. Any bit pattern is valid for an integer.
        unsafe {
            let bytes = std::slice::from_raw_parts(
                self.mapping.address().add(offset as usize).cast::<AtomicU8>(),
                length,
            );
            bytes.align_to::<AtomicU64>()
        }
    }

    /// Copies from `offset` into `target`.
    pub fn read(&self, offset: u64, target: &mut [u8]) {
        let (head, words, tail) = self.cells(offset, target.len());
        let (target_head, rest) = target.split_at_mut(head.len());
        let (target_words, target_tail) = rest.split_at_mut(words.len() * 8);
        for (cell, byte) in head.iter().zip(target_head).chain(tail.iter().zip(target_tail)) {
            *byte = cell.load(Ordering::Relaxed);
        }
        for (cell, word) in words.iter().zip(target_words.as_chunks_mut::<8>().0) {
            *word = cell.load(Ordering::Relaxed).to_ne_bytes();
        }
    }

    /// Copies `source` to `offset`.
    pub fn write(&self, offset: u64, source: &[u8]) {
        let (head, words, tail) = self.cells(offset, source.len());
        let (source_head, rest) = source.split_at(head.len());
        let (source_words, source_tail) = rest.split_at(words.len() * 8);
        for (cell, byte) in head.iter().zip(source_head).chain(tail.iter().zip(source_tail)) {
            cell.store(*byte, Ordering::Relaxed);
        }
        for (cell, word) in words.iter().zip(source_words.as_chunks::<8>().0) {
            cell.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }

    /// Makes a range zero and gives its whole pages back to the kernel.
    pub fn discard(&self, range: ByteRange) {
        const PAGE: u64 = 4096;
        assert!(range.is_within(self.length), "beyond the memory");
        let first = range.offset().next_multiple_of(PAGE).min(range.end());
        let last = (range.end() / PAGE * PAGE).max(first);
        for (start, end) in [(range.offset(), first), (last, range.end())] {
            let (head, words, tail) = self.cells(start, (end - start) as usize);
            head.iter().chain(tail).for_each(|cell| cell.store(0, Ordering::Relaxed));
            words.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
        }
        if last > first {
            // SAFETY: whole pages inside our private mapping; they read as zero afterwards, which concurrent atomic access may see at any time.
            let discarded = unsafe {
                let address = self.mapping.address().add(first as usize).cast();
                rustix::mm::madvise(address, (last - first) as usize, rustix::mm::Advice::LinuxDontNeed)
            };
            discarded.expect("pages of a private anonymous mapping can always be dropped");
        }
    }
}

/// A run of a file's blocks that are reserved but hold no data yet (`FIEMAP_EXTENT_UNWRITTEN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// Where.
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

/// The mapped extents of a file that touch `range`, in order, at most 64; an empty answer means all of it is a hole.
///
/// # Errors
/// `EOPNOTSUPP` and others where the file system has no such call.
pub fn mapped_extents(file: BorrowedFd<'_>, range: ByteRange) -> io::Result<Vec<FileExtent>> {
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
    // SAFETY: the argument is a `struct fiemap` with room for `extent_count` extents; the kernel writes no further.
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

/// The alignment that O_DIRECT asks of offsets and of memory for this file, in bytes; `None` where the kernel does not tell.
pub fn direct_alignment(file: &File) -> Option<(u32, u32)> {
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
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new one, silent.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?))
    }

    /// Rings it. The counter cannot overflow: it is read far more often than 2^64 times.
    pub fn ring(&self) {
        let rung = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        debug_assert!(rung.is_ok());
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_copies_any_alignment_and_discards_to_zero() {
        let memory = SharedMemory::new(20_000).unwrap();
        let source: Vec<u8> = (0..9001).map(|index| (index % 251) as u8 + 1).collect();
        for offset in 0..9 {
            memory.write(4090 + offset, &source);
            let mut target = vec![0; source.len()];
            memory.read(4090 + offset, &mut target);
            assert_eq!(source, target);
        }
        memory.discard(ByteRange::new(5000, 8000).unwrap());
        let mut target = vec![9; 20_000];
        memory.read(0, &mut target);
        assert!(target[5000..13_000].iter().all(|byte| *byte == 0));
        assert!(target[4099..5000].iter().chain(&target[13_000..13_090]).all(|byte| *byte != 0));
    }

    #[test]
    #[should_panic(expected = "beyond the memory")]
    fn shared_memory_has_an_end() {
        SharedMemory::new(4096).unwrap().read(4090, &mut [0; 7]);
    }

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
