//! What hosts and guests of a fleet do.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::bucket::FleetObjects;
use crate::mutex::lock;
use crate::store::foreign::{FetchAttempts, TierLimits, TierOutage};
use crate::store::pusher::{PushError, PushRemedy, wait_after};
use crate::tier::keys::PackKey;
use crate::tier::made_up::{MadeUpTier, OWN_PACKS, PACK_BYTES, name, space};
use crate::tier::own::Pusher;
use crate::tier::push::{PackSource, PushTo, SnapshotPush};
use crate::tier::records::{RecordPack, RecordRoot};
use crate::tier::{PackBytes, spread_by};

/// The pack of a push: its bytes, which nobody looks at.
#[derive(Debug, Clone, Copy)]
struct NewPack(u64);

impl PackBytes for NewPack {
    fn length(&self) -> u64 {
        self.0
    }

    fn read(&self, _at: u64, _to: &mut [u8]) -> io::Result<()> {
        unreachable!("only the length is sent")
    }
}

impl PackSource for NewPack {
    fn open(&self, _pack: &PackKey) -> io::Result<Option<Box<dyn PackBytes>>> {
        Ok(Some(Box::new(*self)))
    }
}

/// A snapshot that a host pushes.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueSnapshot {
    pub(super) due_us: u64,
    pub(super) image: u64,
    /// How many of the image came before it.
    pub(super) number: u64,
    /// Bytes of the pack that only it has.
    pub(super) bytes: u64,
}

impl DueSnapshot {
    fn plan(&self, contents: &MadeUpTier) -> SnapshotPush {
        let pack = RecordPack::new(contents.own(self.image, OWN_PACKS + self.number), self.bytes);
        let packs = contents.packs(self.image).map(|key| RecordPack::new(key, PACK_BYTES));
        SnapshotPush {
            image: name(self.image),
            snapshot: format!("pushed{}", self.number),
            uuid: Uuid::from_u64_pair(self.image + 1, self.number + 1000),
            created_s: 1,
            size: 10 << 30,
            space: space(),
            root: RecordRoot::Zeroes,
            packs: packs.chain([pack]).collect(),
        }
    }
}

/// Pushes snapshots, one after the other, as the thread of a server does, and notes how late each was there.
pub(super) async fn pushes(
    objects: FleetObjects,
    contents: MadeUpTier,
    snapshots: Vec<DueSnapshot>,
    lags_us: Arc<Mutex<Vec<u64>>>,
) {
    static IDS: AtomicU64 = AtomicU64::new(0);
    let new_id = || Uuid::from_u64_pair(u64::MAX, IDS.fetch_add(1, Ordering::Relaxed));
    for due in snapshots {
        objects.sleep_until(due.due_us).await;
        let who = Pusher { store: contents.store(due.image), host: "here".to_owned() };
        let (plan, pack) = (due.plan(&contents), NewPack(due.bytes));
        let to = PushTo { objects: &objects, who: &who, packs: &pack, sent: &(), new_id: &new_id };
        let mut failures = 0;
        while let Err(error) = to.push(&plan).await {
            let error = PushError::from(error);
            assert_eq!(error.remedy(), PushRemedy::BackOff, "{error}");
            failures += 1;
            objects.sleep(spread_by(wait_after(failures), objects.fraction())).await;
        }
        lock(&lags_us).push(objects.now_us() - due.due_us);
    }
}

/// A guest that starts from an image of which nothing is on its host.
#[derive(Debug)]
pub(super) struct GuestStart {
    pub(super) begins_us: u64,
    /// Parts of packs that it has still to read.
    pub(super) left: AtomicU64,
    pub(super) part_bytes: u64,
    pub(super) limits: TierLimits,
    pub(super) outage: Mutex<TierOutage>,
    pub(super) has_failed: AtomicBool,
    pub(super) ended_us: AtomicU64,
}

/// One of the reads that the guest has under way at once: one part after the other. An error ends the start.
pub(super) async fn reads(objects: FleetObjects, guest: Arc<GuestStart>) {
    let key = MadeUpTier::shared(0).object();
    objects.sleep_until(guest.begins_us).await;
    let took_one = || {
        let left = &guest.left;
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    };
    while !guest.has_failed.load(Ordering::SeqCst) && took_one() {
        let mut attempts = FetchAttempts::until(Some(guest.limits.deadline(objects.now())));
        while !objects.read_part(&key, guest.part_bytes).await {
            let pause = attempts.after_refusal(&mut lock(&guest.outage), objects.now());
            let Some(pause) = pause else {
                guest.has_failed.store(true, Ordering::SeqCst);
                return;
            };
            objects.sleep(pause).await;
        }
        lock(&guest.outage).end();
        guest.ended_us.fetch_max(objects.now_us(), Ordering::SeqCst);
    }
}
