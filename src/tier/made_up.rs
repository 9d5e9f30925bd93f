//! A tier of so many images that nobody can make it: its objects are made up when they are asked for.

use uuid::Uuid;

use super::keys::{self, PackKey};
use super::records::{NameOwner, PushRecord, RecordPack, RecordRoot, TierRecord, TierSpace};

/// Snapshots of an image.
pub(crate) const SNAPSHOTS: u64 = 7;
/// Packs that only one image has, and those that all share.
pub(crate) const OWN_PACKS: u64 = 24;
pub(crate) const SHARED_PACKS: u64 = 8;
/// Bytes of each.
pub(crate) const PACK_BYTES: u64 = 40 << 20;
/// Objects that one answer to LIST has.
pub(crate) const PAGE: u64 = 1000;
/// Packs of two images have numbers that are so far apart.
const NUMBERS: u64 = 1000;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeUpTier {
    pub(crate) images: u64,
    /// Images of one host, and so of one store.
    pub(crate) per_host: u64,
}

fn record(image: u64, snapshot: u64) -> Uuid {
    Uuid::from_u128(u128::from(image) << 64 | u128::from(snapshot))
}

pub(crate) fn name(image: u64) -> String {
    format!("vm{image:07}")
}

pub(crate) fn space() -> TierSpace {
    TierSpace { algorithm: "blake3".to_owned(), chunk_bytes: 65536, domain: Uuid::nil() }
}

impl MadeUpTier {
    /// The store that has an image.
    pub(crate) fn store(&self, image: u64) -> Uuid {
        Uuid::from_u128(u128::from(1 + image / self.per_host))
    }

    /// A pack that all images share.
    pub(crate) fn shared(pack: u64) -> PackKey {
        PackKey { store: Uuid::nil(), number: pack, upload: 0 }
    }

    /// A pack of an image alone. Those from [`OWN_PACKS`] on are not there yet.
    pub(crate) fn own(&self, image: u64, pack: u64) -> PackKey {
        PackKey { store: self.store(image), number: NUMBERS * image + pack, upload: 0 }
    }

    pub(crate) fn packs(&self, image: u64) -> impl Iterator<Item = PackKey> {
        let own = (0..OWN_PACKS).map(move |pack| self.own(image, pack));
        own.chain((0..SHARED_PACKS).map(Self::shared))
    }

    /// All keys below a folder, in no order.
    pub(crate) fn keys(&self, folder: &str) -> Vec<String> {
        match folder {
            keys::PACKS => {
                let own =
                    (0..self.images).flat_map(|image| (0..OWN_PACKS).map(move |pack| self.own(image, pack)));
                own.chain((0..SHARED_PACKS).map(Self::shared)).map(|key| key.object()).collect()
            }
            keys::IMAGES => {
                let of_image = |image: u64| {
                    let name = name(image);
                    let records = (0..SNAPSHOTS).map(move |snapshot| record(image, snapshot));
                    let owner = keys::owner(&name);
                    std::iter::once(owner).chain(records.map(move |id| keys::record(&name, id)))
                };
                (0..self.images).flat_map(of_image).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether a pack is there.
    pub(crate) fn has(&self, pack: &PackKey) -> bool {
        if pack.store.is_nil() {
            return pack.upload == 0 && pack.number < SHARED_PACKS;
        }
        let (image, number) = (pack.number / NUMBERS, pack.number % NUMBERS);
        image < self.images && number < OWN_PACKS && *pack == self.own(image, number)
    }

    /// A small object, if it is there.
    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        let of = |image: &str| image.strip_prefix("vm")?.parse().ok().filter(|number| *number < self.images);
        if let Some(image) = keys::of_owner(key) {
            let number: u64 = of(image)?;
            let listed = |snapshot| (format!("day{snapshot}"), record(number, snapshot));
            let snapshots = (0..SNAPSHOTS).map(listed).collect();
            let (store, host, expired) = (self.store(number), "here".to_owned(), Default::default());
            return Some(NameOwner { store, generation: 1, host, since_s: 1, snapshots, expired }.encode());
        }
        let (image, id) = keys::of_record(key)?;
        let (number, snapshot) = (of(image)?, id.as_u128() as u64);
        if snapshot >= SNAPSHOTS || id != record(number, snapshot) {
            return None;
        }
        let packs = self.packs(number).map(|key| RecordPack::new(key, PACK_BYTES));
        let record = PushRecord {
            id,
            image: image.to_owned(),
            snapshot: format!("day{snapshot}"),
            uuid: id,
            store: self.store(number),
            created_s: 1,
            pushed_s: 1,
            size: 10 << 30,
            space: space(),
            root: RecordRoot::Zeroes,
            packs: packs.collect(),
        };
        Some(record.encode())
    }
}
