//! Reads of an image.

use std::rc::Rc;

use super::chain::Chain;
use super::packs::ShardPack;
use super::source::Source;
use super::store::behind;
use crate::backend::context::ShardContext;
use crate::backend::file::{FileDevice, ReadFailure};
use crate::backend::page_cache::Standing;
use crate::backend::single_read::SingleRead;
use crate::backend::steps::steps;
use crate::backend::trust::Trust;
use crate::block::{BlockError, ByteRange};
use crate::ring::{Lease, MappedRange, Operation};

/// Zeroes that are written to memory before others have their turn.
const ZEROES_STEP: u64 = 256 << 10;

/// Chunks that a read asks for at once.
const MOST_ASKED: usize = 64;

/// How often a read looks again at blocks that change meanwhile: a client that zeroes them all the time
/// keeps nobody from an answer.
const MOST_LOOKS: usize = 8;

impl Chain {
    /// Reads `range` into `lease[start..]`.
    pub(super) async fn read(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        let mut rest = range;
        let mut looks = 0;
        let mut is_asked = !self.has_far();
        while !rest.is_empty() {
            let good = rest.offset() - range.offset();
            if let Some((part, contents, spot)) = self.in_packs(rest) {
                let (back, is_read) =
                    contents.read_placed((part, spot), lease, start + good as u32, context).await;
                lease = back;
                if is_read {
                    rest = behind(part, range);
                    continue;
                }
            }
            let (part, source) = match self.part(rest, context).await {
                Ok(found) => found,
                Err(error) => return (lease, Err(ReadFailure { error, good })),
            };
            let start = start + good as u32;
            if let Source::Contents(chunk) = source {
                if !is_asked && part.end() < range.end() {
                    // What is not here fails where it is read.
                    let _asked = self.ask_for_all(rest, context).await;
                    is_asked = true;
                }
                let done = self.read_contents(chunk, part, &mut lease, start, context).await;
                if let Err(error) = done {
                    return (lease, Err(ReadFailure { error, good }));
                }
                rest = behind(part, range);
                continue;
            }
            if source == Source::Base
                && let Some(remote) = self.remote_base()
            {
                let (back, result) = remote.read(part, lease, start).await;
                lease = back;
                if let Err(failure) = result {
                    return (lease, Err(ReadFailure { good: good + failure.good, ..failure }));
                }
                rest = behind(part, range);
                continue;
            }
            match self.file(source) {
                Some(file) => {
                    let (back, result) = file.read_anyhow(part, lease, start, context).await;
                    lease = back;
                    if let Err(failure) = result {
                        return (lease, Err(ReadFailure { good: good + failure.good, ..failure }));
                    }
                    // A block that was zeroed meanwhile may have bytes of the next write already, which is
                    // not over, and which no other read shows yet.
                    if source == Source::Layer(0) && looks < MOST_LOOKS && self.whole(part) != Some(source) {
                        looks += 1;
                        continue;
                    }
                }
                None => zero(part, &mut lease, start, context).await,
            }
            rest = behind(part, range);
        }
        (lease, Ok(()))
    }

    /// What a read needs that is far away comes side by side, and not one chunk after the other.
    async fn ask_for_all(&self, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
        let (mut chunks, mut rest) = (Vec::new(), range);
        while !rest.is_empty() && chunks.len() < MOST_ASKED {
            let (part, source) = self.part(rest, context).await?;
            if let Source::Contents(chunk) = source {
                chunks.push(chunk);
            }
            rest = behind(part, range);
        }
        self.bring_near(chunks, context).await
    }

    /// What a read can be answered with that needs neither time nor memory; `None` within for zeroes.
    #[inline]
    pub(super) fn read_at_once(
        &self,
        range: ByteRange,
        waits: bool,
        trust: &mut Trust,
        now: u64,
    ) -> Option<Option<MappedRange>> {
        if let Some((part, contents, spot)) = self.in_packs(range)
            && part == range
        {
            return contents.cached((part, spot), waits, trust, now).map(Some);
        }
        let source = self.whole(range)?;
        match self.file(source) {
            Some(file) => file.cached(range, waits, trust, now).map(Some),
            None if matches!(source, Source::Zeroes { .. }) => Some(None),
            None => None,
        }
    }

    /// The one operation that a read is, if it is.
    pub(super) fn single_read(&self, range: ByteRange) -> Option<SingleRead> {
        match self.in_packs(range) {
            Some((part, contents, spot)) if part == range => contents.single_read(part, spot),
            _ => self.file(self.whole(range)?)?.single_read(range),
        }
    }

    /// Whether a range is still where [one read](Self::single_read) has read it from; if not, that is looked
    /// at again as in [`Self::read`]. What comes from a pack is verified too.
    pub(super) fn still_holds(&self, range: ByteRange, read: SingleRead, lease: &Lease) -> bool {
        match self.in_packs(range) {
            Some((part, contents, spot)) if part == range => {
                contents.single_read(part, spot) == Some(read) && contents.fits(part, lease, 0)
            }
            _ => self.single_read(range) == Some(read),
        }
    }

    /// Reads a range that was in the page cache into memory in one operation, which may be short.
    pub(super) fn copying(&self, mapped: &MappedRange, lease: Lease) -> Option<Operation> {
        if let Some(pack) = self.pack_of(mapped) {
            return Some(pack.device.copying(mapped.range(), lease));
        }
        Some(self.mapped_file(mapped)?.copying(mapped.range(), lease))
    }

    fn pack_of(&self, mapped: &MappedRange) -> Option<Rc<ShardPack>> {
        self.contents.as_ref()?.pack_of(mapped)
    }

    /// The device of a layer or the base whose page cache a range lies in.
    fn mapped_file(&self, mapped: &MappedRange) -> Option<&FileDevice> {
        self.layers
            .iter()
            .map(|link| &link.layer.data)
            .chain(self.base_file())
            .find(|file| file.has_mapped(mapped))
    }

    /// What has become of a range that was in the page cache. A block that was zeroed meanwhile may have
    /// bytes of the next write there, which no other read shows yet, or never will when that one fails.
    pub(super) fn standing(&self, mapped: &MappedRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        // What is in packs never changes.
        if let Some(pack) = self.pack_of(mapped) {
            return pack.device.standing(mapped.range(), trust, now);
        }
        let source = self.whole(mapped.range());
        let file = source.and_then(|source| self.file(source)).filter(|file| file.has_mapped(mapped));
        file.map_or(Standing::Gone, |file| file.standing(mapped.range(), trust, now))
    }

    /// See [`FileDevice::distrust_page_cache`].
    pub(super) fn distrust_page_cache(&self) {
        self.layers
            .iter()
            .map(|link| &link.layer.data)
            .chain(self.base_file())
            .for_each(FileDevice::distrust_page_cache);
        if let Some(contents) = &self.contents {
            contents.distrust_page_cache();
        }
    }

    /// Brings a range into the page cache, as far as that disturbs nobody.
    pub(super) async fn cache(
        &self,
        range: ByteRange,
        abandon: &crate::backend::Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let mut rest = range;
        while !rest.is_empty() {
            abandon.check()?;
            let (part, source) = self.part(rest, context).await?;
            if let Some(file) = self.file(source) {
                file.cache(part, abandon, context).await?;
            } else if let Source::Contents(chunk) = source {
                self.bring_near(vec![chunk], context).await?;
            }
            rest = behind(part, range);
        }
        Ok(())
    }

    /// See [`FileDevice::is_known_data`].
    pub(super) fn is_known_data(&self, range: ByteRange) -> bool {
        match self.whole(range) {
            Some(source @ (Source::Layer(_) | Source::Base)) => {
                self.file(source).is_some_and(|file| file.is_known_data(range))
            }
            _ => false,
        }
    }
}

async fn zero(part: ByteRange, lease: &mut Lease, start: u32, context: &ShardContext) {
    for step in steps(part, ZEROES_STEP) {
        if step.offset() > part.offset() {
            context.ready.give_way(&context.ring).await;
        }
        let at = start as usize + (step.offset() - part.offset()) as usize;
        lease.bytes_mut(at..at + step.length() as usize).fill(0);
    }
}
