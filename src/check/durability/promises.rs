//! What the server has promised to keep, and what was found after it was killed. Pure.

use super::super::holding::Holding;

/// A sector: what no disk tears.
const SECTOR: usize = 512;

/// What a FLUSH, or a WRITE with FUA, promised of one block, and what may be there instead.
#[derive(Debug, Clone)]
struct Promised {
    /// What has to survive.
    kept: Holding,
    /// What was there before, newest last.
    before: Vec<Holding>,
    /// What came after the promise; any part of it may be there.
    later: Vec<Holding>,
}

/// The blocks of the part of the export that is written to.
#[derive(Debug)]
pub(super) struct Promises {
    block: usize,
    blocks: Vec<Promised>,
}

/// A block that is not what was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) offset: u64,
    pub(super) what: String,
}

impl Promises {
    /// Nothing is known, and nothing promised.
    pub(super) fn new(block: u64, blocks: usize) -> Self {
        let nothing = Promised { kept: Holding::Unknown, before: Vec::new(), later: Vec::new() };
        Self { block: block as usize, blocks: vec![nothing; blocks] }
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A change of some blocks was sent, and perhaps answered.
    pub(super) fn change(&mut self, first: usize, count: usize, holding: Holding) {
        for block in &mut self.blocks[first..first + count] {
            block.later.push(holding);
        }
    }

    /// The last change of these blocks has to survive from now on.
    pub(super) fn promise(&mut self, first: usize, count: usize) {
        for block in &mut self.blocks[first..first + count] {
            let Some(last) = block.later.pop() else { continue };
            block.before.push(block.kept);
            block.before.append(&mut block.later);
            block.kept = last;
        }
    }

    /// All that was changed has to survive from now on.
    pub(super) fn promise_all(&mut self) {
        self.promise(0, self.blocks.len());
    }

    /// Looks at what is there after the kill. From here on that is what is known; promises are over.
    pub(super) fn judge(&mut self, data: &[u8]) -> Option<Loss> {
        let block = self.block;
        let pairs = self.blocks.iter().zip(data.chunks(block)).enumerate();
        let lost = pairs.into_iter().find_map(|(index, (promised, found))| {
            let offset = (index * block) as u64;
            promised.judge(offset, found).map(|what| Loss { offset, what })
        });
        self.forget();
        lost
    }

    /// What is there is not known any more.
    fn forget(&mut self) {
        for block in &mut self.blocks {
            *block = Promised { kept: Holding::Unknown, before: Vec::new(), later: Vec::new() };
        }
    }
}

impl Promised {
    /// Why `found` cannot be there.
    fn judge(&self, offset: u64, found: &[u8]) -> Option<String> {
        let length = found.len();
        let kept = self.kept.bytes(offset, length)?;
        let later: Vec<_> = self.later.iter().map(|holding| holding.bytes(offset, length)).collect();
        if later.iter().any(Option::is_none) {
            return None;
        }
        let allowed: Vec<&[u8]> =
            std::iter::once(&kept[..]).chain(later.iter().flatten().map(|bytes| &bytes[..])).collect();
        let is_right = |at: usize| {
            let range = at..(at + SECTOR).min(length);
            allowed.iter().any(|bytes| bytes[range.clone()] == found[range.clone()])
        };
        let sectors: Vec<usize> = (0..length).step_by(SECTOR).collect();
        let wrong: Vec<usize> = sectors.iter().copied().filter(|at| !is_right(*at)).collect();
        let first = *wrong.first()?;
        let what = self.describe(offset, found, first);
        let how_much = match wrong.len() == sectors.len() {
            true => "it holds".to_owned(),
            false => format!(
                "it is torn: {} of its {} sectors are right; from byte {first} on it holds",
                sectors.len() - wrong.len(),
                sectors.len()
            ),
        };
        Some(format!("it has to hold {}; {how_much} {what}", self.kept))
    }

    /// What a wrong sector holds.
    fn describe(&self, offset: u64, found: &[u8], at: usize) -> String {
        let range = at..(at + SECTOR).min(found.len());
        let is = |holding: &Holding| {
            holding
                .bytes(offset, found.len())
                .is_some_and(|bytes| bytes[range.clone()] == found[range.clone()])
        };
        match self.before.iter().rev().find(|holding| is(holding)) {
            Some(old) => format!("{old}, which was there before"),
            None if found[range.clone()].iter().all(|byte| *byte == 0) => {
                "zeroes, which nobody wrote".to_owned()
            }
            None => format!("{:02x?}..., which is not from this run", &found[at..(at + 8).min(found.len())]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;

    fn bytes(version: u64) -> Vec<u8> {
        Holding::Version(version).bytes(0, BLOCK).unwrap()
    }

    /// Version 1, then version 2, which is promised, then version 3, which is not.
    fn promises() -> Promises {
        let mut promises = Promises::new(BLOCK as u64, 1);
        promises.change(0, 1, Holding::Version(1));
        promises.change(0, 1, Holding::Version(2));
        promises.promise_all();
        promises.change(0, 1, Holding::Version(3));
        promises
    }

    fn judged(data: &[u8]) -> Option<String> {
        promises().judge(data).map(|loss| loss.what)
    }

    #[test]
    fn what_was_promised_or_came_later_is_right() {
        assert_eq!(judged(&bytes(2)), None);
        assert_eq!(judged(&bytes(3)), None);
        let mixed = [&bytes(3)[..1024], &bytes(2)[1024..]].concat();
        assert_eq!(judged(&mixed), None, "the later one may be there in part");
    }

    #[test]
    fn what_was_before_is_a_loss() {
        let told = judged(&bytes(1)).unwrap();
        assert!(
            told.contains("has to hold what WRITE number 2 wrote; it holds what WRITE number 1"),
            "{told}"
        );
        let torn = [&bytes(2)[..1024], &bytes(1)[1024..]].concat();
        let told = judged(&torn).unwrap();
        assert!(told.contains("torn: 2 of its 8 sectors are right; from byte 1024 on"), "{told}");
        assert!(judged(&[0; BLOCK]).unwrap().contains("zeroes, which nobody wrote"));
        assert!(judged(&[7; BLOCK]).unwrap().contains("[07, 07"));
    }

    #[test]
    fn a_block_without_a_promise_may_hold_anything() {
        let mut promises = Promises::new(BLOCK as u64, 2);
        promises.change(0, 1, Holding::Version(1));
        promises.change(1, 1, Holding::Version(1));
        promises.promise(1, 1);
        let second = Holding::Version(1).bytes(BLOCK as u64, BLOCK).unwrap();
        assert_eq!(promises.judge(&[vec![5; BLOCK], second].concat()), None);
        let data = vec![5; 2 * BLOCK];
        let mut promises = Promises::new(BLOCK as u64, 2);
        promises.change(1, 1, Holding::Zeroes);
        promises.promise_all();
        assert_eq!(promises.judge(&data).unwrap().offset, BLOCK as u64);
        assert_eq!(promises.judge(&data), None, "what was found is not known any more");
    }
}
