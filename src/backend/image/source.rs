//! Where the bytes of a range are read.

use super::chain::{Chain, OpenLayer};
use super::contents::ContentsLink;
use super::places::PackSpot;
use super::store::{Blocks, behind};
use crate::backend::context::ShardContext;
use crate::backend::file::FileDevice;
use crate::block::{BlockError, ByteRange};
use crate::store::manifest::NamedChunk;
use crate::store::map::{BlockState, Lookup, NodeAddress};

/// What has a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A layer, by its place in the chain; the head is 0.
    Layer(usize),
    /// A chunk of packs.
    Contents(NamedChunk),
    Base,
    /// Nothing, or a layer says that it reads as zeroes. `reserved`: there is room for it in the head.
    Zeroes {
        reserved: bool,
    },
}

/// What must be read before it is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missing {
    /// A node of a layer's map.
    Node { layer: usize, node: NodeAddress },
    /// The nodes of a manifest that lead to this chunk of the disk.
    Contents { chunk: u64 },
}

impl Chain {
    /// What has the first part of a range, as long as that is the same. What it needs of the maps is read
    /// first.
    pub(super) async fn part(
        &self,
        range: ByteRange,
        context: &ShardContext,
    ) -> Result<(ByteRange, Source), BlockError> {
        loop {
            match self.known_part(range) {
                Ok(part) => return Ok(part),
                Err(missing) => self.fetch(missing, context).await?,
            }
        }
    }

    /// Reads what the maps of all layers need to tell what has a range.
    pub(super) async fn know_sources(
        &self,
        range: ByteRange,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let mut rest = range;
        while !rest.is_empty() {
            let (part, _) = self.part(rest, context).await?;
            rest = behind(part, range);
        }
        Ok(())
    }

    /// What has all of a range, if that is one thing, and the maps in memory tell.
    #[inline]
    pub(super) fn whole(&self, range: ByteRange) -> Option<Source> {
        let (part, source) = self.known_part(range).ok()?;
        (part == range).then_some(source)
    }

    /// The device of a source that has bytes in a file as the disk has them.
    pub(super) fn file(&self, source: Source) -> Option<&FileDevice> {
        match source {
            Source::Layer(layer) => Some(&self.layers[layer].data),
            Source::Base => self.base_file(),
            Source::Contents(_) | Source::Zeroes { .. } => None,
        }
    }

    /// What of the beginning of a range lies in one piece in a pack that is open here.
    #[inline]
    pub(super) fn in_packs(&self, range: ByteRange) -> Option<(ByteRange, &ContentsLink, PackSpot)> {
        let contents = self.contents.as_deref()?;
        let (end, None) = self.in_layers(range).ok()? else { return None };
        let (end, spot) = contents.placed(range.offset(), end)?;
        let part = ByteRange::new(range.offset(), end - range.offset()).expect("a part of the range");
        Some((part, contents, spot))
    }

    #[inline]
    fn known_part(&self, range: ByteRange) -> Result<(ByteRange, Source), Missing> {
        let (end, source) = match self.in_layers(range)? {
            (end, Some(source)) => (end, source),
            (end, None) => self.below_layers(range, end)?,
        };
        let part = ByteRange::new(range.offset(), end - range.offset()).expect("a part of the range");
        Ok((part, source))
    }

    /// What has the beginning of a range in the layers, and how far; nothing if that is below them.
    #[inline]
    fn in_layers(&self, range: ByteRange) -> Result<(u64, Option<Source>), Missing> {
        let mut end = range.end();
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.visible <= range.offset() {
                // Those below it are not seen here either.
                return Ok((end, Some(Source::Zeroes { reserved: false })));
            }
            end = end.min(layer.visible);
            let part = ByteRange::new(range.offset(), end - range.offset()).expect("a part of the range");
            let Blocks { start, length } = self.store.touched(part);
            match layer.map.borrow().lookup(start, length) {
                Lookup::Load(node) => return Err(Missing::Node { layer: index, node }),
                Lookup::Run(run) => {
                    end = end.min(run.end() * self.store.block());
                    let source = match run.state {
                        BlockState::Absent => continue,
                        BlockState::Data => Source::Layer(index),
                        BlockState::Zero => Source::Zeroes { reserved: false },
                        BlockState::ZeroReserved => Source::Zeroes { reserved: index == 0 },
                    };
                    return Ok((end, Some(source)));
                }
            }
        }
        Ok((end, None))
    }
}

impl OpenLayer {
    /// Reads what the map needs to know the states of blocks.
    pub(super) async fn know(&self, blocks: Blocks, context: &ShardContext) -> Result<(), BlockError> {
        if self.map.borrow().missing(blocks.start, blocks.length).is_none() {
            return Ok(());
        }
        // One must not go for the next.
        self.map.borrow_mut().hold_leaves();
        let known = self.load_missing(blocks, context).await;
        self.map.borrow_mut().release_leaves();
        known
    }

    async fn load_missing(&self, blocks: Blocks, context: &ShardContext) -> Result<(), BlockError> {
        loop {
            let missing = self.map.borrow().missing(blocks.start, blocks.length);
            let Some(node) = missing else { return Ok(()) };
            self.load(node, context).await?;
        }
    }
}
