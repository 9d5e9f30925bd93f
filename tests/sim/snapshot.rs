//! Snapshots of images, of several at one point in time, while their clients go on; and what they must hold.
//!
//! The catalogue is a model: a change takes effect at one moment between being asked for and being answered.
//! What the next server does with a snapshot that is being taken is decided by the code of the server.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringnbd::internal::backend::{
    Export, ExportId, HomeTask, NextHead, RecordOutcome, SealFailure, ShortenTask, SimulatedImage,
    SnapshotError, SnapshotRecord, seal_group, sealing,
};
use ringnbd::internal::ring::sim::{Faults, Random};
use ringnbd::internal::shard::Removal;

use super::super::image::NextLayer;
use super::super::oracle::Oracle;
use super::Simulation;

/// Groups of a run. While a client takes its time, those that cannot be taken would go on for ever, and each has files of its own.
const MOST_GROUPS: u64 = 100;

/// Snapshots of a run.
#[derive(Default)]
pub(super) struct Snapshots {
    under_way: Vec<Taking>,
    /// What the catalogue has.
    kept: Vec<Kept>,
    /// Groups that were begun, and those that were taken.
    begun: u64,
    pub(super) taken: u64,
    /// Steps of the catalogue.
    steps: Rc<Cell<u64>>,
    /// One could not be taken: its shards may not be done with it.
    has_failed: bool,
    /// Snapshots that were read.
    read: u32,
}

/// A group that is being sealed.
struct Taking {
    number: u64,
    began: u64,
    exports: Vec<usize>,
    rows: Vec<NextLayer>,
    result: Pin<Box<dyn Future<Output = Result<Vec<Duration>, SnapshotError>>>>,
}

/// A snapshot that must stay.
struct Kept {
    number: u64,
    began: u64,
    export: usize,
    image: SimulatedImage,
    /// As it was when the snapshot was over.
    oracle: Oracle,
}

/// The change of the catalogue.
struct Change {
    rows: Vec<NextLayer>,
    number: u64,
    random: Random,
    unrecorded: f64,
    steps: Rc<Cell<u64>>,
    /// The last change has.
    has_happened: bool,
    /// It was the one at the end.
    is_over: bool,
}

impl Change {
    /// Some steps of the run pass.
    async fn take_time(&mut self) {
        let most = self.random.pick(&[1, 10, 300]);
        let mut left = self.random.below(most);
        poll_fn(|_| {
            self.steps.set(self.steps.get() + 1);
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Change {
    /// Something is done to each row at one moment, perhaps.
    async fn change(&mut self, change: impl Fn(u64, &NextLayer)) -> RecordOutcome {
        let (refused, unknown) = (RecordOutcome::Refused("no".into()), RecordOutcome::Unknown("?".into()));
        let is_odd = self.random.chance(self.unrecorded);
        let (happens, outcome) = match if is_odd { self.random.below(3) } else { 3 } {
            0 => (false, refused),
            1 => (false, unknown),
            2 => (true, unknown),
            _ => (true, RecordOutcome::Recorded),
        };
        self.take_time().await;
        self.has_happened = happens;
        if happens {
            self.rows.iter().for_each(|next| change(self.number, next));
        }
        self.take_time().await;
        outcome
    }
}

impl SnapshotRecord for Change {
    async fn begin(&mut self) -> RecordOutcome {
        self.change(|number, next| next.row.borrow_mut().tentative = Some((next.layer, Some(number)))).await
    }

    async fn record(&mut self) -> RecordOutcome {
        self.is_over = true;
        self.change(|number, next| next.row.borrow_mut().seal(number, next.layer)).await
    }

    async fn read_again(&mut self) -> RecordOutcome {
        self.take_time().await;
        // After the switch clients would be told of it, and of the others nobody ever hears.
        match (self.random.chance(0.2), self.has_happened) {
            (_, true) => RecordOutcome::Recorded,
            (true, false) if !self.is_over => RecordOutcome::Unknown("still".into()),
            (_, false) => RecordOutcome::Refused("it never happened".into()),
        }
    }

    async fn withdraw(&mut self) {
        self.take_time().await;
        self.rows.iter().for_each(|next| next.row.borrow_mut().tentative = None);
        self.take_time().await;
    }

    async fn go_on_without(&mut self, settled: &[usize]) -> RecordOutcome {
        self.take_time().await;
        for (index, next) in self.rows.iter().enumerate() {
            let mut row = next.row.borrow_mut();
            match settled.contains(&index) {
                true => row.take_over(next.layer),
                false => row.tentative = Some((next.layer, None)),
            }
        }
        self.take_time().await;
        RecordOutcome::Recorded
    }
}

impl Simulation {
    /// Perhaps a snapshot of one image or several is begun.
    pub(super) fn begin_snapshot(&mut self) {
        if self.plan.snapshots == 0.0
            || self.shutting_down
            || !self.random.chance(self.plan.snapshots)
            || self.snapshots.begun >= MOST_GROUPS
        {
            return;
        }
        let is_free = |export: &usize| {
            let under_way = self.snapshots.under_way.iter();
            self.lives[*export].held_by.is_none()
                && !self.is_growing(*export)
                && !under_way.flat_map(|one| &one.exports).any(|at| at == export)
        };
        let free: Vec<usize> = (0..self.media.len()).filter(is_free).collect();
        let (mut exports, mut rows) = (Vec::new(), Vec::new());
        for export in free {
            if self.random.chance(0.7)
                && let Some(next) = self.media[export].next_head(&self.world)
            {
                exports.push(export);
                rows.push(next);
            }
        }
        if exports.is_empty() {
            return;
        }
        self.snapshots.begun += 1;
        self.tick += 1;
        let mut members = Vec::new();
        for (export, next) in exports.iter().zip(&rows) {
            let (member, task) = sealing(NextHead::simulated(&self.world, next.layer));
            members.push(member);
            let id = ExportId { index: *export as u32, generation: self.lives[*export].generation };
            let home = *export % self.shards.len();
            let sent = self.shards[home].visit(id, Arc::clone(&self.exports[*export]), HomeTask::Seal(task));
            assert!(sent, "the mailbox has room");
        }
        let copy = |next: &NextLayer| NextLayer { layer: next.layer, row: Rc::clone(&next.row) };
        let mut change = Change {
            rows: rows.iter().map(copy).collect(),
            number: self.snapshots.begun,
            random: Random::new(self.random.number()),
            unrecorded: self.plan.unrecorded,
            steps: Rc::clone(&self.snapshots.steps),
            has_happened: false,
            is_over: false,
        };
        let result = Box::pin(async move { seal_group(members, &mut change).await });
        let (number, began) = (self.snapshots.begun, self.tick);
        self.snapshots.under_way.push(Taking { number, began, exports, rows, result });
    }

    /// Perhaps the layers below the head of an image become others of the same contents.
    pub(super) fn replace_layers(&mut self) {
        if self.plan.snapshots == 0.0 || self.shutting_down || !self.random.chance(self.plan.snapshots) {
            return;
        }
        let export = self.random.below(self.media.len() as u64) as usize;
        if self.lives[export].held_by.is_some() || self.is_growing(export) {
            return;
        }
        let Some(chain) = self.media[export].other_layers(&self.world) else { return };
        let id = ExportId { index: export as u32, generation: self.lives[export].generation };
        // It goes on as it was if it is being sealed, or the shard has no place for the files.
        let task = HomeTask::Shorten(ShortenTask::new(chain, |_| ()));
        let home = export % self.shards.len();
        assert!(self.shards[home].visit(id, Arc::clone(&self.exports[export]), task), "the mailbox has room");
    }

    /// Lets those who take snapshots go on; false if they wait for something else.
    pub(super) fn go_on_with_snapshots(&mut self) -> Result<bool, String> {
        if self.snapshots.under_way.is_empty() {
            return Ok(false);
        }
        let before = self.snapshots.steps.get();
        let mut context = Context::from_waker(Waker::noop());
        let under_way = std::mem::take(&mut self.snapshots.under_way);
        let mut has_ended = false;
        for mut taking in under_way {
            match taking.result.as_mut().poll(&mut context) {
                Poll::Pending => self.snapshots.under_way.push(taking),
                Poll::Ready(result) => {
                    has_ended = true;
                    self.snapshots.taken += u64::from(result.is_ok());
                    self.has_ended(&taking, &result)?;
                }
            }
        }
        // It may have given orders.
        self.world.rang();
        Ok(has_ended || self.snapshots.steps.get() > before)
    }

    fn has_ended(
        &mut self,
        taking: &Taking,
        result: &Result<Vec<Duration>, SnapshotError>,
    ) -> Result<(), String> {
        self.tick += 1;
        self.keep(taking);
        let fails = self.may_fail();
        let is_right = match result {
            Ok(_) => true,
            Err(SnapshotError::Refused(_) | SnapshotError::Unknown(_)) => self.plan.unrecorded > 0.0,
            Err(SnapshotError::Image(_, failure)) => match failure {
                SealFailure::TooSlow(_) => true,
                SealFailure::NotDurable(_) => fails,
                // It was removed at the same time.
                SealFailure::Gone => self.shutting_down || self.plan.removals > 0.0,
                SealFailure::Busy => self.snapshots.has_failed,
                _ => false,
            },
        };
        self.snapshots.has_failed |= result.is_err();
        let is_whole = taking.rows.iter().map(|next| has(next, taking.number));
        let count = is_whole.filter(|has| *has).count();
        if count != 0 && count != taking.rows.len() || (result.is_ok() && count == 0) {
            return Err("a snapshot is there in part".into());
        }
        if is_right { Ok(()) } else { Err(format!("a snapshot fails that nothing keeps: {result:?}")) }
    }

    /// Whether a commit of an image may fail.
    pub(super) fn may_fail(&self) -> bool {
        self.faults.io_error + self.faults.lost_write_back + self.faults.canceled > 0.0
            || self.faults.no_space > 0.0
            || self.shutting_down
    }

    /// Whether a snapshot of an image is being taken.
    pub(super) fn is_being_taken(&self, export: usize) -> bool {
        self.snapshots.under_way.iter().flat_map(|one| &one.exports).any(|at| *at == export)
    }

    /// Whether an image may have another head than the one that its row has.
    pub(super) fn has_failed_to_snapshot(&self) -> bool {
        self.snapshots.has_failed
    }

    /// From now on what the catalogue has of it must stay.
    fn keep(&mut self, taking: &Taking) {
        for (export, next) in taking.exports.iter().zip(&taking.rows) {
            let row = next.row.borrow();
            if let Some((number, image)) = row.snapshots.iter().find(|(number, _)| *number == taking.number) {
                let (oracle, image) = (self.oracles[*export].clone(), image.clone());
                let (number, began, export) = (*number, taking.began, *export);
                self.snapshots.kept.push(Kept { number, began, export, image, oracle });
            }
        }
    }

    /// The server ends while snapshots are being taken.
    pub(super) fn end_snapshots(&mut self) {
        for taking in std::mem::take(&mut self.snapshots.under_way) {
            self.tick += 1;
            self.keep(&taking);
        }
    }

    /// C1, C2: each has what was answered before it began, nothing that began after it had returned, and of
    /// a group all have the same point in time.
    pub(super) fn check_snapshots(&mut self) -> Result<(), String> {
        if self.snapshots.kept.is_empty() {
            return Ok(());
        }
        if self.shards.is_empty() {
            self.start_server();
        }
        let Faults { latency_ns, submission_entries, no_punch, no_zero_range, .. } = self.faults;
        let calm = Faults { latency_ns, submission_entries, no_punch, no_zero_range, ..Faults::none() };
        let faults = self.world.set_faults(calm);
        let kept = std::mem::take(&mut self.snapshots.kept);
        let result = kept.chunk_by(|one, other| one.number == other.number).try_for_each(|group| {
            let contents: Result<Vec<_>, String> =
                group.iter().map(|kept| self.read_snapshot(kept)).collect();
            let contents = contents?;
            let mut point = group[0].began;
            for again in [false, true] {
                for (kept, content) in group.iter().zip(&contents) {
                    let export = kept.export;
                    let explain =
                        |error| format!("snapshot {} of export {export} ({again}): {error}", kept.number);
                    let newest = kept.oracle.check_snapshot(point, content).map_err(explain)?;
                    // What was over before the newest write began is in all of them.
                    point = if again { point } else { point.max(newest) };
                }
            }
            Ok(())
        });
        self.world.set_faults(faults);
        self.snapshots.kept = kept;
        result
    }

    fn read_snapshot(&mut self, kept: &Kept) -> Result<Vec<u8>, String> {
        let mut exports = self.exports.to_vec();
        let mut setting = self.plan.setting(&mut self.random);
        self.snapshots.read += 1;
        (setting.export, setting.generation) = (exports.len(), self.snapshots.read);
        setting.size = kept.image.size;
        exports.push(Arc::new(Export::simulated_image(&self.world, &kept.image)));
        let shard = setting.shard;
        let id = ExportId { index: setting.export as u32, generation: setting.generation };
        let content = self.read_calmly(setting, &exports)?;
        assert!(self.shards[shard].remove(id, Removal::AtOnce, || {}), "the mailbox has room");
        self.settle()?;
        Ok(content)
    }
}

fn has(next: &NextLayer, number: u64) -> bool {
    next.row.borrow().snapshots.iter().any(|(kept, _)| *kept == number)
}
