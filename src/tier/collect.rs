//! What no snapshot of the tier needs goes, in two phases: one run marks it, a later one deletes it. Any host
//! may run it, and several at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use uuid::Uuid;

use super::bug::{TierBug, is_planted};
use super::change::{TierChange, change, patiently, read};
use super::error::TierError;
use super::keys::{self, PackKey};
use super::marks::{condemn, mark, rescue, see};
use super::objects::Objects;
use super::pin::withdraw_name;
use super::records::{
    MarkState, NameOwner, Published, PushRecord, RecordPack, TierHold, TierRecord, TrashMark,
};
use super::together::all_small;
use crate::mutex::lock;

/// A PUT that was sent and is this old does not take place any more.
const LATEST_PUT_S: u64 = 24 * 3600;

/// When something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectOptions {
    /// Between the two phases. It is longer than a listing of the object store may be late, and than clocks
    /// of hosts differ.
    pub grace_s: u64,
    /// After which a push that was not finished is given up.
    pub expiry_s: u64,
}

/// What a collection has done. Its keys are part of the interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CollectedTier {
    pub packs: u64,
    pub packs_needed: u64,
    pub packs_marked: u64,
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub records_deleted: u64,
    pub traces_deleted: u64,
    /// Published names that nobody was told of, and that came too late for their packs.
    pub names_withdrawn: u64,
}

/// All that names packs.
#[derive(Default)]
struct Needed {
    packs: BTreeSet<PackKey>,
    records: Vec<SeenRecord>,
    /// By their own uuids.
    snapshots: BTreeSet<Uuid>,
    /// Names without any record.
    emptied: Vec<String>,
    /// Published names of packs that are being deleted, or are deleted. Whoever published one has died before
    /// it looked at the snapshot again, or was told that it is not there.
    late: Vec<(String, PushRecord)>,
}

/// Of a record, what says whether it goes. A tier has millions of them.
struct SeenRecord {
    id: Uuid,
    image: String,
    snapshot: String,
    pushed_s: u64,
}

/// Collects what nothing needs.
///
/// # Errors
/// A sentence: what was marked or deleted by then is.
pub async fn collect_tier(
    objects: &dyn Objects,
    options: CollectOptions,
) -> Result<CollectedTier, TierError> {
    let mut collected = CollectedTier::default();
    // What is known to be marked is older than the records that are looked at after it.
    let (marks, now_s) = (marks(objects).await?, objects.now_s());
    let mut sizes = BTreeMap::new();
    for found in patiently(objects, || objects.list(keys::PACKS)).await? {
        if let Some(key) = PackKey::of_object(&found.key) {
            sizes.insert(key, found.bytes);
        }
    }
    let traces = patiently(objects, || objects.list(keys::BOOT_TRACES)).await?;
    let needed = needed(objects, &marks).await?;
    collected.packs = sizes.len() as u64;
    collected.packs_needed = sizes.keys().filter(|key| needed.packs.contains(key)).count() as u64;
    for (key, seen) in &marks {
        let is_needed = needed.packs.contains(key) && !is_planted(TierBug::NoSecondLook);
        match seen.state {
            MarkState::Marked if is_needed => {
                rescue(objects, key).await?;
            }
            // Whoever has marked it has not come to that.
            MarkState::Marked if !seen.is_seen => see(objects, key).await?,
            MarkState::Marked if now_s >= seen.since_s.saturating_add(options.grace_s) => {
                if condemn(objects, key, *seen).await? {
                    delete(objects, key, &sizes, &mut collected).await?;
                }
            }
            // Whoever has condemned it has not come to delete it.
            MarkState::Deleting if sizes.contains_key(key) => {
                delete(objects, key, &sizes, &mut collected).await?;
            }
            MarkState::Marked | MarkState::Rescued | MarkState::Deleting => {}
        }
    }
    for key in sizes.keys().filter(|key| !needed.packs.contains(key)) {
        let is_known = marks.get(key).is_some_and(|mark| mark.state != MarkState::Rescued);
        if !is_known {
            collected.packs_marked += u64::from(mark(objects, key).await?);
            see(objects, key).await?;
        }
    }
    expire(objects, &needed, options.expiry_s, &mut collected).await?;
    for (name, record) in &needed.late {
        collected.names_withdrawn += u64::from(withdraw_name(objects, name, |there| there == record).await?);
    }
    // They are hints: one that goes too early, because a listing was late, costs a boot some time.
    for found in &traces {
        let snapshot = keys::of_boot_trace(&found.key);
        if snapshot.is_some_and(|snapshot| !needed.snapshots.contains(&snapshot)) {
            patiently(objects, || objects.delete(&found.key)).await?;
            collected.traces_deleted += 1;
        }
    }
    Ok(collected)
}

async fn delete(
    objects: &dyn Objects,
    key: &PackKey,
    sizes: &BTreeMap<PackKey, u64>,
    collected: &mut CollectedTier,
) -> Result<(), TierError> {
    let object = key.object();
    patiently(objects, || objects.delete(&object)).await?;
    collected.packs_deleted += 1;
    collected.bytes_deleted += sizes.get(key).copied().unwrap_or_default();
    Ok(())
}

async fn marks(objects: &dyn Objects) -> Result<BTreeMap<PackKey, TrashMark>, TierError> {
    let marks = Mutex::new(BTreeMap::new());
    let found = patiently(objects, || objects.list(keys::TRASH)).await?;
    each::<TrashMark>(objects, found.iter().map(|found| &found.key), |key, mark| {
        if let Some(pack) = PackKey::of_mark(key) {
            lock(&marks).insert(pack, mark);
        }
    })
    .await?;
    Ok(marks.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Reads objects, many at once, in any order. One may be gone since it was listed.
async fn each<'a, R: TierRecord>(
    objects: &'a dyn Objects,
    found: impl Iterator<Item = &'a String>,
    note: impl Fn(&str, R) + Sync,
) -> Result<(), TierError> {
    let note = &note;
    all_small(found, |key| {
        Box::pin(async move {
            if let Some(record) = read(objects, key).await? {
                note(key, record);
            }
            Ok(())
        })
    })
    .await
}

/// What records and holds name, whether listed or not. One that cannot be read ends the collection.
async fn needed(objects: &dyn Objects, marks: &BTreeMap<PackKey, TrashMark>) -> Result<Needed, TierError> {
    let is_going =
        |pack: &RecordPack| marks.get(&pack.key).is_some_and(|mark| mark.state == MarkState::Deleting);
    let needed = Mutex::new(Needed::default());
    let found = patiently(objects, || objects.list(keys::IMAGES)).await?;
    let has_records: BTreeSet<&str> =
        found.iter().filter_map(|found| keys::of_record(&found.key)).map(|(image, _)| image).collect();
    let emptied = found.iter().filter_map(|found| keys::of_owner(&found.key));
    let emptied = emptied.filter(|image| !has_records.contains(image)).map(str::to_owned).collect();
    lock(&needed).emptied = emptied;
    let records = found.iter().map(|found| &found.key).filter(|key| keys::of_record(key).is_some());
    each::<PushRecord>(objects, records, |_, record| {
        let PushRecord { id, image, snapshot, pushed_s, uuid, .. } = record;
        let mut needed = lock(&needed);
        needed.snapshots.insert(uuid);
        needed.packs.extend(record.packs.iter().map(|pack| pack.key));
        needed.records.push(SeenRecord { id, image, snapshot, pushed_s });
    })
    .await?;
    let found = patiently(objects, || objects.list(keys::HOLDS)).await?;
    each::<TierHold>(objects, found.iter().map(|found| &found.key), |_, hold| {
        lock(&needed).packs.extend(hold.packs.iter().map(|pack| pack.key));
    })
    .await?;
    let found = patiently(objects, || objects.list(keys::PUBLISHED)).await?;
    each::<Published>(objects, found.iter().map(|found| &found.key), |key, published| {
        let Some(record) = published.record else { return };
        let mut needed = lock(&needed);
        needed.packs.extend(record.packs.iter().map(|pack| pack.key));
        needed.snapshots.insert(record.uuid);
        if record.packs.iter().any(is_going)
            && let Some(name) = keys::of_published(key)
        {
            needed.late.push((name.to_owned(), record));
        }
    })
    .await?;
    Ok(needed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Records go that no owner lists and that are old: of pushes that ended, and of snapshots that were removed.
async fn expire(
    objects: &dyn Objects,
    needed: &Needed,
    expiry_s: u64,
    collected: &mut CollectedTier,
) -> Result<(), TierError> {
    let now_s = objects.now_s();
    let is_old = |record: &&SeenRecord| now_s >= record.pushed_s.saturating_add(expiry_s);
    let records = &needed.records;
    let of_old = records.iter().filter(is_old).map(|record| record.image.as_str());
    // A name whose last record went may still name it as given up.
    let images: BTreeSet<&str> = of_old.chain(needed.emptied.iter().map(String::as_str)).collect();
    let owners = Mutex::new(BTreeMap::new());
    let keys_of: Vec<String> = images.into_iter().map(keys::owner).collect();
    each::<NameOwner>(objects, keys_of.iter(), |key, owner| {
        if let Some(image) = keys::of_owner(key) {
            lock(&owners).insert(image.to_owned(), owner);
        }
    })
    .await?;
    let owners = owners.into_inner().unwrap_or_else(PoisonError::into_inner);
    for record in records.iter().filter(is_old) {
        let Some(owner) = owners.get(&record.image) else { continue };
        let is_listed = owner.snapshots.get(&record.snapshot) == Some(&record.id);
        if !is_listed && give_up(objects, record).await? {
            let key = keys::record(&record.image, record.id);
            patiently(objects, || objects.delete(&key)).await?;
            collected.records_deleted += 1;
        }
    }
    // Those that came back, or that whoever gave them up has not come to delete.
    for (image, owner) in owners {
        for (id, since_s) in owner.expired {
            let key = keys::record(&image, id);
            patiently(objects, || objects.delete(&key)).await?;
            if now_s >= since_s.saturating_add(LATEST_PUT_S) {
                settle(objects, &image, id).await?;
            }
        }
    }
    Ok(())
}

/// A record must not be listed any more; false if it is.
async fn give_up(objects: &dyn Objects, record: &SeenRecord) -> Result<bool, TierError> {
    let decide = |there: Option<NameOwner>| {
        let Some(mut owner) = there else { return Ok(TierChange::Done(false)) };
        if owner.snapshots.get(&record.snapshot) == Some(&record.id) {
            return Ok(TierChange::Done(false));
        }
        if owner.expired.insert(record.id, objects.now_s()).is_some()
            || is_planted(TierBug::ExpiredRecordCommitted)
        {
            return Ok(TierChange::Done(true));
        }
        Ok(TierChange::Put(owner, true))
    };
    Ok(change(objects, &keys::owner(&record.image), decide).await?.done())
}

/// A record that was given up is deleted, and does not come back.
async fn settle(objects: &dyn Objects, image: &str, id: Uuid) -> Result<(), TierError> {
    let decide = |there: Option<NameOwner>| {
        let Some(mut owner) = there else { return Ok(TierChange::Done(())) };
        if owner.expired.remove(&id).is_none() {
            return Ok(TierChange::Done(()));
        }
        Ok(TierChange::Put(owner, ()))
    };
    change(objects, &keys::owner(image), decide).await.map(|changed| changed.done())
}

#[cfg(test)]
mod tests {
    use super::super::bug::plant;
    use super::super::directory::DirectoryObjects;
    use super::super::own::{Pusher, TakeOver, own};
    use super::super::pin::{publish, published};
    use super::super::waiting::run;
    use super::*;

    /// Whoever published it has died, or what it wrote came late: nobody was told that the name is there.
    #[test]
    fn a_published_name_of_packs_that_are_deleted_goes() {
        let directory = tempfile::tempdir().unwrap();
        let objects = DirectoryObjects::new(directory.path()).unwrap();
        let record = PushRecord::example();
        let (store, pack) = (record.store, record.packs[0].key);
        run(own(&objects, &Pusher { store, host: "here".to_owned() }, &record.image, TakeOver::No)).unwrap();
        plant(Some(TierBug::HoldNotLookedAt));
        run(publish(&objects, record.clone(), "debian")).unwrap();
        plant(None);
        let withdrawn = || {
            run(collect_tier(&objects, CollectOptions { grace_s: 0, expiry_s: 0 })).unwrap().names_withdrawn
        };
        assert_eq!(withdrawn(), 0, "its packs may come back");
        assert_eq!(run(published(&objects, "debian")).unwrap(), record);
        assert!(run(mark(&objects, &pack)).unwrap());
        let seen = run(read::<TrashMark>(&objects, &pack.mark())).unwrap().unwrap();
        assert!(run(condemn(&objects, &pack, seen)).unwrap());
        assert_eq!(withdrawn(), 1);
        assert!(run(published(&objects, "debian")).is_err());
        assert_eq!(withdrawn(), 0);
    }
}
