//! A new size of the disk. What is between the smaller and the larger size reads as zeroes from then on,
//! whatever was there: see the module's page, "Sizes".

use super::commit::NoCommit;
use super::layer::{FileWrite, LayerMap, Lookup};
use super::node::NodeAddress;
use super::states::{BlockRun, BlockState};

/// What shrinking has to do before the size changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShrinkStep {
    /// This node must be loaded first.
    Load(NodeAddress),
    /// These blocks have to become ZERO; then look from their end on.
    Hide(BlockRun),
    /// Nothing is to be done before this block; look from there on.
    LookFrom(u64),
    /// Once every change is in a durable record, the size may change.
    Done,
}

/// The last block of a disk that its end cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutBlock {
    pub(crate) block: u64,
    /// The end of the disk, in bytes.
    pub(crate) end: u64,
    /// Bytes of the block behind it.
    pub(crate) rest: u64,
}

impl LayerMap {
    /// The last block, if the end of the disk cuts it.
    pub(crate) fn cut_block(&self) -> Option<CutBlock> {
        let (end, bytes) = (self.identity.size, u64::from(self.geometry.block_bytes));
        let rest = end.next_multiple_of(bytes) - end;
        (rest > 0).then_some(CutBlock { block: end / bytes, end, rest })
    }

    /// The next step of shrinking the disk to `size`, from block `from` on; 0 at first. Each is bounded by a
    /// few pages.
    pub(crate) fn shrink_step(&self, size: u64, from: u64) -> ShrinkStep {
        let from = from.max(self.geometry.blocks(size));
        if from >= self.blocks() {
            return ShrinkStep::Done;
        }
        let page_end = self.geometry.first_block(self.geometry.page(from) + 1);
        match self.lookup(from, self.blocks() - from) {
            Lookup::Load(node) => ShrinkStep::Load(node),
            Lookup::Run(run) if matches!(run.state, BlockState::Absent | BlockState::Zero) => {
                ShrinkStep::LookFrom(run.end())
            }
            Lookup::Run(run) => ShrinkStep::Hide(BlockRun {
                length: run.end().min(page_end) - from,
                state: BlockState::Zero,
                ..run
            }),
        }
    }

    /// Makes the record of a new size; `None` if it is the size already. It is written like any other, and
    /// [`end_commit`](LayerMap::end_commit) makes the size what it says.
    ///
    /// Before a disk shrinks, [`shrink_step`](LayerMap::shrink_step) must be done. Before one grows whose
    /// [`cut_block`](LayerMap::cut_block) is DATA, the rest of that block must be zeroes in the layer's data.
    pub(crate) fn begin_resize(&mut self, size: u64) -> Result<Option<FileWrite>, NoCommit> {
        assert!(size <= self.geometry.most_bytes(), "the size is one that the geometry allows");
        if size == self.identity.size {
            return Ok(None);
        }
        self.room()?;
        let (first, last) = (self.geometry.blocks(size), self.blocks());
        if first < last {
            assert!(!self.has_pending_in(first, last - first), "what is cut off was journaled before");
        }
        Ok(Some(self.write(Vec::new(), None, size)))
    }

    pub(super) fn set_size(&mut self, size: u64) {
        self.hidden_from = self.hidden_from.min(self.geometry.blocks(size));
        self.identity.size = size;
        self.tree.grow(self.geometry.pages(size));
    }
}
