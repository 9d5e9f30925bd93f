//! Reads that are one operation of the ring.

use super::file::FileDevice;
use crate::block::ByteRange;
use crate::ring::FileIndex;

/// The one operation that a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SingleRead {
    /// The file that it reads.
    pub(crate) file: FileIndex,
    /// Where in the file.
    pub(crate) offset: u64,
}

impl FileDevice {
    /// The one operation that a read of `range` is: of the page cache, or of the medium where the range
    /// allows it. Not of the page cache beside a direct descriptor, where more may be needed than one
    /// operation, nor what needs a place among the workers.
    pub(super) fn single_read(&self, range: ByteRange) -> Option<SingleRead> {
        if self.may_block() {
            return None;
        }
        let file = match self.direct {
            Some(_) => self.direct_for(range, |_| true)?.0,
            None => self.buffered,
        };
        Some(SingleRead { file, offset: range.offset() })
    }
}
