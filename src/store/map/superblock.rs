//! Superblocks, as bytes: whose map it is, where its tree begins, and from where its journal is replayed.
//!
//! ```text
//!    0  header (`format`)
//!   32  uuids of store, image, layer, parent (none: zero)
//!   96  sequence: odd in A, even in B
//!  104  generation: how often the layer had been opened for writing
//!  112  when the layer was made, and when this was written, in seconds
//!  128  size of the disk in bytes
//!  136  ABSENT blocks from here on read as zeroes
//!  144  geometry, 48 bytes
//!  192  where replay begins, and what it must at least reach, 24 bytes each
//!  240  bytes of the name, bytes of the base's description
//!  248  reserved
//!  512  the name
//!  768  the base's description
//! 2816  entries of the roots
//! 3840  reserved
//! ```

use uuid::Uuid;

use super::error::LayerMapError;
use super::format::{Encoder, StructureFields, StructureFlaw, StructureKind, check};
use super::geometry::{Geometry, MOST_ROOTS, SUPERBLOCK_BYTES, SUPERBLOCK_SPACING};
use super::node::{ENTRY_BYTES, NodeEntry};
use super::record::JournalPoint;
use crate::store::structure::STRUCTURE_HEADER;

pub(super) const KIND: StructureKind = StructureKind { magic: *b"rnbmSUPR", name: "superblock of the map" };
const NAME_AT: usize = 512;
const MOST_NAME_BYTES: usize = 256;
const BASE_AT: usize = NAME_AT + MOST_NAME_BYTES;
const MOST_BASE_BYTES: usize = 2048;
const ROOTS_AT: usize = BASE_AT + MOST_BASE_BYTES;
const _: () = assert!(ROOTS_AT + MOST_ROOTS as usize * ENTRY_BYTES <= SUPERBLOCK_BYTES);

/// Whose map it is. The superblocks have all of it, so that a lost catalogue can be made anew of the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerIdentity {
    pub(crate) store: Uuid,
    pub(crate) image: Uuid,
    pub(crate) layer: Uuid,
    /// The layer below.
    pub(crate) parent: Option<Uuid>,
    /// The image's name.
    pub(crate) name: String,
    /// When the layer was made, in seconds since 1970.
    pub(crate) created_s: u64,
    /// The size of the disk, in bytes.
    pub(crate) size: u64,
    /// What is below all layers, as the store describes it.
    pub(crate) base: Option<Vec<u8>>,
}

impl LayerIdentity {
    pub(super) fn check(&self, geometry: &Geometry) -> Result<(), LayerMapError> {
        let base = self.base.as_ref().map_or(0, Vec::len);
        for (what, length, most) in [
            ("image's name", self.name.len(), MOST_NAME_BYTES),
            ("base's description", base, MOST_BASE_BYTES),
        ] {
            if length > most {
                return Err(LayerMapError::TooLong { what, length, most });
            }
        }
        if self.size > geometry.most_bytes() {
            return Err(LayerMapError::TooLarge { size: self.size, most: geometry.most_bytes() });
        }
        Ok(())
    }
}

/// What one of the two superblocks says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) identity: LayerIdentity,
    pub(super) geometry: Geometry,
    pub(super) sequence: u64,
    pub(super) generation: u64,
    pub(super) written_s: u64,
    /// ABSENT blocks from here on read as zeroes.
    pub(super) hidden_from: u64,
    /// Records from here on are not in the nodes, or not in all of them.
    pub(super) replay_from: JournalPoint,
    /// Records up to here were durable when it was written.
    pub(super) durable_to: JournalPoint,
    pub(super) roots: Vec<NodeEntry>,
    /// It has read-only-compatible features that are not known.
    pub(super) is_read_only: bool,
}

/// Where the superblock of a sequence lies.
pub(super) fn superblock_offset(sequence: u64) -> u64 {
    if sequence % 2 == 1 { 0 } else { SUPERBLOCK_SPACING as u64 }
}

impl Superblock {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::new(KIND, SUPERBLOCK_BYTES);
        let identity = &self.identity;
        for uuid in [identity.store, identity.image, identity.layer, identity.parent.unwrap_or_default()] {
            to.put(uuid.as_bytes());
        }
        for number in [self.sequence, self.generation, identity.created_s, self.written_s] {
            to.put_u64(number);
        }
        to.put_u64(identity.size);
        to.put_u64(self.hidden_from);
        self.geometry.encode(&mut to);
        self.replay_from.encode(&mut to);
        self.durable_to.encode(&mut to);
        let base = identity.base.as_deref();
        to.put_u32(identity.name.len() as u32);
        // A base whose description is empty is one.
        to.put_u32(base.map_or(u32::MAX, |base| base.len() as u32));
        to.skip(NAME_AT - 248);
        to.put(identity.name.as_bytes());
        to.skip(MOST_NAME_BYTES - identity.name.len());
        to.put(base.unwrap_or_default());
        to.skip(MOST_BASE_BYTES - base.map_or(0, <[u8]>::len));
        self.roots.iter().for_each(|root| root.encode(&mut to));
        to.finish().0
    }

    /// The one in slot A, or else in B.
    pub(super) fn decode(bytes: &[u8], is_a: bool) -> Result<Self, DecodeError> {
        let whole = check(bytes, KIND).map_err(|flaw| match flaw.newer(KIND) {
            Some(error) => DecodeError::Refused(error),
            None => DecodeError::Unreadable(flaw),
        })?;
        let superblock = Self::fields(whole.body, whole.read_only_features != 0)
            .ok_or(DecodeError::Refused(LayerMapError::Superblock("a field that cannot be")))?;
        superblock.check(is_a).map_err(DecodeError::Refused)?;
        Ok(superblock)
    }

    fn fields(body: &[u8], is_read_only: bool) -> Option<Self> {
        let mut from = StructureFields(body);
        let mut uuid = || from.array().map(Uuid::from_bytes);
        let (store, image, layer, parent) = (uuid()?, uuid()?, uuid()?, uuid()?);
        let (sequence, generation, created_s, written_s) =
            (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
        let (size, hidden_from) = (from.u64()?, from.u64()?);
        let geometry = Geometry::decode(&mut from)?;
        let replay_from = JournalPoint::decode(&mut from)?;
        let durable_to = JournalPoint::decode(&mut from)?;
        let (name, base) = (from.u32()? as usize, from.u32()?);
        if name > MOST_NAME_BYTES {
            return None;
        }
        let text =
            |at: usize, length: usize| StructureFields(body.get(at - STRUCTURE_HEADER..)?).bytes(length);
        let name = String::from_utf8(text(NAME_AT, name)?.to_vec()).ok()?;
        let base = match base {
            u32::MAX => None,
            length if length as usize <= MOST_BASE_BYTES => Some(text(BASE_AT, length as usize)?.to_vec()),
            _ => return None,
        };
        let mut from = StructureFields(body.get(ROOTS_AT - STRUCTURE_HEADER..)?);
        let roots = (0..geometry.roots.min(MOST_ROOTS)).map(|_| NodeEntry::decode(&mut from, sequence));
        let roots = roots.collect::<Option<_>>()?;
        let parent = Some(parent).filter(|parent| !parent.is_nil());
        let identity = LayerIdentity { store, image, layer, parent, name, created_s, size, base };
        Some(Self {
            identity,
            geometry,
            sequence,
            generation,
            written_s,
            hidden_from,
            replay_from,
            durable_to,
            roots,
            is_read_only,
        })
    }

    fn check(&self, is_a: bool) -> Result<(), LayerMapError> {
        self.geometry.checked()?;
        self.identity.check(&self.geometry)?;
        // Numbers that only grow by one: none gets there in the life of a layer.
        let most = 1 << 62;
        let (from, to) = (self.replay_from, self.durable_to);
        let rules = [
            (self.sequence % 2 == u64::from(is_a), "its sequence belongs to the other slot"),
            ((1..most).contains(&self.sequence) && self.generation < most, "its sequence"),
            (self.hidden_from <= self.geometry.most_blocks(), "the first hidden block"),
            (to.position < most && to.sequence < most, "its place in the journal"),
            (from.position <= to.position && from.sequence <= to.sequence, "its places in the journal"),
            (to.position - from.position.min(to.position) <= self.geometry.ring_blocks(), "its journal"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(LayerMapError::Superblock(what)),
            None => Ok(()),
        }
    }
}

/// Why there is no superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// Torn or damaged, or never written.
    Unreadable(StructureFlaw),
    /// It is whole, and cannot be used.
    Refused(LayerMapError),
}
