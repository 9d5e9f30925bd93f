//! What each contents in packs take: the file `space` of a store.
//!
//! ```text
//!   0  header of a structure (`structure`)
//!  32  uuid of the store
//!  48  for which contents the entries are exact, as a hash; zeroes if they are estimates
//!  80  bytes of chunks in packs that something needs
//!  88  entries
//!  92  reserved
//!  96  entries, 40 bytes each: uuid of the layer, chunks of its disk, chunks and bytes that it has alone
//! ```
//!
//! A collection counts, and what it has counted is exact as long as the catalogue has the same contents. An
//! ingest estimates. Without the file nothing is lost but these figures, until the next collection: so a file
//! that cannot be read is no error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use super::catalog::{CatalogView, LayerId, MOST_ROWS};
use super::directory::{StoreDirectory, below};
use super::error::StoreError;
use super::ingest_counts::IngestCounts;
use super::structure::{begin, check, seal};

const MAGIC: [u8; 8] = *b"rnbsSPAC";
const NAME: &str = "space";
const ENTRIES_AT: usize = 96;
const ENTRY_BYTES: usize = 40;

/// What contents take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NotedSpace {
    /// Chunks of the disk that are neither zeroes nor the base's, each place on its own.
    pub(super) places: u64,
    /// Chunks of the disk that no other contents have.
    pub(super) own_chunks: u64,
    /// Bytes of packs that no other contents need, nodes among them.
    pub(super) own_bytes: u64,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpaceNotes {
    exact_for: [u8; 32],
    needed_bytes: u64,
    layers: BTreeMap<LayerId, NotedSpace>,
}

/// The contents that somebody reads, as a name. Estimates have another one.
pub(super) fn contents_name(view: &CatalogView) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for row in view.read_contents() {
        hasher.update(row.layer.0.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// `part` of `whole`, of so many bytes in all.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (u128::from(bytes) * u128::from(part) / u128::from(whole)) as u64 }
}

impl SpaceNotes {
    /// What was counted takes the place of what was known of the same layers. `exact_for` is the
    /// [`contents_name`] of what was counted; none if some packs could not be read.
    pub(super) fn take_counted(
        &mut self,
        exact_for: Option<[u8; 32]>,
        layers: BTreeMap<LayerId, NotedSpace>,
        needed_bytes: u64,
    ) {
        self.layers.extend(layers);
        (self.exact_for, self.needed_bytes) = (exact_for.unwrap_or_default(), needed_bytes);
    }

    /// Whether all figures are exact.
    pub(super) fn is_exact(&self, view: &CatalogView) -> bool {
        self.exact_for == contents_name(view) || view.all_contents().next().is_none()
    }

    pub(super) fn of(&self, layer: LayerId) -> Option<NotedSpace> {
        self.layers.get(&layer).copied()
    }

    /// Bytes of packs that something needs.
    pub(super) const fn needed_bytes(&self) -> u64 {
        self.needed_bytes
    }

    /// A layer came into packs, on contents of another one or on none. Nobody has what it wrote, as far as
    /// that is known; and what it left alone of the older contents, both have.
    pub(super) fn add_ingested(&mut self, layer: LayerId, older: Option<LayerId>, counts: &IngestCounts) {
        let IngestCounts { zeroes, known, written, written_bytes } = *counts;
        let mut places = 0;
        if let Some(older) = older.and_then(|older| self.layers.get_mut(&older)) {
            places = older.places;
            let replaced = (zeroes + known + written).min(older.own_chunks);
            older.own_bytes = share(older.own_bytes, replaced, older.own_chunks);
            older.own_chunks = replaced;
        }
        places = places.saturating_add(known + written);
        self.layers.insert(layer, NotedSpace { places, own_chunks: written, own_bytes: written_bytes });
        self.needed_bytes = self.needed_bytes.saturating_add(written_bytes);
        self.exact_for = [0; 32];
    }

    /// Forgets layers whose contents are gone.
    pub(super) fn keep_layers(&mut self, view: &CatalogView) {
        self.layers.retain(|layer, _| view.contents(*layer).is_some());
    }

    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut bytes = begin(MAGIC);
        bytes.extend(store.as_bytes());
        bytes.extend(self.exact_for);
        bytes.extend(self.needed_bytes.to_le_bytes());
        bytes.extend((self.layers.len() as u32).to_le_bytes());
        bytes.resize(ENTRIES_AT, 0);
        for (layer, space) in &self.layers {
            bytes.extend(layer.0.as_bytes());
            for number in [space.places, space.own_chunks, space.own_bytes] {
                bytes.extend(number.to_le_bytes());
            }
        }
        seal(&mut bytes);
        bytes
    }

    /// Of bytes that may be anything.
    fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = check(bytes, MAGIC).ok()?;
        if fields.array()? != *store.as_bytes() {
            return None;
        }
        let (exact_for, needed_bytes, count) = (fields.array()?, fields.u64()?, fields.u32()? as usize);
        fields.u32()?;
        if count > MOST_ROWS || fields.0.len() != count * ENTRY_BYTES {
            return None;
        }
        let mut layers = BTreeMap::new();
        for _ in 0..count {
            let layer = LayerId(Uuid::from_bytes(fields.array()?));
            let (places, own_chunks, own_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
            // Whatever the file says, what a disk has alone is a part of it.
            let own_chunks = own_chunks.min(places);
            layers.insert(layer, NotedSpace { places, own_chunks, own_bytes });
        }
        Some(Self { exact_for, needed_bytes, layers })
    }
}

impl StoreDirectory {
    /// What is noted; nothing if the notes cannot be read.
    pub(super) fn space_notes(&self, store: Uuid) -> SpaceNotes {
        let Ok(file) = below(self.root(), NAME, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) else {
            return SpaceNotes::default();
        };
        let (mut bytes, most) = (Vec::new(), (ENTRIES_AT + MOST_ROWS * ENTRY_BYTES) as u64);
        let read = File::from(file).take(most + 1).read_to_end(&mut bytes);
        read.ok().and_then(|_| SpaceNotes::decode(&bytes, store)).unwrap_or_default()
    }

    /// Replaces the notes, durably.
    pub(super) fn keep_space_notes(&self, store: Uuid, notes: &SpaceNotes) -> Result<(), StoreError> {
        self.replace(NAME, &notes.encode(store))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: Uuid = Uuid::from_u128(5);

    fn layer(number: u128) -> LayerId {
        LayerId(Uuid::from_u128(number))
    }

    proptest! {
        #[test]
        fn notes_read_as_themselves_and_nothing_else_does(
            entries in proptest::collection::vec((0..99_u128, 0..9_u64, 0..9_u64, any::<u64>()), 0..20),
            exact_for in any::<[u8; 32]>(),
            needed_bytes in any::<u64>(),
            flipped in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let entries = entries.into_iter().map(|(of, more, own_chunks, own_bytes)| {
                (layer(of), NotedSpace { places: own_chunks + more, own_chunks, own_bytes })
            });
            let notes = SpaceNotes { exact_for, needed_bytes, layers: entries.collect() };
            let mut bytes = notes.encode(STORE);
            prop_assert_eq!(SpaceNotes::decode(&bytes, STORE), Some(notes));
            prop_assert_eq!(SpaceNotes::decode(&bytes, Uuid::nil()), None);
            prop_assert_eq!(SpaceNotes::decode(&bytes[..flipped.index(bytes.len())], STORE), None);
            let at = flipped.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(SpaceNotes::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn an_ingest_leaves_to_older_contents_what_it_has_replaced() {
        let mut notes = SpaceNotes::default();
        let first = IngestCounts { zeroes: 9, known: 0, written: 100, written_bytes: 5000 };
        notes.add_ingested(layer(1), None, &first);
        let next = IngestCounts { zeroes: 1, known: 2, written: 7, written_bytes: 400 };
        notes.add_ingested(layer(2), Some(layer(1)), &next);
        let older = NotedSpace { places: 100, own_chunks: 10, own_bytes: 500 };
        let newer = NotedSpace { places: 109, own_chunks: 7, own_bytes: 400 };
        assert_eq!((notes.of(layer(1)), notes.of(layer(2))), (Some(older), Some(newer)));
        assert_eq!(notes.needed_bytes(), 5400);
    }
}
