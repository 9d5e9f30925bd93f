//! The sizes of a map, and where everything lies in its file.

use super::error::LayerMapError;
use super::format::{Encoder, StructureFields};

/// What a node has before its states or entries.
pub(super) const NODE_HEADER_BYTES: usize = 128;
/// What a record has before its runs.
pub(super) const RECORD_HEADER_BYTES: usize = 128;
/// A superblock's bytes.
pub(super) const SUPERBLOCK_BYTES: usize = 4096;
/// From one superblock to the other: more than a medium writes at once, so that a torn write spares one.
pub(super) const SUPERBLOCK_SPACING: usize = 32 << 10;
/// What must be read to know the rest.
pub(crate) const FRONT_BYTES: usize = SUPERBLOCK_SPACING + SUPERBLOCK_BYTES;
/// Where the journal begins.
const RING_START: u64 = 64 << 10;
/// What one write is aligned to, at least.
const SECTOR: u32 = 512;
/// A packed run has 38 bits for its first block.
pub(super) const MOST_BLOCKS: u64 = 1 << 38;
/// Nodes of the lowest inner level: there is a place in RAM for each that a disk has.
const MOST_LOWEST_INNER: u64 = 1 << 18;
/// The most that opening reads at once.
const MOST_RING_BYTES: u64 = 8 << 20;
/// The most roots that a superblock has room for.
pub(super) const MOST_ROOTS: u32 = 64;
/// A record's bytes: it is checked for each record block at which one could begin.
const MOST_RECORD_BYTES: u64 = 512 << 10;

/// The sizes of a map, as its superblocks have them. All but the journal's are fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block of the disk.
    pub block_bytes: u32,
    /// Blocks of a leaf.
    pub page_blocks: u32,
    /// Bytes of a node's slot.
    pub slot_bytes: u32,
    /// What records of the journal begin at a multiple of.
    pub record_block_bytes: u32,
    /// Bytes of the journal. A map that is used doubles them, as long as there is room.
    pub ring_bytes: u64,
    /// Bytes that it may grow to: the nodes begin behind them.
    pub ring_room_bytes: u64,
    /// Children of an inner node.
    pub fan_out: u32,
    /// Levels of inner nodes between the superblock and the leaves.
    pub inner_levels: u32,
    /// Nodes of the topmost level.
    pub roots: u32,
}

impl Default for Geometry {
    /// Up to 1 PiB: 16 roots, each over 128³ leaves of 32 MiB.
    fn default() -> Self {
        Self {
            block_bytes: 4096,
            page_blocks: 8192,
            slot_bytes: 4096,
            record_block_bytes: 4096,
            ring_bytes: Self::RING_BYTES,
            ring_room_bytes: Self::RING_ROOM_BYTES,
            fan_out: 128,
            inner_levels: 3,
            roots: 16,
        }
    }
}

impl Geometry {
    /// Bytes of the journal of a new layer: many layers are written to very little.
    pub(in crate::store) const RING_BYTES: u64 = 64 << 10;
    /// Bytes that it grows to when the layer is written to all the time.
    pub(in crate::store) const RING_ROOM_BYTES: u64 = 4 << 20;

    /// Itself if every size is possible. All other methods rely on that.
    pub(super) fn checked(self) -> Result<Self, LayerMapError> {
        let powers =
            [(self.block_bytes, 512, 1 << 16), (self.page_blocks, 32, 1 << 20), (self.fan_out, 2, 1 << 10)];
        let is_power =
            |(size, least, most): (u32, u32, u32)| size.is_power_of_two() && (least..=most).contains(&size);
        let payload = (self.page_blocks / 4).max(self.fan_out.saturating_mul(16)) as usize;
        let record_block = u64::from(self.record_block_bytes);
        let is_ring = |bytes: u64| bytes <= MOST_RING_BYTES && bytes.is_multiple_of(record_block);
        let rules = [
            (
                powers.into_iter().all(is_power),
                "blocks, pages and fan-out are powers of two, and neither tiny nor huge",
            ),
            ((1..=4).contains(&self.inner_levels), "there are 1 to 4 levels of inner nodes"),
            ((1..=MOST_ROOTS).contains(&self.roots), "there are 1 to 64 roots"),
            (
                self.slot_bytes.is_multiple_of(SECTOR)
                    && self.slot_bytes <= 1 << 20
                    && self.slot_bytes as usize >= NODE_HEADER_BYTES + payload,
                "a slot is whole sectors, with room for a node",
            ),
            (
                self.record_block_bytes.is_multiple_of(SECTOR)
                    && (1..=1 << 16).contains(&self.record_block_bytes)
                    && self.record_block_bytes as usize >= RECORD_HEADER_BYTES + 8,
                "a record block is whole sectors, with room for a run",
            ),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(LayerMapError::Geometry(rule));
        }
        if !is_ring(self.ring_bytes) || !is_ring(self.ring_room_bytes) || self.ring_bytes < 4 * record_block {
            return Err(LayerMapError::Geometry("a journal is 4 record blocks at least, and 8 MiB at most"));
        }
        if self.ring_room_bytes < self.ring_bytes {
            return Err(LayerMapError::Geometry("the journal has more bytes than room"));
        }
        // At most 64 × 1024⁴ × 2^20: no overflow.
        if self.most_nodes(1) > MOST_LOWEST_INNER {
            return Err(LayerMapError::Geometry("it allows more than 2^18 inner nodes above leaves"));
        }
        if self.most_blocks() > MOST_BLOCKS {
            return Err(LayerMapError::Geometry("it allows more than 2^38 blocks"));
        }
        Ok(self)
    }

    pub(super) fn encode(&self, to: &mut Encoder) {
        for size in [
            self.block_bytes,
            self.page_blocks,
            self.slot_bytes,
            self.record_block_bytes,
            self.fan_out,
            self.inner_levels,
            self.roots,
            0,
        ] {
            to.put_u32(size);
        }
        to.put_u64(self.ring_bytes);
        to.put_u64(self.ring_room_bytes);
    }

    /// Not checked yet.
    pub(super) fn decode(from: &mut StructureFields<'_>) -> Option<Self> {
        let [block_bytes, page_blocks, slot_bytes, record_block_bytes] =
            [from.u32()?, from.u32()?, from.u32()?, from.u32()?];
        let [fan_out, inner_levels, roots, _] = [from.u32()?, from.u32()?, from.u32()?, from.u32()?];
        Some(Self {
            block_bytes,
            page_blocks,
            slot_bytes,
            record_block_bytes,
            ring_bytes: from.u64()?,
            ring_room_bytes: from.u64()?,
            fan_out,
            inner_levels,
            roots,
        })
    }

    /// Nodes that level `level` has at most; level 0 is the leaves.
    pub(super) fn most_nodes(&self, level: u32) -> u64 {
        u64::from(self.roots) << ((self.inner_levels - level) * self.fan_out.trailing_zeros())
    }

    pub(crate) fn most_blocks(&self) -> u64 {
        self.most_nodes(0) * u64::from(self.page_blocks)
    }

    /// Bytes that an image can have.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.most_blocks().saturating_mul(u64::from(self.block_bytes))
    }

    /// Blocks of a disk of `size` bytes; the last one may be a part of one.
    pub(super) fn blocks(&self, size: u64) -> u64 {
        size.div_ceil(u64::from(self.block_bytes))
    }

    pub(super) fn pages(&self, size: u64) -> u64 {
        self.blocks(size).div_ceil(u64::from(self.page_blocks))
    }

    /// The page of a block.
    #[inline]
    pub(super) fn page(&self, block: u64) -> u64 {
        block >> self.page_blocks.trailing_zeros()
    }

    /// The place of a block in its page.
    #[inline]
    pub(super) fn within(&self, block: u64) -> usize {
        (block & u64::from(self.page_blocks - 1)) as usize
    }

    /// The first block of a page.
    pub(super) fn first_block(&self, page: u64) -> u64 {
        page << self.page_blocks.trailing_zeros()
    }

    pub(super) fn ring_blocks(&self) -> u64 {
        self.ring_bytes / u64::from(self.record_block_bytes)
    }

    /// Record blocks that one record has at most: it must be possible to begin another while the space of
    /// the last ones is being given up.
    pub(super) fn most_record_blocks(&self) -> u64 {
        let most = MOST_RECORD_BYTES / u64::from(self.record_block_bytes);
        (self.ring_blocks() / 4).clamp(1, most.max(1))
    }

    /// Where the journal lies.
    pub(super) fn ring(&self) -> (u64, usize) {
        (RING_START, self.ring_bytes as usize)
    }

    /// Where it may lie when it has grown.
    pub(super) fn ring_room(&self) -> (u64, usize) {
        (RING_START, self.ring_room_bytes as usize)
    }

    /// The same with a journal of twice the size, if there is room for it.
    pub(super) fn grown(&self) -> Option<Self> {
        let ring_bytes = 2 * self.ring_bytes;
        (ring_bytes <= self.ring_room_bytes).then_some(Self { ring_bytes, ..*self })
    }

    /// Positions from `from` up to this one are at the same place in a journal of twice the size, if there is
    /// one of them: those of every second lap.
    pub(super) fn same_place_until(&self, from: u64) -> u64 {
        from - from % (2 * self.ring_blocks()) + self.ring_blocks()
    }

    /// Where the record block of a position lies.
    pub(super) fn record_offset(&self, position: u64) -> u64 {
        RING_START + position % self.ring_blocks() * u64::from(self.record_block_bytes)
    }

    /// Where the two slots of a node lie, one behind the other.
    pub(super) fn slots_offset(&self, level: u32, index: u64) -> u64 {
        let shift = self.fan_out.trailing_zeros();
        // Nodes of a whole subtree.
        let subtree = |level: u32| (0..level).fold(1, |nodes, _| 1 + (nodes << shift));
        let ancestor = |above: u32| index >> ((above - level) * shift);
        let root = ancestor(self.inner_levels) * subtree(self.inner_levels);
        let before = (level..self.inner_levels).fold(root, |nodes, below| {
            nodes + 1 + (ancestor(below) & u64::from(self.fan_out - 1)) * subtree(below)
        });
        self.nodes_start() + before * 2 * u64::from(self.slot_bytes)
    }

    fn nodes_start(&self) -> u64 {
        (RING_START + self.ring_room_bytes).next_multiple_of(self.slot_bytes.into())
    }

    /// The file's length if everything of a disk of `size` bytes were there.
    pub(super) fn file_length(&self, size: u64) -> u64 {
        match self.pages(size).checked_sub(1) {
            None => self.nodes_start(),
            Some(last) => self.slots_offset(0, last) + 2 * u64::from(self.slot_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_possible_and_allows_a_pebibyte() {
        let geometry = Geometry::default().checked().unwrap();
        assert_eq!(geometry.most_bytes(), 1 << 50);
        assert_eq!((geometry.ring_blocks(), geometry.most_record_blocks()), (16, 4));
        let largest = std::iter::successors(Some(geometry), Geometry::grown).last().unwrap();
        assert_eq!((largest.ring_blocks(), largest.most_record_blocks()), (1024, 128));
        // 2 slots of 4 KiB for each node, and each node before those below it.
        let start = (64 << 10) + (4 << 20);
        let place = |level, index| (geometry.slots_offset(level, index) - start) / 8192;
        assert_eq!([place(3, 0), place(2, 0), place(1, 0), place(0, 0), place(0, 127)], [0, 1, 2, 3, 130]);
        assert_eq!([place(1, 1), place(0, 128), place(1, 127)], [131, 132, 2 + 127 * 129]);
        assert_eq!(place(2, 1), 1 + (1 + 128 * 129));
        assert_eq!(place(3, 1), 1 + 128 * (1 + 128 * 129));
        assert_eq!(geometry.file_length(1 << 30), start + (3 + 32) * 8192, "a small disk has a small map");
        assert!(geometry.file_length(1 << 50) < 1 << 39, "less than the 16 TiB that a file of ext4 can have");
    }

    #[test]
    fn positions_of_every_second_lap_have_the_same_place_in_a_larger_journal() {
        let geometry = Geometry { ring_bytes: 28 << 10, ..Geometry::default() }.checked().unwrap();
        let grown = geometry.grown().unwrap();
        for from in 0..100 {
            let until = geometry.same_place_until(from);
            for position in from..from + 30 {
                let is_same =
                    (from..=position).all(|at| geometry.record_offset(at) == grown.record_offset(at));
                assert_eq!(is_same, position < until, "{from} to {position}");
            }
        }
    }

    #[test]
    fn no_two_nodes_have_one_place() {
        let geometry = Geometry { fan_out: 4, inner_levels: 2, roots: 3, ..Geometry::default() };
        let nodes =
            (0..=2).flat_map(|level| (0..geometry.most_nodes(level)).map(move |index| (level, index)));
        let mut places: Vec<u64> = nodes.map(|(level, index)| geometry.slots_offset(level, index)).collect();
        places.sort_unstable();
        let expected = (0..places.len() as u64).map(|place| geometry.nodes_start() + place * 8192);
        assert!(places.into_iter().eq(expected));
    }

    /// Each size, alone, at the edges of what is possible.
    #[test]
    fn sizes_that_are_not_possible_are_refused() {
        let default = Geometry::default();
        let wrong: Vec<Geometry> = [0, 1, 31, 33, 100, 511, 4097, 1 << 24, 1 << 31, u32::MAX]
            .into_iter()
            .flat_map(|size| {
                [
                    Geometry { block_bytes: size, ..default },
                    Geometry { page_blocks: size, ..default },
                    Geometry { slot_bytes: size, ..default },
                    Geometry { record_block_bytes: size, ..default },
                    Geometry { ring_bytes: size.into(), ..default },
                    Geometry { ring_room_bytes: u64::from(size) << 12 | 1, ..default },
                    Geometry { fan_out: size, ..default },
                ]
            })
            .chain([0, 5, u32::MAX].map(|inner_levels| Geometry { inner_levels, ..default }))
            .chain([0, 65, u32::MAX].map(|roots| Geometry { roots, ..default }))
            .collect();
        for geometry in wrong {
            assert!(matches!(geometry.checked(), Err(LayerMapError::Geometry(_))), "{geometry:?}");
        }
        let too_many = Geometry { inner_levels: 4, fan_out: 1024, slot_bytes: 32 << 10, ..default };
        assert!(too_many.checked().is_err());
    }
}
