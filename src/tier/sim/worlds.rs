//! Worlds by their seeds. `RINGNBD_TIER_WORLDS=100000` runs more of them than a test does.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use uuid::Uuid;

use super::super::bug::{TierBug, plant};
use super::super::collect::{CollectOptions, collect_tier};
use super::super::keys::{self, PackKey};
use super::super::objects::{Objects, PackBytes};
use super::super::own::{Pusher, TakeOver, forget, own};
use super::super::pin::{hold, publish, published, release_unread, snapshot, unpublish};
use super::super::push::{PackSource, PushTo, SnapshotPush};
use super::super::records::{PushRecord, RecordPack, RecordRoot, TierSpace};
use super::super::verify::check_tier;
use super::super::withdraw::{WithdrawCloned, withdraw};
use super::super::{TierError, own as owners};
use super::store::{LAG_MS, SimulatedObjects, SimulatedStore};
use super::world::{Promise, TierOracle, pack_bytes};
use crate::pause::GrowingPause;
use crate::random::Random;

/// Longer than a listing is late and clocks differ.
const GRACE_S: u64 = 60;
const MOST_SKEW_S: u64 = 15;
const _: () = assert!(GRACE_S * 1000 > LAG_MS + 2 * MOST_SKEW_S * 1000);
/// The name that both stores want.
const SHARED: &str = "vm";
const WRITERS: usize = 2;
const COLLECTORS: usize = 2;
/// How often a push is tried before a host does something else.
const TRIES: usize = 3;
/// Packs of a store.
const PACKS: u64 = 5;

type Task = Pin<Box<dyn Future<Output = ()>>>;

impl PackBytes for Vec<u8> {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        to.copy_from_slice(&self[at as usize..at as usize + to.len()]);
        Ok(())
    }
}

/// The packs of one store.
struct OwnPacks(Uuid);

impl PackSource for OwnPacks {
    fn open(&self, pack: &PackKey) -> io::Result<Option<Box<dyn PackBytes>>> {
        Ok((pack.store == self.0).then(|| Box::new(pack_bytes(pack)) as Box<dyn PackBytes>))
    }
}

/// A host that writes.
struct WorldWriter {
    objects: SimulatedObjects,
    who: Pusher,
    random: Mutex<Random>,
    /// Names its snapshots: each life of a host has further ones.
    life: u64,
}

impl WorldWriter {
    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().below(end)
    }

    async fn pause(&self, most_ms: u64) {
        let time = Duration::from_millis(self.below(most_ms));
        drop(self.objects.wait(time).await);
    }

    fn plan(&self, image: &str, number: u64, foreign: &[RecordPack]) -> SnapshotPush {
        let chosen = (1..=PACKS).filter(|_| self.below(2) == 0);
        let own = chosen.map(|number| PackKey { store: self.who.store, number, upload: 0 });
        let own = own.map(|key| RecordPack::new(key, pack_bytes(&key).len() as u64));
        SnapshotPush {
            image: image.to_owned(),
            snapshot: format!("s{}-{}-{number}", self.objects.host, self.life),
            uuid: Uuid::from_u128(u128::from(self.life) << 64 | u128::from(number)),
            created_s: 0,
            size: 1,
            space: TierSpace { algorithm: "blake3".to_owned(), chunk_bytes: 65536, domain: Uuid::nil() },
            root: RecordRoot::Zeroes,
            packs: own.chain(foreign.iter().cloned()).collect(),
        }
    }

    /// Whether it is there, after so many tries at most.
    async fn push(&self, plan: &SnapshotPush, tries: usize) -> bool {
        let packs = OwnPacks(self.who.store);
        let new_id = || {
            let mut random = self.random.lock().unwrap();
            Uuid::from_u64_pair(random.number(), random.number())
        };
        let to = PushTo { objects: &self.objects, who: &self.who, packs: &packs, sent: &(), new_id: &new_id };
        for _ in 0..tries {
            match to.push(plan).await {
                Ok(pushed) => {
                    let packs = plan.packs.iter().map(|pack| (pack.key.store, pack.key.number)).collect();
                    let (image, snapshot) = (plan.image.clone(), plan.snapshot.clone());
                    let promise = Promise { image, snapshot, record: pushed.record, packs };
                    self.objects.locked().oracle.promises.push(promise);
                    return true;
                }
                Err(TierError::NotOwner { .. }) if self.below(2) == 0 => {
                    drop(own(&self.objects, &self.who, &plan.image, TakeOver::Yes).await);
                }
                Err(_) => self.pause(10_000).await,
            }
        }
        false
    }

    /// A snapshot of anybody, as it was some time ago.
    async fn old_snapshot(&self) -> Option<PushRecord> {
        let record = self.any_snapshot().await;
        self.pause(300_000).await;
        record
    }

    /// A snapshot of anybody.
    async fn any_snapshot(&self) -> Option<PushRecord> {
        let images = [SHARED, "vm0", "vm1"];
        let image = images[self.below(3) as usize];
        let owner = owners::owner(&self.objects, image).await.ok()?;
        let count = owner.snapshots.len() as u64;
        let name = owner.snapshots.keys().nth(self.below(count.max(1)) as usize)?.clone();
        snapshot(&self.objects, image, &name).await.ok()
    }

    fn pinned(&self, key: String, record: &PushRecord) {
        let packs = record.packs.iter().map(|pack| pack.key).collect();
        self.objects.locked().oracle.pinned.insert(key, packs);
    }

    /// Takes a snapshot out of the tier, as commands do: with a look at who was cloned from it, or without.
    async fn remove(&self) {
        let Some(record) = self.any_snapshot().await else { return };
        let (image, name) = (record.image, record.snapshot);
        self.objects.locked().oracle.removed.insert((image.clone(), name.clone()));
        let cloned = match self.below(3) {
            0 => WithdrawCloned::No,
            1 => WithdrawCloned::Yes,
            _ => return drop(forget(&self.objects, &self.who, &image, &name).await),
        };
        drop(withdraw(&self.objects, &self.who, &[(image, name)], cloned, &mut |_| ()).await);
    }

    /// A name for everybody goes.
    async fn unpublish(&self) {
        let chosen = {
            let pinned = &mut self.objects.locked().oracle.pinned;
            let mine = format!("{}p{}-", keys::PUBLISHED, self.objects.host);
            let key = pinned.keys().find(|key| key.starts_with(&mine)).cloned();
            key.map(|key| pinned.remove(&key).map(|_| key))
        };
        let Some(key) = chosen.flatten() else { return };
        let name = key.strip_prefix(keys::PUBLISHED).and_then(|name| name.strip_suffix(".json")).unwrap();
        let Ok(of) = published(&self.objects, name).await else { return };
        drop(unpublish(&self.objects, (&of.image, &of.snapshot), name).await);
    }

    /// An image of this store goes, and then what is kept for those that are gone.
    async fn release(&self) {
        if self.below(3) == 0 {
            return self.unpublish().await;
        }
        let folder = keys::holds_of(self.who.store);
        let chosen = self.below(4) as usize;
        let read: BTreeSet<PackKey> = {
            let pinned = &mut self.objects.locked().oracle.pinned;
            let going = pinned.keys().filter(|key| key.starts_with(&folder)).nth(chosen).cloned();
            going.map(|key| pinned.remove(&key));
            let left = pinned.iter().filter(|(key, _)| key.starts_with(&folder));
            left.flat_map(|(_, packs)| packs.iter().copied()).collect()
        };
        drop(release_unread(&self.objects, self.who.store, &|pack| read.contains(pack), 1).await);
    }

    async fn live(self) {
        let own_name = format!("vm{}", self.objects.host);
        for number in 0..3 + self.below(4) {
            self.pause(80_000).await;
            match self.below(11) {
                0 => drop(own(&self.objects, &self.who, SHARED, TakeOver::Yes).await),
                1 | 2 => self.remove().await,
                10 => self.release().await,
                3 => {
                    let Some(record) = self.old_snapshot().await else { continue };
                    let name = format!("p{}-{}-{number}", self.objects.host, self.life);
                    if publish(&self.objects, record.clone(), &name).await.is_ok() {
                        self.pinned(keys::published(&name), &record);
                    }
                }
                4 => {
                    let Some(record) = self.old_snapshot().await else { continue };
                    let clone = format!("c{}-{number}", self.life);
                    if hold(&self.objects, &record, (self.who.store, &clone)).await.is_ok() {
                        self.pinned(keys::hold(self.who.store, &clone), &record);
                        self.pause(200_000).await;
                        self.push(&self.plan(&own_name, number, &record.packs), TRIES).await;
                    }
                }
                action => {
                    let image = if action < 8 { SHARED } else { &own_name };
                    self.push(&self.plan(image, number, &[]), TRIES).await;
                }
            }
        }
    }
}

async fn collects(objects: SimulatedObjects, mut random: Random) {
    for _ in 0..8 {
        drop(objects.wait(Duration::from_secs(random.between(5, 120))).await);
        let options = CollectOptions { grace_s: GRACE_S, expiry_s: random.between(1, 200) };
        drop(collect_tier(&objects, options).await);
    }
}

/// What is left when nobody does anything any more goes, and what is there is whole.
async fn cleans(objects: SimulatedObjects) {
    // In the end what was given up is as old as no PUT can be.
    for wait_s in [2 * GRACE_S, 2 * GRACE_S, 2 * GRACE_S, 2 * GRACE_S, 25 * 3600, 1] {
        drop(objects.wait(Duration::from_secs(wait_s)).await);
        let collected = collect_tier(&objects, CollectOptions { grace_s: GRACE_S, expiry_s: 1 }).await;
        if let Err(error) = collected {
            objects.locked().oracle.complaint.get_or_insert(format!("a collection failed: {error}"));
        }
    }
    match check_tier(&objects).await {
        Ok(checked) if checked.problems.is_empty() => {}
        other => {
            objects.locked().oracle.complaint.get_or_insert(format!("a check found {other:?}"));
        }
    }
}

struct Worlds {
    store: Arc<Mutex<SimulatedStore>>,
    tasks: Vec<Option<Task>>,
    random: Random,
}

impl Worlds {
    fn objects(&mut self, host: usize) -> SimulatedObjects {
        let skew_s = self.random.below(2 * MOST_SKEW_S) as i64 - MOST_SKEW_S as i64;
        SimulatedObjects { store: Arc::clone(&self.store), host, skew_s }
    }

    fn writer(&mut self, host: usize, life: u64) -> Task {
        let store = Uuid::from_u128(100 + host as u128);
        let objects = self.objects(host);
        let random = Mutex::new(Random::new(self.random.number()));
        Box::pin(WorldWriter { objects, who: Pusher { store, host: "h".to_owned() }, random, life }.live())
    }

    fn poll(&mut self, host: usize) {
        let Some(task) = &mut self.tasks[host] else { return };
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tasks[host] = None;
        }
    }

    /// Goes on until all writers are done and nothing is under way.
    fn run(&mut self) -> Result<(), String> {
        let mut lives = 1;
        (0..self.tasks.len()).for_each(|host| self.poll(host));
        loop {
            let stepped = self.store.lock().unwrap().step();
            let Some(host) = stepped else { return Ok(()) };
            if let Some(host) = host {
                self.poll(host);
            }
            if self.store.lock().unwrap().oracle.complaint.is_some() {
                return Ok(());
            }
            if lives < 5 && self.random.chance(0.002) {
                let host = self.random.below(WRITERS as u64) as usize;
                self.tasks[host] = None;
                self.store.lock().unwrap().forget(host);
                self.tasks[host] = Some(self.writer(host, lives));
                lives += 1;
                self.poll(host);
            }
        }
    }
}

/// One world.
fn world(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x7469_6572);
    let mut store = SimulatedStore::new(seed);
    if random.chance(0.1) {
        store.out_since_ms = Some(store.now_ms + random.below(500_000));
    }
    let store = Arc::new(Mutex::new(store));
    let mut worlds = Worlds { store, tasks: Vec::new(), random };
    for host in 0..WRITERS {
        let task = worlds.writer(host, 0);
        worlds.tasks.push(Some(task));
    }
    for host in WRITERS..WRITERS + COLLECTORS {
        let (objects, random) = (worlds.objects(host), Random::new(worlds.random.number()));
        worlds.tasks.push(Some(Box::pin(collects(objects, random))));
    }
    worlds.run()?;
    let check = |store: &SimulatedStore| store.oracle.kept(&store.contents());
    check(&worlds.store.lock().unwrap())?;
    {
        let store = &mut worlds.store.lock().unwrap();
        (store.has_faults, store.out_since_ms) = (false, None);
    }
    let host = worlds.tasks.len();
    let objects = worlds.objects(host);
    worlds.tasks.push(Some(Box::pin(cleans(objects))));
    worlds.poll(host);
    while let Some(answered) = { worlds.store.lock().unwrap().step() } {
        if let Some(host) = answered {
            worlds.poll(host);
        }
    }
    let store = worlds.store.lock().unwrap();
    check(&store)?;
    TierOracle::is_clean(&store.contents())
}

fn first_failure(worlds: u64) -> Option<(u64, String)> {
    (0..worlds).find_map(|seed| world(seed).err().map(|why| (seed, why)))
}

#[test]
fn no_push_is_lost_nothing_needed_is_deleted_and_one_store_writes() {
    let asked = std::env::var("RINGNBD_TIER_WORLDS").ok().and_then(|count| count.parse().ok());
    if let Some(seed) = std::env::var("RINGNBD_TIER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        world(seed).unwrap();
        return;
    }
    let failed = first_failure(asked.unwrap_or(400));
    assert!(failed.is_none(), "RINGNBD_TIER_SEED={failed:?}");
}

/// The object store does not answer for an hour, which begins in the middle of a push. It is asked again,
/// ever more seldom, and has the snapshot afterwards.
#[test]
fn an_hour_without_an_answer_loses_nothing() {
    /// As a server waits between pushes that failed.
    const WAITS: GrowingPause = GrowingPause::new(Duration::from_secs(2), Duration::from_secs(600));
    for seed in 0..50 {
        let mut store = SimulatedStore::new(seed);
        store.has_faults = false;
        store.out_since_ms = Some(store.now_ms + store.random.below(200));
        let mut worlds =
            Worlds { store: Arc::new(Mutex::new(store)), tasks: Vec::new(), random: Random::new(seed) };
        let (objects, random) = (worlds.objects(0), Mutex::new(Random::new(seed)));
        let who = Pusher { store: Uuid::from_u128(100), host: "h".to_owned() };
        let writer = WorldWriter { objects, who, random, life: 0 };
        worlds.tasks.push(Some(Box::pin(async move {
            let plan = writer.plan(SHARED, 1, &[]);
            let mut pause = WAITS;
            while !writer.push(&plan, 1).await {
                drop(writer.objects.wait(pause.take()).await);
            }
        })));
        worlds.poll(0);
        while let Some(answered) = { worlds.store.lock().unwrap().step() } {
            answered.into_iter().for_each(|host| worlds.poll(host));
        }
        let store = worlds.store.lock().unwrap();
        assert!(!store.is_out() && store.oracle.promises.len() == 1, "seed {seed}");
        store.oracle.kept(&store.contents()).unwrap();
        assert!((10..300).contains(&store.sent_in_vain), "seed {seed}: {} requests", store.sent_in_vain);
    }
}

/// Worlds that have found something: a PUT of a record that was given up came late, and brought it back; and
/// so did one of a published name, of packs that were deleted by then.
#[test]
fn worlds_that_were_lost_once_are_kept() {
    for seed in [12_649, 59_974] {
        world(seed).unwrap_or_else(|why| panic!("RINGNBD_TIER_SEED={seed}: {why}"));
    }
}

/// A simulation that finds nothing has to be able to.
#[test]
fn planted_bugs_are_found() {
    for bug in [
        TierBug::RecordBeforePacks,
        TierBug::NoSecondLook,
        TierBug::MarksIgnored,
        TierBug::MarksBeforeRecord,
        TierBug::FenceIgnored,
        TierBug::LostAnswerIsFailure,
        TierBug::NameUsedAgain,
        TierBug::ExpiredRecordCommitted,
        TierBug::ConditionsIgnored,
    ] {
        plant(Some(bug));
        let found = first_failure(20_000);
        plant(None);
        let (seed, why) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        eprintln!("{bug:?}: world {seed}: {why}");
    }
}
