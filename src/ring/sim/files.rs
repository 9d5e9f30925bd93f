//! Simulated files: what is read now, and what would be found after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{ByteRange, Extent};
use crate::random::Random;

/// Bytes that a power cut keeps or loses together.
pub(crate) const SECTOR: usize = 512;
/// Bytes that the page cache reads and writes back together.
pub(super) const PAGE: usize = 4096;

/// An open file description: each is told of errors once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileDescription {
    /// Of those of its file.
    number: usize,
    /// Past the page cache.
    pub(super) direct: bool,
}

/// What is known of a sector's allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allocation {
    Hole,
    /// Reserved, and reads as zeroes.
    Reserved,
    Data,
}

/// What a sector held after a change.
struct Version {
    writer: u64,
    bytes: [u8; SECTOR],
}

/// A write through the page cache of a file that is also written directly: the kernel reads the whole pages
/// first and writes them back later, over what a direct write put beside it meanwhile.
struct PageWrite {
    writer: u64,
    start: usize,
    before: Vec<u8>,
    /// Bytes that a direct write changed since.
    overtaken: Vec<bool>,
}

/// A size that a file got and that is not durable yet.
struct NewSize {
    writer: u64,
    size: usize,
}

pub(super) struct SimFile {
    size: usize,
    /// What a power cut leaves at least, and the sizes since, oldest first.
    durable_size: usize,
    new_sizes: Vec<NewSize>,
    /// The bytes that it was cut to.
    cut: Option<usize>,
    /// When each page was evicted from the page cache; `None` when it is there.
    evicted: Vec<Option<u64>>,
    /// Pages that the medium does not give back.
    unreadable: BTreeSet<usize>,
    /// What a read finds.
    content: Vec<u8>,
    /// What a power cut leaves at least.
    durable: Vec<u8>,
    /// Writes behind its end make it longer. That would be a mistake if it was not expected.
    pub(super) grows: bool,
    allocation: Vec<Allocation>,
    /// What sectors held since they were last made durable, oldest first.
    pending: BTreeMap<usize, Vec<Version>>,
    page_writes: Vec<PageWrite>,
    /// How often data could not be written back, how much of that each description was told, and how much
    /// any of them was.
    write_errors: u64,
    told: Vec<u64>,
    told_to_any: u64,
    /// Of direct descriptors.
    pub(super) alignment: Option<u32>,
    /// Bytes that allocations must be aligned to.
    pub(super) allocation_unit: u32,
}

impl SimFile {
    pub(super) fn new(mut content: Vec<u8>, alignment: Option<u32>, allocation_unit: u32) -> Self {
        let size = content.len();
        content.resize(size.next_multiple_of(SECTOR), 0);
        let allocation = content.chunks(SECTOR).map(|sector| match sector == [0; SECTOR] {
            true => Allocation::Hole,
            false => Allocation::Data,
        });
        let allocation = allocation.collect();
        let durable = content.clone();
        let (pending, page_writes) = (BTreeMap::new(), Vec::new());
        let evicted = vec![None; size.div_ceil(PAGE)];
        Self {
            size,
            durable_size: size,
            new_sizes: Vec::new(),
            cut: None,
            evicted,
            unreadable: BTreeSet::new(),
            content,
            durable,
            grows: false,
            allocation,
            pending,
            page_writes,
            write_errors: 0,
            told: Vec::new(),
            told_to_any: 0,
            alignment,
            allocation_unit,
        }
    }

    /// Bytes that it has now.
    pub(super) fn size(&self) -> usize {
        self.cut.unwrap_or(self.size)
    }

    /// Bytes that it has without a cut.
    pub(super) fn whole_size(&self) -> usize {
        self.size
    }

    pub(super) fn cut(&mut self, size: Option<usize>) {
        self.cut = size.map(|size| size.min(self.size));
    }

    /// Opens it once more. As on Linux, a new description is told of the last error if nobody was.
    pub(super) fn open(&mut self, direct: bool) -> FileDescription {
        let is_known = self.told_to_any == self.write_errors;
        self.told.push(if is_known { self.write_errors } else { self.write_errors - 1 });
        FileDescription { number: self.told.len() - 1, direct }
    }

    /// Gives it at least a size; what is new is a hole.
    pub(super) fn grow(&mut self, writer: u64, size: usize) {
        if size <= self.size {
            return;
        }
        self.size = size;
        self.fit();
        self.new_sizes.push(NewSize { writer, size });
    }

    /// All tables get the length that its size asks for.
    fn fit(&mut self) {
        let length = self.size.next_multiple_of(SECTOR);
        self.content.resize(length, 0);
        self.durable.resize(length, 0);
        self.allocation.resize(length / SECTOR, Allocation::Hole);
        self.evicted.resize(self.size.div_ceil(PAGE), None);
    }

    pub(super) fn is_cached(&self, page: usize) -> bool {
        self.evicted.get(page).is_some_and(Option::is_none)
    }

    /// The medium fails below a page.
    pub(super) fn fail(&mut self, page: usize) {
        self.unreadable.insert(page);
    }

    /// Whether all of a range can be had: it is in the page cache, or the medium gives it.
    pub(super) fn is_readable(&self, start: usize, end: usize) -> bool {
        let mut failed = self.unreadable.range(start / PAGE..end.div_ceil(PAGE));
        failed.all(|page| self.is_cached(*page))
    }

    /// When a page was evicted.
    pub(super) fn evicted(&self, page: usize) -> u64 {
        self.evicted[page].unwrap_or(0)
    }

    pub(super) fn evict(&mut self, order: u64, mut goes: impl FnMut(usize) -> bool) {
        for (page, evicted) in self.evicted.iter_mut().enumerate() {
            if evicted.is_none() && goes(page) {
                *evicted = Some(order);
            }
        }
    }

    /// The pages of a range come into the page cache.
    pub(super) fn cache(&mut self, start: usize, end: usize) {
        let end = end.div_ceil(PAGE).min(self.evicted.len());
        self.evicted[(start / PAGE).min(end)..end].fill(None);
    }

    pub(super) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        &self.content[start..end]
    }

    fn remember(&mut self, writer: u64, start: usize, end: usize) {
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let bytes: [u8; SECTOR] =
                self.content[sector * SECTOR..(sector + 1) * SECTOR].try_into().expect("whole sectors");
            let versions = self.pending.entry(sector).or_default();
            match versions.last_mut() {
                Some(last) if last.writer == writer => last.bytes = bytes,
                _ => versions.push(Version { writer, bytes }),
            }
        }
    }

    /// Part of a write takes effect.
    pub(super) fn write(&mut self, writer: u64, start: usize, bytes: &[u8], direct: bool) {
        let end = start + bytes.len();
        if self.grows {
            self.grow(writer, end);
        }
        assert!(end <= self.size, "a write beyond the end of the file");
        self.content[start..end].copy_from_slice(bytes);
        self.allocation[start / SECTOR..end.div_ceil(SECTOR)].fill(Allocation::Data);
        self.remember(writer, start, end);
        if direct {
            for page in &mut self.page_writes {
                let (from, to) = (start.max(page.start), end.min(page.start + page.before.len()));
                if from < to {
                    page.overtaken[from - page.start..to - page.start].fill(true);
                }
            }
        }
    }

    /// A write through the page cache of a file with a direct descriptor reads its pages.
    pub(super) fn begin_page_write(&mut self, writer: u64, start: usize, end: usize) {
        let (start, end) = (start / PAGE * PAGE, end.next_multiple_of(PAGE).min(self.content.len()));
        let before = self.content[start..end].to_vec();
        let overtaken = vec![false; before.len()];
        self.page_writes.push(PageWrite { writer, start, before, overtaken });
    }

    /// It has written them back.
    pub(super) fn end_page_write(&mut self, writer: u64, written: ByteRange) {
        let Some(index) = self.page_writes.iter().position(|page| page.writer == writer) else { return };
        let page = self.page_writes.swap_remove(index);
        let mine = |at: usize| (written.offset()..written.end()).contains(&(at as u64));
        for (offset, old) in page.before.iter().enumerate() {
            let at = page.start + offset;
            if page.overtaken[offset] && !mine(at) {
                self.content[at] = *old;
                self.remember(writer, at, at + 1);
            }
        }
    }

    /// Makes a range zero; false when it is not aligned.
    pub(super) fn zero(&mut self, writer: u64, range: ByteRange, keep_reserved: bool) -> bool {
        if !range.is_aligned(self.allocation_unit) || range.is_empty() {
            return false;
        }
        let (start, end) = (range.offset() as usize, range.end() as usize);
        assert!(end <= self.size, "an allocation beyond the end of the file");
        self.content[start..end].fill(0);
        let kind = if keep_reserved { Allocation::Reserved } else { Allocation::Hole };
        let last = if end == self.size { end.div_ceil(SECTOR) } else { end / SECTOR };
        for sector in start.div_ceil(SECTOR)..last {
            self.allocation[sector] = kind;
        }
        self.remember(writer, start, end);
        true
    }

    /// Makes durable what the chosen writers did, in a range or everywhere, and with it what stood in the
    /// sector before.
    pub(super) fn harden(&mut self, range: Option<ByteRange>, mut chosen: impl FnMut(u64) -> bool) {
        self.pending.retain(|sector, versions| {
            if in_range(*sector, range)
                && let Some(last) = versions.iter().rposition(|version| chosen(version.writer))
            {
                self.durable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&versions[last].bytes);
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
        // Whatever the range is: without its size a file has no data to find.
        self.harden_size(chosen);
    }

    /// Makes the size durable that the last of the chosen writers gave it.
    pub(super) fn harden_size(&mut self, mut chosen: impl FnMut(u64) -> bool) {
        if let Some(last) = self.new_sizes.iter().rposition(|new| chosen(new.writer)) {
            self.durable_size = self.new_sizes[last].size;
            self.new_sizes.drain(..=last);
        }
    }

    /// Data could not be written back: some of it is dropped, and is not written later. It still reads as
    /// written. Only what `settled` writers wrote, since a write under way may be one that waits for the
    /// medium itself.
    pub(super) fn drop_dirty(
        &mut self,
        range: Option<ByteRange>,
        random: &mut Random,
        settled: impl Fn(u64) -> bool,
    ) {
        let dropped = random.pick(&[0.1, 0.5, 1.0]);
        self.pending.retain(|sector, versions| {
            let may_go = in_range(*sector, range) && versions.iter().all(|version| settled(version.writer));
            !may_go || !random.chance(dropped)
        });
        self.write_errors += 1;
    }

    /// Whether there was an error of which a description was not told; now it is.
    pub(super) fn tell(&mut self, description: FileDescription) -> bool {
        self.told_to_any = self.write_errors;
        std::mem::replace(&mut self.told[description.number], self.write_errors) != self.write_errors
    }

    /// Whether data was lost since the world began, or since the last power cut.
    pub(super) fn has_lost_data(&self) -> bool {
        self.write_errors > 0
    }

    /// The power fails: each sector keeps what is durable, or any later version of it.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let kept = random.pick(&[0.0, 0.1, 0.5, 0.9, 1.0]);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            if random.chance(kept) {
                let version = &versions[random.below(versions.len() as u64) as usize];
                self.durable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&version.bytes);
            }
        }
        if !self.new_sizes.is_empty() {
            let kept = random.below(self.new_sizes.len() as u64 + 1) as usize;
            if let Some(last) = self.new_sizes[..kept].last() {
                self.durable_size = last.size;
            }
        }
        self.start_again();
    }

    /// What is durable is all there is: nothing of it is in the page cache, and no error is known.
    fn start_again(&mut self) {
        self.size = self.durable_size;
        self.new_sizes.clear();
        self.fit();
        // Behind the end there is nothing, also when it grows again.
        self.durable[self.size..].fill(0);
        self.content.clone_from(&self.durable);
        self.evicted.fill(Some(0));
        self.page_writes.clear();
        (self.write_errors, self.told_to_any) = (0, 0);
        self.told.fill(0);
        for (sector, allocation) in self.content.chunks(SECTOR).zip(&mut self.allocation) {
            if *sector != [0; SECTOR] {
                *allocation = Allocation::Data;
            }
        }
    }

    /// The allocation of a range, merged, at most `limit` extents.
    pub(super) fn extents(&self, range: ByteRange, limit: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut offset = range.offset();
        while offset < range.end() {
            let end = ((offset / SECTOR as u64 + 1) * SECTOR as u64).min(range.end());
            // Behind its end there is nothing, as SEEK_DATA says.
            let allocation = self.allocation.get(offset as usize / SECTOR);
            let (hole, zero) = match allocation.unwrap_or(&Allocation::Hole) {
                Allocation::Hole => (true, true),
                Allocation::Reserved => (false, true),
                Allocation::Data => (false, false),
            };
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if (last.hole, last.zero) == (hole, zero) => last.length += end - offset,
                _ if count == limit => break,
                _ => extents.push(Extent { length: end - offset, hole, zero }),
            }
            offset = end;
        }
        extents
    }
}

/// Whether a sync of a range, or of all, is one of a sector: the kernel writes whole pages back.
fn in_range(sector: usize, range: Option<ByteRange>) -> bool {
    let page = (sector * SECTOR / PAGE * PAGE) as u64;
    range.is_none_or(|range| page < range.end() && range.offset() < page + PAGE as u64)
}
