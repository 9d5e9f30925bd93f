//! Nodes of the tree: leaves and inner nodes, as bytes in their slots.
//!
//! ```text
//!   0  header (`format`)
//!  32  uuid of the layer
//!  48  level: 0 is a leaf
//!  52  reserved
//!  56  index among the nodes of its level
//!  64  sequence of the superblock that it was written for
//!  72  reserved
//! 128  a leaf: two bits for each block. An inner node: an entry for each child
//! ```

use uuid::Uuid;

use super::error::LayerMapError;
use super::format::{Encoder, StructureFields, StructureKind, check};
use super::geometry::{Geometry, NODE_HEADER_BYTES};
use super::states::States;

const KIND: StructureKind = StructureKind { magic: *b"rnbmNODE", name: "node of the map" };
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 16;

/// A node that is to be loaded, as its parent names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(super) level: u32,
    pub(super) index: u64,
    /// When the parent names another one meanwhile, there is nothing to load.
    pub(super) sequence: u64,
}

/// One of a node's two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeSlot {
    A,
    B,
}

/// What a parent knows of a child: with sequence 0, that it was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeEntry {
    pub(super) sequence: u64,
    pub(super) crc: u32,
    pub(super) slot: NodeSlot,
}

impl NodeEntry {
    pub(super) const EMPTY: Self = Self { sequence: 0, crc: 0, slot: NodeSlot::A };

    pub(super) const fn is_empty(&self) -> bool {
        self.sequence == 0
    }

    /// Where the node is written next.
    pub(super) const fn next_slot(&self) -> NodeSlot {
        match (self.is_empty(), self.slot) {
            (false, NodeSlot::A) => NodeSlot::B,
            _ => NodeSlot::A,
        }
    }

    pub(super) fn encode(&self, to: &mut Encoder) {
        let slot = match (self.is_empty(), self.slot) {
            (true, _) => 0,
            (false, NodeSlot::A) => 1,
            (false, NodeSlot::B) => 2,
        };
        to.put_u64(self.sequence);
        to.put_u32(self.crc);
        to.put_u32(slot);
    }

    /// `None` if it cannot be one of a parent that was written for `sequence`.
    pub(super) fn decode(from: &mut StructureFields<'_>, sequence: u64) -> Option<Self> {
        let (of, crc, slot) = (from.u64()?, from.u32()?, from.u32()?);
        let slot = match slot {
            0 => return (of == 0 && crc == 0).then_some(Self::EMPTY),
            1 => NodeSlot::A,
            2 => NodeSlot::B,
            _ => return None,
        };
        (1..=sequence).contains(&of).then_some(Self { sequence: of, crc, slot })
    }
}

/// Where a slot of a node lies.
pub(super) fn slot_offset(geometry: &Geometry, level: u32, index: u64, slot: NodeSlot) -> u64 {
    let offset = geometry.slots_offset(level, index);
    match slot {
        NodeSlot::A => offset,
        NodeSlot::B => offset + u64::from(geometry.slot_bytes),
    }
}

/// A node as it is on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodePlace<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) layer: Uuid,
    pub(super) level: u32,
    pub(super) index: u64,
    pub(super) sequence: u64,
}

impl NodePlace<'_> {
    /// The slot's bytes and their CRC.
    pub(super) fn encode_leaf(&self, states: &States) -> (Vec<u8>, u32) {
        let mut to = self.header();
        states.words().iter().for_each(|word| to.put_u64(*word));
        to.finish()
    }

    /// The slot's bytes and their CRC.
    pub(super) fn encode_inner(&self, entries: impl Iterator<Item = NodeEntry>) -> (Vec<u8>, u32) {
        let mut to = self.header();
        entries.for_each(|entry| entry.encode(&mut to));
        to.finish()
    }

    fn header(&self) -> Encoder {
        let mut to = Encoder::new(KIND, self.geometry.slot_bytes as usize);
        to.put(self.layer.as_bytes());
        to.put_u32(self.level);
        to.skip(4);
        to.put_u64(self.index);
        to.put_u64(self.sequence);
        to.skip(NODE_HEADER_BYTES - 72);
        to
    }

    /// The states of a leaf, if `bytes` are the ones that its parent means.
    pub(super) fn decode_leaf(&self, bytes: &[u8], crc: u32) -> Result<States, LayerMapError> {
        let body = self.payload(bytes, crc)?;
        Ok(States::of_bytes(&body[..self.geometry.page_blocks as usize / 4]))
    }

    /// The entries of an inner node, if `bytes` are the ones that its parent means.
    pub(super) fn decode_inner(&self, bytes: &[u8], crc: u32) -> Result<Box<[NodeEntry]>, LayerMapError> {
        let mut from = StructureFields(self.payload(bytes, crc)?);
        let entries = (0..self.geometry.fan_out).map(|_| NodeEntry::decode(&mut from, self.sequence));
        entries.collect::<Option<_>>().ok_or_else(|| self.damaged("an entry that cannot be"))
    }

    fn payload<'b>(&self, bytes: &'b [u8], crc: u32) -> Result<&'b [u8], LayerMapError> {
        if bytes.len() != self.geometry.slot_bytes as usize {
            return Err(self.damaged("it is cut off"));
        }
        let whole = check(bytes, KIND)
            .map_err(|flaw| flaw.newer(KIND).unwrap_or_else(|| self.damaged("its checksum is wrong")))?;
        if whole.crc != crc {
            return Err(self.damaged("it is another one than its parent names"));
        }
        let mut from = StructureFields(whole.body);
        let found = (from.array().map(Uuid::from_bytes), from.u32(), from.u32(), from.u64(), from.u64());
        if found != (Some(self.layer), Some(self.level), Some(0), Some(self.index), Some(self.sequence)) {
            return Err(self.damaged("it belongs to another place"));
        }
        Ok(&bytes[NODE_HEADER_BYTES..])
    }

    fn damaged(&self, what: &'static str) -> LayerMapError {
        LayerMapError::Node { level: self.level, index: self.index, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::map::states::BlockState;

    const GEOMETRY: Geometry = Geometry {
        block_bytes: 512,
        page_blocks: 64,
        slot_bytes: 512,
        record_block_bytes: 512,
        ring_bytes: 4096,
        ring_room_bytes: 4096,
        fan_out: 4,
        inner_levels: 2,
        roots: 2,
    };

    const fn place(level: u32, index: u64, sequence: u64) -> NodePlace<'static> {
        NodePlace { geometry: &GEOMETRY, layer: Uuid::from_u128(7), level, index, sequence }
    }

    #[test]
    fn a_node_is_read_at_its_own_place_only() {
        let mut states = States::new(64);
        states.set(3, 40, BlockState::Zero);
        let (bytes, crc) = place(0, 5, 9).encode_leaf(&states);
        assert_eq!(place(0, 5, 9).decode_leaf(&bytes, crc).unwrap(), states);
        let other_layer = NodePlace { layer: Uuid::from_u128(8), ..place(0, 5, 9) };
        for wrong in [place(0, 4, 9), place(0, 5, 8), place(1, 5, 9), other_layer] {
            assert!(matches!(wrong.decode_leaf(&bytes, crc), Err(LayerMapError::Node { .. })));
        }
        assert!(place(0, 5, 9).decode_leaf(&bytes, crc ^ 1).is_err());
        assert!(place(0, 5, 9).decode_leaf(&bytes[1..], crc).is_err());
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let entries = [
            NodeEntry::EMPTY,
            NodeEntry { sequence: 9, crc: 5, slot: NodeSlot::B },
            NodeEntry { sequence: 1, crc: 0, slot: NodeSlot::A },
            NodeEntry::EMPTY,
        ];
        let (bytes, crc) = place(2, 1, 9).encode_inner(entries.into_iter());
        assert_eq!(*place(2, 1, 9).decode_inner(&bytes, crc).unwrap(), entries);
        // A child cannot be newer than its parent.
        let (bytes, crc) = place(2, 1, 8).encode_inner(entries.into_iter());
        assert!(place(2, 1, 8).decode_inner(&bytes, crc).is_err());
    }
}
