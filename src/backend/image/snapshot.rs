//! Takes a snapshot of images that are served, of several at one point in time.
//!
//! The homes of all images go one step together: no image is switched before changes of all of them have
//! been stopped, so what is in the snapshot of one and what is in that of another fit each other. The change
//! of the catalogue comes last, and is one for all. Whatever fails before the switch leaves everything as it
//! was.

use std::time::Duration;

use super::sealing::{SealFailure, SealMember, SealOrder};

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

/// The change of a store's catalogue that a snapshot is.
pub trait SnapshotRecord {
    /// Makes it durable, whole or not at all.
    fn record(&mut self) -> impl Future<Output = RecordOutcome>;

    /// Reads the catalogue again, when it is not known whether the change took place.
    fn read_again(&mut self) -> impl Future<Output = RecordOutcome>;
}

/// Why there is no snapshot, or none that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// One of the images, by its place in the group.
    #[error("{1}")]
    Image(usize, SealFailure),
    /// The catalogue does not have it.
    #[error(
        "the catalogue of the store could not be changed ({0}): FLUSH of the images fails until they are served again"
    )]
    Refused(String),
    /// Nobody knows whether the catalogue has it.
    #[error(
        "whether the catalogue of the store was changed is not known ({0}): FLUSH of the images fails until they are served again"
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
    have_come(&members, SealOrder::Prepare).await?;
    give(&members, SealOrder::Close);
    have_come(&members, SealOrder::Close).await?;
    give(&members, SealOrder::Switch);
    let pauses = have_come(&members, SealOrder::Switch).await?;
    let mut outcome = record.record().await;
    if let RecordOutcome::Unknown(_) = outcome {
        outcome = record.read_again().await;
    }
    let recorded = SealOrder::Recorded(outcome == RecordOutcome::Recorded);
    give(&members, recorded);
    // The next snapshot may begin when this returns.
    have_come(&members, recorded).await?;
    match outcome {
        RecordOutcome::Recorded => Ok(pauses),
        RecordOutcome::Refused(why) => Err(SnapshotError::Refused(why)),
        RecordOutcome::Unknown(why) => Err(SnapshotError::Unknown(why)),
    }
}

fn give(members: &[SealMember], order: SealOrder) {
    members.iter().for_each(|member| member.give(order));
}

async fn have_come(members: &[SealMember], order: SealOrder) -> Result<Vec<Duration>, SnapshotError> {
    let mut pauses = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let come = member.has_come(order).await;
        pauses.push(come.map_err(|failure| SnapshotError::Image(index, failure))?);
    }
    Ok(pauses)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::super::sealing::{SealProgress, sealing_of_nothing};
    use super::*;

    struct Says(RecordOutcome, usize);

    impl SnapshotRecord for Says {
        async fn record(&mut self) -> RecordOutcome {
            self.1 += 1;
            self.0.clone()
        }

        async fn read_again(&mut self) -> RecordOutcome {
            self.0.clone()
        }
    }

    /// C1 across a group: none is switched before all have closed, and the catalogue comes last.
    #[test]
    fn images_of_a_group_go_one_step_together() {
        let ((one, first), (other, second)) = (sealing_of_nothing(), sealing_of_nothing());
        let mut record = Says(RecordOutcome::Recorded, 0);
        let mut context = Context::from_waker(Waker::noop());
        let pauses = {
            let mut group = pin!(seal_group(vec![one, other], &mut record));
            let steps = [
                (SealProgress::Prepared, SealOrder::Prepare, SealOrder::Close),
                (SealProgress::Closed, SealOrder::Close, SealOrder::Switch),
                (
                    SealProgress::Switched(Duration::from_millis(1)),
                    SealOrder::Switch,
                    SealOrder::Recorded(true),
                ),
            ];
            for (progress, before, after) in steps {
                first.reach(progress.clone());
                assert!(group.as_mut().poll(&mut context).is_pending());
                assert_eq!((first.order(), second.order()), (before, before));
                second.reach(progress);
                assert!(group.as_mut().poll(&mut context).is_pending());
                assert_eq!((first.order(), second.order()), (after, after));
            }
            drop((first, second));
            group.poll(&mut context)
        };
        assert_eq!(pauses, Poll::Ready(Ok(vec![Duration::from_millis(1); 2])));
        assert_eq!(record.1, 1);
    }

    /// A home that ends before it has switched keeps the catalogue from being changed.
    #[test]
    fn one_that_fails_ends_the_others() {
        let ((one, first), (other, second)) = (sealing_of_nothing(), sealing_of_nothing());
        let mut record = Says(RecordOutcome::Recorded, 0);
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut group = pin!(seal_group(vec![one, other], &mut record));
            for progress in [SealProgress::Prepared, SealProgress::Closed] {
                first.reach(progress.clone());
                second.reach(progress);
                assert!(group.as_mut().poll(&mut context).is_pending());
            }
            first.reach(SealProgress::Switched(Duration::ZERO));
            drop(second);
            let failed = SnapshotError::Image(1, SealFailure::Gone);
            assert_eq!(group.poll(&mut context), Poll::Ready(Err(failed)));
        }
        assert_eq!(record.1, 0);
        assert_eq!(first.order(), SealOrder::Recorded(false), "its new head makes nothing durable");
    }
}
