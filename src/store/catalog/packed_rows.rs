//! The rows of what is in packs, and of packs, with their bytes.

use uuid::Uuid;

use super::codec::{RowError, RowReader, RowWriter};
use super::encoding::StoredRow;
use super::id::LayerId;
use crate::store::manifest::{ManifestEntry, ManifestRoot, NamedChunk};
use crate::store::pack::{ChunkHash, ChunkHint, ChunkSpace, HashAlgorithm};

/// Where the contents of a layer begin that are in packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct ContentsRow {
    pub(in crate::store) layer: LayerId,
    pub(in crate::store) root: ManifestRoot,
}

/// A pack that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct PackRow {
    pub(in crate::store) number: u64,
    pub(in crate::store) space: ChunkSpace,
    /// Bytes of its file.
    pub(in crate::store) bytes: u64,
    pub(in crate::store) chunks: u32,
    pub(in crate::store) created_s: u64,
}

fn write_space(to: &mut RowWriter, space: ChunkSpace) {
    to.u32(space.algorithm as u32).u32(space.chunk_bytes).uuid(space.domain);
}

fn read_space(from: &mut RowReader<'_>) -> Result<ChunkSpace, RowError> {
    let algorithm = HashAlgorithm::of_number(from.u32()?).ok_or(RowError::Value)?;
    let space = ChunkSpace { algorithm, chunk_bytes: from.u32()?, domain: from.uuid()? };
    if space.is_possible() { Ok(space) } else { Err(RowError::Value) }
}

fn write_entry(to: &mut RowWriter, entry: &ManifestEntry) {
    let (tag, chunk) = match entry {
        ManifestEntry::Zero => (0, None),
        ManifestEntry::Base => (1, None),
        ManifestEntry::Named(chunk) => (2, Some(chunk)),
    };
    let hint = chunk.and_then(|chunk| chunk.hint).unwrap_or(ChunkHint { pack: 0, slot: 0 });
    to.u8(tag)
        .bytes(&chunk.map_or([0; ChunkHash::BYTES], |chunk| chunk.hash.0))
        .u64(hint.pack)
        .u32(hint.slot);
}

fn read_entry(from: &mut RowReader<'_>) -> Result<ManifestEntry, RowError> {
    let (tag, hash) = (from.u8()?, ChunkHash(from.array()?));
    let hint = ChunkHint { pack: from.u64()?, slot: from.u32()? };
    let is_plain = hash.0 == [0; ChunkHash::BYTES] && hint.pack == 0;
    match tag {
        _ if hint.pack == 0 && hint.slot != 0 => Err(RowError::Value),
        0 if is_plain => Ok(ManifestEntry::Zero),
        1 if is_plain => Ok(ManifestEntry::Base),
        2 => Ok(ManifestEntry::Named(NamedChunk { hash, hint: (hint.pack != 0).then_some(hint) })),
        _ => Err(RowError::Value),
    }
}

impl StoredRow for ContentsRow {
    const TABLE: &'static str = "contents";

    fn key(&self) -> Uuid {
        self.layer.0
    }

    fn write(&self, to: &mut RowWriter) {
        write_space(to, self.root.space);
        to.u64(self.root.size);
        write_entry(to, &self.root.top);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let (space, size) = (read_space(from)?, from.u64()?);
        Ok(Self { layer: LayerId(key), root: ManifestRoot { space, size, top: read_entry(from)? } })
    }
}

impl StoredRow for PackRow {
    const TABLE: &'static str = "packs";

    fn key(&self) -> Uuid {
        Uuid::from_u128(self.number.into())
    }

    fn write(&self, to: &mut RowWriter) {
        write_space(to, self.space);
        to.u64(self.bytes).u32(self.chunks).u64(self.created_s);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let number = u64::try_from(key.as_u128()).map_err(|_| RowError::Value)?;
        let space = read_space(from)?;
        Ok(Self { number, space, bytes: from.u64()?, chunks: from.u32()?, created_s: from.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::{checksum, decode, encode};
    use super::*;

    const SPACE: ChunkSpace =
        ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 4096, domain: Uuid::from_u128(7) };

    fn contents(top: ManifestEntry) -> ContentsRow {
        ContentsRow { layer: LayerId(Uuid::from_u128(1)), root: ManifestRoot { space: SPACE, size: 5, top } }
    }

    #[test]
    fn rows_read_as_themselves() {
        let hash = ChunkHash([3; 32]);
        let named = |hint| ManifestEntry::Named(NamedChunk { hash, hint });
        let place = ChunkHint { pack: 9, slot: 4 };
        for top in [ManifestEntry::Zero, ManifestEntry::Base, named(None), named(Some(place))] {
            let row = contents(top);
            let read: ContentsRow = decode(row.key(), &encode(&row)).unwrap();
            assert_eq!(read, row);
            // Equal names are equal, wherever they are.
            let hint = |entry| if let ManifestEntry::Named(chunk) = entry { chunk.hint } else { None };
            assert_eq!(hint(read.root.top), hint(top));
        }
        let row = PackRow { number: 3, space: SPACE, bytes: 1, chunks: 2, created_s: 4 };
        assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_reads_as_itself(
            mut body in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..200usize,
        ) {
            let row = contents(ManifestEntry::Base);
            let good = encode(&row);
            let mut mixed = good[..cut.min(good.len() - 8)].to_vec();
            mixed.append(&mut body);
            for table in [ContentsRow::TABLE, PackRow::TABLE] {
                let mut bytes = mixed.clone();
                bytes.extend(checksum(table, row.key(), &mixed));
                if let Ok(row) = decode::<ContentsRow>(row.key(), &bytes) {
                    prop_assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
                }
                if let Ok(row) = decode::<PackRow>(row.key(), &bytes) {
                    prop_assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
                }
            }
        }
    }
}
