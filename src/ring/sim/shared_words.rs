//! Memory that outlives a process: what another one finds that is started later, unless the power has failed.

use std::sync::{Arc, Mutex, PoisonError};

/// Words that outlive a process; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimSharedWords(Arc<Mutex<Vec<u64>>>);

impl SimSharedWords {
    fn with<T>(&self, use_words: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        use_words(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.with(|words| words.clone())
    }

    /// There are at least so many; new ones are 0.
    pub(crate) fn grow(&self, length: usize) {
        self.with(|words| words.resize(length.max(words.len()), 0));
    }

    pub(crate) fn store(&self, word: usize, value: u64) {
        self.with(|words| words[word] = value);
    }

    pub(crate) fn clear(&self) {
        self.with(Vec::clear);
    }
}
