//! The `mem:` export: sparse memory that all shards share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{ByteRange, Extent};
use crate::sys::SharedMemory;

/// Bytes of one piece whose allocation is tracked.
const PIECE: u64 = 64 << 10;

/// Memory and which pieces of it were written.
#[derive(Debug)]
pub(super) struct MemoryStore {
    memory: SharedMemory,
    /// One bit a piece.
    written: Vec<AtomicU64>,
}

impl MemoryStore {
    pub(super) fn new(size: u64) -> io::Result<Self> {
        let words = size.div_ceil(PIECE).div_ceil(64);
        let words = usize::try_from(words).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut written = Vec::new();
        written.try_reserve_exact(words).map_err(|_| io::ErrorKind::OutOfMemory)?;
        written.resize_with(words, || AtomicU64::new(0));
        Ok(Self { memory: SharedMemory::new(size)?, written })
    }

    pub(super) fn read(&self, offset: u64, target: &mut [u8]) {
        self.memory.read(offset, target);
    }

    pub(super) fn write(&self, offset: u64, source: &[u8]) {
        self.memory.write(offset, source);
        // Marked after the copy: a discard that races with it may clear the mark early, but never leaves data
        // unmarked.
        self.mark(ByteRange::new(offset, source.len() as u64).expect("within the memory"));
    }

    /// Makes a range zero and gives its memory back.
    pub(super) fn discard(&self, range: ByteRange) {
        let first = range.offset().div_ceil(PIECE);
        let last = if range.end() == self.memory.length() {
            range.end().div_ceil(PIECE)
        } else {
            range.end() / PIECE
        };
        for piece in first..last {
            self.written[(piece / 64) as usize].fetch_and(!(1 << (piece % 64)), Ordering::Relaxed);
        }
        self.memory.discard(range);
    }

    /// Counts a range as allocated without changing it.
    pub(super) fn mark(&self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        for piece in range.offset() / PIECE..=(range.end() - 1) / PIECE {
            let (word, bit) = (&self.written[(piece / 64) as usize], 1 << (piece % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// At most `limit` extents from the start of `range`, merged.
    pub(super) fn extents(&self, range: ByteRange, limit: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut offset = range.offset();
        while offset < range.end() {
            let piece = offset / PIECE;
            let end = ((piece + 1) * PIECE).min(range.end());
            let written =
                self.written[(piece / 64) as usize].load(Ordering::Relaxed) >> (piece % 64) & 1 != 0;
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.hole != written => last.length += end - offset,
                _ if count == limit => break,
                _ => extents.push(Extent { length: end - offset, hole: !written, zero: !written }),
            }
            offset = end;
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[test]
    fn extents_follow_writes_and_discards() {
        let store = MemoryStore::new(1 << 20).unwrap();
        store.write(PIECE + 5, b"data");
        let whole = range(0, 1 << 20);
        let hole = |length| Extent { length, hole: true, zero: true };
        let data = |length| Extent { length, hole: false, zero: false };
        assert_eq!(store.extents(whole, 9), [hole(PIECE), data(PIECE), hole(14 * PIECE)]);
        assert_eq!(store.extents(range(PIECE + 1, 10), 9), [data(10)]);
        assert_eq!(store.extents(whole, 1), [hole(PIECE)]);
        store.discard(range(PIECE, PIECE - 1));
        assert_eq!(store.extents(whole, 9).len(), 3, "part of a piece stays allocated");
        store.discard(range(PIECE, PIECE));
        assert_eq!(store.extents(whole, 9), [hole(1 << 20)]);
    }
}
