//! Reads all packs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::copies::copies;
use super::report::{DamagedChunk, MOST_TOLD, ScrubReport, UnusablePack};
use super::uses::{DamageUses, Uses, find_uses, of_packs};
use crate::store::catalog::PackRow;
use crate::store::damage_notes::DamageNotes;
use crate::store::error::StoreError;
use crate::store::ingest_counts::SPACE;
use crate::store::layer_copy::CopyProgress;
use crate::store::maps::LayerMaps;
use crate::store::open_store::OpenStore;
use crate::store::pace::owed;
use crate::store::pack::{
    ChunkHash, ChunkHint, ChunkKind, LocatedChunk, PackError, PackReader, PackedChunk, UncachedFile,
};
use crate::store::packs::{PackPlace, pack_failure};

/// A wait for the rate is interrupted so often, to look whether the work is to end.
const NAP: Duration = Duration::from_millis(50);
/// Sentences about bytes that nobody needs.
const MOST_ELSEWHERE: usize = 1000;

/// How a scrub is done.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// It begins with the first pack, wherever an earlier one was interrupted.
    pub is_new: bool,
    /// Damaged chunks are written again if a good copy of them is found.
    pub repairs: bool,
    /// Files that may have copies, beside the other packs, layers and bases.
    pub copies: Vec<PathBuf>,
}

/// Told how far it is; its error ends the work.
pub(super) type OnScrub<'a> = &'a mut dyn FnMut(CopyProgress) -> Result<(), StoreError>;

/// A damaged chunk as the scan leaves it.
#[derive(Debug)]
pub(super) struct FoundDamage {
    pub(super) at: ChunkHint,
    pub(super) chunk: PackedChunk,
    pub(super) why: String,
    pub(super) repaired: bool,
}

/// What has been found so far.
pub(super) struct PackScan<'a> {
    pub(super) place: &'a PackPlace,
    watch: OnScrub<'a>,
    rate: Option<u64>,
    began: Instant,
    /// Bytes that count for the rate.
    read: u64,
    progress: CopyProgress,
    pub(super) report: ScrubReport,
    pub(super) found: Vec<FoundDamage>,
    pub(super) notes: DamageNotes,
}

impl<M: LayerMaps> OpenStore<M> {
    /// Verifies all packs, past the page cache. `watch` is told how far it is, in bytes of packs, and ends
    /// the work by its error; the next scrub goes on there then.
    ///
    /// # Errors
    /// The store cannot be looked at; what `watch` says. What is damaged is no error.
    pub fn scrub(&self, options: &ScrubOptions, watch: OnScrub<'_>) -> Result<ScrubReport, StoreError> {
        let (view, store) = (self.view()?, self.header().store);
        // What is not there is told before the work and not after it.
        let copies = copies(&options.copies)?;
        let Some(place) = self.directory.packs(store)? else {
            let missing: Vec<_> = view.own_packs().map(|row| missing(row, self)).collect();
            return Ok(ScrubReport { unusable: missing, ..ScrubReport::default() });
        };
        let mut notes = self.directory.damage_notes(store);
        notes.keep_packs(|pack| view.has_pack(pack));
        if options.is_new {
            notes.next = 0;
        }
        let total = view.own_packs().map(|row| row.bytes).fold(0, u64::saturating_add);
        let resumed_at = (notes.next > 0).then_some(notes.next);
        let mut scan = PackScan {
            place: &place,
            watch,
            rate: options.rate,
            began: Instant::now(),
            read: 0,
            progress: CopyProgress { done: 0, total },
            report: ScrubReport { resumed_at, ..ScrubReport::default() },
            found: Vec::new(),
            notes,
        };
        let mut keeps_notes = true;
        for row in view.packs() {
            if view.is_foreign(row.number) {
                scan.foreign(row)?;
                continue;
            }
            scan.pack(row)?;
            if row.number >= scan.notes.next {
                scan.notes.next = row.number + 1;
                keeps_notes = keeps_notes && self.keep_notes(&scan.notes);
            }
        }
        scan.notes.next = 0;
        if options.repairs {
            self.repair(&mut scan, &copies)?;
        }
        let _kept = keeps_notes && self.keep_notes(&scan.notes);
        self.told_with_uses(scan)
    }

    /// Notes a chunk that did not verify: nothing that comes into packs relies on it from now on.
    ///
    /// # Errors
    /// The notes cannot be written.
    pub(crate) fn note_damage(&self, at: ChunkHint, hash: ChunkHash) -> Result<(), StoreError> {
        let store = self.header().store;
        let mut notes = self.directory.damage_notes(store);
        notes.add(at, hash);
        self.directory.keep_damage_notes(store, &notes)
    }

    /// Nothing depends on them: a disk that is full, or belongs to somebody else, is no reason to stop.
    fn keep_notes(&self, notes: &DamageNotes) -> bool {
        let kept = self.directory.keep_damage_notes(self.header().store, notes);
        if let Err(error) = &kept {
            tracing::warn!(%error, "if the check is interrupted, the next one begins again");
        }
        kept.is_ok()
    }

    fn told_with_uses(&self, scan: PackScan<'_>) -> Result<ScrubReport, StoreError> {
        let PackScan { place, mut report, found, .. } = scan;
        let lost: BTreeSet<u64> = report.unusable.iter().map(|pack| pack.pack).collect();
        let wanted = found.iter().map(|damage| (damage.chunk.hash, Uses::default()));
        let mut uses = DamageUses { by_hash: wanted.collect(), by_pack: of_packs(&lost) };
        if !(uses.by_hash.is_empty() && uses.by_pack.is_empty()) {
            find_uses(self.view()?, &place.shelf(SPACE), &mut uses);
        }
        for pack in &mut report.unusable {
            let Uses { told, more } = uses.by_pack.remove(&pack.pack).unwrap_or_default();
            (pack.uses, pack.more_uses) = (told, more);
        }
        let of = |hash: &ChunkHash| uses.by_hash.get(hash).cloned().unwrap_or_default();
        report.damaged = found.into_iter().map(|damage| told(damage, of)).collect();
        Ok(report)
    }
}

fn told(damage: FoundDamage, uses: impl Fn(&ChunkHash) -> Uses) -> DamagedChunk {
    let FoundDamage { at, chunk, why, repaired } = damage;
    let Uses { told, more } = uses(&chunk.hash);
    DamagedChunk {
        pack: at.pack,
        chunk: at.slot,
        hash: chunk.hash.to_string(),
        kind: match chunk.kind {
            ChunkKind::Data => "data",
            ChunkKind::Node => "node",
        },
        offset: chunk.offset,
        length: chunk.payload_bytes,
        why,
        uses: told,
        more_uses: more,
        repaired,
    }
}

fn missing<M: LayerMaps>(row: &PackRow, store: &OpenStore<M>) -> UnusablePack {
    let path = store.path().join("packs").join(crate::store::packs::pack_name(row.number));
    let error = PackError::Io(std::io::ErrorKind::NotFound.into());
    unusable(row.number, error, pack_failure(path))
}

fn unusable(pack: u64, error: PackError, sentence: impl FnOnce(PackError) -> StoreError) -> UnusablePack {
    let is_missing = matches!(&error, PackError::Io(why) if why.kind() == std::io::ErrorKind::NotFound);
    UnusablePack { pack, why: sentence(error).to_string(), uses: Vec::new(), more_uses: 0, is_missing }
}

impl PackScan<'_> {
    /// So many bytes were looked at. Waits as long as the rate wants.
    pub(super) fn looked_at(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.read = self.read.saturating_add(bytes);
        (self.watch)(self.progress)?;
        loop {
            let left = owed(self.read, self.rate, self.began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
            (self.watch)(self.progress)?;
        }
    }

    /// Reads a pack; of one that was read before the interruption, its footer and what was damaged then.
    fn pack(&mut self, row: &PackRow) -> Result<(), StoreError> {
        let was_read = row.number < self.notes.next;
        let noted = self.notes.of_pack(row.number);
        let before = self.progress.done;
        match self.place.open_uncached(row.number, row.space) {
            Err(error) => self.unusable(row, error),
            Ok(pack) if was_read => {
                for at in noted {
                    match pack.chunk(at.slot) {
                        Ok(chunk) => self.chunk(&pack, at, &chunk)?,
                        Err(PackError::NoSlot(_)) => drop(self.notes.remove(&at)),
                        Err(error) => {
                            self.unusable(row, error);
                            break;
                        }
                    }
                }
            }
            Ok(pack) => {
                self.report.packs += 1;
                let mut end = None;
                for chunk in pack.walk() {
                    let chunk = match chunk {
                        Ok(chunk) => chunk,
                        Err(error) => {
                            self.unusable(row, error);
                            break;
                        }
                    };
                    let at = ChunkHint { pack: row.number, slot: chunk.slot() };
                    self.gap((&pack, row.number), end, &chunk);
                    self.chunk(&pack, at, &chunk)?;
                    let PackedChunk { offset, payload_bytes, .. } = chunk.told();
                    end = Some(offset + u64::from(payload_bytes));
                    self.progress.done = before.saturating_add(offset).min(self.progress.total);
                }
            }
        }
        self.progress.done = before.saturating_add(row.bytes).min(self.progress.total);
        Ok(())
    }

    fn unusable(&mut self, row: &PackRow, error: PackError) {
        let path = self.place.path_of(row.number);
        self.report.unusable.push(unusable(row.number, error, pack_failure(path)));
    }

    /// Reads what is here of a pack that another store wrote. What does not fit is none of the pack any more:
    /// it is fetched again when it is read.
    fn foreign(&mut self, row: &PackRow) -> Result<(), StoreError> {
        let Ok(placed) = self.place.placed(row.number, row.space) else { return Ok(()) };
        if !placed.is_readable(row.bytes) {
            return Ok(());
        }
        let Ok(pack) = placed.read() else { return Ok(()) };
        self.report.packs += 1;
        for located in pack.walk().map_while(Result::ok) {
            let (slot, chunk) = (located.slot(), located.told());
            let place = chunk.offset..chunk.offset + u64::from(chunk.payload_bytes);
            if !pack.file().has(place.clone()) {
                continue;
            }
            self.report.chunks += 1;
            self.report.bytes += u64::from(chunk.payload_bytes);
            if let Err(error) = pack.verify(&located) {
                tracing::warn!(pack = row.number, chunk = slot, %error, "a part of a pack's cache is given up");
                pack.file().drop_range(place);
            }
            self.looked_at(chunk.payload_bytes.into())?;
        }
        Ok(())
    }

    /// Looks at what is between the end of a chunk and the next one.
    fn gap(
        &mut self,
        (pack, number): (&PackReader<UncachedFile>, u64),
        before: Option<u64>,
        chunk: &LocatedChunk,
    ) {
        if let Err(error) = pack.verify_gap(before, chunk)
            && self.report.elsewhere.len() < MOST_ELSEWHERE
        {
            self.report.elsewhere.push(format!("pack {number}: {error}"));
        }
    }

    fn chunk(
        &mut self,
        pack: &PackReader<UncachedFile>,
        at: ChunkHint,
        located: &LocatedChunk,
    ) -> Result<(), StoreError> {
        let chunk = located.told();
        self.report.chunks += 1;
        self.report.bytes += u64::from(chunk.payload_bytes);
        match pack.verify(located) {
            Ok(()) => {
                self.notes.remove(&at);
            }
            Err(error) => {
                self.notes.add(at, chunk.hash);
                if self.found.len() < MOST_TOLD {
                    let why = error.to_string();
                    self.found.push(FoundDamage { at, chunk, why, repaired: false });
                } else {
                    self.report.more_damaged += 1;
                }
            }
        }
        self.looked_at(chunk.payload_bytes.into())
    }
}
