//! The rows of packs that other stores have written.

use uuid::Uuid;

use super::codec::{RowError, RowReader, RowWriter};
use super::encoding::StoredRow;

/// Stores that name a pack by a number of their own: those that wrote it, and those that passed it on.
const MOST_NAMES: usize = 64;

/// A pack as one store names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct PackOrigin {
    pub(in crate::store) store: Uuid,
    pub(in crate::store) number: u64,
}

/// A pack that another store has written. Here it has a number of this store, and a
/// [`PackRow`](super::PackRow).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct ForeignRow {
    pub(in crate::store) number: u64,
    /// Who wrote it: its name on the tier, and in its header.
    pub(in crate::store) origin: PackOrigin,
    /// The tier that has it.
    pub(in crate::store) tier: Uuid,
    /// How often it had come there before: an object that was deleted comes under another name.
    pub(in crate::store) upload: u32,
    /// Where its footer begins; 0 if nobody has told.
    pub(in crate::store) footer_offset: u64,
    /// What other stores call it, whose nodes may name it.
    pub(in crate::store) aliases: Vec<PackOrigin>,
}

impl ForeignRow {
    /// All that it is called elsewhere.
    pub(in crate::store) fn names(&self) -> impl Iterator<Item = PackOrigin> {
        std::iter::once(self.origin).chain(self.aliases.iter().copied())
    }

    /// The same pack, which a further store calls by a name. Too many are not kept: a chunk that is named by
    /// one of those is looked for.
    pub(super) fn called(mut self, name: PackOrigin) -> Self {
        if self.names().all(|known| known != name) && self.aliases.len() < MOST_NAMES {
            self.aliases.push(name);
        }
        self
    }
}

impl StoredRow for ForeignRow {
    const TABLE: &'static str = "foreign";

    fn key(&self) -> Uuid {
        Uuid::from_u128(self.number.into())
    }

    fn write(&self, to: &mut RowWriter) {
        to.uuid(self.origin.store).u64(self.origin.number).uuid(self.tier);
        to.u32(self.upload).u64(self.footer_offset);
        to.u16(self.aliases.len() as u16);
        self.aliases.iter().for_each(|alias| {
            to.uuid(alias.store).u64(alias.number);
        });
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let number = u64::try_from(key.as_u128()).map_err(|_| RowError::Value)?;
        let mut name = || Ok(PackOrigin { store: from.uuid()?, number: from.u64()? });
        let origin = name()?;
        let (tier, upload) = (from.uuid()?, from.u32()?);
        let (footer_offset, count) = (from.u64()?, usize::from(from.u16()?));
        if count > MOST_NAMES {
            return Err(RowError::Value);
        }
        let name = |_| Ok(PackOrigin { store: from.uuid()?, number: from.u64()? });
        let aliases = (0..count).map(name).collect::<Result<_, RowError>>()?;
        Ok(Self { number, origin, tier, upload, footer_offset, aliases })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::{checksum, decode, encode};
    use super::*;

    fn row(aliases: u64) -> ForeignRow {
        let name = |number| PackOrigin { store: Uuid::from_u128(9), number };
        let row = ForeignRow {
            number: 3,
            origin: name(1),
            tier: Uuid::from_u128(5),
            upload: 2,
            footer_offset: 4096,
            aliases: Vec::new(),
        };
        (1..=aliases + 1).map(name).fold(row, ForeignRow::called)
    }

    #[test]
    fn rows_read_as_themselves_and_keep_so_many_names() {
        for count in [0, 2, MOST_NAMES as u64, MOST_NAMES as u64 + 9] {
            let row = row(count);
            assert_eq!(row.names().count() as u64, 1 + count.min(MOST_NAMES as u64));
            assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_reads_as_itself(
            mut body in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..200usize,
        ) {
            let row = row(2);
            let good = encode(&row);
            let mut mixed = good[..cut.min(good.len() - 8)].to_vec();
            mixed.append(&mut body);
            let sum = checksum(ForeignRow::TABLE, row.key(), &mixed);
            mixed.extend(sum);
            if let Ok(row) = decode::<ForeignRow>(row.key(), &mixed) {
                prop_assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
            }
        }
    }
}
