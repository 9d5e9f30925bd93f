//! The catalogue of a store: which images, snapshots, layers and bases there are.
//!
//! It *decides*. A layer's directory that is not in it is rubbish, and a layer that is in it and has no
//! directory is damage. So a layer's files are made and synced before a transaction names them, and removed
//! after the transaction that drops them.
//!
//! All rows are in memory ([`CatalogView`]). What is done to images is a function from them to a
//! [`CatalogChange`], which [`StoreCatalog::commit`] makes durable as one transaction; a change that is not
//! committed is nothing.
//!
//! # Chains
//!
//! An image, a snapshot and a layer each stand on a node ([`Below`]): a layer, a base, or nothing. What a
//! layer does not hold is read from what it stands on. An image that is written has a layer of its own, its
//! *head*. A snapshot seals the head, and the image stands on it until its next write, or gets the next
//! head in the same transaction. A clone is a row that stands where a snapshot does. A layer goes with the
//! last row that stands on it.

mod codec;
mod collecting;
mod consistency;
mod contents;
mod database;
mod decide;
mod draft;
mod due;
mod encoding;
mod excerpt;
mod foreign;
mod foreign_rows;
mod header;
mod id;
mod importing;
mod listing;
mod merging;
mod name;
mod packed_rows;
mod rebasing;
mod rebuilding;
mod records;
mod refusal;
mod removal;
mod rows;
mod storage;
mod tentative;
#[cfg(test)]
mod tests;
mod view;

pub(in crate::store) use collecting::release_packs;
pub use consistency::Inconsistency;
pub(in crate::store) use contents::{IngestPlan, finish_ingest};
pub use database::{CatalogError, StoreCatalog};
pub use decide::{
    Beginning, NewImage, NewSnapshot, adopt_head, begin_writing, check_size, create, expect_snapshots,
    make_clones, rename, resize, take_snapshots,
};
pub use excerpt::{CatalogExcerpt, ReadExcerpt, excerpt, sealed_rows};
pub(in crate::store) use foreign::{ForeignPack, ForeignSnapshot, NewForeignImage, clone_foreign};
pub(in crate::store) use foreign_rows::{ForeignRow, PackOrigin};
pub use header::{CatalogHeader, ChunkCompression};
pub use id::{BaseId, ImageId, LayerId, Minter, SnapshotId};
pub use importing::{ImportedSnapshot, import_snapshot};
pub use listing::{ListedNode, PackedSpace, Space, SpaceFigures, listing};
pub use merging::{
    MergePair, cheapest_merge, finish_flatten, finish_merge, idle_merge, is_flat, is_full, mergeable,
};
pub use name::{NameError, NodeName, StoreName};
pub(in crate::store) use packed_rows::{ContentsRow, PackRow};
pub use rebasing::rebase;
pub use rebuilding::{FoundLayer, RebuiltRows, rebuild};
pub use records::{RecordAnchor, RecordHead, RecordHeads, holder_of_point};
pub use refusal::ImageRefusal;
pub use removal::{give_up_contents, remove, roll_back};
pub(in crate::store) use rows::MOST_ROWS;
pub use rows::{
    BaseIdentity, BaseKind, BaseRow, Below, ChainNode, ImageRow, LARGEST_IMAGE, LayerRow, MOST_LAYERS,
    MapPlace, SIZE_UNIT, SnapshotKeeps, SnapshotRow, TentativeRow,
};
pub use storage::CatalogFile;
pub use tentative::{begin_snapshots, go_on_without_snapshots, withdraw};
pub use view::{CatalogChange, CatalogView, RowCounts};
