//! Snapshots as tiers tell of them. Keys that this version does not know are passed over.

use std::collections::BTreeSet;
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
use crate::tier::keys::{self, PackKey};
use crate::tier::records::{NameOwner, READ_AGAIN, RecordPack, TierHeader, TierHold, TierRecord};

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

impl From<&RecordedPack> for RecordPack {
    fn from(pack: &RecordedPack) -> Self {
        let RecordedPack { store, number, upload, bytes, footer_offset, chunks, local } = *pack;
        Self { key: PackKey { store, number, upload }, bytes, footer_offset, chunks: chunks.into(), local }
    }
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
    /// Not in one that is part of another object.
    #[serde(default = "first_version")]
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

/// A snapshot of a tier, or the name that it was published under, as a user writes it.
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

/// Looks a snapshot up, and notes on its tier that images of a store need it. `reads`: packs of tiers that
/// the store reads already, each by who wrote it and its number there; none if that is not known.
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

impl TierRecord for RecordedSnapshot {}

/// A name for everybody, as it lies there.
#[derive(Debug, Serialize, Deserialize)]
struct PublishedSnapshot {
    record: Option<RecordedSnapshot>,
}

impl TierRecord for PublishedSnapshot {}

const fn first_version() -> u32 {
    1
}

/// A small object of a tier, if it is there. One that does not fit its checksum is asked for again.
fn find_record<T: TierRecord>(source: &dyn RangeSource, key: &str) -> Result<Option<T>, StoreError> {
    let mut damaged = 0;
    loop {
        let bytes = match source.read_object(key) {
            Err(SourceError::Missing(_)) => return Ok(None),
            read => read.map_err(|error| StoreError::Tier(error.to_string()))?,
        };
        match T::decode(&bytes) {
            Err(why) if why.may_be_damage() && damaged < READ_AGAIN => damaged += 1,
            read => return read.map(Some).map_err(|why| StoreError::Tier(format!("{key}: {why}"))),
        }
    }
}

fn read_record<T: TierRecord>(source: &dyn RangeSource, key: &str) -> Result<T, StoreError> {
    let missing = || StoreError::Tier(SourceError::Missing(key.to_owned()).to_string());
    find_record(source, key)?.ok_or_else(missing)
}

/// The record of a snapshot, or of what was published under a name.
fn named_record(source: &dyn RangeSource, node: &NodeName) -> Result<RecordedSnapshot, StoreError> {
    let image = &node.image;
    let Some(snapshot) = &node.snapshot else {
        let found: Option<PublishedSnapshot> = find_record(source, &keys::published(image.as_str()))?;
        let nothing = || {
            let why = format!("nothing is published as {image}: write {image}@SNAPSHOT for a snapshot of it");
            StoreError::Tier(why)
        };
        return found.and_then(|found| found.record).ok_or_else(nothing);
    };
    let owner: NameOwner = read_record(source, &keys::owner(image.as_str()))?;
    let missing = || ImageRefusal::NoSnapshot { image: image.clone(), snapshot: snapshot.clone() };
    let id = owner.snapshots.get(snapshot.as_str()).ok_or_else(missing)?;
    read_record(source, &keys::record(image.as_str(), *id))
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
        let tier: TierHeader = read_record(source, keys::TIER)?;
        let record = named_record(source, node)?;
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
        let key = keys::hold(store, image);
        let mut packs: Vec<_> = self.record.packs.iter().map(RecordPack::from).collect();
        let known: BTreeSet<_> = packs.iter().map(|pack| pack.key).collect();
        let is_kept = |pack: &RecordPack| {
            !known.contains(&pack.key)
                && reads.is_none_or(|reads| reads.contains(&(pack.key.store, pack.key.number)))
        };
        let earlier: Option<TierHold> = find_record(source, &key)?;
        packs.extend(earlier.into_iter().flat_map(|hold| hold.packs).filter(is_kept));
        let hold = TierHold { since_s, packs, snapshot: Some(self.record.uuid) };
        let written = source.write_object(&key, &hold.encode());
        written.map_err(|error| StoreError::Tier(error.to_string()))
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
