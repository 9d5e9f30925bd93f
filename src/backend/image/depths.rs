//! How deep in its chain the bytes of an image are.

use super::chain::Chain;
use super::contents::KnownContents;
use super::source::Missing;
use super::store::{Blocks, behind};
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange, NumberedExtent};
use crate::store::manifest::ManifestEntry;
use crate::store::map::{BlockState, Lookup};

/// Parts that are looked at before others have their turn.
const PARTS_STEP: usize = 1024;

impl Chain {
    /// Extents as of [`Chain::extents`], with 1 for what the head has, 2 and up for the layers below it
    /// and the base, and 0 for what is nowhere. Zeroes that are there because something ends belong to what
    /// ends, as QEMU has it.
    pub(super) async fn depths(
        &self,
        range: ByteRange,
        limit: usize,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        self.numbered(range, limit, context, |rest| self.known_depth(rest)).await
    }

    /// Extents with the numbers that `look` has for the first part of what is left, once the maps are in
    /// memory that it needs.
    pub(super) async fn numbered(
        &self,
        range: ByteRange,
        limit: usize,
        context: &ShardContext,
        look: impl Fn(ByteRange) -> Result<(ByteRange, u32), Missing>,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        let mut extents: Vec<NumberedExtent> = Vec::new();
        let mut rest = range;
        for step in 1.. {
            if rest.is_empty() || extents.len() > limit {
                break;
            }
            if step % PARTS_STEP == 0 {
                context.ready.give_way(&context.ring).await;
            }
            let (part, number) = match look(rest) {
                Ok(known) => known,
                Err(missing) => {
                    self.fetch(missing, context).await?;
                    continue;
                }
            };
            push_number(&mut extents, NumberedExtent { length: part.length(), number: number.into() });
            rest = behind(part, range);
        }
        extents.truncate(limit);
        Ok(extents)
    }

    fn known_depth(&self, range: ByteRange) -> Result<(ByteRange, u32), Missing> {
        let mut end = range.end();
        let part = |end| ByteRange::new(range.offset(), end - range.offset()).expect("a part of the range");
        // A file that stands for a head that is not there is none of the chain.
        let above = usize::from(self.store.has_no_layers());
        let depth = |index: usize| (index + 1).saturating_sub(above) as u32;
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.visible <= range.offset() {
                return Ok((part(end), depth(index)));
            }
            end = end.min(layer.visible);
            let Blocks { start, length } = self.store.touched(part(end));
            match layer.map.borrow().lookup(start, length) {
                Lookup::Load(node) => return Err(Missing::Node { layer: index, node }),
                Lookup::Run(run) => {
                    end = end.min(run.end() * self.store.block());
                    if run.state != BlockState::Absent {
                        return Ok((part(end), depth(index)));
                    }
                }
            }
        }
        let mut below = self.layers.len();
        if let Some(contents) = &self.contents {
            match contents.look(range.offset(), end) {
                KnownContents::Hidden => return Ok((part(end), depth(below))),
                KnownContents::Unknown(chunk) => return Err(Missing::Contents { chunk }),
                KnownContents::Known(until, entry) => {
                    end = until;
                    if entry != ManifestEntry::Base {
                        return Ok((part(end), depth(below)));
                    }
                }
            }
            below += 1;
        }
        Ok((part(end), if self.base.is_some() { depth(below) } else { 0 }))
    }
}

/// Appends an extent, as a part of the last one if it has its number.
fn push_number(extents: &mut Vec<NumberedExtent>, extent: NumberedExtent) {
    match extents.last_mut() {
        Some(last) if last.number == extent.number => last.length += extent.length,
        _ => extents.push(extent),
    }
}
