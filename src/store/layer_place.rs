//! Where a layer belongs, as its map tells it beside its parent, so that a lost catalogue can be made again
//! of maps alone.
//!
//! It is JSON in the superblock, in at most [`MOST_BYTES`]. Keys that are not known are passed over. What
//! does not fit is left out: names of snapshots first, which are the least to lose.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::catalog::{BaseIdentity, BaseKind, BaseRow, ImageId, LayerId, SnapshotId, StoreName};

/// Bytes that the superblock has for it.
const MOST_BYTES: usize = 2048;

/// Where a layer belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerPlace {
    /// Bytes of what is below that are seen through it.
    pub below_bytes: u64,
    /// The file or device that it stands on itself.
    pub base: Option<PlacedBase>,
    /// Layers whose place it took, the latest first: whoever says to stand on one of them stands on it.
    pub replaces: Vec<LayerId>,
    /// It took the place of all that was below an image, for this image only.
    pub is_flat: bool,
    /// Snapshots that consist of what is below it.
    pub snapshots: Vec<PlacedSnapshot>,
}

/// A base, as its row had it when the layer was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedBase {
    pub kind: BaseKind,
    pub path: String,
    pub identity: BaseIdentity,
}

/// A snapshot, as it was called when the layer was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSnapshot {
    pub id: SnapshotId,
    pub image: ImageId,
    pub name: StoreName,
}

#[derive(Serialize, Deserialize)]
struct PlaceText {
    below_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<PlacedBase>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replaces: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_flat: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<(String, String, StoreName)>,
}

impl From<&BaseRow> for PlacedBase {
    fn from(row: &BaseRow) -> Self {
        Self { kind: row.kind, path: row.path.clone(), identity: row.identity.clone() }
    }
}

impl LayerPlace {
    /// As the superblock has it; none if what matters does not fit, so that nobody goes by half of it.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut left = self.clone();
        loop {
            let text = serde_json::to_vec(&left.text()).ok()?;
            if text.len() <= MOST_BYTES {
                return Some(text);
            }
            // The latest are those that are asked for most.
            if left.snapshots.pop().is_none() && left.replaces.pop().is_none() {
                return None;
            }
        }
    }

    fn text(&self) -> PlaceText {
        let Self { below_bytes, base, replaces, is_flat, snapshots } = self;
        PlaceText {
            below_bytes: *below_bytes,
            base: base.clone(),
            replaces: replaces.iter().map(ToString::to_string).collect(),
            is_flat: *is_flat,
            snapshots: snapshots
                .iter()
                .map(|of| (of.id.to_string(), of.image.to_string(), of.name.clone()))
                .collect(),
        }
    }

    /// Reads it again; none if it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let PlaceText { below_bytes, base, replaces, is_flat, snapshots } =
            serde_json::from_slice(bytes).ok()?;
        let uuid = |text: &String| Uuid::try_parse(text).ok();
        let replaces = replaces.iter().map(|text| uuid(text).map(LayerId)).collect::<Option<_>>()?;
        let snapshots = snapshots.into_iter().map(|(id, image, name)| {
            Some(PlacedSnapshot { id: SnapshotId(uuid(&id)?), image: ImageId(uuid(&image)?), name })
        });
        Some(Self { below_bytes, base, replaces, is_flat, snapshots: snapshots.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(replaced: u128, names: usize) -> LayerPlace {
        let identity = BaseIdentity {
            size: 1 << 40,
            inode: u64::MAX,
            file_system: 7,
            device: 8,
            ctime_s: -5,
            ctime_ns: 999_999_999,
            wwid: "w".repeat(20),
            sample: [255; 32],
        };
        let base = PlacedBase { kind: BaseKind::Device, path: "/\"ü".repeat(20), identity };
        let snapshot = |number| PlacedSnapshot {
            id: SnapshotId(Uuid::from_u128(number)),
            image: ImageId(Uuid::from_u128(5)),
            name: "n".repeat(128).parse().unwrap(),
        };
        LayerPlace {
            below_bytes: u64::MAX,
            base: Some(base),
            replaces: (0..replaced).map(|number| LayerId(Uuid::from_u128(number))).collect(),
            is_flat: replaced % 2 == 1,
            snapshots: (0..names as u128).map(snapshot).collect(),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_loses_names_first() {
        for whole in [LayerPlace::default(), place(0, 0), place(3, 2)] {
            assert_eq!(LayerPlace::decode(&whole.encode().unwrap()), Some(whole));
        }
        let large = place(10, 40);
        let bytes = large.encode().unwrap();
        assert!(bytes.len() <= MOST_BYTES);
        let read = LayerPlace::decode(&bytes).unwrap();
        assert_eq!((&read.base, &read.replaces), (&large.base, &large.replaces));
        assert!(read.snapshots.len() > 1 && large.snapshots.starts_with(&read.snapshots));
        let kept = LayerPlace::decode(&place(500, 3).encode().unwrap()).unwrap().replaces;
        assert!(kept.len() > 20 && kept[0] == LayerId(Uuid::from_u128(0)), "the latest stay");
        let mut path = place(0, 0);
        path.base.as_mut().unwrap().path = "p".repeat(MOST_BYTES);
        assert_eq!(path.encode(), None);
    }

    #[test]
    fn other_bytes_are_no_place() {
        for text in ["", "{}", "[]", r#"{"below_bytes":-1}"#, r#"{"below_bytes":1,"replaces":["x"]}"#] {
            assert_eq!(LayerPlace::decode(text.as_bytes()), None, "{text}");
        }
        assert!(LayerPlace::decode(br#"{"below_bytes":1,"later":[]}"#).is_some());
    }
}
