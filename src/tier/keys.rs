//! Where everything lies in a tier.

use uuid::Uuid;

/// What a tier is.
pub const TIER: &str = "tier.json";
/// All packs.
pub const PACKS: &str = "packs/";
pub const IMAGES: &str = "images/";
pub const HOLDS: &str = "holds/";
pub const TRASH: &str = "trash/";
pub const PUBLISHED: &str = "publish/";
pub const BOOT_TRACES: &str = "boot-traces/";

/// A pack as an object. Numbers of packs are of the store that wrote them, and are never used again; nor is a
/// name of a pack that was deleted. The same pack that comes again is a further upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PackKey {
    pub store: Uuid,
    pub number: u64,
    #[serde(default, skip_serializing_if = "is_first")]
    pub upload: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
const fn is_first(upload: &u32) -> bool {
    *upload == 0
}

impl PackKey {
    /// `<store>/<number>`, or `<store>/<number>.<upload>`.
    fn stem(&self) -> String {
        match self.upload {
            0 => format!("{}/{}", self.store.simple(), self.number),
            upload => format!("{}/{}.{upload}", self.store.simple(), self.number),
        }
    }

    /// Where its bytes are.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{PACKS}{}.pack", self.stem())
    }

    /// Where it says how far the pack is on its way to deletion.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{TRASH}{}.json", self.stem())
    }

    /// Of the key of its bytes.
    #[must_use]
    pub fn of_object(key: &str) -> Option<Self> {
        let found = Self::of_stem(key.strip_prefix(PACKS)?.strip_suffix(".pack")?)?;
        (found.object() == key).then_some(found)
    }

    /// Of the key of its mark.
    #[must_use]
    pub fn of_mark(key: &str) -> Option<Self> {
        let found = Self::of_stem(key.strip_prefix(TRASH)?.strip_suffix(".json")?)?;
        (found.mark() == key).then_some(found)
    }

    fn of_stem(stem: &str) -> Option<Self> {
        let (store, rest) = stem.split_once('/')?;
        let (number, upload) = rest.split_once('.').unwrap_or((rest, "0"));
        let store = Uuid::try_parse(store).ok()?;
        Some(Self { store, number: number.parse().ok()?, upload: upload.parse().ok()? })
    }

    /// The name under which it comes again after that one was deleted.
    #[must_use]
    pub const fn again(&self) -> Self {
        Self { upload: self.upload + 1, ..*self }
    }
}

/// Who may write a name.
#[must_use]
pub fn owner(image: &str) -> String {
    format!("{IMAGES}{image}/owner.json")
}

/// One push of a name.
#[must_use]
pub fn record(image: &str, id: Uuid) -> String {
    format!("{IMAGES}{image}/records/{}.json", id.simple())
}

/// Image and id of the key of a record.
#[must_use]
pub fn of_record(key: &str) -> Option<(&str, Uuid)> {
    let (image, rest) = key.strip_prefix(IMAGES)?.split_once('/')?;
    let id = rest.strip_prefix("records/")?.strip_suffix(".json")?;
    Some((image, Uuid::try_parse(id).ok()?))
}

/// Image of the key of an owner.
#[must_use]
pub fn of_owner(key: &str) -> Option<&str> {
    key.strip_prefix(IMAGES)?.strip_suffix("/owner.json").filter(|image| !image.contains('/'))
}

/// What an image of a store reads that was not pushed.
#[must_use]
pub fn hold(store: Uuid, image: &str) -> String {
    format!("{HOLDS}{}/{image}.json", store.simple())
}

/// Store and image of the key of a hold.
#[must_use]
pub fn of_hold(key: &str) -> Option<(Uuid, &str)> {
    let (store, image) = key.strip_prefix(HOLDS)?.strip_suffix(".json")?.split_once('/')?;
    let store = Uuid::try_parse(store).ok()?;
    (hold(store, image) == key).then_some((store, image))
}

/// What images of a store read.
#[must_use]
pub fn holds_of(store: Uuid) -> String {
    format!("{HOLDS}{}/", store.simple())
}

/// A name for everybody.
#[must_use]
pub fn published(name: &str) -> String {
    format!("{PUBLISHED}{name}.json")
}

/// The name of its key.
#[must_use]
pub fn of_published(key: &str) -> Option<&str> {
    key.strip_prefix(PUBLISHED)?.strip_suffix(".json").filter(|name| !name.contains('/'))
}

/// What boots of a snapshot have read, by the snapshot's own uuid.
#[must_use]
pub fn boot_trace(snapshot: Uuid) -> String {
    format!("{BOOT_TRACES}{}.json", snapshot.simple())
}

/// The snapshot of the key of a trace.
#[must_use]
pub fn of_boot_trace(key: &str) -> Option<Uuid> {
    let found = Uuid::try_parse(key.strip_prefix(BOOT_TRACES)?.strip_suffix(".json")?).ok()?;
    (boot_trace(found) == key).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_themselves() {
        for upload in [0, 1, 12] {
            let key = PackKey { store: Uuid::from_u128(7), number: 3, upload };
            assert_eq!(PackKey::of_object(&key.object()), Some(key));
            assert_eq!(PackKey::of_mark(&key.mark()), Some(key));
            assert_eq!(PackKey::of_object(&key.mark()), None);
        }
        let id = Uuid::from_u128(9);
        assert_eq!(of_record(&record("vm1.a", id)), Some(("vm1.a", id)));
        assert_eq!(of_record(&owner("vm1")), None);
        assert_eq!(of_owner(&owner("vm1")), Some("vm1"));
        assert_eq!(of_boot_trace(&boot_trace(id)), Some(id));
        assert_eq!(of_hold(&hold(id, "vm1")), Some((id, "vm1")));
        assert_eq!(of_hold(&format!("holds/{id}/vm1.json")), None, "another spelling");
        assert!(hold(id, "vm1").starts_with(&holds_of(id)));
        assert_eq!(of_boot_trace(&format!("boot-traces/{id}.json")), None, "another spelling");
    }

    /// Whoever else writes into the bucket must not have a pack deleted under two names.
    #[test]
    fn other_spellings_are_nobodys_keys() {
        let store = Uuid::from_u128(7);
        for name in
            [format!("{store}/3"), format!("{}/03", store.simple()), format!("{}/3.0", store.simple())]
        {
            assert_eq!(PackKey::of_object(&format!("packs/{name}.pack")), None, "{name}");
        }
        assert_eq!(PackKey::of_object("packs/x/1.pack"), None);
    }
}
