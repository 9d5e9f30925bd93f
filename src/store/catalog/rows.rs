//! The rows of the catalogue, and how many of them there may be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::id::{BaseId, ImageId, LayerId, SnapshotId};
use super::name::StoreName;

/// Rows of each kind. All rows are in memory while a store is open: a row has about 300 bytes.
pub(in crate::store) const MOST_ROWS: usize = 1 << 20;
/// Bytes of an image. The map of a layer has places for that many.
pub const LARGEST_IMAGE: u64 = 1 << 50;
/// An image is a whole number of these.
pub const SIZE_UNIT: u64 = 512;
/// Sealed layers below a head: each is one more place to look at in a read.
pub(super) const DEEPEST: usize = 8;
/// With the head.
pub const MOST_LAYERS: usize = DEEPEST + 1;
/// Snapshots of an image that keep no contents: a layer may have all of them within.
pub(super) const MOST_CHANGES_ONLY: usize = 1000;
/// Key-values of an image, and bytes of a key and of a value.
pub(super) const MOST_PAIRS: usize = 64;
pub(super) const LONGEST_KEY: usize = 64;
pub(super) const LONGEST_VALUE: usize = 1024;
/// Bytes of the file of a pack, with its footer.
pub(super) const MOST_PACK_FILE: u64 = 512 << 20;
/// Bytes of the path of a base.
pub(super) const LONGEST_PATH: usize = 4096;

/// Where a read goes on that a layer does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainNode {
    /// Zeroes.
    Nothing,
    Base(BaseId),
    Layer(LayerId),
}

/// A node as it is seen from above: only its first `bytes`, and zeroes behind them.
///
/// An image that was cut without having a head keeps its node, and sees less of it for ever: when it grows
/// again, what was cut off does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below {
    pub node: ChainNode,
    pub bytes: u64,
}

impl Below {
    pub const NOTHING: Self = Self { node: ChainNode::Nothing, bytes: 0 };

    /// The same node, seen through something of this size.
    #[must_use]
    pub fn within(self, size: u64) -> Self {
        Self { bytes: self.bytes.min(size), ..self }
    }
}

/// A disk that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    pub id: ImageId,
    pub name: StoreName,
    pub size: u64,
    /// The layer that takes its writes; none before the first one.
    pub head: Option<LayerId>,
    /// What is read where the head has nothing.
    pub below: Below,
    /// The snapshot that it was cloned from, which cannot be removed as long as this says so.
    pub origin: Option<SnapshotId>,
    /// The last snapshot that its contents went through: changes are counted from there.
    pub since: Option<SnapshotId>,
    /// Seconds since 1970.
    pub created_s: u64,
    /// What the user or an application keeps with it.
    pub pairs: BTreeMap<String, String>,
    /// Most bytes that its own layers may take.
    pub quota: Option<u64>,
    /// It cannot be removed.
    pub is_held: bool,
    /// Grows whenever a server opens it to write.
    pub writer_generation: u64,
}

/// What was written to one image between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    pub id: LayerId,
    /// The image that it was made for, which may be gone.
    pub image: ImageId,
    pub below: Below,
    /// For a sealed layer; a head has the size of its image.
    pub size: u64,
    /// It is never written again.
    pub is_sealed: bool,
    pub created_s: u64,
}

/// What is kept of a point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SnapshotKeeps {
    /// Its contents.
    #[default]
    Contents,
    /// Which parts of the disk have changed before it and since. The layer that it stands on may still have
    /// its contents.
    Changes,
    /// The same. It is a point within the layer that it stands on: that one's record has its place.
    ChangesWithin,
}

/// A point in time of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    pub id: SnapshotId,
    pub image: ImageId,
    pub name: StoreName,
    pub size: u64,
    /// Its contents. An image that was not written since has several snapshots of one node.
    pub below: Below,
    /// The snapshot before it: what changed since then is the edge between them.
    pub parent: Option<SnapshotId>,
    pub created_s: u64,
    /// It cannot be removed.
    pub is_held: bool,
    pub keeps: SnapshotKeeps,
}

impl SnapshotRow {
    /// Nobody can read it: which parts have changed is all that is known of it.
    #[must_use]
    pub fn is_changes_only(&self) -> bool {
        self.keeps != SnapshotKeeps::Contents
    }
}

/// Where the map of a next head is: device and inode. A copy of a store has others.
pub type MapPlace = (u64, u64);

/// An image whose next head may have taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TentativeRow {
    pub id: SnapshotId,
    /// All that belong to one point in time have the same.
    pub group: Uuid,
    pub image: ImageId,
    /// None: the snapshot failed. The next head takes over without it.
    pub snapshot: Option<StoreName>,
    /// The snapshot will keep no contents.
    pub is_changes_only: bool,
    /// The head that is being sealed, if there is one.
    pub head: Option<LayerId>,
    /// The one that takes over, unless nobody writes the image.
    pub next_head: Option<LayerId>,
    /// During which boot it was begun.
    pub boot: Uuid,
    pub place: MapPlace,
}

/// A kind of base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    File,
    Device,
    /// An export of another server. Its path is a URI, and its WWID the name that it gave itself.
    Remote,
}

/// By what a base is known again after a restart. Its keys stand in maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseIdentity {
    pub size: u64,
    pub inode: u64,
    /// Of the file system, as `statfs` has it; 0 if it has none.
    pub file_system: u64,
    /// The device that the file system is on, or the device itself. It may change when a machine starts.
    pub device: u64,
    pub ctime_s: i64,
    pub ctime_ns: u32,
    /// A device's name of its own (WWID), if it has one.
    pub wwid: String,
    /// BLAKE3 over samples of the contents.
    pub sample: [u8; 32],
}

/// What images stand on outside of the store. It is never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRow {
    pub id: BaseId,
    pub kind: BaseKind,
    /// Absolute, or a URI.
    pub path: String,
    pub identity: BaseIdentity,
    pub created_s: u64,
}
