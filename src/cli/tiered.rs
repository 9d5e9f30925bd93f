//! What commands do with the tier of a store.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Outcome;
use super::outcome::complain;
use super::owner::{self, RequestError, StorePlace};
use super::text::{exact_and_human, json, print};
use super::watched::Watched;
use crate::config::ControlAddress;
use crate::daemon::logging::show_warnings;
use crate::store::image_path::ImagePath;
use crate::store::{
    MapFiles, OpenStore, StoreAnswer, StoreError, StoreRequest, note_push, owed, pack_files, push_plan,
    random_uuid, set_tier, tier_of,
};
use crate::tier::collect::{CollectOptions, CollectedTier, collect_tier};
use crate::tier::keys::PackKey;
use crate::tier::own::{Pusher, TakeOver, host_name, own};
use crate::tier::pin::{publish, release_unread, snapshot, unpublish};
use crate::tier::push::{PushTo, Pushed};
use crate::tier::records::{NameOwner, TierSpace};
use crate::tier::uri::TierUri;
use crate::tier::verify::{CheckedTier, check_tier};
use crate::tier::{ObjectError, Objects, Sent, TierError, begin, run};

/// After which a push that was not finished is given up.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// What keeps packs for a clone is written before the clone is made, which takes less than this.
const LEAST_AGE_OF_HOLD: Duration = Duration::from_secs(3600);

/// The tier of a store, which is there.
pub(super) fn tier(store: &Path) -> Result<Arc<dyn Objects>, RequestError> {
    show_warnings();
    let address = tier_of(store)?.ok_or(TierError::NoTier)?;
    Ok(address.parse::<TierUri>()?.objects()?)
}

pub(super) fn pusher(place: StorePlace<'_>) -> Result<Pusher, RequestError> {
    let StoreAnswer::Store(of) = owner::ask(place, &StoreRequest::Store, |_, _| Ok(()))? else {
        unreachable!("it is the answer to another request")
    };
    let store = of.uuid.parse().map_err(|_| TierError::NoTier)?;
    let host = host_name();
    Ok(Pusher { store, host })
}

/// What a store has as its tier. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct TierJson<'a> {
    store: &'a Path,
    tier: Option<&'a str>,
}

/// Shows the tier of a store, or sets it: it is made, or found to be one, before that.
pub(super) fn set(
    store: &Path,
    (address, off): (Option<&TierUri>, bool),
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store, control };
    // Nothing else is given a tier.
    pusher(place)?;
    if let Some(uri) = address {
        show_warnings();
        let objects = uri.objects()?;
        let space = OpenStore::<MapFiles>::chunk_space();
        let space = TierSpace { algorithm: "blake3".to_owned(), chunk_bytes: space.0, domain: space.1 };
        run(begin::begin(&*objects, &space, random_uuid()))?;
        set_tier(store, Some(&uri.to_string()))?;
    } else if off {
        set_tier(store, None)?;
    }
    let tier = tier_of(store)?;
    let shown = TierJson { store, tier: tier.as_deref() };
    let text = shown.tier.map_or_else(|| "The store has no tier.\n".to_owned(), |tier| format!("{tier}\n"));
    Ok(print(&if as_json { json(&shown) } else { text }))
}

/// Shows how far an upload is, and slows it down.
struct PushLine<'a> {
    line: &'a Watched,
    total: u64,
    sent: AtomicU64,
    /// Bytes a second.
    rate: Option<u64>,
    begun: Instant,
    stopped: Mutex<Option<StoreError>>,
}

impl Sent for PushLine<'_> {
    fn sent(&self, bytes: u64) -> Result<Duration, ObjectError> {
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Err(error) = self.line.progress_of(sent, self.total.max(sent)) {
            *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return Err(ObjectError::Other { key: "the upload".to_owned(), why: "interrupted".to_owned() });
        }
        Ok(owed(sent, self.rate, self.begun.elapsed()))
    }
}

/// What was pushed. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct PushJson<'a> {
    store: &'a Path,
    node: String,
    record: String,
    was_there: bool,
    packs: usize,
    bytes: u64,
    bytes_sent: u64,
}

/// Pushes a snapshot. Whatever interrupts it, another time it goes on.
pub(super) fn push(
    path: &ImagePath,
    rate: Option<u64>,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &path.store, control };
    let (objects, who) = (tier(place.store)?, pusher(place)?);
    let packed = owner::look(place, (&path.node, None), |store| store.packed_snapshot(&path.node))?;
    let plan = push_plan(&path.node, &packed);
    let packs = pack_files(&packed);
    let total = plan.packs.iter().map(|pack| pack.bytes).sum();
    let line = Watched::begin("pushing", &path.store, Some(0))?;
    let (begun, sent, stopped) = (Instant::now(), AtomicU64::new(0), Mutex::new(None));
    let shown = PushLine { line: &line, total, sent, rate, begun, stopped };
    let to = PushTo { objects: &*objects, who: &who, packs: &packs, sent: &shown, new_id: &random_uuid };
    let pushed = run(to.push(&plan));
    line.end();
    let Pushed { record, was_there } = match (pushed, shown.stopped.into_inner()) {
        (Ok(pushed), _) => pushed,
        (Err(_), Ok(Some(stopped))) => return Err(stopped.into()),
        (Err(error), _) => return Err(error.into()),
    };
    if let Err(error) = note_push(&path.store, plan.uuid, objects.now_s()) {
        tracing::warn!(%error, "`image ls` does not show that it was pushed");
    }
    let (node, bytes_sent) = (path.node.to_string(), shown.sent.into_inner());
    if as_json {
        let (store, record, packs) = (path.store.as_path(), record.to_string(), plan.packs.len());
        let shown = PushJson { store, node, record, was_there, packs, bytes: total, bytes_sent };
        return Ok(print(&json(&shown)));
    }
    let sentence = match was_there {
        true => format!("{node} is in the tier already.\n"),
        false => format!("{node} is in the tier: {} sent.\n", exact_and_human(bytes_sent)),
    };
    Ok(print(&sentence))
}

/// Takes a name of the tier for a store.
pub(super) fn take(
    path: &ImagePath,
    force: bool,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &path.store, control };
    let (objects, who) = (tier(place.store)?, pusher(place)?);
    let image = path.node.clone().into_image().map_err(StoreError::Name)?.to_string();
    let take_over = if force { TakeOver::Yes } else { TakeOver::No };
    let owner: NameOwner = run(own(&*objects, &who, &image, take_over))?;
    if as_json {
        return Ok(print(&json(&owner)));
    }
    Ok(print(&format!("{image} belongs to this store in the tier (generation {}).\n", owner.generation)))
}

/// A name that was taken back. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct UnpublishedJson<'a> {
    name: &'a str,
    image: &'a str,
    snapshot: &'a str,
}

/// Gives a snapshot of the tier a name for everybody, or takes it back.
pub(super) fn publish_as(
    path: &ImagePath,
    (name, off): (&str, bool),
    as_json: bool,
) -> Result<Outcome, RequestError> {
    let objects = tier(&path.store)?;
    let Some(of) = &path.node.snapshot else {
        return Err(StoreError::NotPacked(path.node.to_string()).into());
    };
    let (image, of) = (path.node.image.to_string(), of.to_string());
    if off {
        run(unpublish(&*objects, (&image, &of), name))?;
        let shown = UnpublishedJson { name, image: &image, snapshot: &of };
        let sentence = format!("{} is not published as {name} any more.\n", path.node);
        return Ok(print(&if as_json { json(&shown) } else { sentence }));
    }
    let record = run(async {
        let record = snapshot(&*objects, &image, &of).await?;
        publish(&*objects, record.clone(), name).await?;
        Ok(record)
    })?;
    let sentence = format!("{} is published as {name}.\n", path.node);
    Ok(print(&if as_json { json(&record) } else { sentence }))
}

/// What a collection has done. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct CollectedJson {
    #[serde(flatten)]
    collected: CollectedTier,
    holds_released: u64,
}

/// Collects what nothing in the tier needs.
pub(super) fn collect(
    place: StorePlace<'_>,
    grace: Duration,
    as_json: bool,
) -> Result<Outcome, RequestError> {
    let objects = tier(place.store)?;
    let options = CollectOptions { grace_s: grace.as_secs(), expiry_s: EXPIRY.as_secs() };
    let holds_released = release(&*objects, place, grace).unwrap_or_else(|error| {
        // Another time: the tier keeps more than it has to until then.
        complain("ringnbd", format_args!("what this store reads of the tier is not known: {error}"));
        0
    });
    let collected: CollectedTier = run(collect_tier(&*objects, options))?;
    if as_json {
        return Ok(print(&json(&CollectedJson { collected, holds_released })));
    }
    let CollectedTier { packs, packs_needed, packs_marked, packs_deleted, bytes_deleted, .. } = collected;
    let mut text = format!("{packs} packs, {packs_needed} of them needed.\n");
    text += &format!("{packs_deleted} packs deleted: {}.\n", exact_and_human(bytes_deleted));
    text += &format!("{packs_marked} packs marked: they go with the next collection after the grace time.\n");
    Ok(print(&text))
}

/// Ends what keeps packs for images of this store that are gone, or do not read them any more.
fn release(objects: &dyn Objects, place: StorePlace<'_>, grace: Duration) -> Result<u64, RequestError> {
    let who = pusher(place)?;
    let read = owner::look_at_sealed(place, OpenStore::packs_of_tiers)?;
    let is_read = |pack: &PackKey| read.contains(&(pack.store, pack.number));
    let age_s = grace.max(LEAST_AGE_OF_HOLD).as_secs();
    Ok(run(release_unread(objects, who.store, &is_read, age_s))?)
}

/// Looks whether all is there that the tier says it has.
pub(super) fn check(store: &Path, as_json: bool) -> Result<Outcome, RequestError> {
    let objects = tier(store)?;
    let checked: CheckedTier = run(check_tier(&*objects))?;
    let is_ok = checked.problems.is_empty();
    if as_json {
        print(&json(&checked));
    } else {
        checked.problems.iter().for_each(|problem| complain("ringnbd", problem));
        let CheckedTier { images, snapshots, packs, bytes, .. } = checked;
        print(&format!(
            "{images} images, {snapshots} snapshots, {packs} packs ({}).\n",
            exact_and_human(bytes)
        ));
    }
    Ok(if is_ok { Outcome::Done } else { Outcome::Failed })
}
