//! What is known to be damaged, and where a scrub goes on: the file `damaged` of a store.
//!
//! ```text
//!  0  header of a structure (`structure`)
//! 32  uuid of the store
//! 48  number of the pack that the scrub goes on with; 0 if none is interrupted
//! 56  damaged chunks
//! 60  reserved
//! 64  entries, 48 bytes each: number of the pack, slot, reserved, hash
//! ```
//!
//! Without the file nothing is lost but time: the next scrub finds the same. So a file that cannot be read is
//! no error, and the last one who writes it counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::directory::{StoreDirectory, below};
use super::error::StoreError;
use super::pack::{ChunkHash, ChunkHint};
use super::structure::{begin, check, seal};

const MAGIC: [u8; 8] = *b"rnbsDAMG";
const NAME: &str = "damaged";
const ENTRIES_AT: usize = 64;
const ENTRY_BYTES: usize = 48;
/// Damaged chunks that are noted. A medium with more of them is not repaired chunk by chunk.
pub(super) const MOST_NOTED: usize = 1 << 16;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DamageNotes {
    /// The pack that the scrub goes on with.
    pub(super) next: u64,
    chunks: BTreeMap<(u64, u32), ChunkHash>,
}

impl DamageNotes {
    /// Notes a chunk, if there is room.
    pub(super) fn add(&mut self, at: ChunkHint, hash: ChunkHash) {
        if self.chunks.len() < MOST_NOTED {
            self.chunks.insert((at.pack, at.slot), hash);
        }
    }

    /// Whether a chunk is damaged, as far as that is known.
    pub(super) fn has(&self, at: &ChunkHint) -> bool {
        self.chunks.contains_key(&(at.pack, at.slot))
    }

    /// It is good again, or gone; whether it was noted.
    pub(super) fn remove(&mut self, at: &ChunkHint) -> bool {
        self.chunks.remove(&(at.pack, at.slot)).is_some()
    }

    /// Forgets what it has of packs that are not `listed`.
    pub(super) fn keep_packs(&mut self, listed: impl Fn(u64) -> bool) {
        self.chunks.retain(|(pack, _), _| listed(*pack));
    }

    /// The chunks of a pack, by slots.
    pub(super) fn of_pack(&self, pack: u64) -> Vec<ChunkHint> {
        self.chunks.range((pack, 0)..=(pack, u32::MAX)).map(|((pack, slot), _)| hint(*pack, *slot)).collect()
    }

    pub(super) fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut bytes = begin(MAGIC);
        bytes.extend(store.as_bytes());
        bytes.extend(self.next.to_le_bytes());
        bytes.extend((self.chunks.len() as u32).to_le_bytes());
        bytes.resize(ENTRIES_AT, 0);
        for ((pack, slot), hash) in &self.chunks {
            bytes.extend(pack.to_le_bytes());
            bytes.extend(slot.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(hash.0);
        }
        seal(&mut bytes);
        bytes
    }

    /// Of bytes that may be anything.
    pub(super) fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = check(bytes, MAGIC).ok()?;
        if fields.array()? != *store.as_bytes() {
            return None;
        }
        let (next, count) = (fields.u64()?, fields.u32()? as usize);
        fields.u32()?;
        if count > MOST_NOTED || fields.0.len() != count * ENTRY_BYTES {
            return None;
        }
        let mut chunks = BTreeMap::new();
        for _ in 0..count {
            let (pack, slot) = (fields.u64()?, fields.u32()?);
            fields.u32()?;
            chunks.insert((pack, slot), ChunkHash(fields.array()?));
        }
        Some(Self { next, chunks })
    }
}

fn hint(pack: u64, slot: u32) -> ChunkHint {
    ChunkHint { pack, slot }
}

impl StoreDirectory {
    /// What is noted; nothing if the notes cannot be read.
    pub(super) fn damage_notes(&self, store: Uuid) -> DamageNotes {
        let file = match below(self.root(), NAME, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return DamageNotes::default(),
            Err(error) => {
                tracing::warn!(%error, "what is known to be damaged in a store cannot be read: check it again");
                return DamageNotes::default();
            }
        };
        let (mut bytes, most) = (Vec::new(), (ENTRIES_AT + MOST_NOTED * ENTRY_BYTES) as u64);
        let read = file.take(most + 1).read_to_end(&mut bytes);
        read.ok().and_then(|_| DamageNotes::decode(&bytes, store)).unwrap_or_else(|| {
            tracing::warn!("what is known to be damaged in a store cannot be read: check it again");
            DamageNotes::default()
        })
    }

    /// Replaces the notes, durably.
    pub(super) fn keep_damage_notes(&self, store: Uuid, notes: &DamageNotes) -> Result<(), StoreError> {
        self.replace(NAME, &notes.encode(store))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: Uuid = Uuid::from_u128(5);

    fn notes(chunks: &[(u64, u32)], next: u64) -> DamageNotes {
        let mut notes = DamageNotes { next, ..DamageNotes::default() };
        chunks.iter().for_each(|(pack, slot)| notes.add(hint(*pack, *slot), ChunkHash([*slot as u8; 32])));
        notes
    }

    proptest! {
        #[test]
        fn notes_read_as_themselves_and_nothing_else_does(
            chunks in proptest::collection::vec((0..9_u64, 0..9_u32), 0..20),
            next in any::<u64>(),
            flipped in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let notes = notes(&chunks, next);
            let mut bytes = notes.encode(STORE);
            prop_assert_eq!(DamageNotes::decode(&bytes, STORE), Some(notes));
            prop_assert_eq!(DamageNotes::decode(&bytes, Uuid::nil()), None);
            prop_assert_eq!(DamageNotes::decode(&bytes[..flipped.index(bytes.len())], STORE), None);
            let at = flipped.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(DamageNotes::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn notes_have_an_end() {
        let mut all = DamageNotes::default();
        (0..MOST_NOTED as u32 + 5).for_each(|slot| all.add(hint(1, slot), ChunkHash([0; 32])));
        assert_eq!(all.of_pack(1).len(), MOST_NOTED);
        assert_eq!(DamageNotes::decode(&all.encode(STORE), STORE), Some(all.clone()));
        assert!(all.remove(&hint(1, 3)) && !all.has(&hint(1, 3)) && all.has(&hint(1, 4)));
        all.keep_packs(|pack| pack != 1);
        assert_eq!(all, DamageNotes::default());
    }
}
