//! Which parts of a file are known to hold no hole, so that nobody asks again.

use crate::block::ByteRange;

/// Regions of a file that hold data throughout, in a bitmap of bounded size.
#[derive(Debug)]
pub(super) struct KnownData {
    size: u64,
    region_shift: u32,
    regions: Vec<u64>,
}

/// The longest region that is asked for as a whole.
const LARGEST_QUESTION: u64 = 4 << 20;
/// The most regions; beyond, regions are larger.
const MOST_REGIONS: u64 = 1 << 20;

impl KnownData {
    pub(super) fn new(size: u64) -> Self {
        let mut region_shift = 18;
        while size >> region_shift >= MOST_REGIONS {
            region_shift += 1;
        }
        let words = ((size >> region_shift) + 1).div_ceil(64);
        Self { size, region_shift, regions: vec![0; words as usize] }
    }

    /// The whole regions that a range touches, up to the end of the file; the range itself where regions are
    /// too large to ask for.
    pub(super) fn widened(&self, range: ByteRange) -> ByteRange {
        let region = 1_u64 << self.region_shift;
        if region > LARGEST_QUESTION {
            return range;
        }
        let start = range.offset() / region * region;
        let end = range.end().next_multiple_of(region).min(self.size);
        ByteRange::new(start, end - start).expect("within the file")
    }

    fn set(&mut self, first: u64, last: u64, known: bool) {
        for region in first..last {
            let (word, bit) = (&mut self.regions[(region / 64) as usize], 1_u64 << (region % 64));
            if known { *word |= bit } else { *word &= !bit }
        }
    }

    /// A range holds data: every region that lies within it does.
    pub(super) fn found(&mut self, range: ByteRange) {
        let first = range.offset().div_ceil(1 << self.region_shift);
        // The last region of a file may be a short one.
        let end = if range.end() == self.size {
            self.size.next_multiple_of(1 << self.region_shift)
        } else {
            range.end()
        };
        self.set(first, end >> self.region_shift, true);
    }

    pub(super) fn written(&mut self, range: ByteRange) {
        if range.length() >= 1 << self.region_shift {
            self.found(range);
        }
    }

    pub(super) fn discarded(&mut self, range: ByteRange) {
        if !range.is_empty() {
            self.set(
                range.offset() >> self.region_shift,
                ((range.end() - 1) >> self.region_shift) + 1,
                false,
            );
        }
    }

    pub(super) fn holds(&self, range: ByteRange) -> bool {
        let last = range.end().saturating_sub(1) >> self.region_shift;
        (range.offset() >> self.region_shift..=last)
            .all(|region| self.regions[(region / 64) as usize] >> (region % 64) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[test]
    fn only_whole_regions_are_known() {
        let mut known = KnownData::new(10 << 20);
        known.found(range(100, 2 << 18));
        assert!(known.holds(range(1 << 18, 1 << 18)));
        assert!(!known.holds(range(0, 512)), "its start was not seen");
        assert!(!known.holds(range(1 << 18, (1 << 18) + 1)));
        known.discarded(range((1 << 18) + 5, 1));
        assert!(!known.holds(range(1 << 18, 512)));
    }

    #[test]
    fn the_short_last_region_can_be_known() {
        let mut known = KnownData::new((1 << 18) + 100);
        known.found(range(1 << 18, 100));
        assert!(known.holds(range(1 << 18, 100)));
        assert!(!known.holds(range(0, 512)));
    }

    #[test]
    fn a_large_file_has_large_regions() {
        let mut known = KnownData::new(1 << 50);
        assert!(known.regions.len() <= (MOST_REGIONS / 64 + 1) as usize);
        known.found(range(0, 1 << 50));
        assert!(known.holds(range((1 << 50) - 512, 512)));
    }

    #[test]
    fn questions_are_asked_for_whole_regions() {
        let known = KnownData::new((1 << 20) + 100);
        assert_eq!(known.widened(range(5000, 300_000)), range(0, 2 << 18));
        assert_eq!(known.widened(range(1 << 20, 50)), range(1 << 20, 100));
    }
}
