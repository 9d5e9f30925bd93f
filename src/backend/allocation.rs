//! Which parts of a file are holes: questions to the kernel that may wait for the disk, asked on helper
//! threads.
//!
//! `SEEK_HOLE` and `SEEK_DATA` know nothing of blocks that are reserved but not written (a WRITE_ZEROES with
//! NO_HOLE makes them): they count as holes there. Where the file system has FIEMAP, holes are asked about
//! again, so that what is reserved is not reported as a hole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::file_store::FileStore;
use crate::block::{BlockError, ByteRange, Extent};
use crate::sys;

const DATA: (bool, bool) = (false, false);
const RESERVED: (bool, bool) = (false, true);
const HOLE: (bool, bool) = (true, true);

/// Extents from the start of `range`, merged, at most `limit`; never beyond the range and never empty.
pub(super) fn query(store: &FileStore, range: ByteRange, limit: usize) -> Result<Vec<Extent>, BlockError> {
    let mut answer = ExtentsSoFar { extents: Vec::new(), limit, full: false };
    if store.is_block_device {
        answer.push(range.length(), DATA);
        return Ok(answer.extents);
    }
    let file = store.buffered.as_fd();
    // What lies behind the end of a file that was cut is no hole: reading it fails, and nobody may be told
    // that it is zero.
    let size = rustix::fs::fstat(file).map_err(|_| BlockError::Io)?.st_size as u64;
    let end = range.end().min(size);
    let mut offset = range.offset();
    while offset < end && !answer.is_full() {
        let data = match seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => end,
            // A file system without the call: everything may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(_) => return Err(BlockError::Io),
        };
        if data > offset {
            push_hole(file, offset, data, &mut answer);
            offset = data;
            continue;
        }
        let hole = match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => hole.min(end),
            // The file was cut just now: reading will tell.
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => end,
            Err(_) => return Err(BlockError::Io),
        };
        answer.push(hole - offset, DATA);
        offset = hole;
    }
    answer.push(range.end() - offset.min(range.end()), DATA);
    Ok(answer.extents)
}

/// What `SEEK_DATA` calls a hole from `offset` to `end`: reserved blocks, or really nothing.
fn push_hole(file: BorrowedFd<'_>, mut offset: u64, end: u64, answer: &mut ExtentsSoFar) {
    while offset < end && !answer.is_full() {
        let rest = ByteRange::new(offset, end - offset).expect("within the file");
        let mapped = match sys::mapped_extents(file, rest) {
            Ok(mapped) => mapped,
            Err(error) => {
                debug_assert_ne!(error.kind(), io::ErrorKind::InvalidInput);
                Vec::new()
            }
        };
        if mapped.is_empty() {
            return answer.push(end - offset, HOLE);
        }
        for extent in mapped {
            let start = extent.range.offset().clamp(offset, end);
            let stop = extent.range.end().clamp(start, end);
            answer.push(start - offset, HOLE);
            answer.push(stop - start, RESERVED);
            offset = stop;
        }
    }
}

/// Extents so far.
struct ExtentsSoFar {
    extents: Vec<Extent>,
    limit: usize,
    /// A run was dropped; the answer ends before it.
    full: bool,
}

impl ExtentsSoFar {
    fn is_full(&self) -> bool {
        self.full
    }

    /// Appends a run, merged with the one before when alike.
    fn push(&mut self, length: u64, (hole, zero): (bool, bool)) {
        if length == 0 || self.full {
            return;
        }
        let count = self.extents.len();
        match self.extents.last_mut() {
            Some(last) if (last.hole, last.zero) == (hole, zero) => last.length += length,
            _ if count == self.limit => self.full = true,
            _ => self.extents.push(Extent { length, hole, zero }),
        }
    }
}

/// The world's answer in a simulation; like a thread's it is old when it arrives.
#[cfg(feature = "sim")]
pub(super) async fn simulated(
    store: &FileStore,
    range: ByteRange,
    limit: usize,
    context: &super::ShardContext,
) -> Option<Vec<Extent>> {
    const WAY: std::time::Duration = std::time::Duration::from_micros(20);
    let answer = |length| context.ring.simulated_extents(store.buffered.as_fd(), range, length);
    answer(1)?;
    context.ring.sleep(WAY).await;
    let extents = answer(limit);
    context.ring.sleep(WAY).await;
    extents
}

/// The part of extents, which begin at `start`, that lies in `range`.
pub(super) fn within(extents: &[Extent], start: u64, range: ByteRange) -> Vec<Extent> {
    let mut offset = start;
    let mut inside = Vec::with_capacity(extents.len());
    for extent in extents {
        let (from, to) = (offset.max(range.offset()), (offset + extent.length).min(range.end()));
        if from < to {
            inside.push(Extent { length: to - from, ..*extent });
        }
        offset += extent.length;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Export;
    use crate::backend::export::Store;
    use crate::config::ExportUri;
    use rustix::fs::{FallocateFlags, fallocate};
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_reserved_blocks_and_holes_are_told_apart() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let path = directory.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 65_536], 1 << 20).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 2 << 20, 65_536).unwrap();
        let export = Export::open(&ExportUri::file(&path), false).unwrap();
        let Store::File(store) = &export.store else { panic!("a file") };
        let extents = query(store, ByteRange::new(0, 10 << 20).unwrap(), 100).unwrap();
        assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), 10 << 20);
        assert_eq!(extents[0], Extent { length: 1 << 20, hole: true, zero: true });
        assert_eq!(extents[1], Extent { length: 65_536, hole: false, zero: false });
        if extents.len() > 3 {
            // Not on a file system without FIEMAP.
            assert_eq!(extents[3], Extent { length: 65_536, hole: false, zero: true });
        }
        assert_eq!(query(store, ByteRange::new(0, 10 << 20).unwrap(), 2).unwrap(), extents[..2]);
        let inner = query(store, ByteRange::new((1 << 20) + 512, 512).unwrap(), 2).unwrap();
        assert_eq!(inner, [Extent { length: 512, hole: false, zero: false }]);
    }
}
