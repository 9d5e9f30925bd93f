//! The index of a store: in which pack a chunk is. It can be made anew from the footers of packs, and says
//! nothing that they do not say.
//!
//! It decides nothing. An entry may tell of a pack that is gone, so each question comes with the packs that
//! the catalogue lists, and an entry of another pack is none: whoever believed it would name a chunk that
//! nobody has. The transaction of the catalogue asks once more.
//!
//! Packs are written to it after they are durable, and before the catalogue knows of them. When several packs
//! have a chunk it knows all of them, and the latest that is listed counts: a copy that the catalogue never
//! came to know of hides no other.

use redb::{Builder, Database, ReadableDatabase, StorageBackend, StorageError, TableDefinition, TableError};
use uuid::Uuid;

use super::pack::{ChunkHint, ChunkKey};
use super::redb_errors::{caught_in, from_redb};

/// Memory for pages of the file.
const CACHE: usize = 32 << 20;
const KEY_BYTES: usize = 56;
/// A name, and behind it the number of a pack, big-endian: packs of one chunk are in their order.
const PLACE_BYTES: usize = KEY_BYTES + 8;
/// From names and packs to slots.
const PLACES: TableDefinition<'_, &[u8; PLACE_BYTES], u32> = TableDefinition::new("places");
/// From [`OWN_KEY`] to the version, the incompatible features and the store.
const OWN: TableDefinition<'_, u32, (u32, u32, u128)> = TableDefinition::new("index");
const OWN_KEY: u32 = 0;
const VERSION: u32 = 1;

/// Why an index cannot be used. Whatever it is, the index can be made anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkIndexError {
    #[error(
        "the index cannot be read or written: {0}; make it anew with `ringnbd store check --rebuild-index`"
    )]
    Database(#[from] Box<redb::Error>),
    #[error("this is no index of chunks: make it anew with `ringnbd store check --rebuild-index`")]
    Other,
    #[error(
        "the index was written by a newer version (format {version}, features {features:#x}): open it with that version"
    )]
    Newer { version: u32, features: u32 },
    #[error("the index is that of another store: make it anew with `ringnbd store check --rebuild-index`")]
    Foreign,
    #[error("the database of the index failed: {0}; make it anew with `ringnbd store check --rebuild-index`")]
    Panicked(String),
}

from_redb!(ChunkIndexError: DatabaseError TransactionError TableError StorageError CommitError);

/// The index of an open store.
#[derive(Debug)]
pub(crate) struct ChunkIndex {
    database: Database,
}

impl ChunkIndex {
    /// A new index without entries, in an empty file.
    pub(crate) fn create(file: impl StorageBackend, store: Uuid) -> Result<Self, ChunkIndexError> {
        guarded(|| {
            let index = Self { database: builder().create_with_backend(file)? };
            let mut transaction = index.database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.open_table(OWN)?.insert(OWN_KEY, (VERSION, 0, store.as_u128()))?;
            transaction.open_table(PLACES)?;
            transaction.commit()?;
            Ok(index)
        })
    }

    /// Opens one that is there.
    pub(crate) fn open(file: impl StorageBackend, store: Uuid) -> Result<Self, ChunkIndexError> {
        guarded(|| {
            // In an empty file the database would begin a new index, which knows of no pack.
            if file.len().map_err(StorageError::from)? == 0 {
                return Err(ChunkIndexError::Other);
            }
            let index = Self { database: builder().create_with_backend(file)? };
            let own = match index.database.begin_read()?.open_table(OWN) {
                Ok(own) => own,
                Err(TableError::TableDoesNotExist(_)) => return Err(ChunkIndexError::Other),
                Err(error) => return Err(error.into()),
            };
            let (version, features, of) = own.get(OWN_KEY)?.ok_or(ChunkIndexError::Other)?.value();
            match (version, features) {
                (VERSION, 0) if of == store.as_u128() => Ok(index),
                (VERSION, 0) => Err(ChunkIndexError::Foreign),
                (version, features) => Err(ChunkIndexError::Newer { version, features }),
            }
        })
    }

    /// Where a chunk is, if it is in one of the packs that are `listed`.
    pub(crate) fn find(
        &self,
        key: &ChunkKey,
        listed: impl Fn(u64) -> bool,
    ) -> Result<Option<ChunkHint>, ChunkIndexError> {
        guarded(|| {
            let places = self.database.begin_read()?.open_table(PLACES)?;
            let (first, last) = (encoded(key, 0), encoded(key, u64::MAX));
            for place in places.range::<&[u8; PLACE_BYTES]>(&first..=&last)?.rev() {
                let (key, slot) = place?;
                let pack = pack_of(key.value());
                if listed(pack) {
                    return Ok(Some(ChunkHint { pack, slot: slot.value() }));
                }
            }
            Ok(None)
        })
    }

    /// Takes in all chunks of a durable pack, by their slots, in one transaction.
    pub(crate) fn add(
        &self,
        pack: u64,
        keys: impl IntoIterator<Item = ChunkKey>,
    ) -> Result<(), ChunkIndexError> {
        guarded(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut places = transaction.open_table(PLACES)?;
                for (slot, key) in (0..).zip(keys) {
                    places.insert(&encoded(&key, pack), slot)?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// Drops the entries of a pack that the catalogue does not list any more. It takes no longer than the
    /// pack is large, however many others there are.
    pub(crate) fn forget(
        &self,
        pack: u64,
        keys: impl IntoIterator<Item = ChunkKey>,
    ) -> Result<(), ChunkIndexError> {
        guarded(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut places = transaction.open_table(PLACES)?;
                for key in keys {
                    places.remove(&encoded(&key, pack))?;
                }
            }
            Ok(transaction.commit()?)
        })
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// `algorithm, chunk size, domain, hash, pack`; all but the last are little-endian.
fn encoded(key: &ChunkKey, pack: u64) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    bytes[..4].copy_from_slice(&(key.space.algorithm as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&key.space.chunk_bytes.to_le_bytes());
    bytes[8..24].copy_from_slice(key.space.domain.as_bytes());
    bytes[24..KEY_BYTES].copy_from_slice(&key.hash.0);
    bytes[KEY_BYTES..].copy_from_slice(&pack.to_be_bytes());
    bytes
}

fn pack_of(place: &[u8; PLACE_BYTES]) -> u64 {
    u64::from_be_bytes(*place.last_chunk().expect("eight of more bytes"))
}

/// A panic of the database costs the index, and nothing else.
fn guarded<T>(call: impl FnOnce() -> Result<T, ChunkIndexError>) -> Result<T, ChunkIndexError> {
    caught_in(call, ChunkIndexError::Panicked)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;
    use crate::store::catalog::CatalogFile;
    use crate::store::pack::{
        ChunkCodec, ChunkHash, ChunkSpace, HashAlgorithm, PackIdentity, PackReader, PackWriter,
    };

    const STORE: Uuid = Uuid::from_u128(5);
    const SPACE: ChunkSpace =
        ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 4096, domain: Uuid::nil() };

    fn key(number: u8) -> ChunkKey {
        ChunkKey { space: SPACE, hash: ChunkHash([number; 32]) }
    }

    fn new() -> (File, ChunkIndex) {
        let file = tempfile::tempfile().unwrap();
        let index = ChunkIndex::create(CatalogFile::new(file.try_clone().unwrap()), STORE).unwrap();
        (file, index)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Oracle: a map that is filled in the order of the packs' numbers.
        #[test]
        fn the_latest_listed_pack_counts(
            packs in prop::collection::btree_map(1..9_u64, prop::collection::btree_set(0..20_u8, 0..8), 1..6),
            order in any::<prop::sample::Index>(),
            listed in prop::collection::btree_set(1..9_u64, 0..9),
        ) {
            let (file, index) = new();
            let mut rotated: Vec<_> = packs.iter().collect();
            rotated.rotate_left(order.index(packs.len()));
            for (pack, chunks) in rotated {
                index.add(*pack, chunks.iter().map(|number| key(*number))).unwrap();
            }
            let expected = |listed: &BTreeSet<u64>| {
                let mut expected = BTreeMap::new();
                for (pack, chunks) in packs.iter().filter(|(pack, _)| listed.contains(pack)) {
                    expected.extend(chunks.iter().zip(0..).map(|(chunk, slot)| (*chunk, (*pack, slot))));
                }
                expected
            };
            let check = |index: &ChunkIndex, listed: &BTreeSet<u64>| {
                let expected = expected(listed);
                for number in 0..20 {
                    let place = expected.get(&number).map(|(pack, slot)| ChunkHint { pack: *pack, slot: *slot });
                    let found = index.find(&key(number), |pack| listed.contains(&pack)).unwrap();
                    assert_eq!(found, place, "{number}");
                }
            };
            check(&index, &listed);
            check(&index, &packs.keys().copied().collect());
            drop(index);
            let index = ChunkIndex::open(CatalogFile::new(file), STORE).unwrap();
            check(&index, &listed);
            for (pack, chunks) in packs.iter().filter(|(pack, _)| !listed.contains(pack)) {
                index.forget(*pack, chunks.iter().map(|number| key(*number))).unwrap();
            }
            check(&index, &listed);
            let left = expected(&listed);
            for number in 0..20 {
                let found = index.find(&key(number), |_| true).unwrap().map(|hint| (hint.pack, hint.slot));
                assert_eq!(found, left.get(&number).copied());
            }
        }
    }

    /// A6: what is made anew of footers finds every chunk where it is.
    #[test]
    fn footers_tell_all_of_it() {
        let packs = (1..4_u64).map(|number| {
            let identity = PackIdentity { store: STORE, number, space: SPACE };
            let mut pack = PackWriter::create(tempfile::tempfile().unwrap(), identity).unwrap();
            for chunk in 0..5_u8 {
                pack.append(&[number as u8 * 3 + chunk; 700], ChunkCodec::Lz4).unwrap();
            }
            PackReader::open(pack.finish().unwrap(), &identity).unwrap()
        });
        let packs: Vec<_> = packs.collect();
        let (_, index) = new();
        for pack in packs.iter().rev() {
            index.add(pack.identity().number, pack.keys().unwrap()).unwrap();
        }
        for byte in 3..14_u8 {
            let key = ChunkKey { space: SPACE, hash: ChunkHash(*blake3::hash(&[byte; 700]).as_bytes()) };
            let hint = index.find(&key, |_| true).unwrap().unwrap();
            assert_eq!(
                {
                    let pack = &packs[hint.pack as usize - 1];
                    pack.read(&pack.chunk(hint.slot).unwrap()).unwrap()
                },
                [byte; 700]
            );
        }
    }

    #[test]
    fn names_differ_by_all_that_they_consist_of() {
        let (_, index) = new();
        index.add(1, [key(1)]).unwrap();
        let other = |space| index.find(&ChunkKey { space, ..key(1) }, |_| true).unwrap();
        assert_eq!(other(SPACE), Some(ChunkHint { pack: 1, slot: 0 }));
        assert_eq!(other(ChunkSpace { chunk_bytes: 8192, ..SPACE }), None);
        assert_eq!(other(ChunkSpace { domain: STORE, ..SPACE }), None);
    }

    #[test]
    fn a_file_that_is_no_index_of_the_store_is_refused() {
        let (file, index) = new();
        drop(index);
        let open = |file: &File, store| ChunkIndex::open(CatalogFile::new(file.try_clone().unwrap()), store);
        assert!(matches!(open(&file, Uuid::nil()), Err(ChunkIndexError::Foreign)));
        assert!(matches!(open(&tempfile::tempfile().unwrap(), STORE), Err(ChunkIndexError::Other)));
        file.set_len(100).unwrap();
        assert!(matches!(
            open(&file, STORE),
            Err(ChunkIndexError::Database(_) | ChunkIndexError::Panicked(_))
        ));
        let newer = tempfile::tempfile().unwrap();
        let index = ChunkIndex::create(CatalogFile::new(newer.try_clone().unwrap()), STORE).unwrap();
        let transaction = index.database.begin_write().unwrap();
        transaction.open_table(OWN).unwrap().insert(OWN_KEY, (VERSION, 4, STORE.as_u128())).unwrap();
        transaction.commit().unwrap();
        drop(index);
        assert!(matches!(open(&newer, STORE), Err(ChunkIndexError::Newer { features: 4, .. })));
    }
}
