//! What was read of a snapshot on a tier, so that the next host has it fetched before anybody waits for it.
//!
//! Nothing is recorded while an image is served: what was read is what is here of the packs. The first boot
//! of a snapshot fills the caches of a store, `ringnbd image trace` tells the tier what they have, and a
//! clone elsewhere brings the list along.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::catalog::{NodeName, PackOrigin};
use super::error::StoreError;
use super::foreign::{PartialPack, RangeSource, SourceError, open_source};
use super::manifest::ManifestEntry;
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use crate::tier::keys::boot_trace;

/// The version of lists that this program knows.
const VERSION: u32 = 1;
/// Ranges of all packs at most.
const MOST_RANGES: usize = 1 << 13;
/// What lies between two ranges that are fetched as one: as little as the number of ranges allows.
const LEAST_GAP: u64 = 128 << 10;
/// Bytes of a request, and requests at once.
const PIECE: u64 = 1 << 20;
const WIDTH: usize = 8;

/// Parts of packs that were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTrace {
    pub version: u32,
    /// The snapshot's own name.
    pub snapshot: Uuid,
    pub packs: Vec<TracedPack>,
}

/// Of a pack as the tier names it: where ranges of bytes begin and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPack {
    pub store: Uuid,
    pub number: u64,
    pub ranges: Vec<(u64, u64)>,
}

/// Ranges that are close to each other become one.
fn joined(ranges: &[(u64, u64)], gap: u64) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match all.last_mut() {
            Some(last) if *start <= last.1 + gap => last.1 = last.1.max(*end),
            _ => all.push((*start, *end)),
        }
    }
    all
}

impl BootTrace {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let ranges = self.packs.iter().flat_map(|pack| &pack.ranges);
        ranges.map(|(start, end)| end.saturating_sub(*start)).fold(0, u64::saturating_add)
    }

    /// What a tier has of a snapshot. A clone is made without it if that cannot be read.
    pub(super) fn look_up(source: &dyn RangeSource, snapshot: Uuid) -> Option<Self> {
        let read = source.read_object(&boot_trace(snapshot)).map_err(|error| match error {
            SourceError::Missing(_) => None,
            error => Some(error.to_string()),
        });
        let decoded = read.and_then(|bytes| {
            let trace: Self = serde_json::from_slice(&bytes).map_err(|error| Some(error.to_string()))?;
            trace.is_possible().then_some(trace).ok_or_else(|| Some("it is of a later version".to_owned()))
        });
        decoded.map_err(|why| why.map(|why| tracing::warn!(why, "what boots read is not fetched ahead"))).ok()
    }

    fn ranges(&self) -> usize {
        self.packs.iter().map(|pack| pack.ranges.len()).sum()
    }

    fn is_possible(&self) -> bool {
        self.version <= VERSION && self.ranges() <= MOST_RANGES && self.packs.len() <= MOST_RANGES
    }

    /// Joins ranges until they are few enough.
    fn join(&mut self) {
        let mut gap = LEAST_GAP;
        loop {
            self.packs.iter_mut().for_each(|pack| pack.ranges = joined(&pack.ranges, gap));
            if self.ranges() <= MOST_RANGES || gap >= u64::MAX / 4 {
                return;
            }
            gap *= 2;
        }
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// What is here of the packs of a snapshot that came from a tier, and the tier's address.
    fn traced(&self, node: &NodeName) -> Result<(BootTrace, String), StoreError> {
        let (image, snapshot) = node.clone().into_snapshot()?;
        let row = self.snapshot_row(&image, &snapshot)?;
        let not_of_tier = || StoreError::NotOfTier(node.to_string());
        let contents = self.shape(node)?.contents.ok_or_else(not_of_tier)?;
        let view = self.view()?;
        let ManifestEntry::Named(top) = contents.root.top else {
            return Err(StoreError::AllZeroes(node.to_string()));
        };
        let hinted = top.hint.ok_or_else(not_of_tier)?.pack;
        let tier = view.foreign_packs().find(|pack| pack.number == hinted).ok_or_else(not_of_tier)?.tier;
        let address = self.directory.tiers()?.tiers.remove(&tier).ok_or_else(not_of_tier)?;
        let place = self.pack_place()?;
        let mut packs = Vec::new();
        for pack in view.foreign_packs().filter(|pack| pack.tier == tier) {
            let here = place.cached_ranges(pack.number);
            let here = here.map_err(StoreError::at("read a cache of", self.path()))?;
            let PackOrigin { store, number } = pack.origin;
            if !here.is_empty() {
                packs.push(TracedPack { store, number, ranges: here });
            }
        }
        let mut trace = BootTrace { version: VERSION, snapshot: row.id.0, packs };
        trace.join();
        Ok((trace, address))
    }

    /// Tells the tier of a snapshot what is here of it: clones that are made later have that fetched at once.
    ///
    /// # Errors
    /// It is from no tier; the tier's.
    pub fn keep_boot_trace(&self, node: &NodeName) -> Result<BootTrace, StoreError> {
        let (trace, address) = self.traced(node)?;
        if !trace.is_possible() {
            return Err(StoreError::Tier(format!("it has read parts of more than {MOST_RANGES} packs")));
        }
        let source = open_source(&address).map_err(StoreError::Tier)?;
        let text = serde_json::to_vec(&trace).unwrap_or_default();
        let written = source.write_object(&boot_trace(trace.snapshot), &text);
        written.map_err(|error| StoreError::Tier(error.to_string()))?;
        Ok(trace)
    }

    /// Has all fetched that boots have read of images of this store, by threads of its own.
    pub(crate) fn fetch_traced(&self) {
        let wanted = self.directory.tiers().map(|known| known.boot_traces).unwrap_or_default();
        wanted.iter().for_each(|trace| self.fetch_ahead_of(trace));
    }

    pub(super) fn fetch_ahead_of(&self, trace: &BootTrace) {
        let Ok(place) = self.pack_place() else { return };
        let mut pieces = Vec::new();
        let mut left = self.directory.tiers().map_or(0, |known| known.cache_bytes / 2);
        for pack in &trace.packs {
            let number = self.directory.foreign.translate(pack.store, pack.number);
            let Some(Ok(here)) = number.map(|number| place.partial(number)) else { continue };
            for (start, end) in &pack.ranges {
                let end = (*end).min(here.bytes());
                let starts = (*start..end).step_by(PIECE as usize);
                for piece in starts.map(|start| start..(start + PIECE).min(end)) {
                    let bytes = piece.end - piece.start;
                    if bytes <= left && !here.has(piece.clone()) {
                        left -= bytes;
                        pieces.push((Arc::clone(&here), piece));
                    }
                }
            }
        }
        fetch_all(pieces);
    }
}

/// Several at once, in this order.
fn fetch_all(pieces: Vec<(Arc<PartialPack>, std::ops::Range<u64>)>) {
    let (width, pieces) = (WIDTH.min(pieces.len()), Arc::new((AtomicUsize::new(0), pieces)));
    for _ in 0..width {
        let pieces = Arc::clone(&pieces);
        let work = move || {
            while let Some((pack, piece)) = pieces.1.get(pieces.0.fetch_add(1, Ordering::Relaxed)) {
                pack.fetch_ahead(piece.clone());
            }
        };
        let thread = std::thread::Builder::new().name("ringnbd-ahead".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "less is fetched ahead: a thread cannot be had");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_close_are_one() {
        let ranges = [(0, 4096), (8192, 12_288), (1 << 20, 2 << 20), (3 << 20, 4 << 20)];
        assert_eq!(joined(&ranges, LEAST_GAP), [(0, 12_288), (1 << 20, 2 << 20), (3 << 20, 4 << 20)]);
        assert_eq!(joined(&[], LEAST_GAP), []);
        let ranges = (0..3 * MOST_RANGES as u64).map(|at| (at << 20, (at << 20) + 4096)).collect();
        let packs = vec![TracedPack { store: Uuid::nil(), number: 1, ranges }];
        let mut trace = BootTrace { version: 1, snapshot: Uuid::nil(), packs };
        trace.join();
        assert!(trace.is_possible());
        assert!(trace.bytes() >= 3 * MOST_RANGES as u64 * 4096, "nothing is left out");
    }

    /// A list is anybody's: it makes nobody overflow.
    #[test]
    fn impossible_ranges_have_no_bytes() {
        let ranges = vec![(9, 3), (0, u64::MAX), (1, u64::MAX)];
        let pack = TracedPack { store: Uuid::nil(), number: 1, ranges };
        let trace = BootTrace { version: 1, snapshot: Uuid::nil(), packs: vec![pack] };
        assert_eq!(trace.bytes(), u64::MAX);
        assert!(trace.is_possible());
        assert!(!BootTrace { version: 2, ..trace }.is_possible());
    }
}
