//! The tree in RAM: nodes as far as they were loaded.
//!
//! Inner nodes stay once they are there: they are a hundredth of their leaves. Leaves come and go.

use std::collections::VecDeque;

use super::geometry::Geometry;
use super::leaf::Leaf;
use super::node::{NodeAddress, NodeEntry};
use super::states::States;

#[derive(Debug)]
struct InnerNode {
    /// What the durable superblock's tree has.
    entries: Box<[NodeEntry]>,
}

/// What there is in RAM of a page.
#[derive(Debug)]
pub(super) enum Spot<'a> {
    Resident(&'a Leaf),
    /// It was never written, and neither were those up to `end`.
    Empty {
        end: u64,
    },
    /// This node must be loaded first.
    Unloaded(NodeAddress),
}

/// Places for the leaves below one inner node.
type LeafGroup = Box<[Option<Leaf>]>;

#[derive(Debug)]
pub(super) struct Tree {
    geometry: Geometry,
    roots: Vec<NodeEntry>,
    /// By level, from 1 on, and index.
    inner: Vec<Vec<Option<Box<InnerNode>>>>,
    /// Leaves in groups of those below one inner node.
    leaves: Vec<Option<LeafGroup>>,
    /// Pages whose leaves are there, in the order in which they came.
    resident: VecDeque<u64>,
}

impl Tree {
    pub(super) fn new(geometry: Geometry, roots: Vec<NodeEntry>, pages: u64) -> Self {
        let inner = (0..geometry.inner_levels).map(|_| Vec::new()).collect();
        let mut tree = Self { geometry, roots, inner, leaves: Vec::new(), resident: VecDeque::new() };
        tree.grow(pages);
        tree
    }

    /// Makes places for so many pages at least.
    pub(super) fn grow(&mut self, pages: u64) {
        let mut nodes = pages;
        for level in &mut self.inner {
            nodes = nodes.div_ceil(self.geometry.fan_out.into());
            let length = level.len().max(nodes as usize);
            level.resize_with(length, || None);
        }
        let groups = self.inner[0].len();
        self.leaves.resize_with(groups, || None);
    }

    /// The bits of a page's number that choose below a node of `level`.
    const fn bits(&self, level: u32) -> u32 {
        self.geometry.fan_out.trailing_zeros() * level
    }

    const fn child(&self, index: u64) -> usize {
        (index & (self.geometry.fan_out as u64 - 1)) as usize
    }

    #[inline]
    pub(super) fn leaf(&self, page: u64) -> Option<&Leaf> {
        let group = self.leaves[(page >> self.bits(1)) as usize].as_deref()?;
        group[self.child(page)].as_ref()
    }

    pub(super) fn leaf_mut(&mut self, page: u64) -> Option<&mut Leaf> {
        let (group, child) = ((page >> self.bits(1)) as usize, self.child(page));
        self.leaves[group].as_deref_mut()?[child].as_mut()
    }

    /// A leaf that is there because it has changes.
    pub(super) fn changed_leaf(&mut self, page: u64) -> &mut Leaf {
        self.leaf_mut(page).expect("a page with changes is in RAM")
    }

    fn inner(&self, level: u32, index: u64) -> Option<&InnerNode> {
        self.inner[level as usize - 1][index as usize].as_deref()
    }

    /// What the parent of a node knows of it; `None` while the parent is not there.
    pub(super) fn entry(&self, level: u32, index: u64) -> Option<NodeEntry> {
        if level == self.geometry.inner_levels {
            return Some(self.roots[index as usize]);
        }
        Some(self.inner(level + 1, index >> self.bits(1))?.entries[self.child(index)])
    }

    /// The entries of an inner node that is there.
    pub(super) fn entries(&self, level: u32, index: u64) -> &[NodeEntry] {
        &self.inner(level, index).expect("it is above a leaf that is there").entries
    }

    pub(super) fn roots(&self) -> &[NodeEntry] {
        &self.roots
    }

    /// A checkpoint that wrote this child is durable.
    pub(super) fn set_entry(&mut self, level: u32, index: u64, entry: NodeEntry) {
        let child = self.child(index);
        if level == self.geometry.inner_levels {
            self.roots[index as usize] = entry;
            return;
        }
        let parent = (index >> self.bits(1)) as usize;
        let parent = self.inner[level as usize][parent].as_deref_mut();
        parent.expect("it is above a leaf that is there").entries[child] = entry;
    }

    pub(super) fn find(&self, page: u64) -> Spot<'_> {
        if let Some(leaf) = self.leaf(page) {
            return Spot::Resident(leaf);
        }
        let levels = self.geometry.inner_levels;
        let mut entry = self.roots[(page >> self.bits(levels)) as usize];
        for level in (1..=levels).rev() {
            let index = page >> self.bits(level);
            match self.inner(level, index) {
                Some(node) => entry = node.entries[self.child(page >> self.bits(level - 1))],
                None if entry.is_empty() => return Spot::Empty { end: (index + 1) << self.bits(level) },
                None => return Spot::Unloaded(NodeAddress { level, index, sequence: entry.sequence }),
            }
        }
        if entry.is_empty() {
            return Spot::Empty { end: page + 1 };
        }
        Spot::Unloaded(NodeAddress { level: 0, index: page, sequence: entry.sequence })
    }

    /// Whether a node is there.
    pub(super) fn has(&self, level: u32, index: u64) -> bool {
        if level == 0 { self.leaf(index).is_some() } else { self.inner(level, index).is_some() }
    }

    /// Whether a disk of this size has such a node.
    pub(super) fn has_place(&self, level: u32, index: u64) -> bool {
        let places = self.inner.get((level.max(1) - 1) as usize).map_or(0, Vec::len) as u64;
        if level == 0 { index >> self.bits(1) < places } else { index < places }
    }

    pub(super) fn insert_leaf(&mut self, page: u64, states: States) -> &mut Leaf {
        let (group, child) = ((page >> self.bits(1)) as usize, self.child(page));
        let children = self.geometry.fan_out;
        let group = self.leaves[group].get_or_insert_with(|| (0..children).map(|_| None).collect());
        assert!(group[child].is_none(), "a leaf is loaded once");
        self.resident.push_back(page);
        group[child].insert(Leaf::new(states))
    }

    pub(super) fn insert_inner(&mut self, level: u32, index: u64, entries: Box<[NodeEntry]>) {
        let place = &mut self.inner[level as usize - 1][index as usize];
        assert!(place.is_none(), "an inner node is loaded once");
        *place = Some(Box::new(InnerNode { entries }));
    }

    /// The nodes above a page that a leaf would need and that are not there, lowest first. They were never
    /// written, if the page is empty.
    pub(super) fn missing_above(&self, page: u64) -> impl Iterator<Item = (u32, u64)> + '_ {
        let above = (1..=self.geometry.inner_levels).map(move |level| (level, page >> self.bits(level)));
        above.filter(|(level, index)| self.inner(*level, *index).is_none())
    }

    /// Makes an empty leaf of an empty page, and what it needs above it.
    pub(super) fn make(&mut self, page: u64) -> &mut Leaf {
        let above: Vec<_> = self.missing_above(page).collect();
        for (level, index) in above {
            let entries = vec![NodeEntry::EMPTY; self.geometry.fan_out as usize];
            self.insert_inner(level, index, entries.into());
        }
        self.insert_leaf(page, States::new(self.geometry.page_blocks as usize))
    }

    /// Drops leaves of which `is_clean` is true until `keep` are left, the oldest first. It looks at `most`
    /// leaves.
    pub(super) fn evict(&mut self, keep: usize, most: usize, is_clean: impl Fn(u64, &Leaf) -> bool) {
        for _ in 0..self.resident.len().min(most) {
            if self.resident.len() <= keep {
                break;
            }
            let Some(page) = self.resident.pop_front() else { break };
            let (group, child) = ((page >> self.bits(1)) as usize, self.child(page));
            let group = &mut self.leaves[group];
            let leaves = group.as_deref_mut().expect("it was resident");
            if !is_clean(page, leaves[child].as_ref().expect("it was resident")) {
                self.resident.push_back(page);
                continue;
            }
            leaves[child] = None;
            if leaves.iter().all(Option::is_none) {
                *group = None;
            }
        }
    }

    /// Leaves that are in RAM.
    pub(super) fn leaves_in_ram(&self) -> usize {
        self.resident.len()
    }

    /// The next node on disk behind `after` that is not in RAM, upper levels first. Each has to be loaded
    /// before the next one is asked for.
    pub(super) fn next_live(&self, after: Option<NodeAddress>) -> Option<NodeAddress> {
        let first = (self.geometry.inner_levels, 0);
        let (mut level, mut index) = after.map_or(first, |node| (node.level, node.index + 1));
        loop {
            while self.has_place(level, index) {
                match self.entry(level, index) {
                    None => index = ((index >> self.bits(1)) + 1) << self.bits(1),
                    Some(entry) if entry.is_empty() || self.has(level, index) => index += 1,
                    Some(entry) => return Some(NodeAddress { level, index, sequence: entry.sequence }),
                }
            }
            (level, index) = (level.checked_sub(1)?, 0);
        }
    }

    /// The pages below a node.
    pub(super) fn pages_below(&self, level: u32, index: u64) -> std::ops::Range<u64> {
        index << self.bits(level)..(index + 1) << self.bits(level)
    }

    /// The parent of a node, counted in its level.
    pub(super) fn parent(&self, index: u64) -> u64 {
        index >> self.bits(1)
    }
}
