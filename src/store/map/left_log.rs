//! What a process that died has left in a [`PendingLog`](super::log::PendingLog).
//!
//! Whatever the words are: they are checked, and nothing is taken from a log of another layer, or of another
//! state of this one.

use super::log::{LogLayout, LogOwner, MAGIC, OWNER_WORDS, VERSION, at};
use super::record::unpacked;
use super::states::{BlockRun, BlockState};

/// A log that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeftLog {
    /// Nothing has to be done.
    Empty,
    /// It is none, or does not belong to this layer as it is now.
    Foreign(&'static str),
    Changes(LeftChanges),
}

/// Its changes, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftChanges {
    pub(crate) runs: Vec<BlockRun>,
    /// The first entry, and the one behind the last.
    pub(crate) ends: (u64, u64),
}

/// Why what was left cannot be used, though it is this layer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeftLogError {
    #[error("it is of format {0}: open the image with the version of ringnbd that served it")]
    Newer(u64),
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
}

impl LeftLog {
    /// Reads the words of a log. `stamp`: where the journal of the layer ends.
    pub(crate) fn read(
        words: &[u64],
        layout: &LogLayout,
        owner: &LogOwner,
        stamp: u64,
    ) -> Result<Self, LeftLogError> {
        // It has ended, or it was never quite there.
        let Some(header) = words.get(..at::ENTRIES).filter(|header| header[at::MAGIC] != 0) else {
            return Ok(Self::Empty);
        };
        if header[at::MAGIC] != MAGIC {
            return Ok(Self::Foreign("it is none"));
        }
        let found = &header[at::OWNER..at::OWNER + OWNER_WORDS];
        if found[..2] != owner.words()[..2] {
            return Ok(Self::Foreign("it is of another boot"));
        }
        if *found != owner.words() {
            return Ok(Self::Foreign("it is another layer's"));
        }
        if header[at::VERSION] != VERSION {
            return Err(LeftLogError::Newer(header[at::VERSION]));
        }
        if header[at::CAPACITY] != layout.capacity() {
            return Err(LeftLogError::Damaged("it has another size"));
        }
        let (head, tail) = (header[at::HEAD], header[at::TAIL]);
        if head >= tail {
            return Ok(Self::Empty);
        }
        if ![header[at::END], header[at::NEXT_END]].contains(&stamp) {
            return Ok(Self::Foreign("the map was changed without it, or is an older copy"));
        }
        let count = tail - head;
        if count > layout.capacity() {
            return Err(LeftLogError::Damaged("it has more entries than room"));
        }
        let mut runs = Vec::with_capacity(count as usize);
        for entry in head..tail {
            let word = words.get(layout.word(entry)).ok_or(LeftLogError::Damaged("it is cut off"))?;
            let run = unpacked(*word).filter(|run| run.state != BlockState::Absent);
            runs.push(run.ok_or(LeftLogError::Damaged("an entry is no change"))?);
        }
        Ok(Self::Changes(LeftChanges { runs, ends: (head, tail) }))
    }
}
