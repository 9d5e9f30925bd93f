//! Snapshots as tiers tell of them. Keys that this version does not know are passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::boot_trace::BootTrace;
use super::catalog::{ForeignPack, ForeignSnapshot, ImageRefusal, NodeName, PackOrigin, SnapshotId};
use super::error::StoreError;
use super::foreign::{RangeSource, SourceError, is_of_network, open_source};
use super::image_path::ImagePathError;
use super::manifest::{ManifestEntry, ManifestRoot, NamedChunk};
use super::open_store::now_s;
use super::pack::{ChunkHash, ChunkHint, ChunkSpace, HashAlgorithm};

/// The version of records that this program knows.
const VERSION: u32 = 1;
/// Packs of a snapshot at most.
const MOST_PACKS: usize = 1 << 20;

/// A pack that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPack {
    /// Who wrote it, and its number there.
    pub store: Uuid,
    pub number: u64,
    /// How often it had come before.
    #[serde(default)]
    pub upload: u32,
    #[serde(default)]
    pub bytes: u64,
    /// Where its footer begins; 0 if nobody has told.
    #[serde(default)]
    pub footer_offset: u64,
    #[serde(default)]
    pub chunks: u32,
    /// Its number in the store that the snapshot is from, if another one wrote it.
    #[serde(default)]
    pub local: Option<u64>,
}

/// How chunks are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSpace {
    pub algorithm: String,
    pub chunk_bytes: u32,
    pub domain: Uuid,
}

/// What a disk begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedRoot {
    Zeroes,
    Node { hash: String, pack: RecordedPack, slot: u32 },
}

/// A snapshot on a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSnapshot {
    pub version: u32,
    pub snapshot: String,
    /// The snapshot's own.
    pub uuid: Uuid,
    /// Where it is from.
    pub store: Uuid,
    pub size: u64,
    pub space: RecordedSpace,
    pub root: RecordedRoot,
    pub packs: Vec<RecordedPack>,
}

/// The same, with the tier that tells it: all that a clone needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierSnapshot {
    pub tier: Uuid,
    /// Where the tier is.
    pub address: String,
    pub record: RecordedSnapshot,
    /// What boots of it have read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_trace: Option<BootTrace>,
}

/// A snapshot of a tier, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierPath {
    /// Where the tier is.
    pub address: String,
    pub node: NodeName,
}

impl FromStr for TierPath {
    type Err = ImagePathError;

    /// What an address has behind a question mark stands behind the name.
    fn from_str(text: &str) -> Result<Self, ImagePathError> {
        let (text, parameters) = match text.split_once('?').filter(|_| is_of_network(text)) {
            Some((text, parameters)) => (text, format!("?{parameters}")),
            None => (text, String::new()),
        };
        let (address, name) = text.rsplit_once('/').ok_or(ImagePathError::NoName)?;
        if name.is_empty() || address.is_empty() || address.ends_with('/') {
            return Err(ImagePathError::NoName);
        }
        Ok(Self { address: format!("{address}{parameters}"), node: name.parse()? })
    }
}

/// Looks a snapshot up, and notes on its tier that images of a store need it. `reads`: packs of tiers that the
/// store reads already, each by who wrote it and its number there; none if that is not known.
///
/// # Errors
/// A sentence.
pub fn look_up_snapshot(
    path: &TierPath,
    (store, reads): (&str, Option<&BTreeSet<(Uuid, u64)>>),
    images: &[String],
) -> Result<TierSnapshot, StoreError> {
    let source = open_source(&path.address).map_err(StoreError::Tier)?;
    let look_up = || TierSnapshot::look_up(&*source, &path.address, &path.node);
    let found = look_up()?;
    let store = Uuid::try_parse(store).map_err(|error| StoreError::Tier(error.to_string()))?;
    images.iter().try_for_each(|image| found.hold(&*source, (store, image), reads, now_s()))?;
    // If the snapshot is still there, no collection had begun to delete its packs before it could see the
    // notes.
    let again = look_up()?;
    if again != found {
        return Err(StoreError::Tier(format!(
            "{} was pushed anew or removed meanwhile: try again",
            path.node
        )));
    }
    let boot_trace = BootTrace::look_up(&*source, found.record.uuid);
    Ok(TierSnapshot { boot_trace, ..found })
}

#[derive(Deserialize)]
struct TierHeaderJson {
    version: u32,
    uuid: Uuid,
}

#[derive(Deserialize)]
struct OwnerJson {
    version: u32,
    snapshots: BTreeMap<String, Uuid>,
}

#[derive(Serialize)]
struct HoldJson {
    version: u32,
    since_s: u64,
    snapshot: Uuid,
    packs: Vec<RecordedPack>,
}

#[derive(Deserialize)]
struct HeldJson {
    packs: Vec<RecordedPack>,
}

fn read_json<T: serde::de::DeserializeOwned>(source: &dyn RangeSource, key: &str) -> Result<T, StoreError> {
    let bytes = source.read_object(key).map_err(|error| StoreError::Tier(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::Tier(format!("{key} cannot be read: {error}")))
}

/// The packs that are kept under a key; none if nothing is, or it cannot be read.
fn held(source: &dyn RangeSource, key: &str) -> Result<Vec<RecordedPack>, StoreError> {
    match source.read_object(key) {
        Ok(bytes) => {
            Ok(serde_json::from_slice(&bytes).map_or_else(|_| Vec::new(), |held: HeldJson| held.packs))
        }
        Err(SourceError::Missing(_)) => Ok(Vec::new()),
        Err(error) => Err(StoreError::Tier(error.to_string())),
    }
}

fn check_version(version: u32) -> Result<(), StoreError> {
    match version {
        ..=VERSION => Ok(()),
        later => Err(StoreError::Tier(format!("it is of version {later} of tiers: use a newer ringnbd"))),
    }
}

impl TierSnapshot {
    /// Looks a snapshot up.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn look_up(
        source: &dyn RangeSource,
        address: &str,
        node: &NodeName,
    ) -> Result<Self, StoreError> {
        let (image, snapshot) = node.clone().into_snapshot()?;
        let tier: TierHeaderJson = read_json(source, "tier.json")?;
        check_version(tier.version)?;
        let owner: OwnerJson = read_json(source, &format!("images/{image}/owner.json"))?;
        check_version(owner.version)?;
        let missing = || ImageRefusal::NoSnapshot { image: image.clone(), snapshot: snapshot.clone() };
        let id = owner.snapshots.get(snapshot.as_str()).ok_or_else(missing)?;
        let record: RecordedSnapshot =
            read_json(source, &format!("images/{image}/records/{}.json", id.simple()))?;
        check_version(record.version)?;
        Ok(Self { tier: tier.uuid, address: address.to_owned(), record, boot_trace: None })
    }

    /// Notes on the tier that an image of a store needs the packs: a collection there leaves them alone. What
    /// was noted for an earlier image of this name stays, as far as the store reads it: that image may have
    /// another name now, or clones of its own.
    ///
    /// # Errors
    /// The tier's.
    pub(crate) fn hold(
        &self,
        source: &dyn RangeSource,
        (store, image): (Uuid, &str),
        reads: Option<&BTreeSet<(Uuid, u64)>>,
        since_s: u64,
    ) -> Result<(), StoreError> {
        let key = format!("holds/{}/{image}.json", store.simple());
        let (mut packs, snapshot) = (self.record.packs.clone(), self.record.uuid);
        let known: BTreeSet<_> = packs.iter().map(|pack| (pack.store, pack.number, pack.upload)).collect();
        let is_kept = |pack: &RecordedPack| {
            !known.contains(&(pack.store, pack.number, pack.upload))
                && reads.is_none_or(|reads| reads.contains(&(pack.store, pack.number)))
        };
        packs.extend(held(source, &key)?.into_iter().filter(is_kept));
        let hold = HoldJson { version: VERSION, since_s, snapshot, packs };
        let text = serde_json::to_vec_pretty(&hold).unwrap_or_default();
        source.write_object(&key, &text).map_err(|error: SourceError| StoreError::Tier(error.to_string()))
    }

    /// What the catalogue needs of it. It may be anything.
    pub(super) fn foreign(&self) -> Result<ForeignSnapshot, StoreError> {
        let RecordedSnapshot { snapshot, uuid, store, size, space, root, packs, .. } = &self.record;
        let wrong = |what| StoreError::Refused(ImageRefusal::ForeignRecord(what));
        if space.algorithm != "blake3" {
            return Err(wrong("its chunks are named in a way that is not known"));
        }
        if packs.len() > MOST_PACKS {
            return Err(wrong("it has too many packs"));
        }
        let space = ChunkSpace {
            algorithm: HashAlgorithm::Blake3,
            chunk_bytes: space.chunk_bytes,
            domain: space.domain,
        };
        let own = |pack: &RecordedPack| match pack.local {
            None if pack.store == *store => Some(pack.number),
            local => local,
        };
        // One whose number there is not told gets one that no node names.
        let unnamed = (1..).map(|number: u64| u64::MAX - number);
        let top = match root {
            RecordedRoot::Zeroes => ManifestEntry::Zero,
            RecordedRoot::Node { hash, pack, slot } => {
                let hash =
                    blake3::Hash::from_hex(hash).map_err(|_| wrong("its root has no name of a chunk"))?;
                let same = |other: &&RecordedPack| (other.store, other.number) == (pack.store, pack.number);
                let number = packs.iter().find(same).and_then(own);
                let hint = number.map(|pack| ChunkHint { pack, slot: *slot });
                ManifestEntry::Named(NamedChunk { hash: ChunkHash(*hash.as_bytes()), hint })
            }
        };
        let packs = packs.iter().zip(unnamed).map(|(pack, unnamed)| ForeignPack {
            origin: PackOrigin { store: pack.store, number: pack.number },
            upload: pack.upload,
            number: own(pack).unwrap_or(unnamed),
            bytes: pack.bytes,
            chunks: pack.chunks,
            footer_offset: pack.footer_offset,
        });
        Ok(ForeignSnapshot {
            tier: self.tier,
            store: *store,
            id: SnapshotId(*uuid),
            snapshot: snapshot.parse()?,
            root: ManifestRoot { space, size: *size, top },
            packs: packs.collect(),
        })
    }
}
