//! Sets that are written down, as the bytes of a file. Little-endian.
//!
//! ```text
//! 0  "RNBDCHGD"            56 bytes of a unit (u32)
//! 8  version 1 (u32)       60 CRC32C of the set (u32)
//! 12 compatible            64 bytes of the set (u64)
//! 16 read-only-compatible  72 number of points (u32)
//! 20 incompatible          76 CRC32C of the table of points (u32)
//! 24 layer (uuid)          80 bytes that the anchor saw (u64)
//! 40 anchor (uuid)         88 what the anchor is (u32)
//!                          92 CRC32C of what is before it (u32)
//! 96 table of points: snapshot (uuid), bytes of its set (u64), CRC32C of its set (u32), reserved (u32)
//!    the sets of the points, then the set: 64-bit Roaring bitmaps in their portable form
//! ```
//!
//! Without points the incompatible bit 1 is not set. With points the anchor may be nil. The anchor is a
//! snapshot, unless the incompatible bit 2 is set: then it is a snapshot that is gone, and what stands at 40
//! is its uuid, as that of a point within a layer (1 at 88), or the uuid of the base of which it had the
//! contents (2). Without that bit 80 and 88 are zero.

use uuid::Uuid;

use super::set::{ChangedSet, MOST_BYTES};
use crate::store::catalog::{BaseId, LayerId, RecordAnchor, RecordHead, SnapshotId};
use crate::store::crc::crc32c;

const MAGIC: &[u8; 8] = b"RNBDCHGD";
const VERSION: u32 = 1;
/// It has points.
const POINTS: u32 = 1;
/// Its anchor is a snapshot that is gone.
const GONE: u32 = 2;
/// Features that must be known to read it.
const INCOMPATIBLE: u32 = POINTS | GONE;
/// What the anchor is that is gone.
const IS_POINT: u32 = 1;
const IS_BASE: u32 = 2;
/// Bytes of a point in the table.
const POINT: usize = 32;
/// Points that a record may have.
const MOST_POINTS: usize = 4096;

/// What differs between points in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChangeRecord {
    pub(crate) layer: LayerId,
    /// Where the way down goes on; none: at what the layer stands on.
    pub(crate) anchor: Option<RecordAnchor>,
    /// Points in time within the layer, the newest first, each with what differs between it and the one
    /// before it: for the first that is the layer with all that it stands on.
    pub(crate) points: Vec<(SnapshotId, ChangedSet)>,
    /// What differs between the last point, or the layer if there is none, and where the way goes on.
    pub(crate) set: ChangedSet,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeRecordError {
    #[error("it is damaged")]
    Damaged,
    #[error("it was written by a newer version of this program: use that one")]
    Newer,
    #[error("it belongs to another layer")]
    Foreign,
    #[error("it would be too large")]
    TooLarge,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

impl ChangeRecord {
    /// Bytes of a record without its points and its sets.
    const HEADER: usize = 96;
    /// Where it says how much the anchor saw, and what it is.
    const ANCHOR_SEEN: usize = 80;
    /// Bytes that tell all but the sets.
    pub(crate) const MOST_HEAD: u64 = (Self::HEADER + MOST_POINTS * POINT) as u64;
    /// Bytes that a file may have.
    pub(crate) const MOST_BYTES: u64 = MOST_BYTES + Self::MOST_HEAD;

    /// The set of a part: a point's by its number, and behind the last one that of the record.
    pub(crate) fn part(&self, part: usize) -> Option<&ChangedSet> {
        match self.points.get(part) {
            Some((_, set)) => Some(set),
            None => (part == self.points.len()).then_some(&self.set),
        }
    }

    /// Forgets points: what they told apart is one part then.
    pub(crate) fn forget_points(&mut self, is_gone: impl Fn(SnapshotId) -> bool) {
        let mut carried = ChangedSet::default();
        for (point, mut set) in std::mem::take(&mut self.points) {
            set.add(&std::mem::take(&mut carried));
            if is_gone(point) {
                carried = set;
            } else {
                self.points.push((point, set));
            }
        }
        self.set.add(&carried);
    }

    /// What is kept in memory of it.
    pub(crate) fn head(&self) -> RecordHead {
        RecordHead { anchor: self.anchor, points: self.points.iter().map(|(id, _)| *id).collect() }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, ChangeRecordError> {
        if self.points.len() > MOST_POINTS {
            return Err(ChangeRecordError::TooLarge);
        }
        let (mut table, mut sets) = (Vec::new(), Vec::new());
        for (id, set) in &self.points {
            let set = set.encode().ok_or(ChangeRecordError::TooLarge)?;
            table.extend_from_slice(id.0.as_bytes());
            table.extend_from_slice(&(set.len() as u64).to_le_bytes());
            table.extend_from_slice(&crc32c(&[&set]).to_le_bytes());
            table.extend_from_slice(&[0; 4]);
            sets.extend_from_slice(&set);
            if sets.len() as u64 > MOST_BYTES {
                return Err(ChangeRecordError::TooLarge);
            }
        }
        let set = self.set.encode().ok_or(ChangeRecordError::TooLarge)?;
        if (sets.len() + set.len()) as u64 > MOST_BYTES {
            return Err(ChangeRecordError::TooLarge);
        }
        let mut bytes = Vec::with_capacity(Self::HEADER + table.len() + sets.len() + set.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let (anchor, seen, kind) = match self.anchor {
            None => (Uuid::nil(), 0, 0),
            Some(RecordAnchor::Snapshot(id)) => (id.0, 0, 0),
            Some(RecordAnchor::Point { id, bytes }) => (id.0, bytes, IS_POINT),
            Some(RecordAnchor::Base { id, bytes }) => (id.0, bytes, IS_BASE),
        };
        let points = if self.points.is_empty() { 0 } else { POINTS };
        bytes.extend_from_slice(&(points | if kind == 0 { 0 } else { GONE }).to_le_bytes());
        bytes.extend_from_slice(self.layer.0.as_bytes());
        bytes.extend_from_slice(anchor.as_bytes());
        bytes.extend_from_slice(&(ChangedSet::GRANULE as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&[&set]).to_le_bytes());
        bytes.extend_from_slice(&(set.len() as u64).to_le_bytes());
        if !self.points.is_empty() {
            bytes.extend_from_slice(&(self.points.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32c(&[&table]).to_le_bytes());
        }
        bytes.resize(Self::ANCHOR_SEEN, 0);
        bytes.extend_from_slice(&seen.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        let crc = crc32c(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        for part in [table, sets, set] {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// What stands before the sets: the anchor, and the table of points.
    fn begin(layer: LayerId, bytes: &[u8]) -> Result<(Option<RecordAnchor>, &[u8]), ChangeRecordError> {
        let (header, rest) = bytes.split_at_checked(Self::HEADER).ok_or(ChangeRecordError::Damaged)?;
        if header[..8] != *MAGIC || u32_at(header, 92) != crc32c(&[&header[..92]]) {
            return Err(ChangeRecordError::Damaged);
        }
        let (unit, features) = (u32_at(header, 56), u32_at(header, 20));
        if u32_at(header, 8) > VERSION
            || features & !INCOMPATIBLE != 0
            || u64::from(unit) != ChangedSet::GRANULE
        {
            return Err(ChangeRecordError::Newer);
        }
        if uuid_at(header, 24) != layer.0 {
            return Err(ChangeRecordError::Foreign);
        }
        let count = if features & POINTS == 0 { 0 } else { u32_at(header, 72) as usize };
        if count > MOST_POINTS {
            return Err(ChangeRecordError::Damaged);
        }
        let table = rest.get(..count * POINT).ok_or(ChangeRecordError::Damaged)?;
        if count > 0 && u32_at(header, 76) != crc32c(&[table]) {
            return Err(ChangeRecordError::Damaged);
        }
        let (id, seen) = (uuid_at(header, 40), u64_at(header, Self::ANCHOR_SEEN));
        let anchor = match (features & GONE != 0, u32_at(header, Self::ANCHOR_SEEN + 8)) {
            (false, 0) => (count == 0 || !id.is_nil()).then_some(RecordAnchor::Snapshot(SnapshotId(id))),
            (true, IS_POINT) => Some(RecordAnchor::Point { id: SnapshotId(id), bytes: seen }),
            (true, IS_BASE) => Some(RecordAnchor::Base { id: BaseId(id), bytes: seen }),
            _ => return Err(ChangeRecordError::Damaged),
        };
        Ok((anchor, table))
    }

    /// The head of a layer's record, of the first bytes of its file.
    pub(crate) fn head_of(layer: LayerId, bytes: &[u8]) -> Result<RecordHead, ChangeRecordError> {
        let (anchor, table) = Self::begin(layer, bytes)?;
        let points = table.chunks(POINT).map(|point| SnapshotId(uuid_at(point, 0))).collect();
        Ok(RecordHead { anchor, points })
    }

    /// The record of a layer, of all bytes of its file.
    pub(crate) fn decode(layer: LayerId, bytes: &[u8]) -> Result<Self, ChangeRecordError> {
        let (anchor, table) = Self::begin(layer, bytes)?;
        let mut rest = &bytes[Self::HEADER + table.len()..];
        let mut next = |length: u64, crc: u32| {
            let length = usize::try_from(length).map_err(|_| ChangeRecordError::Damaged)?;
            let (set, others) = rest.split_at_checked(length).ok_or(ChangeRecordError::Damaged)?;
            rest = others;
            if crc != crc32c(&[set]) {
                return Err(ChangeRecordError::Damaged);
            }
            ChangedSet::decode(set).map_err(|_| ChangeRecordError::Damaged)
        };
        let mut points = Vec::with_capacity(table.len() / POINT);
        for point in table.chunks(POINT) {
            points.push((SnapshotId(uuid_at(point, 0)), next(u64_at(point, 16), u32_at(point, 24))?));
        }
        let set = next(u64_at(bytes, 64), u32_at(bytes, 60))?;
        if !rest.is_empty() {
            return Err(ChangeRecordError::Damaged);
        }
        Ok(Self { layer, anchor, points, set })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(units: std::ops::Range<u64>) -> ChangedSet {
        let mut set = ChangedSet::default();
        set.insert(units.start * ChangedSet::GRANULE..units.end * ChangedSet::GRANULE);
        set
    }

    fn id(number: u128) -> SnapshotId {
        SnapshotId(Uuid::from_u128(number))
    }

    #[test]
    fn each_flipped_bit_and_each_missing_byte_is_noticed() {
        let layer = LayerId(Uuid::from_u128(7));
        let mut plain = set(0..1);
        plain.insert(1 << 30..1 << 31);
        let points = vec![(id(3), set(5..7)), (id(4), set(0..0)), (id(5), set(9..10))];
        let anchor = Some(RecordAnchor::Snapshot(id(9)));
        let point = Some(RecordAnchor::Point { id: id(9), bytes: 70_000 });
        let base = Some(RecordAnchor::Base { id: BaseId(Uuid::from_u128(11)), bytes: u64::MAX });
        for record in [
            ChangeRecord { layer, anchor, points: Vec::new(), set: plain.clone() },
            ChangeRecord { layer, anchor, points: points.clone(), set: plain.clone() },
            ChangeRecord { layer, anchor: point, points: points.clone(), set: plain.clone() },
            ChangeRecord { layer, anchor: base, points: Vec::new(), set: plain.clone() },
            ChangeRecord { layer, anchor: None, points, set: plain },
        ] {
            let bytes = record.encode().unwrap();
            assert_eq!(ChangeRecord::decode(layer, &bytes).unwrap(), record);
            let before = 96 + 32 * record.points.len();
            assert_eq!(ChangeRecord::head_of(layer, &bytes[..before]).unwrap(), record.head());
            let is_gone = record.anchor == point || record.anchor == base;
            assert_eq!(bytes[20], u8::from(!record.points.is_empty()) | u8::from(is_gone) << 1);
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                ChangeRecord::decode(layer, &bytes).unwrap_err();
            }
            for length in 0..bytes.len() {
                ChangeRecord::decode(layer, &bytes[..length]).unwrap_err();
            }
            ChangeRecord::decode(layer, &[&bytes[..], &[0]].concat()).unwrap_err();
            let other = LayerId(Uuid::from_u128(8));
            assert_eq!(ChangeRecord::decode(other, &bytes).unwrap_err(), ChangeRecordError::Foreign);
        }
    }

    #[test]
    fn more_points_than_a_record_has_are_refused() {
        let layer = LayerId(Uuid::from_u128(7));
        let points = vec![(id(3), set(0..0)); MOST_POINTS + 1];
        let record = ChangeRecord { layer, anchor: None, points, set: set(0..1) };
        assert_eq!(record.encode().unwrap_err(), ChangeRecordError::TooLarge);
    }
}
