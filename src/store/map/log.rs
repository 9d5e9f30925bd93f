//! Changes that no durable record has yet, noted where the death of this process leaves them.
//!
//! A [`PendingLog`] is a ring of entries in memory that outlives its process. A change is noted before
//! requests see it, so before any answer that depends on it leaves. An entry goes when a durable record has
//! its change. So the next process of the same boot finds every change that was answered: in the map's file
//! or here. It applies all entries, in order, to what the journal says ([`left_log`](super::left_log)). A
//! change that both have does no harm: the entries end with the last one of each block.
//!
//! ```text
//! word  0  magic: it is stored last when a log is made, and taken away first when it ends
//!       1  version
//!       2  id of the boot
//!       4  uuid of the store
//!       6  uuid of the layer
//!       8  device and inode of the map's file: a copy of a layer is another one
//!      10  entries that there is room for
//!      11  stamp of the journal's end, and of its end once the record that is under way is there
//!      13  entries that are gone, and entries that came, since the log was made
//!      16  the entries, each as a run of a record
//! ```
//!
//! Every word is stored at once. A process that is killed has stored all words before some moment, and none
//! after it. So the entry comes before the count that makes it one.

use uuid::Uuid;

use super::record::{MOST_RUN_BLOCKS, packed};
use super::states::BlockRun;

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"rnbdPEND");
pub(super) const VERSION: u64 = 1;
/// Where words of the header are.
pub(super) mod at {
    pub(in super::super) const MAGIC: usize = 0;
    pub(in super::super) const VERSION: usize = 1;
    pub(in super::super) const OWNER: usize = 2;
    pub(in super::super) const CAPACITY: usize = 10;
    pub(in super::super) const END: usize = 11;
    pub(in super::super) const NEXT_END: usize = 12;
    pub(in super::super) const HEAD: usize = 13;
    pub(in super::super) const TAIL: usize = 14;
    pub(in super::super) const ENTRIES: usize = 16;
}
/// Words that say whose log it is.
pub(super) const OWNER_WORDS: usize = 8;

/// Words that outlive this process. Only those may be touched that have room.
pub(crate) trait LogMemory: std::fmt::Debug + Send {
    fn store(&self, word: usize, value: u64);

    /// Gives words room. False if there is none.
    fn reserve(&self, words: std::ops::Range<usize>) -> bool;

    /// Gives the room of words back.
    fn give_back(&self, words: std::ops::Range<usize>);

    /// Removes its name: nobody looks for it any more.
    fn remove(&self);
}

/// The sizes of a log, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLayout {
    /// All of them, at most.
    pub(crate) words: usize,
    /// Those that always have room: the header and the first entries.
    pub(crate) first: usize,
    /// Those that get room, and give it back, together.
    pub(crate) step: usize,
}

impl LogLayout {
    /// 8 MiB in steps of 64 KiB, after a first page.
    pub(crate) const DEFAULT: Self = Self { words: 1 << 20, first: 512, step: 8192 };

    /// Entries that there is room for.
    pub(super) const fn capacity(&self) -> u64 {
        (self.words - at::ENTRIES) as u64
    }

    pub(super) const fn word(&self, entry: u64) -> usize {
        at::ENTRIES + (entry % self.capacity()) as usize
    }

    /// The step of an entry; the first words are none.
    const fn step_of(&self, entry: u64) -> Option<usize> {
        match self.word(entry).checked_sub(self.first) {
            Some(behind) => Some(behind / self.step),
            None => None,
        }
    }

    const fn steps(&self) -> usize {
        (self.words - self.first).div_ceil(self.step)
    }

    fn words_of(&self, step: usize) -> std::ops::Range<usize> {
        let start = self.first + step * self.step;
        start..(start + self.step).min(self.words)
    }
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogOwner {
    pub(crate) boot: Uuid,
    pub(crate) store: Uuid,
    pub(crate) layer: Uuid,
    /// Device and inode of the map's file.
    pub(crate) file: (u64, u64),
}

impl LogOwner {
    pub(super) fn words(&self) -> [u64; OWNER_WORDS] {
        let [boot, store, layer] = [self.boot, self.store, self.layer].map(|uuid| uuid.as_u64_pair());
        [boot.0, boot.1, store.0, store.1, layer.0, layer.1, self.file.0, self.file.1]
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogRoom {
    Enough,
    /// Enough, and it is time for a commit. That is said once before each commit.
    HalfFull,
    /// A commit must come before the next change.
    Full,
}

/// The changes of a layer that no durable record has.
#[derive(Debug)]
pub(crate) struct PendingLog {
    memory: Box<dyn LogMemory>,
    layout: LogLayout,
    head: u64,
    tail: u64,
    /// The last entry, as long as it may become longer.
    last: Option<BlockRun>,
    /// Steps that have room.
    reserved: Vec<bool>,
    is_commit_due: bool,
}

impl PendingLog {
    /// A new one, for a map whose journal ends at a stamp. `None` if there is no room for it.
    pub(crate) fn create(
        memory: Box<dyn LogMemory>,
        layout: LogLayout,
        owner: &LogOwner,
        stamp: u64,
    ) -> Option<Self> {
        let log = Self::with(memory, layout, (0, 0))?;
        for (word, value) in (at::OWNER..).zip(owner.words()) {
            log.memory.store(word, value);
        }
        log.memory.store(at::VERSION, VERSION);
        log.memory.store(at::CAPACITY, layout.capacity());
        log.memory.store(at::END, stamp);
        log.memory.store(at::NEXT_END, stamp);
        log.memory.store(at::HEAD, 0);
        log.memory.store(at::TAIL, 0);
        log.memory.store(at::MAGIC, MAGIC);
        Some(log)
    }

    /// One that was left, whose entries from `head` to `tail` were read, until durable records have them. The
    /// map's journal ends at a stamp that is one of its two.
    pub(crate) fn resume(
        memory: Box<dyn LogMemory>,
        layout: LogLayout,
        ends: (u64, u64),
        stamp: u64,
    ) -> Option<Self> {
        let log = Self::with(memory, layout, ends)?;
        // The record that was under way is there: the next one takes its place as the one that may be.
        log.record_ended(stamp);
        Some(log)
    }

    fn with(memory: Box<dyn LogMemory>, layout: LogLayout, (head, tail): (u64, u64)) -> Option<Self> {
        assert!(at::ENTRIES < layout.first && layout.first <= layout.words, "there are first entries");
        let reserved = vec![false; layout.steps()];
        let has_room = memory.reserve(0..layout.first);
        has_room.then_some(Self { memory, layout, head, tail, last: None, reserved, is_commit_due: false })
    }

    /// Whether one more change can be noted.
    pub(super) fn room(&mut self) -> LogRoom {
        let (used, capacity) = (self.tail - self.head, self.layout.capacity());
        if used == capacity || !self.has_room() {
            return LogRoom::Full;
        }
        if used >= capacity / 2 && !self.is_commit_due {
            self.is_commit_due = true;
            return LogRoom::HalfFull;
        }
        LogRoom::Enough
    }

    /// Whether the next entry has room, perhaps because it gets some.
    fn has_room(&mut self) -> bool {
        let Some(step) = self.layout.step_of(self.tail) else { return true };
        self.reserved[step] = self.reserved[step] || self.memory.reserve(self.layout.words_of(step));
        self.reserved[step]
    }

    /// Notes a change. There is [room](Self::room) for it.
    pub(super) fn append(&mut self, run: BlockRun) {
        assert!(run.length <= MOST_RUN_BLOCKS, "a change is one entry");
        if let Some(last) = &mut self.last
            && (last.state, last.end()) == (run.state, run.start)
            && last.length + run.length <= MOST_RUN_BLOCKS
        {
            last.length += run.length;
            self.memory.store(self.layout.word(self.tail - 1), packed(last));
            return;
        }
        assert!(self.tail - self.head < self.layout.capacity(), "there is room for an entry");
        self.memory.store(self.layout.word(self.tail), packed(&run));
        self.tail += 1;
        self.last = Some(run);
        let is_late = u64::from(canary!(PendingAfterAnswer));
        self.memory.store(at::TAIL, self.tail - is_late);
    }

    /// Entries that came until now. None of them changes any more.
    pub(super) fn mark(&mut self) -> u64 {
        self.last = None;
        self.tail
    }

    /// A record is about to be written, after which the journal ends at a stamp.
    pub(super) fn record_begins(&self, end: u64) {
        self.memory.store(at::NEXT_END, end);
    }

    /// That record is durable.
    pub(super) fn record_ended(&self, end: u64) {
        self.memory.store(at::END, end);
    }

    /// Durable records have all entries before a mark.
    pub(super) fn release(&mut self, mark: u64) {
        if mark <= self.head {
            return;
        }
        (self.head, self.is_commit_due) = (mark, false);
        if self.head == self.tail {
            // It begins again where there is always room. Until both are stored it is empty all the same.
            self.head = self.tail.next_multiple_of(self.layout.capacity());
            (self.tail, self.last) = (self.head, None);
        }
        self.memory.store(at::HEAD, self.head);
        self.memory.store(at::TAIL, self.tail);
        self.give_back();
    }

    /// Gives steps back in which no entry is, nor the next one.
    fn give_back(&mut self) {
        let (capacity, step) = (self.layout.capacity(), self.layout.step as u64);
        if self.tail - self.head + 2 * step >= capacity {
            return;
        }
        let (first, last) = (self.head % capacity, self.tail % capacity);
        for index in 0..self.reserved.len() {
            let words = self.layout.words_of(index);
            let (start, end) = ((words.start - at::ENTRIES) as u64, (words.end - at::ENTRIES) as u64);
            let is_used = match first <= last {
                true => start <= last && first < end,
                false => start <= last || first < end,
            };
            if self.reserved[index] && !is_used {
                self.reserved[index] = false;
                self.memory.give_back(words);
            }
        }
    }

    /// Durable records have everything: it is no log any more.
    pub(super) fn finish(mut self) {
        self.memory.store(at::MAGIC, 0);
        self.release(self.tail);
        self.memory.remove();
    }
}
