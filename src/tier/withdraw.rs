//! Snapshots are taken out of the tier. Their packs go with collections, in two phases.

use super::error::TierError;
use super::objects::Objects;
use super::own::{Pusher, forget, mine, owner};
use super::pin::{clones_of, snapshot};
use super::records::PushRecord;

/// Clones that a sentence names.
const NAMED: usize = 8;

/// Whether snapshots go that images on other hosts were cloned from. Those keep the packs that they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithdrawCloned {
    No,
    Yes,
}

/// Takes snapshots, each an image and its name, out of the tier. `gone` is told of each, as soon as it is
/// gone, with its record if that can be read.
///
/// # Errors
/// One is not there, was cloned, or its name belongs to another store: none of them goes. The object store's:
/// those before it are gone.
pub async fn withdraw(
    objects: &dyn Objects,
    who: &Pusher,
    snapshots: &[(String, String)],
    cloned: WithdrawCloned,
    gone: &mut dyn FnMut(&PushRecord),
) -> Result<(), TierError> {
    let mut records = Vec::new();
    for (image, of) in snapshots {
        records.push(looked_at(objects, who, (image, of), cloned).await?);
    }
    for ((image, of), record) in snapshots.iter().zip(records) {
        forget(objects, who, image, of).await?;
        record.iter().for_each(&mut *gone);
    }
    Ok(())
}

/// The record of a snapshot that may go.
async fn looked_at(
    objects: &dyn Objects,
    who: &Pusher,
    (image, of): (&str, &str),
    cloned: WithdrawCloned,
) -> Result<Option<PushRecord>, TierError> {
    let listed = mine(owner(objects, image).await?, who, image)?;
    if !listed.snapshots.contains_key(of) {
        return Err(TierError::NoSnapshot { image: image.to_owned(), snapshot: of.to_owned() });
    }
    let record = match snapshot(objects, image, of).await {
        Ok(record) => record,
        // It is lost, or cannot be read: no image can begin with it.
        Err(TierError::NoSnapshot { .. } | TierError::Record { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if cloned == WithdrawCloned::Yes {
        return Ok(Some(record));
    }
    let clones = clones_of(objects, &record).await?;
    if clones.is_empty() {
        return Ok(Some(record));
    }
    let named = clones[..clones.len().min(NAMED)].join(", ");
    let clones =
        if clones.len() > NAMED { format!("{named}, and {} more", clones.len() - NAMED) } else { named };
    Err(TierError::Cloned { image: image.to_owned(), snapshot: of.to_owned(), clones })
}
