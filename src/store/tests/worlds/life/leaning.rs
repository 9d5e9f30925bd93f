//! What a world does more often than others: acts that show something only one after the other. Other acts
//! come between them, and the end of a life at any step.

use super::super::disk::WRITTEN;
use super::{Act, BLOCKS, CHUNK_BLOCKS, MARK, MOST_NODES, World};
use crate::random::Random;

/// What is shown that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaning {
    Nothing,
    /// Contents come and go, and packs with them.
    Collecting,
    /// Packs of which a little is needed are copied, and looked at meanwhile.
    Copying,
    /// Lives end while disks come into packs.
    Interrupted,
    /// Somebody reads contents that go.
    Reading,
    /// Disks with contents are cut, and grow again.
    Resizing,
    /// Layers become one that snapshots without contents stand on.
    Marking,
}

impl Leaning {
    pub(super) fn random(random: &mut Random) -> Self {
        random.pick(&[
            Self::Nothing,
            Self::Nothing,
            Self::Collecting,
            Self::Copying,
            Self::Interrupted,
            Self::Reading,
            Self::Resizing,
            Self::Marking,
        ])
    }

    /// How often an act is one of these.
    const fn probability(self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Collecting | Self::Reading => 0.4,
            Self::Copying | Self::Interrupted | Self::Resizing | Self::Marking => 0.7,
        }
    }

    /// Lives of a world: the fewest and the most.
    pub(super) const fn lives(self) -> (u64, u64) {
        if matches!(self, Self::Interrupted) { (4, 9) } else { (2, 5) }
    }

    /// After how many changes of files a life ends at most: one of these.
    pub(super) const fn ends(self) -> [u64; 4] {
        match self {
            Self::Interrupted => [60, 120, 240, 480],
            _ => [100, 300, 1000, 3000],
        }
    }
}

impl World {
    pub(super) fn leans_now(&mut self) -> bool {
        let probability = self.leaning.probability();
        probability > 0.0 && self.random.chance(probability)
    }

    pub(super) fn propose_as_it_leans(
        &mut self,
        (images, snapshots): (&[String], &[String]),
        has_packs: bool,
    ) -> Option<Act> {
        while let Some(act) = self.intent.pop() {
            if self.can_do(&act, has_packs) {
                return Some(act);
            }
        }
        let (serial, act) = (self.serial, self.random.below(10));
        let (image, has_room) = (self.pick(images)?, self.disks.len() < MOST_NODES);
        let checkpoint = |image: &str| Act::Checkpoint(format!("{image}@s{serial}"));
        Some(match (self.leaning, act) {
            (Leaning::Collecting, 0..2) if has_room => checkpoint(&image),
            (Leaning::Collecting, 2..4) => Act::Remove(self.pick(snapshots)?),
            (Leaning::Collecting, _) if self.collection.is_some() => Act::CollectionStep,
            (Leaning::Collecting, _) if has_packs => Act::BeginCollection,
            (Leaning::Copying, _) => match &self.collection {
                Some(collection) if collection.found().bytes_copied > 0 && act < 3 => Act::Look,
                Some(_) => Act::CollectionStep,
                None if !has_room => Act::Remove(self.pick(snapshots)?),
                None => self.intend_copies(&image),
            },
            (Leaning::Interrupted, 0..2) => self.propose_write(images)?,
            (Leaning::Interrupted, 2) if has_room => Act::Snapshot(vec![format!("{image}@s{serial}")]),
            (Leaning::Interrupted, 2) => Act::Remove(self.pick(snapshots)?),
            (Leaning::Interrupted, _) if self.ingest.is_some() => Act::IngestStep,
            (Leaning::Interrupted, _) => Act::BeginIngest(self.due_layer()?),
            (Leaning::Reading, 0..3) if has_room => checkpoint(&image),
            (Leaning::Reading, 3..5) => Act::Hold(self.pick(snapshots)?),
            (Leaning::Reading, 5..7) => Act::Remove(self.pick(snapshots)?),
            (Leaning::Reading, 7) => Act::Remove(image),
            (Leaning::Reading, 8) => Act::Collect,
            (Leaning::Reading, _) => Act::Look,
            (Leaning::Resizing, 0..8) if has_room => self.intend_cut(&image),
            (Leaning::Resizing, _) => Act::Remove(self.pick(snapshots)?),
            (Leaning::Marking, 0..8) if has_room => self.intend_marks(&image),
            (Leaning::Marking, _) => Act::Remove(self.pick(snapshots)?),
            _ => return None,
        })
    }

    /// Whether an act of earlier makes sense still.
    fn can_do(&self, act: &Act, has_packs: bool) -> bool {
        let has_image = |node: &str| self.disks.contains_key(node.split('@').next().expect("one part"));
        let has_room = self.disks.len() < MOST_NODES;
        match act {
            Act::Write { image, blocks, .. } => {
                self.disks.get(image).is_some_and(|disk| disk.len() >= blocks.end)
            }
            Act::Checkpoint(node) => has_room && has_image(node),
            Act::Mark(nodes) => has_room && nodes.iter().all(|node| has_image(node)),
            Act::Remove(node) => self.disks.contains_key(node),
            Act::BeginCollection => self.collection.is_none() && has_packs,
            Act::Resize { image, .. } | Act::Merge(image) => has_image(image),
            _ => true,
        }
    }

    /// Intends these acts, and begins with the first.
    fn intend(&mut self, acts: Vec<Act>) -> Act {
        self.intent = acts;
        self.intent.reverse();
        self.intent.pop().expect("there is one")
    }

    /// A few blocks of a chunk: contents that no other chunk is likely to have.
    fn some_blocks_of(&mut self, image: &str, chunk: usize) -> Act {
        let size = self.disks[image].len();
        let start = (chunk * CHUNK_BLOCKS as usize + self.random.below(12) as usize).min(size - 1);
        let end = size.min(start + self.random.between(1, 3) as usize);
        let number = self.random.between(1, WRITTEN as u64 - 1) as usize;
        Act::Write { image: image.to_owned(), blocks: start..end, number }
    }

    /// A pack of which little is needed when another snapshot of the image is there.
    fn intend_copies(&mut self, image: &str) -> Act {
        let serial = self.serial;
        let chunks = self.disks[image].len().div_ceil(CHUNK_BLOCKS as usize);
        let mut acts: Vec<Act> = (0..chunks).map(|chunk| self.some_blocks_of(image, chunk)).collect();
        acts.push(Act::Checkpoint(format!("{image}@s{serial}")));
        let stays = self.random.below(chunks as u64) as usize;
        let others = (0..chunks).filter(|chunk| *chunk != stays);
        acts.extend(others.map(|chunk| self.some_blocks_of(image, chunk)));
        acts.push(Act::Checkpoint(format!("{image}@s{serial}b")));
        acts.push(Act::Remove(format!("{image}@s{serial}")));
        acts.push(Act::BeginCollection);
        self.intend(acts)
    }

    /// Contents are cut off a disk that has no head, and it grows again.
    fn intend_cut(&mut self, image: &str) -> Act {
        let (serial, image) = (self.serial, image.to_owned());
        let size = self.disks[&image].len() as u64;
        let number = self.random.between(1, WRITTEN as u64 - 1) as usize;
        let small = self.random.between(1, size) as usize;
        let large = self.random.between(small as u64, BLOCKS as u64 + 10) as usize;
        let at = self.random.below(small as u64) as usize;
        let end = size as usize;
        let acts = vec![
            Act::Write { image: image.clone(), blocks: end.saturating_sub(20)..end, number },
            Act::Checkpoint(format!("{image}@s{serial}")),
            Act::Resize { image: image.clone(), blocks: small },
            Act::Resize { image: image.clone(), blocks: large },
            Act::Write { image: image.clone(), blocks: at..at + 1, number },
            Act::Checkpoint(format!("{image}@s{serial}b")),
        ];
        self.intend(acts)
    }

    /// Layers between which there are snapshots without contents become one.
    fn intend_marks(&mut self, image: &str) -> Act {
        let mut acts = Vec::new();
        for number in 0..self.random.between(2, 3) {
            let size = self.disks[image].len() as u64;
            acts.push(self.some_blocks_of(image, (size / CHUNK_BLOCKS).min(number) as usize));
            acts.push(Act::Mark(vec![format!("{image}@{MARK}{}n{number}", self.serial)]));
        }
        acts.extend((0..self.random.between(1, 2)).map(|_| Act::Merge(image.to_owned())));
        self.intend(acts)
    }
}
