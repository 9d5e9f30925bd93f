//! What a chain has where no layer of it has a block: contents in packs, then the base.

use super::chain::Chain;
use super::contents::KnownContents;
use super::source::{Missing, Source};
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange};
use crate::ring::Lease;
use crate::store::manifest::{ManifestEntry, NamedChunk};

impl Chain {
    /// What has the beginning of a range where no layer has it: how far, and what.
    pub(super) fn below_layers(&self, range: ByteRange, end: u64) -> Result<(u64, Source), Missing> {
        let mut end = end;
        if let Some(contents) = &self.contents {
            match contents.look(range.offset(), end) {
                KnownContents::Hidden => return Ok((end, Source::Zeroes { reserved: false })),
                KnownContents::Unknown(chunk) => return Err(Missing::Contents { chunk }),
                KnownContents::Known(until, entry) => {
                    end = until;
                    match entry {
                        ManifestEntry::Zero => return Ok((end, Source::Zeroes { reserved: false })),
                        ManifestEntry::Named(chunk) => return Ok((end, Source::Contents(chunk))),
                        ManifestEntry::Base => {}
                    }
                }
            }
        }
        Ok(match &self.base {
            Some(base) if base.visible > range.offset() => (end.min(base.visible), Source::Base),
            _ => (end, Source::Zeroes { reserved: false }),
        })
    }

    /// Reads what was missing to tell what has a range.
    pub(super) async fn fetch(&self, missing: Missing, context: &ShardContext) -> Result<(), BlockError> {
        match missing {
            Missing::Node { layer, node } => self.layers[layer].load(node, context).await,
            Missing::Contents { chunk } => {
                let contents = self.contents.as_ref().expect("they were looked at");
                contents.load(chunk, context).await
            }
        }
    }

    /// Closes packs that are gone: they take room until then.
    pub(super) fn forget_packs(&self, packs: &[u64]) {
        if let Some(contents) = &self.contents {
            contents.forget_packs(packs);
        }
    }

    /// Has chunks of packs brought near, without waiting for them.
    pub(super) async fn bring_near(
        &self,
        chunks: Vec<NamedChunk>,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match &self.contents {
            Some(contents) => contents.bring_near(chunks, context).await,
            None => Ok(()),
        }
    }

    /// Whether something that is read may have to be fetched from far away.
    pub(super) fn has_far(&self) -> bool {
        self.contents.as_ref().is_some_and(|contents| contents.has_far())
    }

    /// Reads a part that is in one chunk of packs into `lease[start..]`.
    pub(super) async fn read_contents(
        &self,
        chunk: NamedChunk,
        part: ByteRange,
        lease: &mut Lease,
        start: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let contents = self.contents.as_ref().expect("they are the source");
        contents.read(chunk, part, lease, start, context).await
    }
}
