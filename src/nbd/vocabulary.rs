//! The vocabulary of a block device, shared by every layer: ranges, block sizes, commands, flags, extents, errors.
//!
//! A leaf: it imports nothing of this crate, knows no protocol and does no I/O.

/// A range of bytes on a device.
///
/// `offset + length` never wraps: [`ByteRange::new`] refuses it, so that code below may add freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// The range of `length` bytes from `offset`; `None` when the end does not fit in 64 bits.
    #[inline]
    pub const fn new(offset: u64, length: u64) -> Option<Self> {
        match offset.checked_add(length) {
            Some(_) => Some(Self { offset, length }),
            None => None,
        }
    }

    /// The first byte, in bytes from the start of the device.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// The number of bytes.
    #[inline]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// The first byte after the range.
    #[inline]
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Whether the range holds no byte.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Whether every byte lies below `size`. An empty range at `size` is within.
    #[inline]
    pub const fn is_within(self, size: u64) -> bool {
        self.end() <= size
    }

    /// Whether the two share at least one byte.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end() && self.length > 0 && other.length > 0
    }

    /// Whether both ends are multiples of `alignment` (a power of two).
    #[inline]
    pub const fn is_aligned(self, alignment: u32) -> bool {
        debug_assert!(alignment.is_power_of_two());
        (self.offset | self.length) & (alignment as u64 - 1) == 0
    }

    /// The smallest range with aligned ends that holds this one; `None` when its end does not fit.
    #[inline]
    pub const fn widened(self, alignment: u32) -> Option<Self> {
        let mask = alignment as u64 - 1;
        let start = self.offset & !mask;
        match self.end().checked_add(mask) {
            Some(end) => Some(Self { offset: start, length: (end & !mask) - start }),
            None => None,
        }
    }
}

/// What a device asks of the requests it gets, in bytes.
///
/// The spec's "Block size constraints": `minimum` is a power of two of at most 65,536, `preferred` a power of two of at least
/// 512 and at least `minimum`, `maximum` at least 1 MiB and the most bytes of payload that one request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub minimum: u32,
    /// Requests of this size and alignment avoid a read-modify-write.
    pub preferred: u32,
    /// The longest payload of one READ or WRITE.
    pub maximum: u32,
}

impl BlockSizes {
    /// The longest payload that this server can be told to take.
    pub const MAXIMUM_PAYLOAD: u32 = 256 << 20;
    /// The longest payload that every client may assume.
    pub const ASSUMED_MAXIMUM: u32 = 32 << 20;

    /// Whether the three values keep the limits of the spec.
    pub const fn are_valid(self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 65_536
            && self.preferred.is_power_of_two()
            && self.preferred >= 512
            && self.preferred >= self.minimum
            && self.maximum >= 1 << 20
            && self.maximum >= self.preferred
            && self.maximum.is_multiple_of(self.minimum)
    }

    /// Whether a client that assumes the default sizes would break them.
    pub const fn are_stricter_than_default(self) -> bool {
        self.minimum > 1 || self.maximum < Self::ASSUMED_MAXIMUM
    }
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: Self::ASSUMED_MAXIMUM }
    }
}

/// What a device can do, told by its backend when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Bytes; a multiple of the minimum block size.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The medium prefers sequential access.
    pub rotational: bool,
    /// Zeroing without writing data is available and quick (`NBD_FLAG_SEND_FAST_ZERO`).
    pub fast_zero: bool,
    /// Block sizes to advertise.
    pub block_sizes: BlockSizes,
}

/// What a request asks of a device, as faults, statistics and reports tell requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim,
    /// CACHE.
    Cache,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// BLOCK_STATUS.
    BlockStatus,
}

impl CommandKind {
    /// All, in the order of their numbers on the wire, which is that of their discriminants: use `kind as usize` as an index.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Flush, Self::Trim, Self::Cache, Self::WriteZeroes, Self::BlockStatus];

    /// Its name in options, metrics, logs and reports.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Cache => "cache",
            Self::WriteZeroes => "write_zeroes",
            Self::BlockStatus => "block_status",
        }
    }
}

/// How a request wants to be carried out: the command flags that reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoFlags {
    /// Durable before the reply (`NBD_CMD_FLAG_FUA`).
    pub fua: bool,
    /// Keep the range allocated when zeroing (`NBD_CMD_FLAG_NO_HOLE`).
    pub no_hole: bool,
    /// Fail with [`BlockError::NotSupported`] rather than write zeroes as data (`NBD_CMD_FLAG_FAST_ZERO`).
    pub fast_zero: bool,
}

/// A run of bytes with one allocation status, as BLOCK_STATUS reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, at least 1.
    pub length: u64,
    /// Nothing is allocated here.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Why a device could not do what it was asked.
///
/// Few on purpose: a client can tell apart only what the protocol names ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BlockError {
    /// The device is read-only.
    #[error("the export is read-only")]
    NotPermitted,
    /// The medium failed, or the bytes that should be there are not.
    #[error("input/output error")]
    Io,
    /// The request is malformed or out of range.
    #[error("invalid request")]
    Invalid,
    /// No room, a quota, or a file size limit.
    #[error("no space left on the device")]
    NoSpace,
    /// A fast zeroing was asked for and is not possible; nothing was changed.
    #[error("not supported")]
    NotSupported,
    /// The answer would be too large.
    #[error("value too large")]
    Overflow,
    /// The server is stopping.
    #[error("the server is shutting down")]
    Shutdown,
}

impl BlockError {
    /// The error for an errno of the kernel (positive, as in `errno.h`), which may be any of a hundred.
    pub const fn from_errno(errno: i32) -> Self {
        // Numbers of asm-generic/errno-base.h and errno.h; every Linux architecture that io_uring and we run on shares them.
        const EPERM: i32 = 1;
        const EACCES: i32 = 13;
        const EFBIG: i32 = 27;
        const ENOSPC: i32 = 28;
        const EROFS: i32 = 30;
        const EDQUOT: i32 = 122;
        match errno {
            EPERM | EACCES | EROFS => Self::NotPermitted,
            ENOSPC | EDQUOT | EFBIG => Self::NoSpace,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_wraps() {
        assert_eq!(ByteRange::new(u64::MAX, 1), None);
        assert_eq!(ByteRange::new(u64::MAX - 511, 512), None);
        assert!(ByteRange::new(u64::MAX, 0).is_some());
        assert_eq!(ByteRange::new(u64::MAX - 10, 5).unwrap().widened(512), None);
    }

    #[test]
    fn widening_covers_and_aligns() {
        let range = ByteRange::new(513, 1).unwrap().widened(512).unwrap();
        assert_eq!((range.offset(), range.length()), (512, 512));
        let aligned = ByteRange::new(512, 1024).unwrap();
        assert_eq!(aligned.widened(512), Some(aligned));
    }

    #[test]
    fn quota_and_file_limits_are_no_space() {
        for errno in [28, 27, 122] {
            assert_eq!(BlockError::from_errno(errno), BlockError::NoSpace);
        }
        assert_eq!(BlockError::from_errno(95), BlockError::Io);
    }

    #[test]
    fn empty_ranges_overlap_nothing() {
        let whole = ByteRange::new(0, 100).unwrap();
        assert!(!whole.overlaps(ByteRange::new(50, 0).unwrap()));
        assert!(whole.overlaps(ByteRange::new(99, 10).unwrap()));
        assert!(!whole.overlaps(ByteRange::new(100, 10).unwrap()));
    }
}
