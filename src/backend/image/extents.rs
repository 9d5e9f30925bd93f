//! What BLOCK_STATUS says of an image.

use super::chain::Chain;
use super::source::Source;
use super::store::behind;
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange, Extent};

/// Parts that are looked at before others have their turn.
const PARTS_STEP: usize = 1024;

impl Chain {
    /// Extents from the start of `range`, at least one, at most `limit`, merged, none beyond the range. What
    /// only the base has is allocated there; a hole of the base is one of the image.
    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut rest = range;
        for step in 1.. {
            if rest.is_empty() || extents.len() > limit {
                break;
            }
            // Neighbours that look the same from outside may be many.
            if step % PARTS_STEP == 0 {
                context.ready.give_way(&context.ring).await;
            }
            let (part, source) = self.part(rest, context).await?;
            let length = part.length();
            match source {
                Source::Layer(_) | Source::Contents(_) => {
                    push(&mut extents, Extent { length, hole: false, zero: false })
                }
                Source::Zeroes { reserved } => {
                    push(&mut extents, Extent { length, hole: !reserved, zero: true });
                }
                Source::Base => {
                    let below = match (self.base_file(), self.remote_base()) {
                        (Some(file), _) => file.extents(part, limit, client, context).await?,
                        (None, Some(remote)) => remote.extents(part, limit).await?,
                        (None, None) => unreachable!("it is the source"),
                    };
                    let mut told = 0;
                    for extent in below {
                        told += extent.length;
                        push(&mut extents, extent);
                    }
                    // It may have told of the beginning only.
                    let end = part.offset() + told;
                    rest = ByteRange::new(end, range.end() - end).expect("within the range");
                    continue;
                }
            }
            rest = behind(part, range);
        }
        extents.truncate(limit);
        Ok(extents)
    }

    /// Extents of a range that is about to be read: what the maps say, and of the base only where it is all
    /// there is.
    pub(super) async fn extents_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        if let Some(file) = self.whole(range).and_then(|source| self.file(source)) {
            return file.extents_for_read(range, limit, client, context).await;
        }
        let mut extents = Vec::new();
        let mut rest = range;
        while !rest.is_empty() && extents.len() <= limit {
            let (part, source) = self.part(rest, context).await?;
            let zero = matches!(source, Source::Zeroes { .. });
            push(&mut extents, Extent { length: part.length(), hole: zero, zero });
            rest = behind(part, range);
        }
        extents.truncate(limit);
        Ok(extents)
    }
}

/// Appends an extent, as a part of the last one if it is of its kind.
fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if (last.hole, last.zero) == (extent.hole, extent.zero) => last.length += extent.length,
        _ => extents.push(extent),
    }
}
