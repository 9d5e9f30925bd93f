//! Who may write a name: taken, taken over, given up.

use uuid::Uuid;

use super::bug::{TierBug, is_planted};
use super::change::{TierChange, change, read};
use super::error::TierError;
use super::keys;
use super::names::checked;
use super::objects::Objects;
use super::records::NameOwner;

/// A store that pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pusher {
    pub store: Uuid,
    /// Where it is, for people.
    pub host: String,
}

/// What this host is called.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a name is taken that another store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    No,
    Yes,
}

pub(super) fn not_owner(image: &str, owner: &NameOwner) -> TierError {
    TierError::NotOwner {
        image: image.to_owned(),
        store: owner.store,
        host: owner.host.clone(),
        generation: owner.generation,
    }
}

/// Takes a name that nobody has, and another store's if that is wanted.
///
/// # Errors
/// Another store has it; the object store's.
pub async fn own(
    objects: &dyn Objects,
    who: &Pusher,
    image: &str,
    take_over: TakeOver,
) -> Result<NameOwner, TierError> {
    checked(image)?;
    let now_s = objects.now_s();
    let decide = |there: Option<NameOwner>| match there {
        None => {
            let (host, snapshots) = (who.host.clone(), Default::default());
            let new = NameOwner {
                store: who.store,
                generation: 1,
                host,
                since_s: now_s,
                snapshots,
                expired: Default::default(),
            };
            Ok(TierChange::Put(new.clone(), new))
        }
        Some(owner) if owner.store == who.store => Ok(TierChange::Done(owner)),
        Some(owner) if take_over == TakeOver::No => Err(not_owner(image, &owner)),
        Some(owner) => {
            let (generation, host) = (owner.generation + 1, who.host.clone());
            let new = NameOwner { store: who.store, generation, host, since_s: now_s, ..owner };
            Ok(TierChange::Put(new.clone(), new))
        }
    };
    Ok(change(objects, &keys::owner(image), decide).await?.done())
}

/// Takes a snapshot out of the tier. Its packs go with collections, if nothing else needs them.
///
/// # Errors
/// It is not there; another store has the name; the object store's.
pub async fn forget(
    objects: &dyn Objects,
    who: &Pusher,
    image: &str,
    snapshot: &str,
) -> Result<(), TierError> {
    checked(image)?;
    let mut wanted = None;
    let decide = |there: Option<NameOwner>| {
        let mut owner = there.ok_or_else(|| TierError::NoImage(image.to_owned()))?;
        if owner.store != who.store {
            return Err(not_owner(image, &owner));
        }
        let found = owner.snapshots.get(snapshot).copied();
        match (found, wanted) {
            // It was answered by nobody, and took place.
            (found, Some(id)) if found != Some(id) => return Ok(TierChange::Done(())),
            (None, _) => {
                return Err(TierError::NoSnapshot { image: image.to_owned(), snapshot: snapshot.to_owned() });
            }
            (Some(id), _) => wanted = Some(id),
        }
        owner.snapshots.remove(snapshot);
        Ok(TierChange::Put(owner, ()))
    };
    change(objects, &keys::owner(image), decide).await.map(|changed| changed.done())
}

/// Who has a name, and its snapshots.
///
/// # Errors
/// Nobody has; the object store's.
pub async fn owner(objects: &dyn Objects, image: &str) -> Result<NameOwner, TierError> {
    checked(image)?;
    let found = read(objects, &keys::owner(image)).await?;
    found.ok_or_else(|| TierError::NoImage(image.to_owned()))
}

/// The owner, if this store is it.
pub(super) fn mine(owner: NameOwner, who: &Pusher, image: &str) -> Result<NameOwner, TierError> {
    let is_mine = owner.store == who.store || is_planted(TierBug::FenceIgnored);
    if is_mine { Ok(owner) } else { Err(not_owner(image, &owner)) }
}
