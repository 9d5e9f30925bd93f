//! What keeps the packs of a snapshot beside its record: a published name, an image that was cloned from it.
//!
//! It is written first, and the snapshot looked at after that: if it is there then, its packs were not on
//! their way to deletion, and a collection that begins later sees what was written.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::bug::{TierBug, is_planted};
use super::change::{TierChange, change, patiently, read};
use super::error::TierError;
use super::keys::{self, PackKey};
use super::names::checked;
use super::objects::Objects;
use super::own::owner;
use super::records::{Published, PushRecord, TierHold};
use super::together::all_small;

/// The record of a snapshot that is in the tier.
///
/// # Errors
/// It is not there; the object store's.
pub async fn snapshot(objects: &dyn Objects, image: &str, snapshot: &str) -> Result<PushRecord, TierError> {
    let missing = || TierError::NoSnapshot { image: image.to_owned(), snapshot: snapshot.to_owned() };
    let listed = owner(objects, image).await?;
    let id = listed.snapshots.get(snapshot).ok_or_else(missing)?;
    read(objects, &keys::record(image, *id)).await?.ok_or_else(missing)
}

async fn is_still(objects: &dyn Objects, record: &PushRecord) -> Result<bool, TierError> {
    if is_planted(TierBug::HoldNotLookedAt) {
        return Ok(true);
    }
    let owner = owner(objects, &record.image).await?;
    Ok(owner.snapshots.get(&record.snapshot) == Some(&record.id))
}

/// Gives a snapshot a name for everybody, which had another one before or none.
///
/// # Errors
/// It is not there; the object store's.
pub async fn publish(objects: &dyn Objects, of: PushRecord, name: &str) -> Result<(), TierError> {
    checked(name)?;
    let (key, published_s) = (keys::published(name), objects.now_s());
    let decide = |there: Option<Published>| {
        let is_there = there.is_some_and(|there| there.record.as_ref() == Some(&of));
        let new = Published { record: Some(of.clone()), published_s };
        Ok(if is_there { TierChange::Done(()) } else { TierChange::Put(new, ()) })
    };
    change(objects, &key, decide).await?.done();
    if is_still(objects, &of).await? {
        return Ok(());
    }
    withdraw_name(objects, name, |there| there == &of).await?;
    Err(TierError::NoSnapshot { image: of.image, snapshot: of.snapshot })
}

/// Takes a name back from everybody, if what it names is meant. Whether it was.
pub(super) async fn withdraw_name(
    objects: &dyn Objects,
    name: &str,
    is_meant: impl Fn(&PushRecord) -> bool,
) -> Result<bool, TierError> {
    let published_s = objects.now_s();
    let mut was_meant = false;
    let decide = |there: Option<Published>| {
        let record = there.and_then(|there| there.record);
        let is_this = record.as_ref().is_some_and(&is_meant);
        // What took place though nobody was told is not there any more.
        was_meant |= is_this;
        let new = Published { record: None, published_s };
        Ok(if is_this { TierChange::Put(new, ()) } else { TierChange::Done(()) })
    };
    change(objects, &keys::published(name), decide).await?.done();
    Ok(was_meant)
}

/// Takes a name back from everybody that a snapshot has. Images that were cloned from it keep what they read.
///
/// # Errors
/// It names another snapshot, or nothing; the object store's.
pub async fn unpublish(
    objects: &dyn Objects,
    (image, snapshot): (&str, &str),
    name: &str,
) -> Result<(), TierError> {
    checked(name)?;
    let is_meant = |of: &PushRecord| (of.image.as_str(), of.snapshot.as_str()) == (image, snapshot);
    let (image, snapshot) = (image.to_owned(), snapshot.to_owned());
    match withdraw_name(objects, name, is_meant).await? {
        true => Ok(()),
        false => Err(TierError::NotPublished { image, snapshot, name: name.to_owned() }),
    }
}

/// What was published under a name.
///
/// # Errors
/// Nothing was; the object store's.
pub async fn published(objects: &dyn Objects, name: &str) -> Result<PushRecord, TierError> {
    checked(name)?;
    let found: Option<Published> = read(objects, &keys::published(name)).await?;
    found.and_then(|found| found.record).ok_or_else(|| TierError::NoImage(name.to_owned()))
}

/// Keeps the packs of a snapshot for an image of a store that reads them.
///
/// # Errors
/// It is not there; the object store's.
pub async fn hold(
    objects: &dyn Objects,
    of: &PushRecord,
    (store, image): (Uuid, &str),
) -> Result<(), TierError> {
    checked(image)?;
    let (key, since_s) = (keys::hold(store, image), objects.now_s());
    let decide = |there: Option<TierHold>| {
        let is_there = there.is_some_and(|there| there.packs == of.packs && there.snapshot == Some(of.uuid));
        let new = TierHold { since_s, packs: of.packs.clone(), snapshot: Some(of.uuid) };
        Ok(if is_there { TierChange::Done(()) } else { TierChange::Put(new, ()) })
    };
    change(objects, &key, decide).await?.done();
    if is_still(objects, of).await? {
        return Ok(());
    }
    release(objects, (store, image)).await?;
    Err(TierError::NoSnapshot { image: of.image.clone(), snapshot: of.snapshot.clone() })
}

/// The image reads nothing of the tier any more, or is gone.
///
/// # Errors
/// The object store's.
pub async fn release(objects: &dyn Objects, (store, image): (Uuid, &str)) -> Result<(), TierError> {
    let since_s = objects.now_s();
    let decide = |there: Option<TierHold>| {
        let is_over = there.is_none_or(|there| there.packs.is_empty());
        Ok(if is_over {
            TierChange::Done(())
        } else {
            TierChange::Put(TierHold { since_s, packs: Vec::new(), snapshot: None }, ())
        })
    };
    change(objects, &keys::hold(store, image), decide).await.map(|changed| changed.done())
}

/// Images of all stores that were cloned from a snapshot and still read it, as `NAME (store UUID)`. An
/// earlier version did not note the snapshot: then it is one with the same packs.
///
/// # Errors
/// The object store's.
pub async fn clones_of(objects: &dyn Objects, of: &PushRecord) -> Result<Vec<String>, TierError> {
    let found = patiently(objects, || objects.list(keys::HOLDS)).await?;
    let clones = Mutex::new(Vec::new());
    all_small(found.iter(), |found| {
        let clones = &clones;
        Box::pin(async move {
            let Some((store, image)) = keys::of_hold(&found.key) else { return Ok(()) };
            let Some(hold) = read::<TierHold>(objects, &found.key).await? else { return Ok(()) };
            let is_of = hold.snapshot.map_or(hold.packs == of.packs, |snapshot| snapshot == of.uuid);
            if is_of && !hold.packs.is_empty() {
                let mut clones = clones.lock().unwrap_or_else(PoisonError::into_inner);
                clones.push(format!("{image} (store {store})"));
            }
            Ok::<(), TierError>(())
        })
    })
    .await?;
    let mut clones = clones.into_inner().unwrap_or_else(PoisonError::into_inner);
    clones.sort();
    Ok(clones)
}

/// Ends what keeps packs for images of a store that reads none of these packs any more. One that is younger
/// than `age_s` stays: its image is made after it. Says how many ended.
///
/// # Errors
/// The object store's.
pub async fn release_unread(
    objects: &dyn Objects,
    store: Uuid,
    is_read: &dyn Fn(&PackKey) -> bool,
    age_s: u64,
) -> Result<u64, TierError> {
    let (folder, now_s) = (keys::holds_of(store), objects.now_s());
    let mut released = 0;
    for found in patiently(objects, || objects.list(&folder)).await? {
        let decide = |there: Option<TierHold>| {
            Ok(match there {
                Some(hold)
                    if !hold.packs.is_empty()
                        && now_s >= hold.since_s.saturating_add(age_s)
                        && (is_planted(TierBug::ReadHoldReleased)
                            || !hold.packs.iter().any(|pack| is_read(&pack.key))) =>
                {
                    TierChange::Put(TierHold { since_s: now_s, packs: Vec::new(), snapshot: None }, true)
                }
                _ => TierChange::Done(false),
            })
        };
        released += u64::from(change(objects, &found.key, decide).await?.done());
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::super::bug::plant;
    use super::super::collect::{CollectOptions, collect_tier};
    use super::super::directory::DirectoryObjects;
    use super::super::own::{Pusher, TakeOver, own};
    use super::super::waiting::run;
    use super::*;

    /// Whoever looked a snapshot up may come late: its packs may be on their way to deletion by then.
    #[test]
    fn what_was_taken_out_is_neither_held_nor_published() {
        let directory = tempfile::tempdir().unwrap();
        let objects = DirectoryObjects::new(directory.path()).unwrap();
        let record = PushRecord::example();
        let store = record.store;
        let who = Pusher { store, host: "here".to_owned() };
        run(own(&objects, &who, &record.image, TakeOver::No)).unwrap();
        let held = || run(hold(&objects, &record, (store, "clone")));
        let named = || run(publish(&objects, record.clone(), "debian"));
        for refused in [held(), named()] {
            assert!(matches!(refused, Err(TierError::NoSnapshot { .. })), "{refused:?}");
        }
        let left: TierHold = run(read(&objects, &keys::hold(store, "clone"))).unwrap().unwrap();
        assert!(
            left.packs.is_empty() && run(published(&objects, "debian")).is_err(),
            "nothing is kept for it"
        );
        plant(Some(TierBug::HoldNotLookedAt));
        assert!(held().is_ok() && named().is_ok(), "this test sees it");
        plant(None);
    }

    /// Of two images that were cloned one is gone: what the other one reads stays, in collections too.
    #[test]
    fn what_an_image_reads_is_held_on() {
        let directory = tempfile::tempdir().unwrap();
        let objects = DirectoryObjects::new(directory.path()).unwrap();
        let mut record = PushRecord::example();
        let (store, read_pack) = (record.store, record.packs[0].key);
        let who = Pusher { store, host: "here".to_owned() };
        run(own(&objects, &who, &record.image, TakeOver::No)).unwrap();
        // The snapshots were taken out since.
        plant(Some(TierBug::HoldNotLookedAt));
        run(hold(&objects, &record, (store, "reader"))).unwrap();
        record.packs[0].key.number += 1;
        run(hold(&objects, &record, (store, "gone"))).unwrap();
        plant(None);
        let pack = directory.path().join(read_pack.object());
        std::fs::create_dir_all(pack.parent().unwrap()).unwrap();
        std::fs::write(&pack, [7]).unwrap();
        let ends = || run(release_unread(&objects, store, &|pack| *pack == read_pack, 0)).unwrap();
        let collect = || {
            let options = CollectOptions { grace_s: 0, expiry_s: 0 };
            for _ in 0..3 {
                run(collect_tier(&objects, options)).unwrap();
            }
            pack.exists()
        };
        assert_eq!((ends(), ends()), (1, 0), "what nothing reads ends once");
        assert!(collect());
        plant(Some(TierBug::ReadHoldReleased));
        assert_eq!((ends(), collect()), (1, false), "this test sees it");
        plant(None);
    }
}
