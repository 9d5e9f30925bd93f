//! A map whose changes are noted in a [`PendingLog`].

use super::layer::LayerMap;
use super::log::{LogRoom, PendingLog};
use super::record::JournalPoint;
use super::states::BlockRun;
use super::under_way::ChangeLog;

impl LayerMap {
    /// From now on changes are noted.
    pub(crate) fn attach_log(&mut self, log: PendingLog) {
        self.log = Some(ChangeLog { log, covered: None });
    }

    /// Where the journal ends, as a log remembers it.
    pub(crate) fn journal_stamp(&self) -> u64 {
        stamp(self.end)
    }

    /// Whether the log has room for one more change.
    #[inline]
    pub(crate) fn log_room(&mut self) -> LogRoom {
        self.log.as_mut().map_or(LogRoom::Enough, |changes| changes.log.room())
    }

    /// The map is not used any more: if durable records have everything, the log goes. Otherwise it stays,
    /// for whoever opens the layer next.
    pub(crate) fn finish_log(&mut self) {
        let is_durable = !self.has_pending() && !self.is_failed;
        if let Some(changes) = self.log.take()
            && is_durable
        {
            changes.log.finish();
        }
    }

    /// Data was lost that changes are about: whoever opens the layer next must not take them over.
    pub(crate) fn abandon_log(&mut self) {
        if let Some(changes) = self.log.take() {
            changes.log.finish();
        }
    }

    pub(super) fn log_change(&mut self, run: BlockRun) {
        if let Some(changes) = &mut self.log {
            changes.log.append(run);
        }
    }

    /// A commit takes changes. It covers what was noted until now.
    pub(super) fn log_commit_begins(&mut self) {
        let mark = self.mark();
        if let Some(changes) = &mut self.log {
            let covered = *changes.covered.get_or_insert_with(|| (mark, changes.log.mark()));
            if canary!(PendingDroppedEarly) {
                changes.log.release(covered.1);
            }
        }
    }

    /// Nothing is left for a commit. What was noted has changed nothing, if there is nothing under way
    /// either.
    pub(super) fn log_is_settled(&mut self) {
        if let Some(changes) = &mut self.log
            && self.pending.is_empty()
            && self.commits.is_empty()
        {
            let mark = changes.log.mark();
            changes.log.release(mark);
        }
    }

    pub(super) fn log_record_begins(&self, end: JournalPoint) {
        if let Some(changes) = &self.log {
            changes.log.record_begins(stamp(end));
        }
    }

    /// A record has become durable: entries go if records have all of those that the commit covers.
    pub(super) fn log_record_ended(&mut self) {
        let Some(changes) = &self.log else { return };
        changes.log.record_ended(stamp(self.end));
        let is_covered = changes.covered.is_some_and(|(mark, _)| self.is_committed(mark));
        if let Some(changes) = &mut self.log
            && is_covered
            && let Some((_, mark)) = changes.covered.take()
        {
            changes.log.release(mark);
        }
    }
}

/// Two journals of a layer that differ have other stamps: the CRC is over all records before it.
fn stamp(point: JournalPoint) -> u64 {
    point.sequence << 32 | u64::from(point.crc)
}
