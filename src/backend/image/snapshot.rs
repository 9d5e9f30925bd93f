//! Takes a snapshot of images that are served, of several at one point in time.
//!
//! The homes of all images go one step together: no image is switched before changes of all of them have
//! been stopped, so what is in the snapshot of one and what is in that of another fit each other. The change
//! of the catalogue is one for all, and comes before the switch: a server that is killed between the two has
//! answered nothing that the catalogue does not lead to. Whatever fails leaves everything as it was. If it
//! stays unknown what the catalogue has, images go on with their old heads: then a snapshot of which an error
//! told may be there, with later writes in it, and nothing is lost.

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
    #[error("the catalogue of the store could not be changed: {0}")]
    Refused(String),
    /// Nobody knows whether the catalogue has it.
    #[error(
        "whether the catalogue of the store was changed is not known ({0}): if the snapshot is there, it has later writes too, so remove it"
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
    let first = if canary!(SealedOneByOne) { &members[..1] } else { &members[..] };
    give(first, SealOrder::Close);
    have_come(first, SealOrder::Close).await?;
    if canary!(HeadBeforeCatalog) {
        give(&members, SealOrder::Switch);
        have_come(&members, SealOrder::Switch).await?;
    }
    if canary!(SealedOneByOne) {
        give(first, SealOrder::Switch);
        have_come(first, SealOrder::Switch).await?;
    }
    let mut outcome = record.record().await;
    if let RecordOutcome::Unknown(_) = outcome {
        outcome = record.read_again().await;
    }
    match outcome {
        RecordOutcome::Recorded => {}
        RecordOutcome::Refused(why) => return Err(SnapshotError::Refused(why)),
        RecordOutcome::Unknown(why) => return Err(SnapshotError::Unknown(why)),
    }
    if canary!(SealedOneByOne) {
        give(&members[1..], SealOrder::Close);
        have_come(&members[1..], SealOrder::Close).await?;
    }
    give(&members, SealOrder::Switch);
    // The next snapshot may begin when this returns.
    have_come(&members, SealOrder::Switch).await
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
                home.reach(SealProgress::Over(Duration::from_millis(1)));
            }
            group.poll(&mut context)
        };
        assert_eq!(pauses, Poll::Ready(Ok(vec![Duration::from_millis(1); 2])));
        assert_eq!(record.1, 1);
    }

    /// A home that ends before it has closed keeps the catalogue from being changed; and what the catalogue
    /// refuses changes no image.
    #[test]
    fn one_that_fails_ends_the_others() {
        let refused = RecordOutcome::Refused("no".into());
        for (outcome, ends) in [(RecordOutcome::Recorded, true), (refused, false)] {
            let ((one, first), (other, second)) = (sealing_of_nothing(), sealing_of_nothing());
            let mut record = Says(outcome, 0);
            let mut context = Context::from_waker(Waker::noop());
            {
                let mut group = pin!(seal_group(vec![one, other], &mut record));
                first.reach(SealProgress::Prepared);
                second.reach(SealProgress::Prepared);
                assert!(group.as_mut().poll(&mut context).is_pending());
                first.reach(SealProgress::Closed);
                match ends {
                    true => drop(second),
                    false => second.reach(SealProgress::Closed),
                }
                let failed = match ends {
                    true => SnapshotError::Image(1, SealFailure::Gone),
                    false => SnapshotError::Refused("no".into()),
                };
                assert_eq!(group.poll(&mut context), Poll::Ready(Err(failed)));
            }
            assert_eq!(record.1, usize::from(!ends));
            assert_eq!(first.order(), SealOrder::GiveUp);
        }
    }
}
