//! Memory that several shards read and write at once.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Mapping;
use crate::block::ByteRange;

/// Bytes of a word.
const WORD: usize = 8;

/// Memory that several shards read and write at once, sparse: the `mem:` export.
///
/// Copies go word by word through relaxed atomics, so that racing requests (which the protocol allows: either
/// content may be seen) are no data race of the program. On every machine that io_uring runs on these are
/// plain moves. The words are always whole and always the same: Rust does not allow two atomic accesses of
/// different sizes to race. So a copy that begins or ends inside a word exchanges that word, which leaves the
/// other bytes as concurrent writers have set them.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    mapping: Mapping,
    length: u64,
}

// SAFETY: the bytes are accessed as the atomics of `SharedMemory::words` and in no other way; discarding
// pages is the kernel's.
unsafe impl Sync for SharedMemory {}

/// A range as the parts of words that it has.
struct Parts {
    /// The word of its first byte, and where in it that is.
    word: usize,
    at: usize,
    /// Bytes before the first whole word, whole words, bytes after them.
    head: usize,
    words: usize,
    tail: usize,
}

impl Parts {
    fn of(offset: usize, length: usize) -> Self {
        let (word, at) = (offset / WORD, offset % WORD);
        let head = if at == 0 { 0 } else { length.min(WORD - at) };
        let rest = length - head;
        Self { word, at, head, words: rest / WORD, tail: rest % WORD }
    }
}

impl SharedMemory {
    /// Maps `length` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// The kernel's, mostly `ENOMEM`.
    pub(crate) fn new(length: u64) -> io::Result<Self> {
        let rounded =
            length.max(1).checked_next_multiple_of(4096).and_then(|bytes| usize::try_from(bytes).ok());
        let rounded = rounded.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { mapping: Mapping::anonymous(rounded)?, length })
    }

    /// Bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    fn words(&self) -> &[AtomicU64] {
        let words = self.mapping.length() / WORD;
        // SAFETY: the mapping is whole pages and lives as long as `self`; an atomic has the size and
        // alignment of its integer, of which every bit pattern is valid. Nothing else refers to these bytes.
        unsafe { std::slice::from_raw_parts(self.mapping.address().cast::<AtomicU64>(), words) }
    }

    /// The parts of a range, and the words from its first one.
    fn parts(&self, offset: u64, length: usize) -> (Parts, &[AtomicU64]) {
        assert!(offset.checked_add(length as u64).is_some_and(|end| end <= self.length), "beyond the memory");
        let parts = Parts::of(offset as usize, length);
        let words = &self.words()[parts.word..];
        (parts, words)
    }

    /// Copies from `offset` into `target`.
    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) {
        let (Parts { at, head, words: whole, tail, .. }, mut words) = self.parts(offset, target.len());
        let (target_head, rest) = target.split_at_mut(head);
        let (target_words, target_tail) = rest.split_at_mut(whole * WORD);
        if head > 0 {
            target_head.copy_from_slice(&words[0].load(Relaxed).to_ne_bytes()[at..at + head]);
            words = &words[1..];
        }
        for (cell, word) in words[..whole].iter().zip(target_words.as_chunks_mut::<WORD>().0) {
            *word = cell.load(Relaxed).to_ne_bytes();
        }
        if tail > 0 {
            target_tail.copy_from_slice(&words[whole].load(Relaxed).to_ne_bytes()[..tail]);
        }
    }

    /// Copies `source` to `offset`.
    pub(crate) fn write(&self, offset: u64, source: &[u8]) {
        let (Parts { at, head, words: whole, tail, .. }, mut words) = self.parts(offset, source.len());
        let (source_head, rest) = source.split_at(head);
        let (source_words, source_tail) = rest.split_at(whole * WORD);
        if head > 0 {
            replace(&words[0], at, source_head);
            words = &words[1..];
        }
        for (cell, word) in words[..whole].iter().zip(source_words.as_chunks::<WORD>().0) {
            cell.store(u64::from_ne_bytes(*word), Relaxed);
        }
        if tail > 0 {
            replace(&words[whole], 0, source_tail);
        }
    }

    /// Makes a range zero and gives its whole pages back to the kernel.
    pub(crate) fn discard(&self, range: ByteRange) {
        const PAGE: u64 = 4096;
        assert!(range.is_within(self.length), "beyond the memory");
        let first = range.offset().next_multiple_of(PAGE).min(range.end());
        let last = (range.end() / PAGE * PAGE).max(first);
        for (start, end) in [(range.offset(), first), (last, range.end())] {
            self.write(start, &[0; PAGE as usize][..(end - start) as usize]);
        }
        if last > first {
            // SAFETY: whole pages inside our private mapping; they read as zero afterwards, which concurrent
            // atomic access may see at any time.
            let discarded = unsafe {
                let address = self.mapping.address().add(first as usize).cast();
                rustix::mm::madvise(address, (last - first) as usize, rustix::mm::Advice::LinuxDontNeed)
            };
            discarded.expect("pages of a private anonymous mapping can always be dropped");
        }
    }
}

/// Replaces some bytes of a word and leaves the others to concurrent writers.
fn replace(cell: &AtomicU64, at: usize, bytes: &[u8]) {
    let replaced = |word: u64| {
        let mut word = word.to_ne_bytes();
        word[at..at + bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(word)
    };
    let mut seen = cell.load(Relaxed);
    while let Err(changed) = cell.compare_exchange_weak(seen, replaced(seen), Relaxed, Relaxed) {
        seen = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter knows no advice about memory")]
    fn copies_any_alignment_and_discards_to_zero() {
        let memory = SharedMemory::new(20_000).unwrap();
        let source: Vec<u8> = (0..9001).map(|index| (index % 251) as u8 + 1).collect();
        for offset in 0..9 {
            memory.write(4090 + offset, &source);
            let mut target = vec![0; source.len()];
            memory.read(4090 + offset, &mut target);
            assert_eq!(source, target);
        }
        memory.discard(ByteRange::new(5000, 8000).unwrap());
        let mut target = vec![9; 20_000];
        memory.read(0, &mut target);
        assert!(target[5000..13_000].iter().all(|byte| *byte == 0));
        assert!(target[4099..5000].iter().chain(&target[13_000..13_090]).all(|byte| *byte != 0));
    }

    #[test]
    fn short_copies_touch_their_bytes_only() {
        let (memory, mut expected) = (SharedMemory::new(40).unwrap(), [0; 40]);
        for (step, (offset, length)) in (0..20).flat_map(|at| (0..=20).map(move |n| (at, n))).enumerate() {
            let source = vec![step as u8; length];
            memory.write(offset as u64, &source);
            expected[offset..offset + length].copy_from_slice(&source);
            let (mut all, mut part) = ([0; 40], vec![0; length]);
            memory.read(0, &mut all);
            memory.read(offset as u64, &mut part);
            assert_eq!((all, part), (expected, source), "{length} bytes at {offset}");
        }
    }

    #[test]
    fn neighbours_in_one_word_lose_nothing() {
        let memory = SharedMemory::new(16).unwrap();
        let writes_and_checks = |offset: u64| {
            for round in 0..if cfg!(miri) { 100 } else { 20_000u32 } {
                let (written, mut read) = (round.to_ne_bytes(), [0; 4]);
                memory.write(offset, &written);
                memory.read(offset, &mut read);
                assert_eq!(written, read, "round {round} at {offset}");
            }
        };
        // Each has the end of one word and the beginning of the next, or what lies beside that.
        std::thread::scope(|scope| {
            for offset in [2, 6, 10] {
                scope.spawn(move || writes_and_checks(offset));
            }
        });
    }

    #[test]
    #[should_panic(expected = "beyond the memory")]
    fn it_has_an_end() {
        SharedMemory::new(4096).unwrap().read(4090, &mut [0; 7]);
    }
}
