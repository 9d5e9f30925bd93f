//! Which pages of a pack are here, as a set.

use std::fs::File;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What comes and goes as a whole.
pub(super) const PAGE: u64 = 4096;

/// A bit for each page of a pack.
#[derive(Debug)]
pub(super) struct PresentPages {
    bits: Vec<u64>,
    count: u64,
}

/// The pages that have bytes of a range.
pub(super) fn pages_of(bytes: Range<u64>) -> Range<u64> {
    bytes.start / PAGE..bytes.end.div_ceil(PAGE)
}

/// Ranges of bytes that are no holes of a file.
pub(in crate::store) fn present_ranges(file: &File) -> std::io::Result<Vec<(u64, u64)>> {
    let bytes = file.metadata()?.len();
    let here = PresentPages::of_file(file, bytes)?;
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = (at..pages_of(0..bytes).end).find(|page| here.has(*page)) {
        let end =
            here.first_missing(start..pages_of(0..bytes).end).map_or(pages_of(0..bytes).end, |run| run.start);
        found.push((start * PAGE, (end * PAGE).min(bytes)));
        at = end;
    }
    Ok(found)
}

impl PresentPages {
    pub(super) fn none(bytes: u64) -> Self {
        Self { bits: vec![0; bytes.div_ceil(PAGE).div_ceil(64) as usize], count: 0 }
    }

    /// Those that are no holes of a file.
    pub(super) fn of_file(file: &File, bytes: u64) -> std::io::Result<Self> {
        let mut found = Self::none(bytes);
        let mut at = 0;
        while at < bytes {
            let start = match seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let end = seek(file, SeekFrom::Hole(start))?.max(start + 1);
            found.insert(start.div_ceil(PAGE)..pages_of(0..end.min(bytes)).end);
            at = end;
        }
        Ok(found)
    }

    /// Whether none of some pages is a hole of a file now: another process may have filled them.
    pub(super) fn are_in(file: &File, pages: &Range<u64>, bytes: u64) -> bool {
        let (start, end) = (pages.start * PAGE, (pages.end * PAGE).min(bytes));
        let has_data = seek(file, SeekFrom::Data(start)).is_ok_and(|data| data == start);
        has_data && seek(file, SeekFrom::Hole(start)).is_ok_and(|hole| hole >= end)
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn has(&self, page: u64) -> bool {
        self.bits.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, pages: Range<u64>) {
        for page in pages {
            if let Some(word) = self.bits.get_mut((page / 64) as usize) {
                self.count += u64::from(*word >> (page % 64) & 1 == 0);
                *word |= 1 << (page % 64);
            }
        }
    }

    pub(super) fn remove(&mut self, pages: Range<u64>) {
        for page in pages {
            if let Some(word) = self.bits.get_mut((page / 64) as usize) {
                self.count -= *word >> (page % 64) & 1;
                *word &= !(1 << (page % 64));
            }
        }
    }

    /// The first pages in a row that are missing of some.
    pub(super) fn first_missing(&self, pages: Range<u64>) -> Option<Range<u64>> {
        let start = pages.clone().find(|page| !self.has(*page))?;
        let end = (start..pages.end).find(|page| self.has(*page)).unwrap_or(pages.end);
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_tells_what_is_here() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(300 * PAGE + 7).unwrap();
        file.write_all_at(&[1; 3 * PAGE as usize], 70 * PAGE).unwrap();
        file.write_all_at(&[1; 7], 300 * PAGE).unwrap();
        let found = PresentPages::of_file(&file, 300 * PAGE + 7).unwrap();
        assert_eq!((0..302).filter(|page| found.has(*page)).collect::<Vec<_>>(), [70, 71, 72, 300]);
        assert_eq!(found.count(), 4);
    }

    proptest! {
        /// Oracle: a set.
        #[test]
        fn it_is_a_set(changes in proptest::collection::vec((any::<bool>(), 0..200u64, 0..90u64), 0..20)) {
            let (mut pages, mut oracle) = (PresentPages::none(200 * PAGE), BTreeSet::new());
            for (comes, start, length) in changes {
                let range = start..(start + length).min(200);
                if comes {
                    pages.insert(range.clone());
                    oracle.extend(range.clone());
                } else {
                    pages.remove(range.clone());
                    oracle.retain(|page| !range.contains(page));
                }
                prop_assert_eq!(pages.count(), oracle.len() as u64);
                let missing = pages.first_missing(range.clone());
                let first = range.clone().find(|page| !oracle.contains(page));
                prop_assert_eq!(missing.as_ref().map(|missing| missing.start), first);
                if let Some(missing) = missing {
                    prop_assert!(missing.clone().all(|page| !oracle.contains(&page)));
                    prop_assert!(missing.end == range.end || oracle.contains(&missing.end));
                }
            }
        }
    }
}
