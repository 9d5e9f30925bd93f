//! A set of parts of a disk.

use std::io;
use std::ops::Range;

use roaring::RoaringTreemap;

/// Bytes of a disk that are in a set or not as a whole.
const GRANULE: u64 = 64 << 10;
/// Bytes of a set that is written down. A set of random parts of an image of 1 TiB has 2 MiB.
pub(super) const MOST_BYTES: u64 = 256 << 20;

/// Parts of a disk, in units of 64 KiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ChangedSet(RoaringTreemap);

impl ChangedSet {
    /// Bytes of a unit.
    pub(super) const GRANULE: u64 = GRANULE;

    /// Adds all units that a range of bytes touches.
    pub(crate) fn insert(&mut self, bytes: Range<u64>) {
        if !bytes.is_empty() {
            self.0.insert_range(bytes.start / GRANULE..bytes.end.div_ceil(GRANULE));
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0 |= &other.0;
    }

    /// Whether the byte at a place is in the set, and the first place behind it where that changes.
    pub(crate) fn run(&self, at: u64, end: u64) -> (bool, u64) {
        let unit = at / GRANULE;
        let (first, behind) = self.next_range(unit);
        let (is_in, until) = if first == unit { (true, behind) } else { (false, first) };
        (is_in, until.saturating_mul(GRANULE).min(end))
    }

    /// The first run of units from one on: its first, and the one behind it.
    fn next_range(&self, unit: u64) -> (u64, u64) {
        for (high, units) in self.0.bitmaps() {
            let base = u64::from(high) << 32;
            if base + u64::from(u32::MAX) < unit {
                continue;
            }
            let low = unit.saturating_sub(base) as u32;
            if let Some(range) = units.range(low..).next_range() {
                return (base + u64::from(*range.start()), base + u64::from(*range.end()) + 1);
            }
        }
        (u64::MAX, u64::MAX)
    }

    /// As bytes; `None` if they would be too many.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut set = self.0.clone();
        set.optimize();
        let length = set.serialized_size();
        if length as u64 > MOST_BYTES {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        set.serialize_into(&mut bytes).expect("memory takes all bytes");
        Some(bytes)
    }

    /// Of bytes, all of which belong to it.
    pub(super) fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let set = RoaringTreemap::deserialize_from(&mut bytes)?;
        match bytes {
            [] => Ok(Self(set)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(set: &ChangedSet, size: u64) -> Vec<(bool, u64)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < size {
            let (is_in, end) = set.run(at, size);
            assert!(end > at, "a run has bytes");
            found.push((is_in, end - at));
            at = end;
        }
        found
    }

    #[test]
    fn a_set_goes_beyond_32_bits_of_units() {
        let mut set = ChangedSet::default();
        let far = GRANULE << 33;
        set.insert(far..far + 1);
        set.insert(5..5);
        assert_eq!(set.run(0, u64::MAX), (false, far));
        assert_eq!(set.run(far + 7, u64::MAX), (true, far + GRANULE));
        assert_eq!(set.run(far + GRANULE, far + GRANULE * 2), (false, far + GRANULE * 2));
        assert_eq!(ChangedSet::decode(&set.encode().unwrap()).unwrap(), set);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn runs_say_what_was_inserted(
            ranges in proptest::collection::vec((0..4_000_000u64, 1..300_000u64), 0..20),
        ) {
            let size = 4_500_000;
            let mut units = vec![false; size as usize / GRANULE as usize + 1];
            let (mut set, mut other) = (ChangedSet::default(), ChangedSet::default());
            for (index, (start, length)) in ranges.into_iter().enumerate() {
                units[(start / GRANULE) as usize..=((start + length - 1) / GRANULE) as usize].fill(true);
                if index % 2 == 0 { &mut set } else { &mut other }.insert(start..start + length);
            }
            set.add(&other);
            let mut at = 0;
            for (is_in, length) in runs(&set, size) {
                for place in (at..at + length).step_by(GRANULE as usize) {
                    prop_assert_eq!(units[(place / GRANULE) as usize], is_in);
                }
                at += length;
            }
            prop_assert_eq!(ChangedSet::decode(&set.encode().unwrap()).unwrap(), set);
        }

        #[test]
        fn garbage_is_no_set_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _result = ChangedSet::decode(&bytes);
        }
    }
}
