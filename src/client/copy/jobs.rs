//! What is to be copied, piece by piece.

use std::sync::Mutex;

use crate::exec::lock;

/// Bytes of a piece of data, and of what pieces are aligned to.
pub(super) const PIECE: u64 = 256 << 10;
/// Bytes of a piece of zeroes.
const ZEROES: u64 = 256 << 20;
/// Where data was found to be zeroes, runs of so many bytes are told apart.
pub(super) const GRAIN: usize = 64 << 10;
/// Ranges that are kept apart. The rest of a disk that has more is one range.
const MOST_RANGES: usize = 1 << 20;

/// Which parts of a disk hold data, or have changed, in order and apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DataRanges(Vec<(u64, u64)>);

impl DataRanges {
    /// All of it.
    pub(super) fn whole(size: u64) -> Self {
        Self(if size > 0 { vec![(0, size)] } else { Vec::new() })
    }

    /// Adds data, which begins no earlier than what was added before. Its ends are moved outwards to
    /// multiples of `unit`. False when there are too many ranges: the last one is to reach to the end.
    pub(super) fn add(&mut self, start: u64, end: u64, unit: u64) -> bool {
        if start >= end {
            return true;
        }
        let (start, end) = (start / unit * unit, end.checked_next_multiple_of(unit).unwrap_or(end));
        match self.0.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ => self.0.push((start, end)),
        }
        self.0.len() < MOST_RANGES
    }
}

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyJob {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// It reads as zeroes.
    pub(super) is_zero: bool,
}

/// What is to be done with what is between the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// It reads as zeroes.
    Zeroes,
    /// The target has it already.
    Same,
}

/// The pieces of a disk, which threads share out among themselves.
#[derive(Debug)]
pub(super) struct Jobs(Mutex<Cursor>);

#[derive(Debug)]
struct Cursor {
    ranges: std::vec::IntoIter<(u64, u64)>,
    /// The range that comes next or is under way.
    range: Option<(u64, u64)>,
    between: Between,
    at: u64,
    size: u64,
}

impl Jobs {
    pub(super) fn new(ranges: DataRanges, between: Between, size: u64) -> Self {
        let mut ranges = ranges.0.into_iter();
        let range = ranges.next();
        Self(Mutex::new(Cursor { ranges, range, between, at: 0, size }))
    }

    /// The next piece.
    pub(super) fn next(&self) -> Option<CopyJob> {
        lock(&self.0).next()
    }
}

impl Cursor {
    fn next(&mut self) -> Option<CopyJob> {
        if self.range.is_some_and(|(_, end)| self.at >= end) {
            self.range = self.ranges.next();
        }
        if self.between == Between::Same {
            self.at = self.at.max(self.range.map_or(self.size, |(start, _)| start));
        }
        if self.at >= self.size {
            return None;
        }
        let (start, end) = self.range.unwrap_or((self.size, self.size));
        let is_zero = self.at < start;
        let (end, step) = if is_zero { (start, ZEROES) } else { (end, PIECE) };
        let (offset, end) = (self.at, end.min(self.size));
        let length = (step - offset % step).min(end - offset);
        self.at += length;
        Some(CopyJob { offset, length, is_zero })
    }
}

/// Where a piece is zeroes and where it is not, in whole grains but at its end.
pub(super) fn runs(piece: &[u8]) -> impl Iterator<Item = (std::ops::Range<usize>, bool)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = at;
        let grain = |at: usize| &piece[at..piece.len().min(at + GRAIN)];
        let kind = (at < piece.len()).then(|| is_zero(grain(at)))?;
        while at < piece.len() && is_zero(grain(at)) == kind {
            at += grain(at).len();
        }
        Some((first..at, kind))
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    // One comparison of memory with itself, a byte further on.
    bytes.first().is_none_or(|first| *first == 0 && bytes[..bytes.len() - 1] == bytes[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The oracle has a flag for each unit of the disk.
        #[test]
        fn jobs_cover_a_disk_once_and_leave_out_no_data(
            extents in prop::collection::vec((1_u64..3_000_000, any::<bool>()), 0..20),
            unit in prop::sample::select(vec![1_u64, 512, 4096]),
        ) {
            let (mut ranges, mut at, mut is_data) = (DataRanges::default(), 0, Vec::new());
            for (length, has_data) in extents {
                if has_data {
                    ranges.add(at, at + length, unit);
                }
                is_data.extend((0..length).step_by(512).map(|part| (at + part, has_data)));
                at += length;
            }
            let size = at.next_multiple_of(unit);
            let changed = DataRanges(ranges.0.clone());
            let only = Jobs::new(changed, Between::Same, size);
            let told: Vec<_> = std::iter::from_fn(|| only.next()).collect();
            prop_assert!(told.iter().all(|job| !job.is_zero && job.length <= PIECE));
            let all: u64 = told.iter().map(|job| job.length).sum();
            prop_assert_eq!(all, ranges.0.iter().map(|(start, end)| end.min(&size) - start).sum::<u64>());
            for (place, has_data) in &is_data {
                let has = told.iter().any(|job| (job.offset..job.offset + job.length).contains(place));
                prop_assert!(has || !has_data);
            }
            let jobs = Jobs::new(ranges, Between::Zeroes, size);
            let (mut end, mut zeroes) = (0, Vec::new());
            while let Some(job) = jobs.next() {
                prop_assert_eq!(job.offset, end);
                prop_assert!(job.length > 0 && job.offset % unit == 0);
                prop_assert!(job.is_zero || job.length <= PIECE);
                end += job.length;
                if job.is_zero {
                    zeroes.push(job.offset..end);
                }
            }
            prop_assert_eq!(end, size);
            for (place, has_data) in is_data {
                prop_assert!(!has_data || !zeroes.iter().any(|range| range.contains(&place)));
            }
        }
    }

    #[test]
    fn runs_of_a_piece() {
        let mut piece = vec![0; 3 * GRAIN + 100];
        assert_eq!(runs(&piece).collect::<Vec<_>>(), [(0..piece.len(), true)]);
        piece[GRAIN] = 1;
        piece[3 * GRAIN + 99] = 1;
        let expected = [
            (0..GRAIN, true),
            (GRAIN..2 * GRAIN, false),
            (2 * GRAIN..3 * GRAIN, true),
            (3 * GRAIN..piece.len(), false),
        ];
        assert_eq!(runs(&piece).collect::<Vec<_>>(), expected);
        assert_eq!(runs(&[]).count(), 0);
    }
}
