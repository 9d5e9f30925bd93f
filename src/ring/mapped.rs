//! The page cache of a file as a source of sends: bytes go from there to the socket without a copy in
//! between.
//!
//! The file is mapped, but no code of ours ever sees the bytes: they may change at any moment, and may be
//! gone when the file was cut. Only the kernel reads them, while it sends, and it reports `EFAULT` where a
//! program would get a signal.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::block::ByteRange;

/// Bytes of a page of the page cache.
pub(crate) const PAGE: u64 = 4096;
/// Pages that one question can be about.
pub(crate) const MOST_PAGES: usize = 256;
/// A file, mapped once for all shards.
#[derive(Debug)]
pub struct SharedMapping {
    whole: Arc<Whole>,
}

#[derive(Debug)]
struct Whole {
    address: usize,
    length: usize,
    file: MappedSource,
}

#[derive(Debug)]
enum MappedSource {
    Kernel(OwnedFd),
    Device(OwnedFd),
    #[cfg(feature = "sim")]
    Simulated(Box<dyn SimulatedFile>),
}

/// A file of a simulated world, as a mapping of it sees it.
#[cfg(feature = "sim")]
pub(super) trait SimulatedFile: std::fmt::Debug + Send + Sync {
    /// Whether a page is in the page cache.
    fn is_cached(&self, page: u64) -> bool;
    /// Bytes of the file now.
    fn size(&self) -> u64;
}

/// A shard's handle of a file that is mapped for the kernel to read.
#[derive(Debug)]
pub struct FileMapping {
    whole: Arc<Whole>,
}

/// Part of a mapped file.
#[derive(Debug, Clone)]
pub struct MappedRange {
    mapping: Rc<FileMapping>,
    range: ByteRange,
}

impl SharedMapping {
    /// Maps the first `length` bytes of a file, at least one, and some more behind them.
    ///
    /// # Errors
    /// The kernel's: `ENODEV` where files cannot be mapped, `ENOMEM` where there are no addresses left.
    pub(super) fn new(file: BorrowedFd<'_>, length: u64) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let whole = whole(length).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours, and no
        // reference to it is ever made.
        let address =
            unsafe { mmap(std::ptr::null_mut(), whole, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
        // A missing page is read alone, without those around it. Nothing else depends on this advice. SAFETY:
        // the range is the new mapping.
        let _advice = unsafe { rustix::mm::madvise(address, whole, rustix::mm::Advice::Random) };
        let is_device =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_block_device();
        let file = file.try_clone_to_owned()?;
        let file = if is_device { MappedSource::Device(file) } else { MappedSource::Kernel(file) };
        Ok(Self { whole: Arc::new(Whole { address: address.expose_provenance(), length: whole, file }) })
    }

    /// Addresses that stand for a simulated file: nothing is behind them. `file` is told where they begin and
    /// how many they are.
    #[cfg(feature = "sim")]
    pub(super) fn simulated(
        length: u64,
        file: impl FnOnce(usize, usize) -> Box<dyn SimulatedFile>,
    ) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let whole = whole(length).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, protection, flags)? };
        let file = MappedSource::Simulated(file(address.addr(), whole));
        Ok(Self { whole: Arc::new(Whole { address: address.expose_provenance(), length: whole, file }) })
    }

    /// Bytes of address space that it takes.
    pub fn length(&self) -> u64 {
        self.whole.length as u64
    }

    /// A handle for one shard: what it counts by request is its own.
    pub fn handle(&self) -> Rc<FileMapping> {
        Rc::new(FileMapping { whole: Arc::clone(&self.whole) })
    }
}

impl FileMapping {
    /// Bytes of the file that it has, whether they are there or not.
    pub fn mapped_bytes(&self) -> u64 {
        self.whole.length as u64 - PAGE
    }

    /// Sets for each page from `first` on whether it is in the page cache and filled. False if the kernel
    /// cannot tell.
    pub fn look_up(&self, first: u64, pages: &mut [bool]) -> bool {
        assert!(pages.len() <= MOST_PAGES);
        match &self.whole.file {
            MappedSource::Kernel(_) | MappedSource::Device(_) => self.resident(first, pages),
            #[cfg(feature = "sim")]
            MappedSource::Simulated(file) => {
                pages.iter_mut().zip(first..).for_each(|(page, number)| *page = file.is_cached(number));
                true
            }
        }
    }

    /// True if the kernel tells the truth. To a process that neither owns the file nor may write it, the
    /// kernel says that all pages are there; the last mapped page, which is behind the end, never is.
    pub fn can_look_up(&self) -> bool {
        match &self.whole.file {
            MappedSource::Kernel(_) | MappedSource::Device(_) => {
                let mut behind = [true];
                self.resident(self.whole.length as u64 / PAGE - 1, &mut behind) && !behind[0]
            }
            #[cfg(feature = "sim")]
            MappedSource::Simulated(_) => true,
        }
    }

    fn resident(&self, first: u64, pages: &mut [bool]) -> bool {
        let (start, count) = (first * PAGE, pages.len());
        assert!(start + count as u64 * PAGE <= self.whole.length as u64);
        let mut bytes = [0; MOST_PAGES];
        // SAFETY: the range is mapped, and there is a byte for each of its pages.
        let result = unsafe {
            let address = std::ptr::with_exposed_provenance_mut(self.whole.address + start as usize);
            libc::mincore(address, count * PAGE as usize, bytes.as_mut_ptr())
        };
        for (page, byte) in pages.iter_mut().zip(bytes) {
            *page = byte & 1 != 0;
        }
        result == 0
    }

    /// Bytes of the file or block device now; 0 when the kernel does not tell.
    pub fn file_size(&self) -> u64 {
        match &self.whole.file {
            MappedSource::Kernel(file) => rustix::fs::fstat(file).map_or(0, |status| status.st_size as u64),
            MappedSource::Device(device) => crate::sys::device_size(device.as_fd()).unwrap_or(0),
            #[cfg(feature = "sim")]
            MappedSource::Simulated(file) => file.size(),
        }
    }

    fn address_of(&self, offset: u64) -> *mut libc::c_void {
        std::ptr::with_exposed_provenance_mut(self.whole.address + offset as usize)
    }

    pub fn range(self: &Rc<Self>, range: ByteRange) -> MappedRange {
        assert!(range.end() <= self.whole.length as u64, "{range:?} is not mapped");
        let beside = ByteRange::new(range.offset() ^ 512, range.length());
        let beside =
            beside.filter(|beside| beside.end() <= self.whole.length as u64 && canary!(CachedElsewhere));
        MappedRange { mapping: Rc::clone(self), range: beside.unwrap_or(range) }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // SAFETY: the range is the one we mapped; sends that read it hold the mapping.
        let unmapped =
            unsafe { rustix::mm::munmap(std::ptr::with_exposed_provenance_mut(self.address), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

impl MappedRange {
    /// Bytes of it.
    pub fn length(&self) -> u64 {
        self.range.length()
    }

    /// Where in the file.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Whether it is a part of a mapping, by the handle that gave it out.
    pub fn is_of(&self, mapping: &Rc<FileMapping>) -> bool {
        Rc::ptr_eq(&self.mapping, mapping)
    }

    /// The pages that hold it.
    pub(super) fn pages(&self) -> libc::iovec {
        let first = self.range.offset() / PAGE * PAGE;
        let iov_base = self.mapping.address_of(first);
        libc::iovec { iov_base, iov_len: (self.range.end().next_multiple_of(PAGE) - first) as usize }
    }

    /// Where the kernel finds part of the bytes, and how many there are.
    pub(super) fn piece(&self, part: Range<usize>) -> libc::iovec {
        assert!(part.end as u64 <= self.range.length());
        let iov_base = self.mapping.address_of(self.range.offset() + part.start as u64);
        libc::iovec { iov_base, iov_len: part.len() }
    }
}

/// Bytes to map. The last page is behind the end, and no folio of the page cache that holds part of the file
/// reaches it.
fn whole(length: u64) -> Option<usize> {
    const LARGEST_FOLIO: u64 = 2 << 20;
    usize::try_from(length.checked_next_multiple_of(LARGEST_FOLIO)?.checked_add(PAGE)?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_read_is_there_and_what_was_cut_is_not() {
        let file = tempfile::tempfile_in(std::env::current_dir().unwrap()).unwrap();
        file.write_all_at(&[7; 64 << 10], 0).unwrap();
        let mapping = SharedMapping::new(file.as_fd(), (64 << 10) - 100).unwrap().handle();
        assert!(mapping.can_look_up(), "the file is our own");
        let mut pages = [false; 16];
        assert!(mapping.look_up(0, &mut pages));
        assert_eq!(pages, [true; 16], "just written");
        assert_eq!(mapping.file_size(), 64 << 10);
        file.set_len(8 << 10).unwrap();
        assert_eq!(
            mapping.file_size(),
            8 << 10,
            "what lies behind may still be cached: a large folio is cut in place"
        );
        file.set_len(0).unwrap();
        assert!(mapping.look_up(0, &mut pages[..3]));
        assert_eq!(pages[..3], [false; 3], "all is gone");
        assert!(mapping.can_look_up());
        assert_eq!(mapping.range(ByteRange::new(4096, 100).unwrap()).piece(20..100).iov_len, 80);
    }

    #[test]
    fn a_page_that_is_missing_is_read_alone() {
        let file = tempfile::tempfile_in(std::env::current_dir().unwrap()).unwrap();
        file.set_len(64 << 10).unwrap();
        let mapping = SharedMapping::new(file.as_fd(), 64 << 10).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = maps.split_once(&format!("{:x}-", mapping.whole.address)).expect("it is mapped").1;
        let flags = own.lines().find_map(|line| line.strip_prefix("VmFlags:")).expect("a mapping has flags");
        assert!(flags.split(' ').any(|flag| flag == "rr"), "no advice of random access: {flags}");
    }
}
