//! Memory of a log that survives its process, and watches what is done with it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::store::map::{LogLayout, LogMemory, LogOwner};

/// 24 entries: some in the first words, and two steps.
pub(super) const TINY_LOG: LogLayout = LogLayout { words: 40, first: 20, step: 10 };

pub(super) const OWNER: LogOwner = LogOwner {
    boot: Uuid::from_u128(1 << 64 | 2),
    store: Uuid::from_u128(3),
    layer: Uuid::from_u128(4),
    file: (5, 6),
};

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) words: Vec<u64>,
    reserved: BTreeSet<usize>,
    /// Reserving fails but for the first words.
    pub(super) is_full: bool,
    pub(super) is_removed: bool,
}

impl Shared {
    /// Words that have room.
    pub(super) fn room(&self) -> usize {
        self.reserved.len()
    }
}

/// A handle of it; clones name the same.
#[derive(Debug, Clone, Default)]
pub(super) struct TestMemory(pub(super) Arc<Mutex<Shared>>);

impl LogMemory for TestMemory {
    fn store(&self, word: usize, value: u64) {
        let mut shared = self.0.lock().unwrap();
        assert!(shared.reserved.contains(&word), "word {word} has no room");
        shared.words[word] = value;
    }

    fn reserve(&self, words: Range<usize>) -> bool {
        let mut shared = self.0.lock().unwrap();
        if shared.is_full && words.start > 0 {
            return false;
        }
        let length = shared.words.len().max(words.end);
        shared.words.resize(length, 0);
        shared.reserved.extend(words);
        true
    }

    fn give_back(&self, words: Range<usize>) {
        let mut shared = self.0.lock().unwrap();
        for word in words {
            assert!(shared.reserved.remove(&word), "word {word} had no room");
            shared.words[word] = 0;
        }
    }

    fn remove(&self) {
        self.0.lock().unwrap().is_removed = true;
    }
}
