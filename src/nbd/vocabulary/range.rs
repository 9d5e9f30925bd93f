//! A range of bytes.

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
    fn empty_ranges_overlap_nothing() {
        let whole = ByteRange::new(0, 100).unwrap();
        assert!(!whole.overlaps(ByteRange::new(50, 0).unwrap()));
        assert!(whole.overlaps(ByteRange::new(99, 10).unwrap()));
        assert!(!whole.overlaps(ByteRange::new(100, 10).unwrap()));
    }
}
