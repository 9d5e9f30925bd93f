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
    let pauses = if canary!(SealedOneByOne) {
        let mut pauses = Vec::new();
        for member in &members {
            pauses.extend(close_and_switch(std::slice::from_ref(member)).await?);
        }
        pauses
    } else {
        close_and_switch(&members).await?
    };
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

async fn close_and_switch(members: &[SealMember]) -> Result<Vec<Duration>, SnapshotError> {
    give(members, SealOrder::Close);
    have_come(members, SealOrder::Close).await?;
    give(members, SealOrder::Switch);
    have_come(members, SealOrder::Switch).await
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
