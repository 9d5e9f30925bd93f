//! Content that tells where and when it was written: each unit of 512 bytes carries its seed, its offset and
//! its generation.

use std::fmt;

use crate::random::{STEP, mixed};

/// Bytes of one unit: what every device writes as a whole.
pub const UNIT: usize = 512;
/// The first eight bytes of a unit.
const MAGIC: u64 = u64::from_le_bytes(*b"rnbdload");

/// What a unit says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Of the run that wrote it.
    pub seed: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Counts the writes of its block, from 1.
    pub generation: u32,
}

impl Stamp {
    fn word(&self, index: usize, filler: u64) -> u64 {
        match index {
            0 => MAGIC,
            1 => self.seed,
            2 => self.offset,
            3 => self.generation.into(),
            _ => filler.wrapping_add((index as u64).wrapping_mul(STEP)),
        }
    }

    /// Differs in every word of the filler from that of any other stamp, but for one chance in 2^64.
    fn filler(&self) -> u64 {
        mixed(mixed(self.seed ^ mixed(self.offset)) ^ u64::from(self.generation))
    }

    /// Fills a unit.
    fn write(&self, unit: &mut [u8]) {
        let filler = self.filler();
        for (index, word) in unit.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.word(index, filler).to_le_bytes());
        }
    }

    /// True if a unit is as this stamp writes it.
    fn is_on(&self, unit: &[u8]) -> bool {
        let filler = self.filler();
        unit.chunks_exact(8).enumerate().all(|(index, word)| word == self.word(index, filler).to_le_bytes())
    }
}

/// Fills `bytes`, whole units, with the content of a generation at `offset`.
pub(crate) fn fill(bytes: &mut [u8], stamp: Stamp) {
    for (index, unit) in bytes.chunks_exact_mut(UNIT).enumerate() {
        Stamp { offset: stamp.offset + (index * UNIT) as u64, ..stamp }.write(unit);
    }
}

/// What stands in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitContent {
    /// A whole unit of some run.
    Stamped(Stamp),
    /// The fields of a unit, with other bytes behind them.
    Damaged(Stamp),
    /// Zeroes.
    Zeroes,
    /// Anything else, with its first eight bytes.
    Unknown([u8; 8]),
}

impl UnitContent {
    fn of(unit: &[u8]) -> Self {
        let word = |index: usize| u64::from_le_bytes(*unit[index * 8..].first_chunk().expect("a whole unit"));
        if unit.iter().all(|byte| *byte == 0) {
            return Self::Zeroes;
        }
        let generation = u32::try_from(word(3));
        let (MAGIC, Ok(generation)) = (word(0), generation) else {
            return Self::Unknown(*unit.first_chunk().expect("a whole unit"));
        };
        let stamp = Stamp { seed: word(1), offset: word(2), generation };
        if stamp.is_on(unit) { Self::Stamped(stamp) } else { Self::Damaged(stamp) }
    }
}

impl fmt::Display for UnitContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = |f: &mut fmt::Formatter<'_>, Stamp { seed, offset, generation }: &Stamp| {
            write!(f, "generation {generation} of offset {offset}, seed {seed:#x}")
        };
        match self {
            Self::Stamped(found) => stamp(f, found),
            Self::Damaged(found) => {
                f.write_str("damaged bytes that began as ")?;
                stamp(f, found)
            }
            Self::Zeroes => f.write_str("zeroes"),
            Self::Unknown(bytes) => write!(f, "bytes of no run ({} ...)", bytes.escape_ascii()),
        }
    }
}

/// How a block is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// All of it is an older generation: the last write is lost, or an old copy was read.
    Stale,
    /// Parts of it are right, or its parts are of different generations.
    Torn,
    /// It is the content of another place.
    Swapped,
    /// It was written with another seed: by another run.
    Foreign,
    /// Nothing of it was ever written here: the write is lost.
    Lost,
    /// Bytes that no run wrote.
    Corrupt,
}

impl Wrong {
    /// One word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Torn => "torn",
            Self::Swapped => "swapped",
            Self::Foreign => "foreign",
            Self::Lost => "lost",
            Self::Corrupt => "corrupt",
        }
    }
}

/// A block that is not what was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub wrong: Wrong,
    /// Of the first wrong unit, with what it should be.
    pub expected: Stamp,
    /// In the first wrong unit.
    pub found: UnitContent,
    /// Units of the block.
    pub units: usize,
    pub wrong_units: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wrong, expected, found, units, wrong_units } = self;
        write!(
            f,
            "{} block at offset {}: expected generation {} of seed {:#x}, found {found} ({wrong_units} of {units} units of 512 bytes \
             are wrong)",
            wrong.name(),
            expected.offset,
            expected.generation,
            expected.seed,
        )
    }
}

/// Checks that `bytes`, whole units, are the content of `expected`.
///
/// # Errors
/// [`Mismatch`], with the first wrong unit.
pub(crate) fn check(bytes: &[u8], expected: Stamp) -> Result<(), Box<Mismatch>> {
    let at = |index: usize| Stamp { offset: expected.offset + (index * UNIT) as u64, ..expected };
    let units = || bytes.chunks_exact(UNIT).enumerate();
    if units().all(|(index, unit)| at(index).is_on(unit)) {
        return Ok(());
    }
    let found: Vec<UnitContent> = units().map(|(_, unit)| UnitContent::of(unit)).collect();
    let is_right = |index: usize| found[index] == UnitContent::Stamped(at(index));
    let first = (0..found.len()).find(|index| !is_right(*index)).expect("one is wrong");
    let wrong_units = (0..found.len()).filter(|index| !is_right(*index)).count();
    let wrong = classify(&found, &at, wrong_units);
    Err(Box::new(Mismatch {
        wrong,
        expected: at(first),
        found: found[first],
        units: found.len(),
        wrong_units,
    }))
}

fn classify(found: &[UnitContent], at: &impl Fn(usize) -> Stamp, wrong_units: usize) -> Wrong {
    if wrong_units < found.len() {
        return Wrong::Torn;
    }
    let mut kinds = found.iter().enumerate().map(|(index, found)| match found {
        UnitContent::Stamped(stamp) if stamp.seed != at(index).seed => (Wrong::Foreign, 0),
        UnitContent::Stamped(stamp) if stamp.offset != at(index).offset => (Wrong::Swapped, 0),
        UnitContent::Stamped(stamp) if stamp.generation < at(index).generation => {
            (Wrong::Stale, stamp.generation)
        }
        UnitContent::Zeroes => (Wrong::Lost, 0),
        _ => (Wrong::Corrupt, 0),
    });
    let first = kinds.next().expect("a block has units");
    // Different generations, or old content beside none, are halves of different writes.
    if kinds.all(|kind| kind == first) { first.0 } else { Wrong::Torn }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { seed: 9, offset: 8192, generation: 3 };
    const BLOCK: usize = 8 * UNIT;

    fn block(stamp: Stamp) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        fill(&mut bytes, stamp);
        bytes
    }

    #[track_caller]
    fn wrong(bytes: &[u8]) -> (Wrong, u64, usize) {
        let mismatch = *check(bytes, STAMP).unwrap_err();
        (mismatch.wrong, mismatch.expected.offset, mismatch.wrong_units)
    }

    #[test]
    fn what_was_filled_is_right() {
        assert_eq!(check(&block(STAMP), STAMP), Ok(()));
    }

    #[test]
    fn each_kind_of_wrong_content_has_its_name() {
        let older = block(Stamp { generation: 2, ..STAMP });
        assert_eq!(wrong(&older), (Wrong::Stale, 8192, 8));
        assert_eq!(wrong(&block(Stamp { offset: 0, ..STAMP })), (Wrong::Swapped, 8192, 8));
        assert_eq!(wrong(&block(Stamp { seed: 8, ..STAMP })), (Wrong::Foreign, 8192, 8));
        assert_eq!(wrong(&[0; BLOCK]), (Wrong::Lost, 8192, 8));
        assert_eq!(wrong(&[7; BLOCK]), (Wrong::Corrupt, 8192, 8));
        // A generation that was never written is no old copy.
        assert_eq!(wrong(&block(Stamp { generation: 4, ..STAMP })), (Wrong::Corrupt, 8192, 8));
    }

    #[test]
    fn a_block_of_two_writes_is_torn_wherever_it_is_torn() {
        let (new, old) = (block(STAMP), block(Stamp { generation: 2, ..STAMP }));
        for at in 1..BLOCK {
            let torn = [&new[..at], &old[at..]].concat();
            // The fields of a unit are the same in both but for the generation, whose upper bytes are zero.
            if torn == new {
                continue;
            }
            let (kind, offset, _) = wrong(&torn);
            assert_eq!(offset, 8192 + (at / UNIT * UNIT) as u64, "torn at {at}");
            // In the first unit no unit is right any more; if all its fields are new, it can also be taken
            // for damaged.
            assert!(kind == Wrong::Torn || at < UNIT, "{kind:?}, torn at {at}");
        }
        let reverse = [&old[..2 * UNIT], &new[2 * UNIT..]].concat();
        assert_eq!(wrong(&reverse), (Wrong::Torn, 8192, 2));
        let three = [&old[..UNIT], &block(Stamp { generation: 1, ..STAMP })[UNIT..]].concat();
        assert_eq!(wrong(&three).0, Wrong::Torn, "two old generations");
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_told() {
        let right = block(STAMP);
        for bit in (0..BLOCK * 8).step_by(37) {
            let mut bytes = right.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let unit = bit / 8 / UNIT;
            assert_eq!(wrong(&bytes), (Wrong::Torn, 8192 + (unit * UNIT) as u64, 1), "bit {bit}");
        }
    }

    #[test]
    fn the_text_tells_what_was_expected_and_found() {
        let text = check(&block(Stamp { generation: 2, ..STAMP }), STAMP).unwrap_err().to_string();
        let expected = "stale block at offset 8192: expected generation 3 of seed 0x9, found generation 2 of offset 8192, \
                        seed 0x9 (8 of 8 units of 512 bytes are wrong)";
        assert_eq!(text, expected);
        assert_eq!(UnitContent::of(&[0; UNIT]).to_string(), "zeroes");
        assert_eq!(UnitContent::of(&[b'a'; UNIT]).to_string(), "bytes of no run (aaaaaaaa ...)");
    }
}
