//! What of a buffered export is in the page cache, so that a READ can be answered from there: no buffer, no
//! task, no operation of its own.
//!
//! A range is sent straight from the mapped file. Whether that is so changes nothing that a client can see:
//! the bytes are those that a read at this moment would bring. It only must not make the shard wait for the
//! disk, which it would if a page were missing while the kernel sends. So the kernel is asked which pages it
//! has, many at a time, and a page is trusted for a second or two, but only so many pages in a turn (see
//! [`Trust`]). A range that has waited to be sent is asked about again, and when the shard has waited for a
//! page after all, it maps nothing for a while.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::trust::Trust;
use crate::block::ByteRange;
use crate::ring::{FileMapping, MOST_PAGES, MappedRange, PAGE};

/// The longest range that is sent in this way: what is looked up here must still be true when the last byte
/// leaves.
const LONGEST: u64 = 1 << 20;

/// Pages that one question is about.
const QUESTION: u64 = 64;

/// The page cache of one export, as one shard knows it.
pub(super) struct PageCache {
    mapping: Rc<FileMapping>,
    seen: RefCell<Seen>,
    hope: Cell<Hope>,
    /// The second in which it was last found out whether the kernel can be asked, and whether it can.
    told: Cell<(u64, bool)>,
    /// Bytes of the file or block device, and the moment at which it had them.
    size: Cell<(u64, u64)>,
    /// Pages that the mapping has.
    pages: u64,
}

impl PageCache {
    pub(super) fn new(mapping: Rc<FileMapping>, export_size: u64) -> Self {
        // A file that has grown was mapped when it was shorter.
        let pages = export_size.min(mapping.mapped_bytes()).div_ceil(PAGE);
        Self {
            mapping,
            seen: RefCell::new(Seen::new(pages)),
            hope: Cell::new(Hope::default()),
            told: Cell::new((u64::MAX, false)),
            size: Cell::new((u64::MAX, 0)),
            pages,
        }
    }

    /// A range to be sent at once, if all of it can be had without waiting. `now` is the moment of the turn
    /// in nanoseconds. When it `waits` it will be asked about [before it leaves](Self::standing), so what was
    /// seen is enough now.
    pub(super) fn get(
        &self,
        range: ByteRange,
        waits: bool,
        trust: &mut Trust,
        now: u64,
    ) -> Option<MappedRange> {
        if range.length() > LONGEST || range.is_empty() {
            return None;
        }
        let pages = range.offset() / PAGE..range.end().div_ceil(PAGE);
        if pages.end > self.pages {
            return None;
        }
        let was_seen = self.seen.borrow().are_fresh(pages.clone(), now);
        let is_there = match was_seen {
            true => waits || trust.take(pages.end - pages.start) || self.are_still_there(pages, trust, now),
            false => self.ask(pages, now),
        };
        (is_there && range.end() <= self.file_size(now)).then(|| self.mapping.range(range))
    }

    /// Whether the kernel has all of a range, whatever was seen of it before.
    pub(super) fn has(&self, range: ByteRange) -> bool {
        let pages = range.offset() / PAGE..range.end().div_ceil(PAGE);
        pages.end <= self.pages && self.mapping.can_look_up() && self.are_there(pages)
    }

    /// Whether a range is one of this mapping.
    pub(super) fn has_mapped(&self, mapped: &MappedRange) -> bool {
        mapped.is_of(&self.mapping)
    }

    /// Whether a range that was given out earlier can be sent now. The kernel is asked about each of its
    /// pages, since it has waited, or is not when there is `trust`.
    pub(super) fn standing(&self, range: ByteRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        if range.end() > self.file_size(now) && !canary!(SizeNotAskedAgain) {
            return Standing::Cut;
        }
        if canary!(StalePagesTrusted) {
            return Standing::There;
        }
        let pages = range.offset() / PAGE..range.end().div_ceil(PAGE);
        let is_trusted = |trust: &mut Trust| {
            self.seen.borrow().are_fresh(pages.clone(), now) && trust.take(pages.end - pages.start)
        };
        match trust.is_some_and(is_trusted) || self.are_there(pages) {
            true => Standing::There,
            false => Standing::Gone,
        }
    }

    /// Asks the kernel about these pages and no others.
    fn are_there(&self, pages: Range<u64>) -> bool {
        let mut first = pages.start;
        while first < pages.end {
            let mut there = [false; MOST_PAGES];
            let there = &mut there[..(MOST_PAGES as u64).min(pages.end - first) as usize];
            if !self.mapping.look_up(first, there) || !there.iter().all(|there| *there) {
                return false;
            }
            first += there.len() as u64;
        }
        true
    }

    /// Asks again about pages that were seen, but are not taken on trust.
    fn are_still_there(&self, pages: Range<u64>, trust: &mut Trust, now: u64) -> bool {
        let are_there = self.are_there(pages.clone());
        let mut seen = self.seen.borrow_mut();
        if are_there {
            pages.for_each(|page| seen.mark(page, now));
        } else {
            pages.for_each(|page| seen.forget(page));
            trust.shake();
        }
        are_there
    }

    /// Trusts no page that it has seen: each is asked about again.
    pub(super) fn distrust(&self) {
        *self.seen.borrow_mut() = Seen::new(self.pages);
    }

    /// Asks about pages and what is around them.
    #[cold]
    fn ask(&self, pages: Range<u64>, now: u64) -> bool {
        let (promising, hope) = self.hope.get().next();
        self.hope.set(hope);
        if !promising || !self.is_told_the_truth(now) {
            return false;
        }
        let mut seen = self.seen.borrow_mut();
        let mut first = pages.start / QUESTION * QUESTION;
        while first < pages.end {
            let mut there = [false; QUESTION as usize];
            let there = &mut there[..QUESTION.min(self.pages - first) as usize];
            if !self.mapping.look_up(first, there) {
                return false;
            }
            for (page, there) in (first..).zip(&*there) {
                if *there {
                    seen.mark(page, now);
                }
            }
            first += QUESTION;
        }
        let found = seen.are_fresh(pages, now);
        self.hope.set(hope.after(found));
        found
    }

    fn is_told_the_truth(&self, now: u64) -> bool {
        let second = now >> SECOND;
        if self.told.get().0 != second {
            self.told.set((second, self.mapping.can_look_up()));
        }
        self.told.get().1
    }

    /// What lies behind the end of a cut file reads as zeroes up to the end of its page; that must be an
    /// error instead. Asked once a turn. Block devices get smaller as well (logical volumes, loop devices,
    /// devices of a network), and their pages stay in the page cache.
    ///
    /// Between this and the send of the same turn the file can be cut. Pages that lie wholly behind the new
    /// end then give the send `EFAULT`, and the range is read in the usual way, which finds the end. Of the
    /// page that the end is in the rest is sent as zeroes; of a device that got smaller, what was there
    /// before. README says so.
    fn file_size(&self, now: u64) -> u64 {
        let (at, size) = self.size.get();
        if at == now {
            return size;
        }
        let size = self.mapping.file_size();
        self.size.set((now, size));
        size
    }
}

/// What has become of a range that was in the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is still there.
    There,
    /// Some of it would have to be read first.
    Gone,
    /// The file ends before the range does.
    Cut,
}

/// Whether asking is worth it. Where reads go to the disk anyway, the kernel is asked before few of them
/// only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hope {
    left: u8,
    refused: u8,
}

impl Hope {
    /// Questions without success until only some are asked.
    const MOST: u8 = 64;
    /// Then one in so many.
    const RARELY: u8 = 32;

    /// Whether to ask this time.
    fn next(self) -> (bool, Self) {
        let ask = self.left > 0 || self.refused + 1 == Self::RARELY;
        (ask, Self { refused: if ask { 0 } else { self.refused + 1 }, ..self })
    }

    fn after(self, found: bool) -> Self {
        let left = if found { Self::MOST } else { self.left.saturating_sub(1) };
        Self { left, ..self }
    }
}

impl Default for Hope {
    fn default() -> Self {
        Self { left: Self::MOST, refused: 0 }
    }
}

/// When pages were last seen: a table of bounded size in which pages that are far apart share an entry, and
/// the later one takes it.
///
/// An entry is a tag, which tells those pages apart, over the second, 1 to 255 and round again. Two bytes a
/// page, and memory is only used for parts of the table that are used.
struct Seen {
    entries: Vec<u16>,
    shift: u32,
}

/// Entries for 16 GiB of pages.
const USUAL_ENTRIES: u64 = 4 << 20;
/// Pages that can share an entry.
const TAGS: u64 = 256;

impl Seen {
    fn new(pages: u64) -> Self {
        let most = USUAL_ENTRIES.max(pages.div_ceil(TAGS));
        let entries = pages.clamp(1, most).next_power_of_two();
        Self { entries: vec![0; entries as usize], shift: entries.trailing_zeros() }
    }

    fn are_fresh(&self, mut pages: Range<u64>, now: u64) -> bool {
        let (this, last) = (second(now), second(now.saturating_sub(1 << SECOND)));
        pages.all(|page| {
            let [tag, seen] = self.entries[self.index(page)].to_be_bytes();
            tag == self.tag(page) && (seen == this || seen == last)
        })
    }

    fn mark(&mut self, page: u64, now: u64) {
        let index = self.index(page);
        self.entries[index] = u16::from_be_bytes([self.tag(page), second(now)]);
    }

    fn forget(&mut self, page: u64) {
        let index = self.index(page);
        self.entries[index] = 0;
    }

    fn index(&self, page: u64) -> usize {
        (page & (self.entries.len() as u64 - 1)) as usize
    }

    fn tag(&self, page: u64) -> u8 {
        (page >> self.shift) as u8
    }
}

/// About a second, as a power of two of nanoseconds.
const SECOND: u32 = 30;

/// The number of a moment's second, 1 to 255.
fn second(now: u64) -> u8 {
    ((now >> SECOND) % 255 + 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_fresh_for_a_second_or_two() {
        let mut seen = Seen::new(1000);
        assert!(!seen.are_fresh(0..1, 0));
        (0..10).for_each(|page| seen.mark(page, 5 << SECOND));
        assert!(seen.are_fresh(0..10, 5 << SECOND));
        assert!(seen.are_fresh(0..10, 6 << SECOND));
        assert!(!seen.are_fresh(0..10, 7 << SECOND));
        assert!(!seen.are_fresh(5..11, 5 << SECOND), "one of them was never seen");
        seen.mark(5, 7 << SECOND);
        seen.forget(9);
        assert!(!seen.are_fresh(9..10, 5 << SECOND));
        assert!(seen.are_fresh(5..6, 7 << SECOND) && !seen.are_fresh(4..6, 7 << SECOND));
    }

    #[test]
    fn pages_that_share_an_entry_are_told_apart() {
        for pages in [1, 255, USUAL_ENTRIES + 1, USUAL_ENTRIES * TAGS, USUAL_ENTRIES * TAGS + 1, 1 << 33] {
            let mut seen = Seen::new(pages);
            let entries = seen.entries.len() as u64;
            seen.mark(0, 0);
            for other in (entries..pages).step_by(entries as usize) {
                assert!(!seen.are_fresh(other..other + 1, 0), "page {other} of {pages}");
            }
            seen.mark(pages - 1, 0);
            assert!(seen.are_fresh(pages - 1..pages, 0));
        }
    }

    #[test]
    fn where_nothing_is_found_few_questions_are_asked() {
        let mut hope = Hope::default();
        let mut asked = 0;
        for _ in 0..10_000 {
            let (ask, next) = hope.next();
            hope = if ask { next.after(false) } else { next };
            asked += u32::from(ask);
        }
        assert!((300..500).contains(&asked), "{asked} of 10,000");
        let (ask, _) = hope.after(true).next();
        assert!(ask, "one success, and it asks again");
    }
}
