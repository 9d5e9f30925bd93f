//! States of blocks, and many of them in two bits each.

/// What a layer says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum BlockState {
    /// Nothing: what is below is read.
    Absent = 0,
    /// Its bytes are in the layer's `data`.
    Data = 1,
    /// It reads as zeroes and hides what is below. Nothing is read from `data`.
    Zero = 2,
    /// The same, and `data` has room for it.
    ZeroReserved = 3,
}

impl BlockState {
    /// What is below is read.
    pub(crate) const fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The state whose two bits are the lowest of `word`.
    #[inline]
    pub(super) const fn of_bits(word: u64) -> Self {
        match word & 3 {
            0 => Self::Absent,
            1 => Self::Data,
            2 => Self::Zero,
            _ => Self::ZeroReserved,
        }
    }

    /// A word of which each block has this state.
    #[inline]
    const fn word(self) -> u64 {
        self as u64 * (u64::MAX / 3)
    }
}

/// Blocks side by side that have one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRun {
    /// The first of them, counted from the beginning of the disk.
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) state: BlockState,
}

impl BlockRun {
    pub(crate) const fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// Blocks of a word.
pub(super) const WORD_BLOCKS: usize = 32;

/// The bits of `length` blocks from `first` on, in one word.
#[inline]
const fn mask(first: usize, length: usize) -> u64 {
    let ones = if length == WORD_BLOCKS { u64::MAX } else { (1 << (2 * length)) - 1 };
    ones << (2 * first)
}

/// The states of a page's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct States(Box<[u64]>);

impl States {
    /// All ABSENT.
    pub(super) fn new(blocks: usize) -> Self {
        Self(vec![0; blocks / WORD_BLOCKS].into())
    }

    /// Of bytes as they are in a file; their number is a multiple of 8.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty());
        Self(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// The state of all of `length` blocks from `start` on, which are in one word; `None` if they differ.
    #[inline]
    pub(super) fn uniform_in_word(&self, start: usize, length: usize) -> Option<BlockState> {
        let word = self.0[start / WORD_BLOCKS] >> (2 * (start % WORD_BLOCKS));
        let state = BlockState::of_bits(word);
        ((word ^ state.word()) & mask(0, length) == 0).then_some(state)
    }

    /// The state of block `start`, and the first block from there on, up to `end`, that has another one.
    pub(super) fn run(&self, start: usize, end: usize) -> (BlockState, usize) {
        let state = BlockState::of_bits(self.0[start / WORD_BLOCKS] >> (2 * (start % WORD_BLOCKS)));
        let mut at = start;
        while at < end {
            let first = at % WORD_BLOCKS;
            let different = (self.0[at / WORD_BLOCKS] ^ state.word()) & mask(first, WORD_BLOCKS - first);
            if different != 0 {
                at += different.trailing_zeros() as usize / 2 - first;
                break;
            }
            at += WORD_BLOCKS - first;
        }
        (state, at.min(end))
    }

    pub(super) fn set(&mut self, start: usize, length: usize, state: BlockState) {
        for (word, first, blocks) in pieces(start, length) {
            let mask = mask(first, blocks);
            self.0[word] = self.0[word] & !mask | state.word() & mask;
        }
    }
}

/// The words of a range of blocks: which, the first block in it, and how many.
fn pieces(start: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (start, start + length);
    std::iter::from_fn(move || {
        let first = at % WORD_BLOCKS;
        let blocks = (WORD_BLOCKS - first).min(end - at);
        let piece = (at / WORD_BLOCKS, first, blocks);
        at += blocks;
        (blocks > 0).then_some(piece)
    })
}

/// A set of a page's blocks.
#[derive(Debug, Clone)]
pub(super) struct BlockSet {
    /// A bit for each block, two words of states for one of these.
    words: Box<[u32]>,
    count: usize,
}

impl BlockSet {
    pub(super) fn new(blocks: usize) -> Self {
        Self { words: vec![0; blocks / WORD_BLOCKS].into(), count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    const fn mask(first: usize, blocks: usize) -> u32 {
        ((((1_u64) << blocks) - 1) as u32) << first
    }

    pub(super) fn insert(&mut self, start: usize, length: usize) {
        for (word, first, blocks) in pieces(start, length) {
            let new = Self::mask(first, blocks) & !self.words[word];
            self.words[word] |= new;
            self.count += new.count_ones() as usize;
        }
    }

    pub(super) fn remove(&mut self, start: usize, length: usize) {
        for (word, first, blocks) in pieces(start, length) {
            let old = Self::mask(first, blocks) & self.words[word];
            self.words[word] &= !old;
            self.count -= old.count_ones() as usize;
        }
    }

    /// The first range of blocks that are all in the set, within `start..end`.
    pub(super) fn first_range(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let first = self.first(start, end, 0)?;
        Some((first, self.first(first, end, u32::MAX).unwrap_or(end)))
    }

    /// The first block within `start..end` whose bit differs from those of `same`.
    fn first(&self, start: usize, end: usize, same: u32) -> Option<usize> {
        pieces(start, end - start).find_map(|(word, first, blocks)| {
            let found = (self.words[word] ^ same) & Self::mask(first, blocks);
            (found != 0).then(|| word * WORD_BLOCKS + found.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCKS: usize = 128;
    pub(super) const ALL: [BlockState; 4] =
        [BlockState::Absent, BlockState::Data, BlockState::Zero, BlockState::ZeroReserved];

    fn ranges() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
        let range = (0..BLOCKS).prop_flat_map(|start| (Just(start), 0..=BLOCKS - start, 0..4_usize));
        prop::collection::vec(range, 1..20)
    }

    proptest! {
        /// Oracle: an array of states.
        #[test]
        fn states_are_as_in_an_array(steps in ranges(), start in 0..BLOCKS, length in 1..40_usize) {
            let (mut states, mut oracle) = (States::new(BLOCKS), [BlockState::Absent; BLOCKS]);
            for (start, length, state) in steps {
                states.set(start, length, ALL[state]);
                oracle[start..start + length].fill(ALL[state]);
            }
            let end = BLOCKS.min(start + length);
            let other = oracle[start..end].iter().position(|state| *state != oracle[start]);
            prop_assert_eq!(states.run(start, end), (oracle[start], other.map_or(end, |at| start + at)));
            let end = end.min((start / 32 + 1) * 32);
            let uniform = oracle[start..end].iter().all(|state| *state == oracle[start]);
            prop_assert_eq!(states.uniform_in_word(start, end - start), uniform.then_some(oracle[start]));
            let bytes: Vec<u8> = states.words().iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(bytes[start / 4] >> (start % 4 * 2) & 3, oracle[start] as u8);
            prop_assert_eq!(States::of_bytes(&bytes), states);
        }

        /// Oracle: an array of flags.
        #[test]
        fn sets_are_as_in_an_array(steps in ranges(), start in 0..BLOCKS, length in 0..60_usize) {
            let (mut set, mut oracle) = (BlockSet::new(BLOCKS), [false; BLOCKS]);
            for (start, length, insert) in steps {
                if insert > 0 { set.insert(start, length) } else { set.remove(start, length) }
                oracle[start..start + length].fill(insert > 0);
            }
            prop_assert_eq!(set.is_empty(), !oracle.contains(&true));
            let end = BLOCKS.min(start + length);
            let first = (start..end).find(|block| oracle[*block]);
            let range = first.map(|first| (first, (first..end).find(|block| !oracle[*block]).unwrap_or(end)));
            prop_assert_eq!(set.first_range(start, end), range);
        }
    }
}
