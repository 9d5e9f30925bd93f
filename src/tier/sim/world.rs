//! What has to hold in a world, known apart from the code under test: by the objects that lie there.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::super::keys::{self, PackKey};
use super::super::records::{NameOwner, Published, PushRecord, TierHold, TierRecord};

pub(super) type WorldContents<'a> = BTreeMap<&'a str, &'a [u8]>;

/// What a host was told is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) image: String,
    pub(super) snapshot: String,
    pub(super) record: Uuid,
    /// By store and number: under which name it is does not matter.
    pub(super) packs: BTreeSet<(Uuid, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct TierOracle {
    pub(super) promises: Vec<Promise>,
    /// Held or published by who was told so; their keys, and the packs.
    pub(super) pinned: BTreeMap<String, BTreeSet<PackKey>>,
    /// Snapshots that somebody began to remove: nobody promises anything of them.
    pub(super) removed: BTreeSet<(String, String)>,
    pub(super) complaint: Option<String>,
}

/// The bytes of a pack: what nothing else has.
pub(super) fn pack_bytes(pack: &PackKey) -> Vec<u8> {
    format!("pack {} of {}", pack.number, pack.store).into_bytes()
}

fn is_whole(now: &WorldContents<'_>, pack: &PackKey) -> bool {
    now.get(pack.object().as_str()).is_some_and(|bytes| *bytes == pack_bytes(pack))
}

/// All packs that are needed by listed snapshots, holds, and what is published.
pub(super) fn needed(now: &WorldContents<'_>) -> BTreeSet<PackKey> {
    let mut needed = BTreeSet::new();
    for (key, bytes) in now {
        if let Some(image) = keys::of_owner(key) {
            let owner = NameOwner::decode(bytes).unwrap();
            for id in owner.snapshots.values() {
                let Some(record) = now.get(keys::record(image, *id).as_str()) else { continue };
                let record = PushRecord::decode(record).unwrap();
                needed.extend(record.packs.iter().map(|pack| pack.key));
            }
        }
    }
    needed
}

impl TierOracle {
    fn complain(&mut self, what: String) {
        self.complaint.get_or_insert(what);
    }

    /// An object was written.
    pub(super) fn changed(&mut self, now: &WorldContents<'_>, key: &str, before: Option<&[u8]>) {
        let Some(image) = keys::of_owner(key) else { return };
        let before = before.map(|bytes| NameOwner::decode(bytes).unwrap());
        let after = NameOwner::decode(now[key]).unwrap();
        if before.as_ref().is_some_and(|before| after.generation < before.generation) {
            self.complain(format!("{image}: its generation went back"));
        }
        for (snapshot, id) in &after.snapshots {
            if before.as_ref().is_some_and(|before| before.snapshots.get(snapshot) == Some(id)) {
                continue;
            }
            let Some(record) = now.get(keys::record(image, *id).as_str()) else {
                self.complain(format!("{image}@{snapshot} is listed and has no record"));
                continue;
            };
            let record = PushRecord::decode(record).unwrap();
            let writer = before.as_ref().map(|before| before.store);
            if writer != Some(record.store) || after.store != record.store {
                self.complain(format!("{image}@{snapshot} was committed by a store that has not the name"));
            }
            for pack in &record.packs {
                if !is_whole(now, &pack.key) {
                    self.complain(format!(
                        "{image}@{snapshot} was committed before {:?} was there",
                        pack.key
                    ));
                }
            }
        }
    }

    /// An object was deleted.
    pub(super) fn deleted(&mut self, now: &WorldContents<'_>, key: &str) {
        if let Some(pack) = PackKey::of_object(key) {
            let is_pinned = self.pinned.values().any(|packs| packs.contains(&pack));
            if is_pinned || needed(now).contains(&pack) {
                self.complain(format!("{pack:?} was deleted and is needed"));
            }
        }
        if let Some((image, id)) = keys::of_record(key) {
            let owner = now.get(keys::owner(image).as_str()).map(|bytes| NameOwner::decode(bytes).unwrap());
            if owner.is_some_and(|owner| owner.snapshots.values().any(|listed| *listed == id)) {
                self.complain(format!("the record {id} of {image} was deleted and is listed"));
            }
        }
    }

    /// What was promised is there.
    pub(super) fn kept(&self, now: &WorldContents<'_>) -> Result<(), String> {
        if let Some(complaint) = &self.complaint {
            return Err(complaint.clone());
        }
        for promise in &self.promises {
            let (image, snapshot) = (promise.image.clone(), promise.snapshot.clone());
            if self.removed.contains(&(image.clone(), snapshot.clone())) {
                continue;
            }
            let owner = NameOwner::decode(now[keys::owner(&image).as_str()]).unwrap();
            if owner.snapshots.get(&snapshot) != Some(&promise.record) {
                return Err(format!("{image}@{snapshot} was acknowledged and is not listed"));
            }
            let record = now.get(keys::record(&image, promise.record).as_str());
            let record = record.ok_or_else(|| format!("{image}@{snapshot} was acknowledged: no record"))?;
            let record = PushRecord::decode(record).unwrap();
            let packs: BTreeSet<_> =
                record.packs.iter().map(|pack| (pack.key.store, pack.key.number)).collect();
            if packs != promise.packs || !record.packs.iter().all(|pack| is_whole(now, &pack.key)) {
                return Err(format!("{image}@{snapshot} was acknowledged and lacks packs"));
            }
        }
        let lost = |(key, packs): (&String, &BTreeSet<PackKey>)| {
            let gone = packs.iter().find(|pack| !is_whole(now, pack))?;
            Some(format!("{key} was acknowledged and lacks {gone:?}"))
        };
        self.pinned.iter().find_map(lost).map_or(Ok(()), Err)
    }

    /// Nothing is left but what is needed.
    pub(super) fn is_clean(now: &WorldContents<'_>) -> Result<(), String> {
        let mut needed = needed(now);
        for (key, bytes) in now {
            let Some(image) = keys::of_owner(key) else { continue };
            let owner = NameOwner::decode(bytes).unwrap();
            let is_listed = |id: &Uuid| owner.snapshots.values().any(|listed| listed == id);
            let mut of_image =
                now.keys().filter_map(|key| keys::of_record(key)).filter(|(of, _)| *of == image);
            if let Some((_, id)) = of_image.find(|(_, id)| !is_listed(id)) {
                return Err(format!("the record {id} of {image} is left, and nobody lists it"));
            }
            if let Some(id) = owner.expired.keys().next() {
                return Err(format!("{image} names the record {id} that was given up, for ever"));
            }
        }
        for (key, bytes) in now {
            if key.starts_with(keys::HOLDS) {
                needed.extend(TierHold::decode(bytes).unwrap().packs.iter().map(|pack| pack.key));
            }
            if key.starts_with(keys::PUBLISHED) {
                let record = Published::decode(bytes).unwrap().record;
                needed.extend(record.iter().flat_map(|record| &record.packs).map(|pack| pack.key));
            }
        }
        let packs = now.keys().filter_map(|key| PackKey::of_object(key));
        packs
            .into_iter()
            .find(|pack| !needed.contains(pack))
            .map_or(Ok(()), |pack| Err(format!("{pack:?} is left after collections and nothing needs it")))
    }
}
