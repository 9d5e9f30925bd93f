//! What a scrub has found, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::store::damage_notes::MOST_NOTED;

/// Damaged chunks that are told of one by one. What there is beyond them is counted.
pub(super) const MOST_TOLD: usize = MOST_NOTED;
/// Places on disks that are told of one damaged chunk or pack.
pub(super) const MOST_USES: usize = 16;
/// Places that a sentence has.
const USES_IN_WORDS: usize = 3;
/// Images and snapshots that a place has, and that a sentence has.
pub(super) const MOST_NAMES: usize = 8;
const NAMES_IN_WORDS: usize = 4;

/// Where a damaged chunk is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChunkUse {
    /// Images and snapshots, the first of them.
    pub names: Vec<String>,
    /// How many there are beyond those.
    pub more_names: usize,
    /// Bytes of their disks.
    pub start: u64,
    pub length: u64,
}

/// A chunk that does not verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedChunk {
    pub pack: u64,
    /// Which chunk of the pack.
    pub chunk: u32,
    pub hash: String,
    /// `data`, or `node` of a manifest.
    pub kind: &'static str,
    /// Bytes of the pack's file.
    pub offset: u64,
    pub length: u32,
    pub why: String,
    /// Where it is needed.
    pub uses: Vec<ChunkUse>,
    pub more_uses: u64,
    /// It was written again from a copy, and is good.
    pub repaired: bool,
}

/// A pack of which nothing can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnusablePack {
    pub pack: u64,
    pub why: String,
    pub uses: Vec<ChunkUse>,
    pub more_uses: u64,
    /// The file is not there.
    pub is_missing: bool,
}

/// See the module. Its keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Packs, chunks and bytes that were read.
    pub packs: u64,
    pub chunks: u64,
    pub bytes: u64,
    /// It went on with this pack, where an earlier one was interrupted.
    pub resumed_at: Option<u64>,
    pub damaged: Vec<DamagedChunk>,
    /// Damaged chunks that are not told of.
    pub more_damaged: u64,
    pub unusable: Vec<UnusablePack>,
    /// Sentences about bytes that nobody needs.
    pub elsewhere: Vec<String>,
}

impl ScrubReport {
    /// Chunks that were written again.
    #[must_use]
    pub fn repaired(&self) -> usize {
        self.damaged.iter().filter(|chunk| chunk.repaired).count()
    }

    /// All that is wrong, a sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let unusable =
            self.unusable.iter().map(|pack| format!("{}; {}", pack.why, needed(&pack.uses, pack.more_uses)));
        let damaged = self.damaged.iter().filter(|chunk| !chunk.repaired).map(|chunk| {
            format!(
                "pack {}: {} ({}); {}",
                chunk.pack,
                chunk.why,
                chunk.kind,
                needed(&chunk.uses, chunk.more_uses)
            )
        });
        let mut all: Vec<String> = unusable.chain(damaged).chain(self.elsewhere.iter().cloned()).collect();
        if self.more_damaged > 0 {
            all.push(format!("{} more chunks of packs are damaged: replace the disk", self.more_damaged));
        }
        all
    }

    /// Packs that are gone since, because nothing needs them any more, are nothing that is wrong.
    pub fn forget_missing(&mut self, is_listed: impl Fn(u64) -> bool) {
        self.unusable.retain(|pack| !pack.is_missing || is_listed(pack.pack));
    }
}

fn needed(uses: &[ChunkUse], more: u64) -> String {
    if uses.is_empty() {
        return "no image needs it now".to_owned();
    }
    let mut text = "it is needed for ".to_owned();
    for (number, place) in uses.iter().take(USES_IN_WORDS).enumerate() {
        let names =
            place.names.iter().take(NAMES_IN_WORDS).map(String::as_str).collect::<Vec<_>>().join(", ");
        let rest = place.names.len().saturating_sub(NAMES_IN_WORDS) + place.more_names;
        let others = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let (comma, end) = (if number > 0 { "; " } else { "" }, place.start.saturating_add(place.length));
        let _always = write!(text, "{comma}bytes {} to {end} of {names}{others}", place.start);
    }
    let left = more + uses.len().saturating_sub(USES_IN_WORDS) as u64;
    if left > 0 {
        let _always = write!(text, ", and in {left} more places");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(start: u64, names: usize) -> ChunkUse {
        let names = (0..names).map(|number| format!("vm{number}")).collect();
        ChunkUse { names, more_names: 2, start, length: 10 }
    }

    #[test]
    fn sentences_are_short_however_much_there_is() {
        assert_eq!(needed(&[], 0), "no image needs it now");
        assert_eq!(needed(&[place(5, 1)], 0), "it is needed for bytes 5 to 15 of vm0 and 2 more");
        let long = needed(&[place(5, 9), place(20, 9), place(40, 9), place(60, 9)], 7);
        assert!(long.len() < 200 && long.ends_with("and in 8 more places"), "{long}");
    }

    #[test]
    fn what_was_repaired_is_no_problem_and_neither_is_what_nobody_lists() {
        let chunk = DamagedChunk {
            pack: 3,
            chunk: 1,
            hash: String::new(),
            kind: "data",
            offset: 4096,
            length: 5,
            why: "it is bad".to_owned(),
            uses: Vec::new(),
            more_uses: 0,
            repaired: true,
        };
        let pack = UnusablePack {
            pack: 4,
            why: "it is gone".to_owned(),
            uses: Vec::new(),
            more_uses: 0,
            is_missing: true,
        };
        let bad = DamagedChunk { repaired: false, ..chunk.clone() };
        let mut report = ScrubReport {
            damaged: vec![chunk, bad],
            unusable: vec![pack],
            more_damaged: 3,
            ..ScrubReport::default()
        };
        assert_eq!((report.problems().len(), report.repaired()), (3, 1));
        report.forget_missing(|number| number != 4);
        assert_eq!(report.problems().len(), 2);
    }
}
