//! Where chunks of a disk lie in packs that the shard reads by itself.
//!
//! A table of bounded size that forgets: what is not in it is read in the way that finds everything.

use crate::block::ByteRange;

/// Packs that an image reads at once in this way.
pub(super) const MOST_PACKS: usize = 64;
/// Chunks that it knows: those of 4 GiB of a disk. A power of two.
const MOST_PLACES: usize = 1 << 16;
/// Chunks that follow each other in a pack and are read as one.
const MOST_JOINED: u64 = 16;

/// The number of no pack.
const NOWHERE: u64 = u64::MAX;

/// A chunk of the disk, and where it is.
#[derive(Debug, Clone)]
struct KnownChunk {
    chunk: u64,
    /// The number of the pack, and where in the table of packs it was.
    number: u64,
    pack: usize,
    offset: u64,
    /// The checksums of its pages, if each read is verified by them.
    checksums: Option<Box<[u32]>>,
}

/// Bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackSpot {
    pack: usize,
    /// Where they begin in its file.
    pub(super) offset: u64,
}

impl PackSpot {
    /// Where the file has a part of the disk that begins there.
    pub(super) fn range(self, part: ByteRange) -> ByteRange {
        ByteRange::new(self.offset, part.length()).expect("it lies in a file")
    }
}

/// See the module; `P` is an open pack. A place whose pack is not there any more counts for nothing.
pub(super) struct PackPlaces<P> {
    /// By the number of the chunk, as far as the table is long: none, or a power of two.
    places: Vec<Option<KnownChunk>>,
    packs: Vec<Option<(u64, P)>>,
    /// The pack that goes when there are too many.
    next: usize,
}

impl<P> Default for PackPlaces<P> {
    fn default() -> Self {
        Self { places: Vec::new(), packs: Vec::new(), next: 0 }
    }
}

impl<P> PackPlaces<P> {
    fn index(&self, chunk: u64) -> usize {
        (chunk & (self.places.len() as u64).wrapping_sub(1)) as usize
    }

    #[inline]
    fn find(&self, chunk: u64) -> Option<&KnownChunk> {
        self.places.get(self.index(chunk))?.as_ref().filter(|place| place.chunk == chunk)
    }

    #[inline]
    fn get(&self, chunk: u64) -> Option<&KnownChunk> {
        let place = self.find(chunk)?;
        let (number, _) = self.packs.get(place.pack)?.as_ref()?;
        (*number == place.number).then_some(place)
    }

    /// Whether a chunk is known to lie in no pack as it is.
    fn is_nowhere(&self, chunk: u64) -> bool {
        self.find(chunk).is_some_and(|place| place.number == NOWHERE)
    }

    /// Whether whoever reads a chunk anew learns nothing.
    pub(super) fn is_settled(&self, chunk: u64) -> bool {
        self.is_nowhere(chunk) || self.get(chunk).is_some()
    }

    /// What is known of the disk from a byte on, up to `end` at most: how far it goes in one piece, and where
    /// it is.
    #[inline]
    pub(super) fn run(&self, at: u64, end: u64, chunk_bytes: u64) -> Option<(u64, PackSpot)> {
        let first = at / chunk_bytes;
        let place = self.get(first)?;
        let mut until = (first + 1) * chunk_bytes;
        while until < end && until / chunk_bytes - first < MOST_JOINED {
            let behind = place.offset + (until - first * chunk_bytes);
            match self.get(until / chunk_bytes) {
                Some(next) if next.number == place.number && next.offset == behind => until += chunk_bytes,
                _ => break,
            }
        }
        Some((until.min(end), PackSpot { pack: place.pack, offset: place.offset + at % chunk_bytes }))
    }

    /// The checksums of the pages of a chunk.
    pub(super) fn checksums(&self, chunk: u64) -> Option<&[u32]> {
        self.get(chunk)?.checksums.as_deref()
    }

    /// The pack of what [`PackPlaces::run`] has found.
    pub(super) fn pack(&self, spot: PackSpot) -> Option<&P> {
        self.packs[spot.pack].as_ref().map(|(_, pack)| pack)
    }

    /// All packs.
    pub(super) fn packs(&self) -> impl Iterator<Item = &P> {
        self.packs.iter().flatten().map(|(_, pack)| pack)
    }

    /// Learns where a chunk is. `open` is asked for its pack if that is not here; without it nothing is
    /// learnt.
    pub(super) fn learn(
        &mut self,
        (chunk, number, offset): (u64, u64, u64),
        checksums: Option<Box<[u32]>>,
        open: impl FnOnce() -> Option<P>,
    ) {
        let known = self.packs.iter().position(|pack| pack.as_ref().is_some_and(|(of, _)| *of == number));
        let Some(pack) = known.or_else(|| Some(self.take_in(number, open()?))) else { return };
        self.put(KnownChunk { chunk, number, pack, offset, checksums });
    }

    /// Learns that a chunk lies in no pack as it is.
    pub(super) fn learn_nowhere(&mut self, chunk: u64) {
        self.put(KnownChunk { chunk, number: NOWHERE, pack: usize::MAX, offset: 0, checksums: None });
    }

    fn put(&mut self, place: KnownChunk) {
        self.make_room(place.chunk);
        let index = self.index(place.chunk);
        self.places[index] = Some(place);
    }

    fn take_in(&mut self, number: u64, pack: P) -> usize {
        let free = self.packs.iter().position(Option::is_none);
        let at = match free {
            Some(free) => free,
            None if self.packs.len() < MOST_PACKS => {
                self.packs.push(None);
                self.packs.len() - 1
            }
            None => {
                self.next = (self.next + 1) % MOST_PACKS;
                self.next
            }
        };
        self.packs[at] = Some((number, pack));
        at
    }

    /// Makes the table longer as long as another chunk is where this one belongs.
    fn make_room(&mut self, chunk: u64) {
        while self.places.len() < MOST_PLACES
            && self.places.get(self.index(chunk)).is_none_or(|place| {
                place.as_ref().is_some_and(|other| other.chunk != chunk && self.is_settled(other.chunk))
            })
        {
            let longer = (2 * self.places.len()).max(64);
            let before = std::mem::replace(&mut self.places, vec![None; longer]);
            for place in before.into_iter().flatten() {
                let index = self.index(place.chunk);
                self.places[index] = Some(place);
            }
        }
    }

    /// Forgets packs that are gone.
    pub(super) fn forget_packs(&mut self, packs: &[u64]) {
        for pack in &mut self.packs {
            pack.take_if(|(number, _)| packs.contains(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const CHUNK: u64 = 64 << 10;

    #[derive(Debug, Clone)]
    enum Act {
        /// So many chunks, from one of the disk on, that follow each other in a pack from a slot on.
        Learn {
            chunk: u64,
            count: u64,
            pack: u64,
            slot: u64,
        },
        ForgetPack(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        // Some that share a place in a table that is short.
        let chunk = prop_oneof![0..200u64, (0..4u64, 0..3u64).prop_map(|(low, high)| low + high * 4096)];
        let learn = (chunk, 1..20u64, 0..80u64, 0..50u64);
        prop_oneof![
            9 => learn.prop_map(|(chunk, count, pack, slot)| Act::Learn { chunk, count, pack, slot }),
            1 => (0..80u64).prop_map(Act::ForgetPack),
        ]
    }

    proptest! {
        /// It may forget, but whatever it knows is what it learnt last, in a pack that is open.
        #[test]
        fn what_is_known_is_what_was_learnt(acts in prop::collection::vec(act(), 1..200), from in 0..70_000u64) {
            let mut places = PackPlaces::default();
            let mut learnt: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Learn { chunk, count, pack, slot } => {
                        for at in 0..count {
                            let offset = 4096 + (slot + at) * CHUNK;
                            places.learn((chunk + at, pack, offset), None, || Some(pack));
                            learnt.insert(chunk + at, (pack, offset));
                            let (_, spot) = places.run((chunk + at) * CHUNK, u64::MAX, CHUNK).unwrap();
                            prop_assert_eq!(spot.offset, offset, "it was learnt this moment");
                        }
                    }
                    Act::ForgetPack(pack) => {
                        places.forget_packs(&[pack]);
                        prop_assert!(places.packs().all(|open| *open != pack));
                        learnt.retain(|_, (of, _)| *of != pack);
                    }
                }
                prop_assert!(places.packs().count() <= MOST_PACKS);
                prop_assert!(places.places.len() <= MOST_PLACES);
            }
            for &chunk in learnt.keys() {
                let (at, end) = (chunk * CHUNK + from % CHUNK, chunk * CHUNK + from % CHUNK + from + 1);
                let Some((until, spot)) = places.run(at, end, CHUNK) else { continue };
                prop_assert!(until > at && until <= end);
                let pack = *places.pack(spot).unwrap();
                for byte in [at, until - 1] {
                    let place = (pack, spot.offset + (byte - at) - byte % CHUNK);
                    prop_assert_eq!(learnt[&(byte / CHUNK)], place);
                }
            }
        }
    }

    #[test]
    fn few_chunks_take_little_room_and_many_take_no_more_than_that() {
        let mut places = PackPlaces::default();
        (0..64).for_each(|chunk| places.learn((chunk, 1, chunk * CHUNK), None, || Some(())));
        assert_eq!(places.places.len(), 64);
        (0..300_000).for_each(|chunk| places.learn((chunk, 1, chunk % 4096 * CHUNK), None, || Some(())));
        assert_eq!(places.places.len(), MOST_PLACES);
        assert!(places.run(299_999 * CHUNK, u64::MAX, CHUNK).is_some());
        places.learn((7, 2, 4096), None, || None);
        assert!(places.run(7 * CHUNK, u64::MAX, CHUNK).is_none(), "its pack could not be opened");
        assert!(!places.is_nowhere(7) && !places.is_nowhere(299_999));
        places.learn_nowhere(299_999);
        assert!(places.is_nowhere(299_999) && places.run(299_999 * CHUNK, u64::MAX, CHUNK).is_none());
    }
}
