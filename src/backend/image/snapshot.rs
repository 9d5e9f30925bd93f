//! Takes a snapshot of images that are served, of several at one point in time.
//!
//! The homes of all images go one step together: no image is switched before changes of all of them have
//! been stopped, so what is in the snapshot of one and what is in that of another fit each other.
//!
//! ```text
//! begin     the catalogue notes that the next heads may take over
//!           close, switch: for so long changes wait
//!           settle: the sealed heads become durable
//! record    the catalogue has the snapshots, and leads to the next heads
//! ```
//!
//! Whoever opens the store after a kill between begin and record has the next heads take over, because
//! writes to them were answered. After a power cut they go, and the snapshot with them: no FLUSH was
//! answered for them. What fails before the switch leaves everything as it was. What fails after it costs
//! the snapshot, and the images go on with their next heads.

use std::time::Duration;

use super::sealing::{SealFailure, SealMember, SealOrder, SealStage};

/// What became of a change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It is durable.
    Recorded,
    /// It did not take place, and never will.
    Refused(String),
    /// It may have taken place.
    Unknown(String),
}

/// The changes of a store's catalogue that a snapshot needs; each is durable when it ends, whole or not at
/// all.
pub trait SnapshotRecord {
    /// Notes that it is being taken.
    fn begin(&mut self) -> impl Future<Output = RecordOutcome>;

    /// The snapshot is there, and the next heads are the heads.
    fn record(&mut self) -> impl Future<Output = RecordOutcome>;

    /// Reads the catalogue again, when it is not known whether the last of these changes took place.
    fn read_again(&mut self) -> impl Future<Output = RecordOutcome>;

    /// It is not being taken any more. No next head has taken over.
    fn withdraw(&mut self) -> impl Future<Output = ()>;

    /// There will be no snapshot, and next heads have taken over. Of some images, by their places in the
    /// group, the sealed heads are durable: of them the next heads are the heads.
    fn go_on_without(&mut self, settled: &[usize]) -> impl Future<Output = RecordOutcome>;
}

/// Why there is no snapshot, or none that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// One of the images, by its place in the group.
    #[error("{1}")]
    Image(usize, SealFailure),
    /// The catalogue does not have it.
    #[error("the catalogue of the store could not be changed: {0}")]
    Refused(String),
    /// Nobody knows whether the catalogue has it.
    #[error(
        "whether the catalogue of the store was changed is not known ({0}): look whether the snapshot is there, and restart the server if it answers FLUSHes with errors"
    )]
    Unknown(String),
}

/// Seals the heads of a group of images and has that recorded; for how long the changes of each had to wait.
/// Each member's task must be on its way to the home of its image.
///
/// # Errors
/// [`SnapshotError`]. What is dropped half-way is given up like what fails.
pub async fn seal_group(
    members: Vec<SealMember>,
    record: &mut impl SnapshotRecord,
) -> Result<Vec<Duration>, SnapshotError> {
    have_come(&members, SealStage::Prepared).await?;
    if !canary!(HeadBeforeCatalog) {
        let begun = record.begin().await;
        known(begun, record).await?;
    }
    if let Err(failure) = stop_and_switch(&members).await {
        let may_have_switched = members.iter().any(SealMember::may_have_switched);
        drop(members);
        match may_have_switched {
            true => drop(record.go_on_without(&[]).await),
            false => record.withdraw().await,
        }
        return Err(failure);
    }
    let pauses = have_come(&members, SealStage::Switched).await;
    let settled = have_come(&members, SealStage::Settled).await;
    if let Err(failure) = settled.and(pauses.as_ref().map(drop).map_err(Clone::clone)) {
        go_on(members, record).await;
        return Err(failure);
    }
    let recorded = record.record().await;
    match known(recorded, record).await {
        Ok(()) => {}
        Err(refused @ SnapshotError::Refused(_)) => {
            go_on(members, record).await;
            return Err(refused);
        }
        Err(failure) => return Err(failure),
    }
    give(&members, SealOrder::Release);
    // The next snapshot may begin when this returns.
    have_come(&members, SealStage::Over).await?;
    pauses
}

/// For a moment nothing changes in any of the images.
async fn stop_and_switch(members: &[SealMember]) -> Result<(), SnapshotError> {
    let parts = if canary!(SealedOneByOne) { members.split_at(1) } else { (members, &members[..0]) };
    for part in [parts.0, parts.1] {
        give(part, SealOrder::Close);
        have_come(part, SealStage::Closed).await?;
        give(part, SealOrder::Switch);
        have_come(part, SealStage::Switched).await?;
    }
    Ok(())
}

/// All next heads have taken over, and there is no snapshot.
async fn go_on(members: Vec<SealMember>, record: &mut impl SnapshotRecord) {
    let mut settled = Vec::new();
    for (index, member) in members.iter().enumerate() {
        if member.has_come(SealStage::Settled).await.is_ok() {
            settled.push(index);
        }
    }
    if record.go_on_without(&settled).await != RecordOutcome::Recorded {
        return;
    }
    for (index, member) in members.iter().enumerate() {
        if settled.contains(&index) {
            member.give(SealOrder::Release);
            let _over = member.has_come(SealStage::Over).await;
        }
    }
}

/// What became of a change, after another look if need be.
async fn known(outcome: RecordOutcome, record: &mut impl SnapshotRecord) -> Result<(), SnapshotError> {
    let outcome = match outcome {
        RecordOutcome::Unknown(_) => record.read_again().await,
        known => known,
    };
    match outcome {
        RecordOutcome::Recorded => Ok(()),
        RecordOutcome::Refused(why) => Err(SnapshotError::Refused(why)),
        RecordOutcome::Unknown(why) => Err(SnapshotError::Unknown(why)),
    }
}

fn give(members: &[SealMember], order: SealOrder) {
    members.iter().for_each(|member| member.give(order));
}

async fn have_come(members: &[SealMember], stage: SealStage) -> Result<Vec<Duration>, SnapshotError> {
    let mut pauses = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let come = member.has_come(stage).await;
        pauses.push(come.map_err(|failure| SnapshotError::Image(index, failure))?);
    }
    Ok(pauses)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::super::sealing::{SealProgress, SealTask, sealing_of_nothing};
    use super::*;

    /// What is asked for, and what comes of the record.
    struct Says(RecordOutcome, Vec<String>);

    impl SnapshotRecord for Says {
        async fn begin(&mut self) -> RecordOutcome {
            self.1.push("begin".into());
            RecordOutcome::Recorded
        }

        async fn record(&mut self) -> RecordOutcome {
            self.1.push("record".into());
            self.0.clone()
        }

        async fn read_again(&mut self) -> RecordOutcome {
            self.1.push("read".into());
            self.0.clone()
        }

        async fn withdraw(&mut self) {
            self.1.push("withdraw".into());
        }

        async fn go_on_without(&mut self, settled: &[usize]) -> RecordOutcome {
            self.1.push(format!("go on with {settled:?}"));
            RecordOutcome::Recorded
        }
    }

    const PAUSE: Duration = Duration::from_millis(1);

    /// C1 across a group: none is switched before all have closed, and none counts before all are durable and
    /// the catalogue has it.
    #[test]
    fn images_of_a_group_go_one_step_together() {
        let ((one, first), (other, second)) = (sealing_of_nothing(), sealing_of_nothing());
        let mut record = Says(RecordOutcome::Recorded, Vec::new());
        let mut context = Context::from_waker(Waker::noop());
        let pauses = {
            let mut group = pin!(seal_group(vec![one, other], &mut record));
            let steps = [
                (SealProgress::Prepared, SealOrder::Prepare, SealOrder::Close),
                (SealProgress::Closed, SealOrder::Close, SealOrder::Switch),
                (SealProgress::Switched(PAUSE), SealOrder::Switch, SealOrder::Switch),
                (SealProgress::Settled, SealOrder::Switch, SealOrder::Release),
            ];
            for (progress, before, after) in steps {
                first.reach(progress.clone());
                assert!(group.as_mut().poll(&mut context).is_pending());
                assert_eq!((first.order(), second.order()), (before, before));
                second.reach(progress);
                assert!(group.as_mut().poll(&mut context).is_pending());
                assert_eq!((first.order(), second.order()), (after, after));
            }
            for home in [first, second] {
                home.reach(SealProgress::Over);
            }
            group.poll(&mut context)
        };
        assert_eq!(pauses, Poll::Ready(Ok(vec![PAUSE; 2])));
        assert_eq!(record.1, ["begin", "record"]);
    }

    /// Runs a group until a home fails, and ends the other one.
    fn failing(
        outcome: RecordOutcome,
        fails_after: usize,
    ) -> (Result<Vec<Duration>, SnapshotError>, Vec<String>, SealOrder) {
        let ((one, first), (other, second)) = (sealing_of_nothing(), sealing_of_nothing());
        let mut record = Says(outcome, Vec::new());
        let mut context = Context::from_waker(Waker::noop());
        let mut second: Option<SealTask> = Some(second);
        let result = {
            let mut group = pin!(seal_group(vec![one, other], &mut record));
            let steps = [
                SealProgress::Prepared,
                SealProgress::Closed,
                SealProgress::Switched(PAUSE),
                SealProgress::Settled,
                SealProgress::Over,
            ];
            let mut result = Poll::Pending;
            for (step, progress) in steps.into_iter().enumerate() {
                first.reach(progress.clone());
                match second.as_ref().filter(|_| step < fails_after) {
                    Some(second) => second.reach(progress),
                    None => drop(second.take()),
                }
                result = group.as_mut().poll(&mut context);
                if result.is_ready() {
                    break;
                }
            }
            result
        };
        let Poll::Ready(result) = result else { panic!("it ends") };
        (result, record.1, first.order())
    }

    /// A home that ends before the switch leaves everything as it was. After it the other images go on with
    /// their next heads, and so they do when the catalogue refuses the snapshot.
    #[test]
    fn one_that_fails_ends_the_others() {
        let gone = || Err(SnapshotError::Image(1, SealFailure::Gone));
        let calls = |calls: &[&str]| calls.iter().map(|call| (*call).to_owned()).collect::<Vec<_>>();
        let recorded = || RecordOutcome::Recorded;
        assert_eq!(failing(recorded(), 0), (gone(), calls(&[]), SealOrder::GiveUp));
        assert_eq!(failing(recorded(), 1), (gone(), calls(&["begin", "withdraw"]), SealOrder::GiveUp));
        assert_eq!(failing(recorded(), 2), (gone(), calls(&["begin", "go on with []"]), SealOrder::GiveUp));
        let went_on = failing(recorded(), 3);
        assert_eq!(went_on, (gone(), calls(&["begin", "go on with [0]"]), SealOrder::Release));
        let refused = failing(RecordOutcome::Refused("no".into()), 9);
        let why = Err(SnapshotError::Refused("no".into()));
        let asked = calls(&["begin", "record", "go on with [0, 1]"]);
        assert_eq!(refused, (why, asked, SealOrder::Release));
        let unknown = failing(RecordOutcome::Unknown("?".into()), 9);
        let why = Err(SnapshotError::Unknown("?".into()));
        assert_eq!(unknown, (why, calls(&["begin", "record", "read"]), SealOrder::GiveUp));
    }
}
