//! What the map should say: plain arrays. It reads records with a few lines of its own.

use std::collections::VecDeque;

use crate::store::map::{BlockState, FileWrite};

pub(super) const ALL: [BlockState; 4] =
    [BlockState::Absent, BlockState::Data, BlockState::Zero, BlockState::ZeroReserved];

pub(super) type Picture = Vec<BlockState>;

/// A record that is under way: its write, and the states after it.
pub(super) struct InFlight {
    pub(super) write: FileWrite,
    pub(super) after: Picture,
}

pub(super) struct Model {
    /// What requests see.
    pub(super) current: Picture,
    /// The step in which a block came to differ from what any record has.
    pub(super) pending: Vec<Option<u64>>,
    /// After the last durable record, and after the one before it.
    pub(super) durable: Picture,
    pub(super) before: Option<(FileWrite, Picture)>,
    pub(super) in_flight: VecDeque<InFlight>,
}

/// The runs of a record, and its sizes, as the page of the format says: first block, length, state.
pub(super) fn parse(record: &[u8]) -> (Vec<(usize, usize, usize)>, u64, u64) {
    let number = |at: usize, bytes: usize| {
        record[at..at + bytes].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let runs = (0..number(84, 4) as usize).map(|run| {
        let at = 128 + run * 8;
        let word = number(at, 8);
        ((number(at, 5)) as usize, ((word >> 40) % (1 << 22)) as usize + 1, (word >> 62) as usize)
    });
    (runs.collect(), number(88, 8), number(96, 8))
}

impl Model {
    pub(super) fn new(states: Picture) -> Self {
        Self {
            pending: vec![None; states.len()],
            durable: states.clone(),
            current: states,
            before: None,
            in_flight: VecDeque::new(),
        }
    }

    pub(super) fn change(&mut self, step: u64, start: usize, length: usize, state: BlockState) {
        for block in start..start + length {
            if self.current[block] != state {
                self.current[block] = state;
                self.pending[block].get_or_insert(step);
            }
        }
    }

    pub(super) fn has_pending(&self, start: usize, end: usize) -> bool {
        let differs = |block: usize| {
            let last = self.in_flight.back().map_or(&self.durable, |record| &record.after);
            self.pending[block].is_some() || last.get(block) != self.durable.get(block)
        };
        (start..end).any(differs)
    }

    /// A record was made, of blocks from `start` to `end` only.
    pub(super) fn taken(
        &mut self,
        write: &FileWrite,
        start: usize,
        end: usize,
        block: u64,
    ) -> Result<(), String> {
        let mut after = self.in_flight.back().map_or(&self.durable, |record| &record.after).clone();
        let (runs, old, new) = parse(&write.bytes);
        for (first, length, state) in runs {
            let places = first..first + length;
            if places.end > after.len() {
                return Err(format!("blocks {places:?} are beyond the disk"));
            }
            for (place, after) in after.iter_mut().enumerate().take(places.end).skip(first) {
                if !(start..end).contains(&place) {
                    return Err(format!("block {place} is a neighbour of {start} to {end}"));
                }
                // Beyond the smallest size ABSENT is ZERO, so a change from one to the other is none here.
                if self.pending[place].take().is_none() && *after != ALL[state] {
                    return Err(format!("block {place} is in a record and was not pending"));
                }
                if self.current[place] != ALL[state] {
                    return Err(format!("block {place} is in a record as {:?}", ALL[state]));
                }
                *after = ALL[state];
            }
        }
        if old != new {
            after.resize(new.div_ceil(block) as usize, BlockState::Zero);
        }
        self.in_flight.push_back(InFlight { write: write.clone(), after });
        Ok(())
    }

    /// The first record under way is durable.
    pub(super) fn ended(&mut self) {
        let record = self.in_flight.pop_front().expect("one is under way");
        if record.after.len() != self.current.len() {
            self.current.resize(record.after.len(), BlockState::Zero);
            self.pending.resize(record.after.len(), None);
        }
        let before = std::mem::replace(&mut self.durable, record.after);
        self.before = Some((record.write, before));
    }

    /// The layer was opened again, with these states, which it may have.
    pub(super) fn restarted(&mut self, states: Picture) {
        while self.durable != states && !self.in_flight.is_empty() {
            self.ended();
        }
        let before = self.before.take();
        *self = Self { before, ..Self::new(states) };
    }

    /// Whether a layer that was opened after a cut may have these states.
    pub(super) fn allows(&self, states: &Picture) -> bool {
        states == &self.durable || self.in_flight.iter().any(|record| states == &record.after)
    }

    /// The same if a bit at `byte` of the file was flipped: the last record may be taken for a torn one.
    pub(super) fn allows_with_flip(&self, states: &Picture, byte: usize) -> bool {
        let is_lost = |(write, before): &(FileWrite, Picture)| {
            let start = write.offset as usize;
            (start..start + write.bytes.len()).contains(&byte) && before == states
        };
        self.allows(states) || self.before.as_ref().is_some_and(is_lost)
    }
}
