//! A snapshot comes into the tier. `tier` says why the order is this one.

use std::collections::BTreeMap;
use std::io;

use uuid::Uuid;

use super::bug::{TierBug, is_planted};
use super::change::{TierChange, TierChanged, change, patiently, read};
use super::error::{PackName, TierError};
use super::keys::{self, PackKey};
use super::marks::rescue;
use super::names::checked;
use super::objects::{ObjectError, Objects, PackBytes, PutIf, Sent};
use super::own::{Pusher, TakeOver, mine, own};
use super::records::{MOST_SNAPSHOTS, NameOwner, PushRecord, RecordPack, RecordRoot, TierRecord, TierSpace};
use super::together::all;

/// How often a push begins anew, because a pack was deleted or its record was given up.
const BEGINNINGS: usize = 16;

/// A snapshot, and the packs that have its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPush {
    pub image: String,
    pub snapshot: String,
    pub uuid: Uuid,
    pub created_s: u64,
    pub size: u64,
    pub space: TierSpace,
    pub root: RecordRoot,
    /// Under the names that they had first.
    pub packs: Vec<RecordPack>,
}

/// Where packs are read from.
pub trait PackSource: Send + Sync {
    /// A pack; none if it is not here.
    ///
    /// # Errors
    /// The file's.
    fn open(&self, pack: &PackKey) -> io::Result<Option<Box<dyn PackBytes>>>;
}

/// What a push works with.
#[derive(Clone, Copy)]
pub struct PushTo<'a> {
    pub objects: &'a dyn Objects,
    pub who: &'a Pusher,
    pub packs: &'a dyn PackSource,
    pub sent: &'a dyn Sent,
    /// Names records: what nothing else is called.
    pub new_id: &'a (dyn Fn() -> Uuid + Send + Sync),
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub record: Uuid,
    /// It was there before.
    pub was_there: bool,
}

/// What is done with a record that does not come into its owner.
enum PushEnding {
    Committed,
    /// Packs of it are deleted, or it was given up.
    Again,
}

/// The record of a snapshot, by its image, its name and its uuid, if it is in the tier. The name is taken for
/// this store if nobody has it: whoever may not push learns it before anything is prepared.
///
/// # Errors
/// Another store has the name; another snapshot is there under it; the object store's.
pub async fn find_pushed(
    objects: &dyn Objects,
    who: &Pusher,
    of: (&str, &str, Uuid),
) -> Result<Option<Uuid>, TierError> {
    checked(of.1)?;
    let owner = own(objects, who, of.0, TakeOver::No).await?;
    listed(objects, &owner, of).await
}

/// What is there under this name: the same, nothing, or an error.
async fn listed(
    objects: &dyn Objects,
    owner: &NameOwner,
    (image, snapshot, uuid): (&str, &str, Uuid),
) -> Result<Option<Uuid>, TierError> {
    let Some(id) = owner.snapshots.get(snapshot).copied() else { return Ok(None) };
    let record: Option<PushRecord> = read(objects, &keys::record(image, id)).await?;
    match record {
        Some(record) if record.uuid == uuid => Ok(Some(id)),
        _ => Err(TierError::OtherSnapshot { image: image.to_owned(), snapshot: snapshot.to_owned() }),
    }
}

impl PushTo<'_> {
    /// Pushes a snapshot. Once this has its result, it is safe in the tier. What was interrupted goes on when
    /// it is pushed again: packs that are there are not uploaded again.
    ///
    /// # Errors
    /// Another store has the name, or takes it meanwhile; a sentence.
    pub async fn push(&self, of: &SnapshotPush) -> Result<Pushed, TierError> {
        checked(&of.snapshot)?;
        // The names under which packs are there that were deleted before.
        let mut names = BTreeMap::new();
        for _ in 0..BEGINNINGS {
            let owner = own(self.objects, self.who, &of.image, TakeOver::No).await?;
            if let Some(record) = listed(self.objects, &owner, (&of.image, &of.snapshot, of.uuid)).await? {
                return Ok(Pushed { record, was_there: true });
            }
            if owner.snapshots.len() >= MOST_SNAPSHOTS {
                return Err(TierError::Full(of.image.clone()));
            }
            let record = self.record(of, &names);
            match self.push_record(of, &record, &mut names).await {
                Ok(PushEnding::Committed) => return Ok(Pushed { record: record.id, was_there: false }),
                Ok(PushEnding::Again) => self.withdraw(&record).await,
                Err(error) => {
                    // Whoever has the name has not listed it, and nobody else can.
                    if matches!(error, TierError::NotOwner { .. }) || is_planted(TierBug::LostAnswerIsFailure)
                    {
                        self.withdraw(&record).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(TierError::Busy(keys::owner(&of.image)))
    }

    /// A record that is known not to be listed goes. If that fails, a collection does it.
    async fn withdraw(&self, record: &PushRecord) {
        let key = keys::record(&record.image, record.id);
        if let Err(error) = self.objects.delete(&key).await {
            tracing::debug!(%error, "a record of a push that was begun anew stays");
        }
    }

    fn record(&self, of: &SnapshotPush, names: &BTreeMap<PackKey, PackKey>) -> PushRecord {
        let named = |key: &PackKey| names.get(key).copied().unwrap_or(*key);
        let packs = of.packs.iter().map(|pack| RecordPack { key: named(&pack.key), ..pack.clone() });
        let root = match &of.root {
            RecordRoot::Node { hash, pack, slot } => {
                RecordRoot::Node { hash: hash.clone(), pack: named(pack), slot: *slot }
            }
            RecordRoot::Zeroes => RecordRoot::Zeroes,
        };
        PushRecord {
            id: (self.new_id)(),
            image: of.image.clone(),
            snapshot: of.snapshot.clone(),
            uuid: of.uuid,
            store: self.who.store,
            created_s: of.created_s,
            pushed_s: self.objects.now_s(),
            size: of.size,
            space: of.space.clone(),
            root,
            packs: packs.collect(),
        }
    }

    async fn push_record(
        &self,
        of: &SnapshotPush,
        record: &PushRecord,
        names: &mut BTreeMap<PackKey, PackKey>,
    ) -> Result<PushEnding, TierError> {
        if is_planted(TierBug::MarksBeforeRecord) {
            let gone = self.rescue_packs(record).await?;
            self.write(record).await?;
            self.upload_packs(record).await?;
            return if gone.is_empty() { self.commit(record).await } else { Ok(PushEnding::Again) };
        }
        self.write(record).await?;
        let gone =
            if is_planted(TierBug::MarksIgnored) { Vec::new() } else { self.rescue_packs(record).await? };
        if !gone.is_empty() && !is_planted(TierBug::NameUsedAgain) {
            let named = of.packs.iter().zip(&record.packs).filter(|(_, named)| gone.contains(&named.key));
            names.extend(named.map(|(first, named)| (first.key, named.key.again())));
            return Ok(PushEnding::Again);
        }
        if is_planted(TierBug::RecordBeforePacks) {
            let ended = self.commit(record).await?;
            self.upload_packs(record).await?;
            return Ok(ended);
        }
        self.upload_packs(record).await?;
        self.commit(record).await
    }

    /// The record is there before anything else is looked at: a collector sees it, or was seen.
    async fn write(&self, record: &PushRecord) -> Result<(), TierError> {
        let key = keys::record(&record.image, record.id);
        let put = patiently(self.objects, || self.objects.put(&key, record.encode(), PutIf::Absent)).await;
        match put {
            // Nobody else has this id: it is there though nobody was told.
            Err(ObjectError::Precondition(_)) => Ok(()),
            put => Ok(put?),
        }
    }

    /// Takes all packs off their way to deletion; those for which it is too late.
    async fn rescue_packs(&self, record: &PushRecord) -> Result<Vec<PackKey>, TierError> {
        let gone = std::sync::Mutex::new(Vec::new());
        all(&record.packs, |pack| {
            let gone = &gone;
            Box::pin(async move {
                if !rescue(self.objects, &pack.key).await? {
                    gone.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pack.key);
                }
                Ok::<_, TierError>(())
            })
        })
        .await?;
        Ok(gone.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    async fn upload_packs(&self, record: &PushRecord) -> Result<(), TierError> {
        all(&record.packs, |pack| Box::pin(self.upload_pack(pack))).await
    }

    /// A pack is there after this, as a whole.
    async fn upload_pack(&self, pack: &RecordPack) -> Result<(), TierError> {
        let (key, object) = (pack.key, pack.key.object());
        if let Some(there) = super::change::is_there(self.objects, &object).await? {
            let is_same = there == pack.bytes;
            return is_same.then_some(()).ok_or(TierError::OtherPack { key, there, here: pack.bytes });
        }
        let opened = self.packs.open(&key).map_err(|source| TierError::Pack { key, source })?;
        let missing = |why: &str| TierError::NoPack { key: PackName(key), why: why.to_owned() };
        let opened = opened.ok_or_else(|| missing("the store that wrote it has to push it"))?;
        if opened.length() != pack.bytes {
            return Err(missing("its file has another size than the catalogue says"));
        }
        patiently(self.objects, || self.objects.upload(&object, &*opened, self.sent)).await?;
        Ok(())
    }

    /// The snapshot is there when its record is listed: all before can be given up.
    async fn commit(&self, record: &PushRecord) -> Result<PushEnding, TierError> {
        let (image, id, key) = (&record.image, record.id, keys::record(&record.image, record.id));
        let decide = |there: Option<NameOwner>| {
            let mut owner = there.ok_or_else(|| TierError::NoImage(image.clone()))?;
            match owner.snapshots.get(&record.snapshot) {
                Some(listed) if *listed == id => return Ok(TierChange::Done(PushEnding::Committed)),
                // The same snapshot, by another process of this store.
                Some(_) => return Ok(TierChange::Done(PushEnding::Again)),
                None => {}
            }
            owner = mine(owner, self.who, image)?;
            if owner.expired.contains_key(&id) && !is_planted(TierBug::ExpiredRecordCommitted) {
                return Ok(TierChange::Done(PushEnding::Again));
            }
            owner.snapshots.insert(record.snapshot.clone(), id);
            if is_planted(TierBug::ExpiredRecordCommitted) {
                return Ok(TierChange::Put(owner, PushEnding::Committed));
            }
            Ok(TierChange::PutIfThere(owner, PushEnding::Committed, key.clone()))
        };
        match change(self.objects, &keys::owner(image), decide).await? {
            TierChanged::Done(ended) => Ok(ended),
            TierChanged::NotThere => Ok(PushEnding::Again),
        }
    }
}
