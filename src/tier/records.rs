//! The small objects of a tier, as JSON. Unknown keys are passed over, so that a later version can add some;
//! what older ones must not pass over raises the version.
//!
//! Each has a checksum. An owner that was read with a wrong byte would be written back with it, by a PUT
//! whose condition holds, and a snapshot would be listed under another name, or not at all.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::keys::PackKey;

/// The version of all objects that this program writes, and the latest that it reads.
pub const VERSION: u32 = 1;
/// Bytes of a small object at most.
pub const MOST_BYTES: usize = 16 << 20;
/// Snapshots of a name at most: all are named in one object.
pub const MOST_SNAPSHOTS: usize = 4096;

/// How often an object is read again that does not fit its checksum: what spoils it may do so twice.
pub(crate) const READ_AGAIN: u32 = 4;

/// Why an object is none of a tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierRecordError {
    #[error("it is of version {0} of tiers, and this program knows version {VERSION}: use a newer ringnbd")]
    Newer(u32),
    #[error("it cannot be read: {0}")]
    Json(String),
    #[error("it is too large: {0} bytes")]
    Large(usize),
    #[error("it is damaged: its checksum is of other contents")]
    Checksum,
}

impl TierRecordError {
    /// Whether the bytes may have become others on their way.
    pub(crate) const fn may_be_damage(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Checksum)
    }
}

/// The key of an object's checksum. It is not in objects of earlier programs, nor in one that somebody has
/// written by hand.
const CHECKSUM: &str = "checksum";

/// The checksum of all other keys: of their shortest text, so that white space does not count.
fn checksum(value: &Value) -> String {
    let hash = blake3::hash(&serde_json::to_vec(value).unwrap_or_default());
    hash.to_hex()[..32].to_owned()
}

/// Something that lies in a tier as JSON.
pub trait TierRecord: Serialize + DeserializeOwned + Send {
    /// # Errors
    /// It is of a later version, damaged, or something else.
    fn decode(bytes: &[u8]) -> Result<Self, TierRecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if bytes.len() > MOST_BYTES {
            return Err(TierRecordError::Large(bytes.len()));
        }
        let json = |error: serde_json::Error| TierRecordError::Json(error.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(json)?;
        let said = value.as_object_mut().and_then(|object| object.remove(CHECKSUM));
        if said.is_some_and(|said| said != checksum(&value)) {
            return Err(TierRecordError::Checksum);
        }
        let Versioned { version } = Versioned::deserialize(&value).map_err(json)?;
        if version > VERSION {
            return Err(TierRecordError::Newer(version));
        }
        serde_json::from_value(value).map_err(json)
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["version"] = VERSION.into();
        value[CHECKSUM] = checksum(&value).into();
        serde_json::to_vec_pretty(&value).unwrap_or_default()
    }
}

/// Within which equal contents are the same chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierSpace {
    /// `blake3`.
    pub algorithm: String,
    pub chunk_bytes: u32,
    pub domain: Uuid,
}

/// `tier.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierHeader {
    pub uuid: Uuid,
    pub space: TierSpace,
    pub created_s: u64,
}

/// `images/<name>/owner.json`: all that changes of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameOwner {
    /// The store that may push.
    pub store: Uuid,
    /// Grows each time that another store takes the name.
    pub generation: u64,
    /// For people.
    pub host: String,
    pub since_s: u64,
    /// The records of all snapshots, by name. A record that is not here was not acknowledged.
    pub snapshots: BTreeMap<String, Uuid>,
    /// Records that must not come here any more, since when: a PUT of one that is late may bring it back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expired: BTreeMap<Uuid, u64>,
}

/// `images/<name>/records/<id>.json`: it never changes. If the name's owner does not list it, it is a push
/// that is under way, or was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    pub id: Uuid,
    pub image: String,
    pub snapshot: String,
    /// The snapshot's own, in the store that it is from.
    pub uuid: Uuid,
    /// Where it is from.
    pub store: Uuid,
    /// When the snapshot was taken, and when this was written.
    pub created_s: u64,
    pub pushed_s: u64,
    /// Bytes of the disk.
    pub size: u64,
    pub space: TierSpace,
    pub root: RecordRoot,
    /// All packs that have a chunk of it.
    pub packs: Vec<RecordPack>,
}

/// What a disk begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordRoot {
    /// All of the disk reads as zeroes.
    Zeroes,
    /// The topmost node of its manifest, and the pack that has it.
    Node { hash: String, pack: PackKey, slot: u32 },
}

/// A pack that a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPack {
    #[serde(flatten)]
    pub key: PackKey,
    /// Bytes of its file.
    pub bytes: u64,
    /// Where its footer begins, and how many chunks it has; 0 if nobody has told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub footer_offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunks: u64,
    /// Its number in the store that the snapshot is from, if another one wrote it: nodes name it by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl RecordPack {
    /// One of which nothing more is told.
    #[must_use]
    pub const fn new(key: PackKey, bytes: u64) -> Self {
        Self { key, bytes, footer_offset: 0, chunks: 0, local: None }
    }
}

/// `holds/<store>/<name>.json`: what an image reads that was cloned from the tier and not pushed yet. Without
/// packs it is over: it is not deleted, because a deletion that is late would take a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierHold {
    pub since_s: u64,
    pub packs: Vec<RecordPack>,
    /// The snapshot that the image was cloned from, by its own uuid; none if an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Uuid>,
}

/// `publish/<name>.json`. It has all that the snapshot's record had, and goes on when that is removed. None:
/// it is not published any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub record: Option<PushRecord>,
    pub published_s: u64,
}

/// How far a pack is on its way to deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkState {
    /// No record named it.
    Marked,
    /// A push needs it after all.
    Rescued,
    /// Nobody may need it any more, for ever: a deletion may still be on its way.
    Deleting,
}

/// `trash/<store>/<number>.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashMark {
    pub state: MarkState,
    pub since_s: u64,
    /// It was there before `since_s`: somebody had read it. Until then it may be younger than it says,
    /// because a PUT can take place long after it was sent.
    #[serde(default)]
    pub is_seen: bool,
}

impl TierRecord for TierHeader {}
impl TierRecord for NameOwner {}
impl TierRecord for PushRecord {}
impl TierRecord for TierHold {}
impl TierRecord for Published {}
impl TierRecord for TrashMark {}

#[cfg(test)]
impl PushRecord {
    /// One for tests, of the image `vm1`.
    pub(super) fn example() -> Self {
        let pack = PackKey { store: Uuid::from_u128(1), number: 4, upload: 0 };
        Self {
            id: Uuid::from_u128(2),
            image: "vm1".to_owned(),
            snapshot: "monday".to_owned(),
            uuid: Uuid::from_u128(3),
            store: Uuid::from_u128(1),
            created_s: 5,
            pushed_s: 6,
            size: 1 << 30,
            space: TierSpace { algorithm: "blake3".to_owned(), chunk_bytes: 65536, domain: Uuid::nil() },
            root: RecordRoot::Node { hash: "ab".repeat(32), pack, slot: 9 },
            packs: vec![RecordPack { footer_offset: 4096, local: Some(3), ..RecordPack::new(pack, 7) }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_themselves() {
        assert_eq!(PushRecord::decode(&PushRecord::example().encode()), Ok(PushRecord::example()));
        let zeroes = PushRecord { root: RecordRoot::Zeroes, packs: Vec::new(), ..PushRecord::example() };
        assert_eq!(PushRecord::decode(&zeroes.encode()), Ok(zeroes));
        let mark = TrashMark { state: MarkState::Deleting, since_s: 3, is_seen: false };
        assert_eq!(TrashMark::decode(&mark.encode()), Ok(mark));
    }

    /// An object as another program would have written it.
    fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value: Value = serde_json::from_slice(&PushRecord::example().encode()).unwrap();
        value.as_object_mut().unwrap().remove(CHECKSUM).unwrap();
        change(&mut value);
        value[CHECKSUM] = checksum(&value).into();
        value.to_string().into_bytes()
    }

    #[test]
    fn a_later_version_is_refused_and_a_further_key_is_not() {
        let further = changed(|value| value["further"] = true.into());
        assert_eq!(PushRecord::decode(&further), Ok(PushRecord::example()));
        let later = changed(|value| value["version"] = 2.into());
        assert_eq!(PushRecord::decode(&later), Err(TierRecordError::Newer(2)));
    }

    /// Whatever bit becomes another on the way, the object is what it was or none.
    #[test]
    fn no_flipped_bit_makes_another_object() {
        let good = PushRecord::example().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match PushRecord::decode(&bytes) {
                Err(why) => assert!(why.may_be_damage(), "bit {bit}: {why}"),
                // White space, or a letter of the key "checksum".
                Ok(read) => assert_eq!(read, PushRecord::example(), "bit {bit}"),
            }
        }
        let mut bytes = good.clone();
        bytes.truncate(good.len() / 2);
        assert!(PushRecord::decode(&bytes).is_err_and(|why| why.may_be_damage()));
    }

    /// A checksum is of keys in one order, whichever one an object has: a feature of the JSON crate that some
    /// dependency could switch on would change that, and all checksums.
    #[test]
    fn the_order_of_keys_does_not_count() {
        let text = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(
            checksum(&text(r#"{"b": {"d": 1, "c": 2}, "a": 3}"#)),
            checksum(&text(r#"{"a":3,"b":{"c":2,"d":1}}"#))
        );
    }

    /// Earlier programs wrote none, and whoever edits an object takes it out.
    #[test]
    fn an_object_needs_no_checksum() {
        let mut value: Value = serde_json::from_slice(&PushRecord::example().encode()).unwrap();
        value.as_object_mut().unwrap().remove(CHECKSUM).unwrap();
        assert_eq!(PushRecord::decode(value.to_string().as_bytes()), Ok(PushRecord::example()));
        value[CHECKSUM] = 7.into();
        assert_eq!(PushRecord::decode(value.to_string().as_bytes()), Err(TierRecordError::Checksum));
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for bytes in [&b""[..], b"{", b"[]", b"{}", b"{\"version\":1}", b"{\"version\":-1}", b"\xff"] {
            assert!(matches!(PushRecord::decode(bytes), Err(TierRecordError::Json(_))), "{bytes:?}");
        }
        assert_eq!(
            NameOwner::decode(&vec![b' '; MOST_BYTES + 1]),
            Err(TierRecordError::Large(MOST_BYTES + 1))
        );
    }
}
