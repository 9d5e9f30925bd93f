//! A pack of which parts are here.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use rustix::fs::{FallocateFlags, fallocate};

use super::fetching::{TierCounts, TierFetching};
use super::ledger::{CacheLedger, EvictableCache};
use super::outage::ReadDeadline;
use super::present::{PAGE, PresentPages, pages_of};
use super::run_ahead::RunAhead;
use super::source::{SourceError, SourcePack};
use crate::mutex::lock;

/// Bytes behind the chunks of a pack at most.
const MOST_FOOTER: u64 = 8 << 20;
/// Ranges of pages that do not count, and are remembered apart.
const MOST_WRONG: usize = 64;
/// Bytes of a request that is fetched ahead.
const AHEAD_PIECE: u64 = 1 << 20;

/// A sparse file, and what is on its way into it. All who read the pack share it.
#[derive(Debug)]
pub(crate) struct PartialPack {
    number: u64,
    source: SourcePack,
    bytes: u64,
    /// 0 until it is known.
    footer_offset: AtomicU64,
    file: File,
    state: Mutex<PartialState>,
    /// The footer and where it begins, if the file cannot keep it.
    aside: Mutex<Option<(u64, Vec<u8>)>>,
    /// Something has come, or does not come.
    changed: Condvar,
    /// It was read past this since somebody looked.
    used: AtomicBool,
    fetching: Arc<TierFetching>,
    ledger: Arc<CacheLedger>,
    myself: Weak<Self>,
}

#[derive(Debug)]
struct PartialState {
    here: PresentPages,
    /// Pages on their way, apart from each other.
    coming: Vec<Range<u64>>,
    /// Pages of the file that do not count, whatever it says.
    wrong: Vec<Range<u64>>,
    run: RunAhead,
}

/// Pages that one thread fetches. Others wait until this is dropped.
struct ComingPages<'a> {
    pack: &'a PartialPack,
    pages: Range<u64>,
}

/// What a pack is, to whoever opens it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartialShape {
    pub(super) number: u64,
    pub(super) source: SourcePack,
    pub(super) bytes: u64,
    pub(super) footer_offset: u64,
}

enum NextStep<'a> {
    Here,
    Waits,
    Fetch(ComingPages<'a>),
}

impl Drop for ComingPages<'_> {
    fn drop(&mut self) {
        self.pack.state().coming.retain(|pages| *pages != self.pages);
        self.pack.changed.notify_all();
    }
}

/// Gives the room of chunks back, which end where the footer begins.
pub(super) fn punch_chunks(file: &File, footer_offset: u64) -> io::Result<()> {
    let length = (footer_offset / PAGE * PAGE).saturating_sub(PAGE);
    if length == 0 {
        return Ok(());
    }
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, PAGE, length)?)
}

fn failure(error: SourceError) -> io::Error {
    let kind = match &error {
        SourceError::Missing(_) => ErrorKind::NotFound,
        SourceError::Unreachable(_) | SourceError::Refused(_) => ErrorKind::TimedOut,
    };
    io::Error::new(kind, error)
}

impl PartialPack {
    pub(super) fn new(
        shape: PartialShape,
        file: File,
        fetching: &Arc<TierFetching>,
        ledger: &Arc<CacheLedger>,
    ) -> io::Result<Arc<Self>> {
        let PartialShape { number, source, bytes, footer_offset } = shape;
        if file.metadata()?.len() != bytes {
            file.set_len(bytes)?;
        }
        let here = PresentPages::of_file(&file, bytes)?;
        ledger.set(number, here.count() * PAGE);
        let state = Mutex::new(PartialState {
            here,
            coming: Vec::new(),
            wrong: Vec::new(),
            run: RunAhead::default(),
        });
        let (fetching, ledger) = (Arc::clone(fetching), Arc::clone(ledger));
        let opened = Arc::new_cyclic(|myself: &Weak<Self>| Self {
            number,
            source,
            bytes,
            footer_offset: AtomicU64::new(footer_offset),
            file,
            state,
            aside: Mutex::default(),
            changed: Condvar::new(),
            used: AtomicBool::new(false),
            fetching,
            ledger,
            myself: Weak::clone(myself),
        });
        let cache = Weak::clone(&opened.myself);
        opened.ledger.opened(number, cache);
        Ok(opened)
    }

    /// What a thread that panicked has left is whole: each change is one step.
    fn state(&self) -> MutexGuard<'_, PartialState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sparse file. Whoever reads it by himself tells that by [`PartialPack::used`], and verifies what he
    /// has read: bytes that were given back read as zeroes.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// The file was read by somebody himself.
    pub(crate) fn used(&self) {
        // Most often it is known.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Where the pack's footer begins; its end if nobody knows.
    pub(super) fn footer_offset(&self) -> u64 {
        match self.footer_offset.load(Ordering::Relaxed) {
            0 => self.bytes,
            known => known,
        }
    }

    /// It was read where the footer begins.
    pub(super) fn learn_footer(&self, offset: u64) {
        self.footer_offset.store(offset, Ordering::Relaxed);
    }

    /// Whether all of a range is here. What is here may be wrong.
    pub(crate) fn has(&self, range: Range<u64>) -> bool {
        self.state().here.first_missing(pages_of(range)).is_none()
    }

    /// The same; no while somebody gives room back, which may take the file system some time.
    pub(super) fn has_now(&self, range: Range<u64>) -> bool {
        self.state.try_lock().is_ok_and(|state| state.here.first_missing(pages_of(range)).is_none())
    }

    fn range_of(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * PAGE..(pages.end * PAGE).min(self.bytes)
    }

    /// Bytes that are not in the cache: whoever opens a pack needs its footer as a whole.
    fn wanted(&self, range: &Range<u64>) -> Range<u64> {
        let footer_at = self.footer_offset();
        // Where it begins may be somebody's claim.
        let is_footer = range.start >= footer_at && self.bytes - footer_at <= MOST_FOOTER;
        if is_footer { footer_at..self.bytes } else { range.clone() }
    }

    fn next_step(&self, pages: &Range<u64>) -> NextStep<'_> {
        let mut state = self.state();
        let Some(mut missing) = state.here.first_missing(pages.clone()) else { return NextStep::Here };
        for coming in &state.coming {
            if coming.contains(&missing.start) {
                return NextStep::Waits;
            }
            if coming.start > missing.start {
                missing.end = missing.end.min(coming.start);
            }
        }
        state.coming.push(missing.clone());
        NextStep::Fetch(ComingPages { pack: self, pages: missing })
    }

    /// Fetches what is missing of some pages, until a deadline.
    fn bring(&self, pages: &Range<u64>, deadline: ReadDeadline) -> io::Result<()> {
        let late =
            || io::Error::new(ErrorKind::TimedOut, "what others fetch of the pack did not come in time");
        loop {
            match self.next_step(pages) {
                NextStep::Here => return Ok(()),
                NextStep::Fetch(coming) => self.fetch(&coming, Some(deadline))?,
                NextStep::Waits => {
                    let (until, now) = (self.fetching.wait_until(deadline), self.fetching.clock().now());
                    let left = until.checked_duration_since(now).ok_or_else(late)?;
                    let state = self.state();
                    // It may have come since.
                    if state.coming.iter().any(|coming| coming.start < pages.end && pages.start < coming.end)
                    {
                        drop(self.changed.wait_timeout(state, left));
                    }
                }
            }
        }
    }

    /// Whether another process has brought some pages, such as a pull beside a server.
    fn was_brought(&self, pages: &Range<u64>) -> bool {
        let is_wrong = |wrong: &Range<u64>| wrong.start < pages.end && pages.start < wrong.end;
        let may_be = !self.state().wrong.iter().any(is_wrong);
        may_be && PresentPages::are_in(&self.file, pages, self.bytes)
    }

    fn fetch(&self, coming: &ComingPages<'_>, deadline: Option<ReadDeadline>) -> io::Result<()> {
        if self.was_brought(&coming.pages) {
            self.came(&coming.pages);
            return Ok(());
        }
        let range = self.range_of(&coming.pages);
        let bytes = self.fetching.get(&self.source, &range, deadline).map_err(failure)?;
        self.file.write_all_at(&bytes, range.start)?;
        self.came(&coming.pages);
        Ok(())
    }

    fn came(&self, pages: &Range<u64>) {
        let mut state = self.state();
        state.here.insert(pages.clone());
        state.wrong.retain(|wrong| wrong.start < pages.start || wrong.end > pages.end);
        self.ledger.set(self.number, state.here.count() * PAGE);
    }

    /// Fetches what is missing of a range, unless that fails.
    pub(in crate::store) fn fetch_ahead(&self, range: Range<u64>) {
        let mut pages = pages_of(range.start..range.end.min(self.bytes));
        while let Some(missing) = { self.state().here.first_missing(pages.clone()) } {
            pages.start = missing.start;
            match self.next_step(&missing) {
                NextStep::Here => {}
                // Somebody else fetches it.
                NextStep::Waits => pages.start += 1,
                NextStep::Fetch(coming) => {
                    if self.fetch(&coming, None).is_err() {
                        return;
                    }
                    pages.start = coming.pages.end;
                }
            }
        }
        self.ledger.make_room(self.number);
    }

    /// Has a range fetched by other threads.
    pub(crate) fn ask_ahead(&self, range: Range<u64>) {
        let Some(myself) = self.myself.upgrade() else { return };
        let mut start = range.start;
        while start < range.end {
            let end = (start + AHEAD_PIECE).min(range.end);
            if !self.has(start..end) {
                let (pack, piece) = (Arc::clone(&myself), start..end);
                self.fetching.ahead(Box::new(move || pack.fetch_ahead(piece)));
            }
            start = end;
        }
    }

    /// Fills `bytes`, with what is here or comes in time.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + bytes.len() as u64;
        if range.end > self.bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let ahead = match range.start < self.footer_offset() && range.start > 0 {
            true => self.state().run.note(&range, self.footer_offset()),
            false => None,
        };
        if self.is_aside(bytes, offset) {
            return Ok(());
        }
        let deadline = self.fetching.deadline();
        if !self.bring_to_cache(&range, deadline)? {
            let fetched = self.fetching.get(&self.source, &range, Some(deadline)).map_err(failure)?;
            bytes.copy_from_slice(&fetched);
            return Ok(());
        }
        if let Some(ahead) = ahead {
            self.ask_ahead(ahead);
        }
        self.ledger.used(self.number);
        self.ledger.make_room(self.number);
        self.file.read_exact_at(bytes, offset)
    }

    /// Fetches what is not here of a range; false if it cannot be kept.
    fn bring_to_cache(&self, range: &Range<u64>, deadline: ReadDeadline) -> io::Result<bool> {
        let wanted = pages_of(self.wanted(range));
        if self.state().here.first_missing(wanted.clone()).is_none() {
            return Ok(true);
        }
        let began = Instant::now();
        let brought = self.bring(&wanted, deadline);
        let counts = &self.fetching.counts;
        TierCounts::add(&counts.waits, 1);
        TierCounts::add(&counts.waited_ns, began.elapsed().as_nanos() as u64);
        match brought {
            // The disk of the cache is full, or broken: that must not cost the bytes.
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::TimedOut) => {
                tracing::warn!(pack = self.number, %error, "what is fetched of a pack cannot be kept");
                Ok(false)
            }
            Err(error) => {
                TierCounts::add(&counts.gave_up, 1);
                Err(error)
            }
            Ok(()) => Ok(true),
        }
    }

    /// Fetches the footer at once, which is read in pieces then and for as long as the pack is open. If it
    /// cannot be kept in the file it is in memory.
    pub(super) fn bring_footer(&self, range: Range<u64>) -> io::Result<()> {
        // Where it begins may be somebody's claim, which is found out when it is read.
        if range.end > self.bytes || range.end.saturating_sub(range.start) > MOST_FOOTER {
            return Ok(());
        }
        let deadline = self.fetching.deadline();
        if !self.bring_to_cache(&range, deadline)? {
            let fetched = self.fetching.get(&self.source, &range, Some(deadline)).map_err(failure)?;
            *lock(&self.aside) = Some((range.start, fetched));
        }
        Ok(())
    }

    /// Fills `bytes` with what is kept in memory, if that has them.
    fn is_aside(&self, bytes: &mut [u8], offset: u64) -> bool {
        let aside = lock(&self.aside);
        let part = aside.as_ref().and_then(|(start, kept)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            kept.get(at..at.checked_add(bytes.len())?)
        });
        part.map(|part| bytes.copy_from_slice(part)).is_some()
    }

    /// The same, of what the tier has: what is here is wrong.
    pub(super) fn read_again(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        TierCounts::add(&self.fetching.counts.wrong, 1);
        self.drop_range(offset..offset + bytes.len() as u64);
        self.read(bytes, offset)
    }

    /// What is here of the header and behind the chunks does not fit.
    pub(super) fn drop_ends(&self) {
        TierCounts::add(&self.fetching.counts.wrong, 1);
        // Without knowing where it is, all of it may be wrong.
        let known = self.footer_offset.load(Ordering::Relaxed);
        self.drop_range(0..PAGE);
        self.drop_range(known..self.bytes);
    }

    /// What is here of a range does not count any more.
    pub(super) fn drop_range(&self, range: Range<u64>) {
        *lock(&self.aside) = None;
        let (mut state, pages) = (self.state(), pages_of(range));
        state.here.remove(pages.clone());
        if state.wrong.len() < MOST_WRONG {
            state.wrong.push(pages);
        } else {
            // One range that has them all.
            let start = state.wrong.iter().map(|wrong| wrong.start).fold(pages.start, u64::min);
            let end = state.wrong.iter().map(|wrong| wrong.end).fold(pages.end, u64::max);
            state.wrong.clear();
            state.wrong.push(start..end);
        }
    }
}

impl EvictableCache for PartialPack {
    fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Gives the bytes of chunks back, unless some are on their way. Whoever reads them meanwhile finds
    /// zeroes, which do not verify, and fetches them again.
    fn evict(&self) -> io::Result<()> {
        let mut state = self.state();
        let chunks = 1..self.footer_offset() / PAGE;
        if !state.coming.is_empty() || chunks.is_empty() {
            return Ok(());
        }
        let before = state.here.count();
        punch_chunks(&self.file, self.footer_offset())?;
        state.here.remove(chunks);
        let given = (before - state.here.count()) * PAGE;
        self.ledger.set(self.number, state.here.count() * PAGE);
        TierCounts::add(&self.fetching.counts.evicted_bytes, given);
        Ok(())
    }
}
