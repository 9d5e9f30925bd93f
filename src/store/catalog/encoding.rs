//! Rows as bytes.
//!
//! A row is {version, reserved, fields, reserved, checksum}. The checksum covers the table and the key as
//! well, so that a row in another's place is noticed. The database has checksums of its own pages, which it
//! does not verify each time that it reads one.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::codec::{RowError, RowReader, RowWriter};
use super::id::{BaseId, ImageId, LayerId, SnapshotId};
use super::name::StoreName;
use super::rows::{
    BaseIdentity, BaseKind, BaseRow, Below, ChainNode, ImageRow, LONGEST_KEY, LONGEST_PATH, LONGEST_VALUE,
    LayerRow, MOST_PAIRS, SnapshotKeeps, SnapshotRow, TentativeRow,
};

const VERSION: u16 = 1;
/// Room at the end of each row: of a layer, for a key's id and a tag.
const RESERVED: usize = 48;
const CHECKSUM: usize = 8;
/// Bytes of a device's own name.
const LONGEST_WWID: usize = 256;

/// A kind of row.
pub(super) trait StoredRow: Sized {
    /// The table's name.
    const TABLE: &'static str;
    fn key(&self) -> Uuid;
    fn write(&self, to: &mut RowWriter);
    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError>;
}

pub(super) fn encode<R: StoredRow>(row: &R) -> Vec<u8> {
    let mut writer = RowWriter::default();
    writer.u16(VERSION).u16(0);
    row.write(&mut writer);
    writer.zeroes(RESERVED);
    let mut bytes = writer.finish();
    let checksum = checksum(R::TABLE, row.key(), &bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

pub(super) fn decode<R: StoredRow>(key: Uuid, bytes: &[u8]) -> Result<R, RowError> {
    let end = bytes.len().checked_sub(CHECKSUM).ok_or(RowError::Short)?;
    let (body, stored) = bytes.split_at(end);
    if checksum(R::TABLE, key, body) != stored {
        return Err(RowError::Checksum);
    }
    let mut reader = RowReader::new(body);
    let version = reader.u16()?;
    if version != VERSION {
        return Err(RowError::Version(version));
    }
    reader.zeroes(2)?;
    let row = R::read(key, &mut reader)?;
    reader.zeroes(RESERVED)?;
    reader.finish()?;
    Ok(row)
}

pub(super) fn checksum(table: &str, key: Uuid, body: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.as_bytes()).update(key.as_bytes()).update(body);
    hasher.finalize().as_bytes()[..CHECKSUM].try_into().expect("a part of the hash")
}

fn write_below(to: &mut RowWriter, below: Below) {
    let (tag, uuid) = match below.node {
        ChainNode::Nothing => (0, Uuid::nil()),
        ChainNode::Base(BaseId(uuid)) => (1, uuid),
        ChainNode::Layer(LayerId(uuid)) => (2, uuid),
    };
    to.u8(tag).uuid(uuid).u64(below.bytes);
}

fn read_below(from: &mut RowReader<'_>) -> Result<Below, RowError> {
    let (tag, uuid, bytes) = (from.u8()?, from.uuid()?, from.u64()?);
    let node = match tag {
        0 => ChainNode::Nothing,
        1 => ChainNode::Base(BaseId(uuid)),
        2 => ChainNode::Layer(LayerId(uuid)),
        _ => return Err(RowError::Value),
    };
    Ok(Below { node, bytes })
}

fn read_name(from: &mut RowReader<'_>) -> Result<StoreName, RowError> {
    from.text(super::name::LONGEST_NAME)?.parse().map_err(|_| RowError::Text)
}

fn read_pairs(from: &mut RowReader<'_>) -> Result<BTreeMap<String, String>, RowError> {
    let count = usize::from(from.u16()?);
    if count > MOST_PAIRS {
        return Err(RowError::Value);
    }
    let mut pairs = BTreeMap::new();
    for _ in 0..count {
        pairs.insert(from.text(LONGEST_KEY)?.to_owned(), from.text(LONGEST_VALUE)?.to_owned());
    }
    if pairs.len() < count {
        return Err(RowError::Value);
    }
    Ok(pairs)
}

/// Beside the lowest bit of a byte that was nothing but this bit, so that older rows keep contents.
const fn number_of(keeps: SnapshotKeeps) -> u8 {
    match keeps {
        SnapshotKeeps::Contents => 0,
        SnapshotKeeps::Changes => 1,
        SnapshotKeeps::ChangesWithin => 2,
    }
}

const fn kept_of(number: u8) -> Result<SnapshotKeeps, RowError> {
    match number {
        0 => Ok(SnapshotKeeps::Contents),
        1 => Ok(SnapshotKeeps::Changes),
        2 => Ok(SnapshotKeeps::ChangesWithin),
        _ => Err(RowError::Value),
    }
}

impl StoredRow for ImageRow {
    const TABLE: &'static str = "images";

    fn key(&self) -> Uuid {
        self.id.0
    }

    fn write(&self, to: &mut RowWriter) {
        to.text(self.name.as_str()).u64(self.size).optional_uuid(self.head.map(|id| id.0));
        write_below(to, self.below);
        to.optional_uuid(self.origin.map(|id| id.0)).optional_uuid(self.since.map(|id| id.0));
        to.u64(self.created_s).optional_u64(self.quota).bool(self.is_held).u64(self.writer_generation);
        to.u16(self.pairs.len() as u16);
        for (key, value) in &self.pairs {
            to.text(key).text(value);
        }
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        Ok(Self {
            id: ImageId(key),
            name: read_name(from)?,
            size: from.u64()?,
            head: from.optional_uuid()?.map(LayerId),
            below: read_below(from)?,
            origin: from.optional_uuid()?.map(SnapshotId),
            since: from.optional_uuid()?.map(SnapshotId),
            created_s: from.u64()?,
            quota: from.optional_u64()?,
            is_held: from.bool()?,
            writer_generation: from.u64()?,
            pairs: read_pairs(from)?,
        })
    }
}

impl StoredRow for LayerRow {
    const TABLE: &'static str = "layers";

    fn key(&self) -> Uuid {
        self.id.0
    }

    fn write(&self, to: &mut RowWriter) {
        to.uuid(self.image.0);
        write_below(to, self.below);
        to.u64(self.size).bool(self.is_sealed).u64(self.created_s);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        Ok(Self {
            id: LayerId(key),
            image: ImageId(from.uuid()?),
            below: read_below(from)?,
            size: from.u64()?,
            is_sealed: from.bool()?,
            created_s: from.u64()?,
        })
    }
}

impl StoredRow for SnapshotRow {
    const TABLE: &'static str = "snapshots";

    fn key(&self) -> Uuid {
        self.id.0
    }

    fn write(&self, to: &mut RowWriter) {
        to.uuid(self.image.0).text(self.name.as_str()).u64(self.size);
        write_below(to, self.below);
        to.optional_uuid(self.parent.map(|id| id.0)).u64(self.created_s);
        to.u8(u8::from(self.is_held) | number_of(self.keeps) << 1);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let (image, name, size) = (ImageId(from.uuid()?), read_name(from)?, from.u64()?);
        let (below, parent) = (read_below(from)?, from.optional_uuid()?.map(SnapshotId));
        let (created_s, flags) = (from.u64()?, from.u8()?);
        let (is_held, keeps) = (flags & 1 == 1, kept_of(flags >> 1)?);
        Ok(Self { id: SnapshotId(key), image, name, size, below, parent, created_s, is_held, keeps })
    }
}

impl StoredRow for TentativeRow {
    const TABLE: &'static str = "tentative";

    fn key(&self) -> Uuid {
        self.id.0
    }

    fn write(&self, to: &mut RowWriter) {
        to.uuid(self.group).uuid(self.image.0);
        to.u8(u8::from(self.snapshot.is_some()) << u8::from(self.is_changes_only));
        to.text(self.snapshot.as_ref().map_or("", StoreName::as_str));
        to.optional_uuid(self.head.map(|id| id.0)).optional_uuid(self.next_head.map(|id| id.0));
        to.uuid(self.boot).u64(self.place.0).u64(self.place.1);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let (group, image) = (from.uuid()?, ImageId(from.uuid()?));
        let kind = from.u8()?;
        let snapshot = match kind {
            0 => from.text(0).map(|_| None)?,
            1 | 2 => Some(read_name(from)?),
            _ => return Err(RowError::Value),
        };
        Ok(Self {
            id: SnapshotId(key),
            group,
            image,
            snapshot,
            is_changes_only: kind == 2,
            head: from.optional_uuid()?.map(LayerId),
            next_head: from.optional_uuid()?.map(LayerId),
            boot: from.uuid()?,
            place: (from.u64()?, from.u64()?),
        })
    }
}

impl StoredRow for BaseRow {
    const TABLE: &'static str = "bases";

    fn key(&self) -> Uuid {
        self.id.0
    }

    fn write(&self, to: &mut RowWriter) {
        let BaseIdentity { size, inode, file_system, device, ctime_s, ctime_ns, wwid, sample } =
            &self.identity;
        to.u8(match self.kind {
            BaseKind::File => 0,
            BaseKind::Device => 1,
            BaseKind::Remote => 2,
        });
        to.text(&self.path).u64(self.created_s);
        to.u64(*size).u64(*inode).u64(*file_system).u64(*device);
        to.u64(ctime_s.cast_unsigned()).u32(*ctime_ns).text(wwid).bytes(sample);
    }

    fn read(key: Uuid, from: &mut RowReader<'_>) -> Result<Self, RowError> {
        let kind = match from.u8()? {
            0 => BaseKind::File,
            1 => BaseKind::Device,
            2 => BaseKind::Remote,
            _ => return Err(RowError::Value),
        };
        let (path, created_s) = (from.text(LONGEST_PATH)?.to_owned(), from.u64()?);
        let identity = BaseIdentity {
            size: from.u64()?,
            inode: from.u64()?,
            file_system: from.u64()?,
            device: from.u64()?,
            ctime_s: from.u64()?.cast_signed(),
            ctime_ns: from.u32()?,
            wwid: from.text(LONGEST_WWID)?.to_owned(),
            sample: from.array()?,
        };
        Ok(Self { id: BaseId(key), kind, path, identity, created_s })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image() -> ImageRow {
        ImageRow {
            id: ImageId(Uuid::from_u128(1)),
            name: "vm1".parse().unwrap(),
            size: 1 << 30,
            head: Some(LayerId(Uuid::from_u128(2))),
            below: Below { node: ChainNode::Base(BaseId(Uuid::from_u128(3))), bytes: 77 },
            origin: None,
            since: Some(SnapshotId(Uuid::from_u128(4))),
            created_s: 5,
            pairs: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            quota: Some(6),
            is_held: true,
            writer_generation: 7,
        }
    }

    fn base() -> BaseRow {
        let identity = BaseIdentity {
            size: 1,
            inode: 2,
            file_system: 3,
            device: 4,
            ctime_s: -5,
            ctime_ns: 6,
            wwid: "naa.1".to_owned(),
            sample: [7; 32],
        };
        let id = BaseId(Uuid::from_u128(8));
        BaseRow { id, kind: BaseKind::Device, path: "/dev/x".to_owned(), identity, created_s: 9 }
    }

    fn layer() -> LayerRow {
        LayerRow {
            id: LayerId(Uuid::from_u128(10)),
            image: image().id,
            below: Below { node: ChainNode::Layer(LayerId(Uuid::from_u128(2))), bytes: 11 },
            size: 12,
            is_sealed: true,
            created_s: 13,
        }
    }

    fn snapshot() -> SnapshotRow {
        SnapshotRow {
            id: SnapshotId(Uuid::from_u128(14)),
            image: image().id,
            name: "monday".parse().unwrap(),
            size: 15,
            below: Below::NOTHING,
            parent: Some(SnapshotId(Uuid::from_u128(16))),
            created_s: 17,
            is_held: false,
            keeps: SnapshotKeeps::Contents,
        }
    }

    fn tentative(snapshot: Option<StoreName>) -> TentativeRow {
        TentativeRow {
            id: SnapshotId(Uuid::from_u128(18)),
            group: Uuid::from_u128(19),
            image: image().id,
            snapshot,
            is_changes_only: false,
            head: None,
            next_head: Some(layer().id),
            boot: Uuid::from_u128(20),
            place: (21, 22),
        }
    }

    #[test]
    fn rows_read_as_themselves() {
        let named = tentative(Some(snapshot().name));
        let of_changes = TentativeRow { is_changes_only: true, ..named.clone() };
        for row in [tentative(None), named, of_changes] {
            assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
        }
        assert_eq!(decode(image().key(), &encode(&image())), Ok(image()));
        assert_eq!(decode(layer().key(), &encode(&layer())), Ok(layer()));
        for (is_held, keeps) in [
            (false, SnapshotKeeps::Contents),
            (true, SnapshotKeeps::Contents),
            (true, SnapshotKeeps::Changes),
            (false, SnapshotKeeps::ChangesWithin),
        ] {
            let row = SnapshotRow { is_held, keeps, ..snapshot() };
            assert_eq!(decode(row.key(), &encode(&row)), Ok(row));
        }
        assert_eq!(decode(base().key(), &encode(&base())), Ok(base()));
    }

    /// The format, so that it cannot change unnoticed.
    #[test]
    fn the_bytes_of_a_layer() {
        let mut expected = vec![1, 0, 0, 0];
        expected.extend_from_slice(&1u128.to_be_bytes());
        expected.push(2);
        expected.extend_from_slice(&2u128.to_be_bytes());
        expected.extend_from_slice(&11u64.to_le_bytes());
        expected.extend_from_slice(&12u64.to_le_bytes());
        expected.push(1);
        expected.extend_from_slice(&13u64.to_le_bytes());
        expected.extend_from_slice(&[0; 48]);
        let bytes = encode(&layer());
        assert_eq!(bytes[..bytes.len() - 8], expected);
    }

    #[test]
    fn a_row_in_anothers_place_is_noticed() {
        let bytes = encode(&image());
        assert_eq!(decode::<ImageRow>(Uuid::from_u128(9), &bytes), Err(RowError::Checksum));
        assert_eq!(decode::<SnapshotRow>(image().key(), &bytes), Err(RowError::Checksum));
    }

    /// Garbage behind a checksum that fits, as a hostile file has it.
    fn with_checksum(table: &str, key: Uuid, mut body: Vec<u8>) -> Vec<u8> {
        let sum = checksum(table, key, &body);
        body.extend_from_slice(&sum);
        body
    }

    proptest! {
        #[test]
        fn each_flipped_bit_is_noticed(at in 0..10_000usize, bit in 0..8) {
            let mut bytes = encode(&image());
            let at = at % bytes.len();
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(decode::<ImageRow>(image().key(), &bytes), Err(RowError::Checksum));
        }

        #[test]
        fn garbage_is_refused_or_reads_as_itself(
            mut body in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0..300usize,
            front in any::<bool>(),
        ) {
            let key = image().key();
            if front {
                // A good row with a garbled end gets further.
                let good = encode(&image());
                let mut mixed = good[..cut.min(good.len() - 8)].to_vec();
                mixed.append(&mut body);
                body = mixed;
            }
            let bytes = with_checksum("images", key, body.clone());
            if let Ok(row) = decode::<ImageRow>(key, &bytes) {
                prop_assert_eq!(decode(key, &encode(&row)), Ok(row));
            }
            let _ = decode::<BaseRow>(key, &with_checksum("bases", key, body.clone()));
            let _ = decode::<LayerRow>(key, &with_checksum("layers", key, body.clone()));
            let _ = decode::<SnapshotRow>(key, &with_checksum("snapshots", key, body.clone()));
            let _ = decode::<TentativeRow>(key, &with_checksum("tentative", key, body));
        }
    }
}
