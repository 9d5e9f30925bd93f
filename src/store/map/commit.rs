//! Commits: pending changes become a record of the journal. One is under way at a time, so that no record can
//! be durable before the one that it follows.

use super::layer::{FileWrite, LayerMap};
use super::planted::{MapBug, is_planted};
use super::record::{JournalPoint, JournalRecord, runs_in};
use super::states::BlockRun;
use super::under_way::Commit;

/// Why there is no record to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCommit {
    #[error("the journal is full: a checkpoint must come first")]
    RingFull,
    #[error("an earlier write or sync of the map failed: open the image again")]
    Failed,
    #[error("the map has features that this version must not write: open it with a newer version")]
    ReadOnly,
}

impl LayerMap {
    /// Takes pending changes, the oldest first, as one record. `None`: there are none.
    ///
    /// The data of the blocks that it names must be durable before the record is written, so a FLUSH calls
    /// this, syncs the data, writes the record so that it is durable, and calls
    /// [`end_commit`](LayerMap::end_commit). It takes at most a quarter of the ring, so one call may not take
    /// all: see [`mark`](LayerMap::mark).
    pub(crate) fn begin_commit(&mut self) -> Result<Option<FileWrite>, NoCommit> {
        self.begin_commit_in(0, self.geometry.most_blocks())
    }

    /// The same with changes of some blocks only: FUA must not name a neighbour whose data is not durable.
    pub(crate) fn begin_commit_in(&mut self, start: u64, length: u64) -> Result<Option<FileWrite>, NoCommit> {
        self.expect_writable()?;
        let end = start + length;
        if self.pending_pages(start, end).next().is_none() {
            self.log_is_settled();
            return Ok(None);
        }
        self.log_commit_begins();
        let most = runs_in(&self.geometry, self.room()?);
        let (mut runs, mut oldest) = (Vec::new(), None);
        // Each page has a run at least.
        let mut pending: Vec<_> = self.pending_pages(start, end).take(most).collect();
        pending.sort_unstable();
        for (since, page) in pending {
            if runs.len() == most {
                break;
            }
            let before = runs.len();
            self.take(page, (start, end), most, &mut runs);
            if runs.len() > before {
                oldest = oldest.or(Some(since));
            }
            if self.tree.changed_leaf(page).pending_since() != Some(since) {
                self.pending.remove(&since);
            }
        }
        if runs.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.write(runs, oldest, self.identity.size)))
    }

    /// Moves pending blocks of a page to `runs`, until it has `most`.
    fn take(&mut self, page: u64, (start, end): (u64, u64), most: usize, runs: &mut Vec<BlockRun>) {
        let (first, last) = (self.geometry.first_block(page), self.geometry.first_block(page + 1));
        let (from, to) = (start.clamp(first, last) - first, end.clamp(first, last) - first);
        let leaf = self.tree.changed_leaf(page);
        let mut from = from as usize;
        while runs.len() < most
            && let Some((start, length, state)) = leaf.pending_run(from, to as usize)
        {
            if !is_planted(MapBug::ChangeBesideRecordLost) {
                leaf.taken(start, length);
            }
            runs.push(BlockRun { start: first + start as u64, length: length as u64, state });
            from = start + length;
        }
    }

    fn expect_writable(&self) -> Result<(), NoCommit> {
        match (self.is_failed, self.is_read_only) {
            (true, _) => Err(NoCommit::Failed),
            (_, true) => Err(NoCommit::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Record blocks that the next record may have; at least one.
    pub(super) fn room(&self) -> Result<u64, NoCommit> {
        self.expect_writable()?;
        let is_alone = self.commits.is_empty() || is_planted(MapBug::RecordsOvertake);
        assert!(is_alone, "one record is under way at a time");
        let (ring, position) = (self.geometry.ring_blocks(), self.next_point().position);
        let free = self.needed_from + ring - position;
        // A record is not cut by the end of the ring.
        let room = free.min(ring - position % ring).min(self.geometry.most_record_blocks());
        let growing = self.checkpoint.as_ref().and_then(|all| all.records_end(&self.geometry));
        let growing = growing.filter(|_| !is_planted(MapBug::LapBesideGrowth));
        let room = room.min(growing.map_or(u64::MAX, |end| end.saturating_sub(position)));
        if room == 0 { Err(NoCommit::RingFull) } else { Ok(room) }
    }

    pub(super) fn next_point(&self) -> JournalPoint {
        self.commits.back().map_or(self.end, |commit| commit.end)
    }

    /// Makes a record of what fits in one.
    pub(super) fn write(&mut self, runs: Vec<BlockRun>, since: Option<u64>, size: u64) -> FileWrite {
        let point = self.next_point();
        let record = JournalRecord { generation: self.generation, sizes: (self.identity.size, size), runs };
        let (bytes, end) = record.encode(&self.geometry, self.identity.layer, point);
        self.log_record_begins(end);
        self.commits.push_back(Commit { runs: record.runs, since, size, end });
        FileWrite { offset: self.geometry.record_offset(point.position), bytes }
    }

    /// The record that is under way is durable, or it is not known to be: then nothing is journaled any more.
    pub(crate) fn end_commit(&mut self, durable: bool) {
        if !durable {
            // Its blocks stay pending for ever: FUA must not find that nothing is left to be done for them.
            assert!(!self.commits.is_empty(), "a record is under way");
            self.is_failed = true;
            return;
        }
        let commit = self.commits.pop_front().expect("a record is under way");
        self.end = commit.end;
        if commit.size != self.identity.size {
            self.set_size(commit.size);
        }
        for run in &commit.runs {
            let (page, start) = (self.geometry.page(run.start), self.geometry.within(run.start));
            let leaf = self.tree.changed_leaf(page);
            leaf.journal(start, run.length as usize, run.state);
            if is_planted(MapBug::ChangeBesideRecordLost) {
                leaf.taken(start, run.length as usize);
            }
            self.dirty.insert(page);
        }
        if self.commits.is_empty() {
            for run in &commit.runs {
                self.tree.changed_leaf(self.geometry.page(run.start)).settle();
            }
        }
        self.log_record_ended();
    }
}
