//! The catalogue as a database in a file: it is read as a whole when it is opened, and each change is one
//! transaction.
//!
//! A transaction is durable when [`StoreCatalog::commit`] returns. If one fails it may have become durable
//! all the same, so the catalogue answers nothing until it was opened again.

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableDefinition, TableError, WriteTransaction,
};
use uuid::Uuid;

use super::codec::RowError;
use super::consistency::{Inconsistency, checked};
use super::encoding::{StoredRow, decode, encode};
use super::foreign_rows::ForeignRow;
use super::header::{
    self, CHANGES_ONLY, CatalogHeader, ChunkCompression, FOREIGN, HeaderError, PACKS, REMOTE_BASES,
    UNFINISHED,
};
use super::packed_rows::{ContentsRow, PackRow};
use super::rows::{BaseKind, BaseRow, ImageRow, LayerRow, MOST_ROWS, SnapshotRow, TentativeRow};
use super::view::{CatalogChange, CatalogView};
use crate::store::redb_errors::{caught_in, from_redb};

/// Memory for pages of the file. Rows are kept apart from it.
const CACHE: usize = 8 << 20;
/// Changed sets between snapshots, which are stored apart from the maps of layers: by the later snapshot.
/// SnapshotKeeps free for them; nothing is written yet.
pub(super) const EDGES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("edges");

type Rows<'a> = TableDefinition<'a, u128, &'a [u8]>;

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalogue cannot be read or written: {0}")]
    Database(#[from] Box<redb::Error>),
    #[error("the catalogue is damaged: {0}")]
    Damaged(String),
    #[error("the catalogue is empty: restore it from a backup")]
    Empty,
    #[error("the catalogue cannot be used: {0}")]
    Header(#[from] HeaderError),
    #[error("the row {key} of the catalogue's {table} is damaged: {why}")]
    Row { table: &'static str, key: Uuid, why: RowError },
    #[error("the catalogue has more than {MOST_ROWS} {0}, which no store has")]
    TooMany(&'static str),
    #[error("the catalogue contradicts itself: {0}")]
    Inconsistent(#[from] Inconsistency),
    #[error("the store has features that this program may read only (bits {0:#x}): use a newer ringnbd")]
    ReadOnly(u64),
    #[error("whether the last change of the catalogue took place is not known: open the store again")]
    Doubtful,
    #[error("the catalogue's database failed: {0}")]
    Panicked(String),
}

from_redb!(CatalogError: DatabaseError TransactionError TableError StorageError CommitError SetDurabilityError);

/// The catalogue of an open store.
#[derive(Debug)]
pub struct StoreCatalog {
    /// None while it is opened again, and after that failed.
    database: Option<Database>,
    header: CatalogHeader,
    view: CatalogView,
    is_doubtful: bool,
}

impl StoreCatalog {
    /// A new catalogue in an empty file, durable.
    ///
    /// # Errors
    /// The file's, or the database's.
    pub fn create(file: impl StorageBackend, store: Uuid, created_s: u64) -> Result<Self, CatalogError> {
        Self::create_with(file, store, created_s, ChunkCompression::default())
    }

    /// The same, which says how chunks are compressed.
    ///
    /// # Errors
    /// The file's, or the database's.
    pub fn create_with(
        file: impl StorageBackend,
        store: Uuid,
        created_s: u64,
        compression: ChunkCompression,
    ) -> Result<Self, CatalogError> {
        guarded(|| {
            let database = builder().create_with_backend(file)?;
            let header = CatalogHeader::new(store, created_s).with_compression(compression);
            let (database, view) = (Some(database), CatalogView::default());
            let mut catalog = Self { database, header, view, is_doubtful: false };
            catalog.store(&CatalogChange::default())?;
            Ok(catalog)
        })
    }

    /// Opens one that is there. All of it is verified: each page, each row, and that rows fit together.
    ///
    /// # Errors
    /// The file's, the database's, or whatever does not fit.
    pub fn open(file: impl StorageBackend) -> Result<Self, CatalogError> {
        guarded(|| {
            // In an empty file the database would begin a new catalogue.
            if file.len().map_err(StorageError::from)? == 0 {
                return Err(CatalogError::Empty);
            }
            let database = builder().create_with_backend(file)?;
            let (header, view) = read(&database.begin_read()?)?;
            Ok(Self { database: Some(database), header, view, is_doubtful: false })
        })
    }

    /// Rows that somebody else has told. They can be looked at, and no change of them is ever durable.
    #[must_use]
    pub const fn without_file(header: CatalogHeader, view: CatalogView) -> Self {
        Self { database: None, header, view, is_doubtful: false }
    }

    #[must_use]
    pub const fn header(&self) -> &CatalogHeader {
        &self.header
    }

    /// The rows as they are.
    ///
    /// # Errors
    /// A change failed before.
    pub const fn view(&self) -> Result<&CatalogView, CatalogError> {
        if self.is_doubtful { Err(CatalogError::Doubtful) } else { Ok(&self.view) }
    }

    /// Makes a change durable, whole or not at all.
    ///
    /// # Errors
    /// The file's, or the database's. Whether the change took place is not known then.
    pub fn commit(&mut self, change: &CatalogChange) -> Result<(), CatalogError> {
        match self.header.unknown_to_writers() {
            0 => {}
            unknown => return Err(CatalogError::ReadOnly(unknown)),
        }
        self.view()?;
        self.is_doubtful = true;
        guarded(|| self.store(change))?;
        self.view.apply(change);
        self.is_doubtful = false;
        Ok(())
    }

    /// Reads all of it again from the same file, after a change of which nobody knows whether it took place.
    /// Then it is known.
    ///
    /// # Errors
    /// As of [`StoreCatalog::open`]; it answers nothing then, and can be opened once more.
    pub fn open_again(&mut self, file: impl StorageBackend) -> Result<(), CatalogError> {
        self.is_doubtful = true;
        // What it still writes when it is closed must be there before it is read.
        let database = self.database.take();
        guarded(|| {
            drop(database);
            Ok(())
        })?;
        let opened = Self::open(file)?;
        match opened.header.store == self.header.store {
            true => *self = opened,
            false => return Err(CatalogError::Damaged("it is that of another store".to_owned())),
        }
        Ok(())
    }

    /// The number of the pack that was reserved last; 0 if none was.
    pub(in crate::store) const fn last_reserved(&self) -> u64 {
        self.header.packs
    }

    fn header_after(&self, change: &CatalogChange) -> CatalogHeader {
        let mut header = CatalogHeader { generation: self.header.generation + 1, ..self.header };
        header.packs += change.reserves_packs;
        if change.reserves_packs > 0 || !change.contents.is_empty() || !change.packs.is_empty() {
            header.incompatible |= PACKS;
        }
        let goes_on = |id| !change.tentative.contains_key(id);
        let is_unfinished =
            change.tentative.values().any(Option::is_some) || self.view.tentative.keys().any(goes_on);
        header.incompatible &= !UNFINISHED;
        header.incompatible |= if is_unfinished { UNFINISHED } else { 0 };
        let stays = |number| !change.foreign.contains_key(number);
        let has_foreign = change.foreign.values().any(Option::is_some) || self.view.foreign.keys().any(stays);
        header.incompatible &= !FOREIGN;
        header.incompatible |= if has_foreign { FOREIGN } else { 0 };
        header.incompatible &= !CHANGES_ONLY;
        header.incompatible |= if self.keeps_changes_only(change) { CHANGES_ONLY } else { 0 };
        let stays = |row: &&BaseRow| !change.bases.contains_key(&row.id);
        let bases = self.view.bases().filter(stays).chain(change.bases.values().flatten());
        let has_remote = bases.into_iter().any(|row| row.kind == BaseKind::Remote);
        header.incompatible &= !REMOTE_BASES;
        header.incompatible |= if has_remote { REMOTE_BASES } else { 0 };
        header
    }

    /// Whether there is a snapshot after a change that keeps changes only, or one that is being taken.
    fn keeps_changes_only(&self, change: &CatalogChange) -> bool {
        let stays = self.view.changes_only.iter().any(|id| !change.snapshots.contains_key(id));
        let comes = change.snapshots.values().flatten().any(SnapshotRow::is_changes_only);
        let goes_on = |row: &&TentativeRow| !change.tentative.contains_key(&row.id);
        let begun = self.view.tentative.values().filter(goes_on).chain(change.tentative.values().flatten());
        stays || comes || begun.into_iter().any(|row| row.is_changes_only)
    }

    fn store(&mut self, change: &CatalogChange) -> Result<(), CatalogError> {
        let header = self.header_after(change);
        let mut transaction = self.database.as_ref().ok_or(CatalogError::Doubtful)?.begin_write()?;
        transaction.set_quick_repair(true);
        let key = |uuid: Uuid| uuid.as_u128();
        put(&transaction, change.images.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
        put(&transaction, change.layers.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
        put(&transaction, change.snapshots.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
        put(&transaction, change.bases.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
        // A store without packs stays one that older programs know.
        if header.incompatible & PACKS != 0 {
            put(&transaction, change.contents.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
            put(&transaction, change.packs.iter().map(|(number, row)| (u128::from(*number), row.as_ref())))?;
        }
        if !change.foreign.is_empty() {
            put(
                &transaction,
                change.foreign.iter().map(|(number, row)| (u128::from(*number), row.as_ref())),
            )?;
        }
        if !change.tentative.is_empty() {
            put(&transaction, change.tentative.iter().map(|(id, row)| (key(id.0), row.as_ref())))?;
        }
        {
            let mut edges = transaction.open_table(EDGES)?;
            for (gone, _) in &change.folded {
                edges.remove(key(gone.0))?;
            }
            let mut own = transaction.open_table(Rows::new(header::TABLE))?;
            own.insert(header::KEY, header.encode().as_slice())?;
        }
        transaction.commit()?;
        self.header = header;
        Ok(())
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    // A catalogue is small, and a file that was changed behind the database's back may make it panic.
    builder.set_check_integrity_on_open(true);
    builder
}

fn put<'a, R: StoredRow + 'a>(
    transaction: &WriteTransaction,
    rows: impl Iterator<Item = (u128, Option<&'a R>)>,
) -> Result<(), CatalogError> {
    let mut table = transaction.open_table(Rows::new(R::TABLE))?;
    for (key, row) in rows {
        match row {
            Some(row) => table.insert(key, encode(row).as_slice())?,
            None => table.remove(key)?,
        };
    }
    Ok(())
}

fn read(transaction: &ReadTransaction) -> Result<(CatalogHeader, CatalogView), CatalogError> {
    let own = match transaction.open_table(Rows::new(header::TABLE)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Err(HeaderError::Magic.into()),
        Err(error) => return Err(error.into()),
    };
    let bytes = own.get(header::KEY)?.ok_or(HeaderError::Magic)?;
    let header = CatalogHeader::decode(bytes.value())?;
    let mut rows = CatalogChange::default();
    each(transaction, |row: ImageRow| rows.images.insert(row.id, Some(row)).is_some())?;
    each(transaction, |row: LayerRow| rows.layers.insert(row.id, Some(row)).is_some())?;
    each(transaction, |row: SnapshotRow| rows.snapshots.insert(row.id, Some(row)).is_some())?;
    each(transaction, |row: BaseRow| rows.bases.insert(row.id, Some(row)).is_some())?;
    if header.incompatible & PACKS != 0 {
        each(transaction, |row: ContentsRow| rows.contents.insert(row.layer, Some(row)).is_some())?;
        each(transaction, |row: PackRow| rows.packs.insert(row.number, Some(row)).is_some())?;
    }
    if header.incompatible & FOREIGN != 0 {
        each(transaction, |row: ForeignRow| rows.foreign.insert(row.number, Some(row)).is_some())?;
    }
    if let Some(number) = rows.packs.keys().find(|number| !(1..=header.packs).contains(*number)) {
        return Err(CatalogError::Damaged(format!("the number {number} of a pack was never reserved")));
    }
    match each(transaction, |row: TentativeRow| rows.tentative.insert(row.id, Some(row)).is_some()) {
        // Earlier programs made none.
        Err(CatalogError::Database(error)) if matches!(*error, redb::Error::TableDoesNotExist(_)) => {}
        result => result?,
    }
    Ok((header, checked(&rows)?))
}

/// Hands each row of a table on, which says whether it was there before.
fn each<R: StoredRow>(
    transaction: &ReadTransaction,
    mut take: impl FnMut(R) -> bool,
) -> Result<(), CatalogError> {
    let table = transaction.open_table(Rows::new(R::TABLE))?;
    for (index, entry) in table.iter()?.enumerate() {
        if index == MOST_ROWS {
            return Err(CatalogError::TooMany(R::TABLE));
        }
        let (key, value) = entry?;
        let key = Uuid::from_u128(key.value());
        let row =
            decode(key, value.value()).map_err(|why| CatalogError::Row { table: R::TABLE, key, why })?;
        if take(row) {
            return Err(CatalogError::Damaged(format!("{} has the key {key} twice", R::TABLE)));
        }
    }
    Ok(())
}

/// A panic of the database costs the store, and nothing else.
fn guarded<T>(call: impl FnOnce() -> Result<T, CatalogError>) -> Result<T, CatalogError> {
    caught_in(call, CatalogError::Panicked)
}

#[cfg(test)]
mod tests {
    use super::super::storage::CatalogFile;
    use super::*;

    /// Stores of earlier programs lack a table.
    #[test]
    fn a_catalogue_in_which_no_snapshot_ever_began_opens() {
        let file = tempfile::tempfile().unwrap();
        let backend = || CatalogFile::new(file.try_clone().unwrap());
        let catalog = StoreCatalog::create(backend(), Uuid::nil(), 1).unwrap();
        let transaction = catalog.database.as_ref().unwrap().begin_write().unwrap();
        // As programs made it that knew none.
        assert!(!transaction.delete_table(Rows::new(TentativeRow::TABLE)).unwrap());
        transaction.commit().unwrap();
        drop(catalog);
        let mut catalog = StoreCatalog::open(backend()).unwrap();
        catalog.commit(&CatalogChange::default()).unwrap();
    }

    /// L2: what a newer program has set is told in a sentence.
    #[test]
    fn features_of_a_newer_program_are_respected() {
        let file = tempfile::tempfile().unwrap();
        let open = || StoreCatalog::open(CatalogFile::new(file.try_clone().unwrap()));
        let with = |bits: fn(&mut CatalogHeader)| {
            let mut catalog = open().unwrap();
            bits(&mut catalog.header);
            catalog.store(&CatalogChange::default()).unwrap();
        };
        drop(StoreCatalog::create(CatalogFile::new(file.try_clone().unwrap()), Uuid::nil(), 1).unwrap());
        with(|header| header.compatible = 1);
        open().unwrap().commit(&CatalogChange::default()).unwrap();
        with(|header| header.read_only_compatible = 4);
        let mut catalog = open().unwrap();
        let refused = catalog.commit(&CatalogChange::default()).unwrap_err().to_string();
        assert!(refused.contains("may read only (bits 0x4)"), "{refused}");
        assert!(catalog.view().is_ok(), "it can be looked at");
        drop(catalog);
        with(|header| header.incompatible = 1 << 20);
        let refused = open().unwrap_err().to_string();
        assert!(refused.contains("bits 0x100000") && refused.contains("newer ringnbd"), "{refused}");
    }
}
