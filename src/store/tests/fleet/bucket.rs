//! The object store of a fleet, and its time. A request takes its time, and takes place at the end of that;
//! one too many for its prefix is refused.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::tier::keys::PackKey;
use crate::tier::made_up::{MadeUpTier, PACK_BYTES, PAGE};
use crate::tier::{
    ObjectError, ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PutIf, Sent, TierObject,
    spread_by, tries_of_the_crate,
};

/// What S3 promises for one prefix, each second: GET, HEAD and LIST; PUT, POST and DELETE.
const PER_SECOND: [u64; 2] = [5500, 3500];
/// Means: a request takes half of it to one and a half of it.
const LATENCY_US: u64 = 30_000;
const LIST_LATENCY_US: u64 = 120_000;
/// Bytes of a part of an upload, and of a second: what a server sends unless it is told another rate.
const PART: u64 = 8 << 20;
const BYTES_PER_SECOND: u64 = 64 << 20;
const SECOND_NS: u64 = 1_000_000_000;
/// What the clocks of all hosts show at the beginning: everything that is made up is old.
const BEGINNING_S: u64 = 1 << 40;

/// Of `PER_SECOND`.
#[derive(Debug, Clone, Copy)]
enum RequestKind {
    Read,
    Write,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedFor {
    Push,
    Collection,
    Boot,
}

/// Requests, each time that one is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AskedCounts {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) refused: u64,
    /// Of all that were sent in the busiest second.
    pub(super) busiest: u64,
    second: (u64, u64),
}

impl AskedCounts {
    pub(super) const fn all(&self) -> u64 {
        self.reads + self.writes
    }

    fn count(&mut self, kind: RequestKind, is_refused: bool, now_us: u64) {
        match kind {
            RequestKind::Read => self.reads += 1,
            RequestKind::Write => self.writes += 1,
        }
        self.refused += u64::from(is_refused);
        let second = now_us / 1_000_000;
        self.second = if self.second.0 == second { (second, self.second.1 + 1) } else { (second, 1) };
        self.busiest = self.busiest.max(self.second.1);
    }
}

/// Whether a prefix has what it promises: a second's requests may come at once.
#[derive(Debug, Default)]
struct PrefixBudget {
    /// When all that came would have come, one after the other.
    until_ns: [u64; 2],
}

impl PrefixBudget {
    fn takes(&mut self, kind: RequestKind, now_ns: u64) -> bool {
        let (until, per_second) = (&mut self.until_ns[kind as usize], PER_SECOND[kind as usize]);
        let after = (*until).max(now_ns) + SECOND_NS / per_second;
        let is_taken = after <= now_ns + SECOND_NS;
        if is_taken {
            *until = after;
        }
        is_taken
    }
}

/// What was written, or that it was deleted.
type Written = Option<(Vec<u8>, u64)>;

pub(super) struct FleetWorld {
    now_us: u64,
    random: Random,
    /// When tasks go on.
    wakes: BinaryHeap<Reverse<(u64, u64, usize)>>,
    wake_number: u64,
    contents: MadeUpTier,
    written: BTreeMap<String, Written>,
    /// Bytes of packs that were uploaded.
    packs: HashMap<String, u64>,
    versions: u64,
    /// What S3 does with a prefix that is busy for long: it becomes several, here one for each store and
    /// image.
    is_split: bool,
    prefixes: HashMap<String, PrefixBudget>,
    counts: [AskedCounts; 3],
}

impl FleetWorld {
    pub(super) fn new(seed: u64, contents: MadeUpTier, is_split: bool) -> Self {
        let (wakes, written, packs, prefixes, counts) = Default::default();
        let random = Random::new(seed);
        let (now_us, wake_number, versions) = (0, 0, 0);
        Self {
            now_us,
            random,
            wakes,
            wake_number,
            contents,
            written,
            packs,
            versions,
            is_split,
            prefixes,
            counts,
        }
    }

    pub(super) const fn counts(&self, of: AskedFor) -> &AskedCounts {
        &self.counts[of as usize]
    }

    fn ask(&mut self, of: AskedFor, key: &str, kind: RequestKind) -> bool {
        let mut parts = key.match_indices('/').map(|(at, _)| at).skip(1);
        let end = if self.is_split { parts.next().unwrap_or(key.len()) } else { 0 };
        if !self.prefixes.contains_key(&key[..end]) {
            self.prefixes.insert(key[..end].to_owned(), PrefixBudget::default());
        }
        let now_ns = self.now_us * 1000;
        let is_taken = self.prefixes.get_mut(&key[..end]).is_some_and(|budget| budget.takes(kind, now_ns));
        self.counts[of as usize].count(kind, !is_taken, self.now_us);
        is_taken
    }

    fn object(&self, key: &str) -> Option<(Vec<u8>, u64)> {
        match self.written.get(key) {
            Some(written) => written.clone(),
            None => self.contents.object(key).map(|bytes| (bytes, 0)),
        }
    }

    fn bytes_of(&self, key: &str) -> Option<u64> {
        if let Some(pack) = PackKey::of_object(key) {
            return self.packs.get(key).copied().or_else(|| self.contents.has(&pack).then_some(PACK_BYTES));
        }
        self.object(key).map(|(bytes, _)| bytes.len() as u64)
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>, when: &PutIf) -> Result<(), ObjectError> {
        let there = self.object(key).map(|(_, version)| version.to_string());
        let holds = match when {
            PutIf::Absent => there.is_none(),
            PutIf::Version(version) => there.is_some() && there == version.etag,
        };
        if !holds {
            return Err(ObjectError::Precondition(key.to_owned()));
        }
        self.versions += 1;
        self.written.insert(key.to_owned(), Some((bytes, self.versions)));
        Ok(())
    }

    fn listed(&self, folder: &str) -> Vec<ObjectMeta> {
        let made_up = self.contents.keys(folder).into_iter().filter(|key| !self.written.contains_key(key));
        let mut keys: Vec<String> = made_up.collect();
        let written = self.written.range(folder.to_owned()..).take_while(|(key, _)| key.starts_with(folder));
        keys.extend(written.filter(|(_, written)| written.is_some()).map(|(key, _)| key.clone()));
        keys.extend(self.packs.keys().filter(|key| key.starts_with(folder)).cloned());
        keys.sort();
        keys.into_iter().map(|key| ObjectMeta { key, bytes: PACK_BYTES }).collect()
    }
}

/// The object store as one task has it.
#[derive(Clone)]
pub(super) struct FleetObjects {
    pub(super) world: Arc<Mutex<FleetWorld>>,
    task: usize,
    of: AskedFor,
    /// When the simulation began: what code that wants an [`Instant`] is given.
    began: Instant,
}

/// Until a time of the simulation.
struct FleetSleep<'a> {
    objects: &'a FleetObjects,
    until_us: u64,
    is_told: bool,
}

impl Future for FleetSleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        let objects = self.objects;
        let mut world = objects.locked();
        if world.now_us >= self.until_us {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.is_told, true) {
            world.wake_number += 1;
            let wake = (self.until_us, world.wake_number, objects.task);
            world.wakes.push(Reverse(wake));
        }
        Poll::Pending
    }
}

impl FleetObjects {
    fn locked(&self) -> MutexGuard<'_, FleetWorld> {
        self.world.lock().unwrap()
    }

    pub(super) fn now_us(&self) -> u64 {
        self.locked().now_us
    }

    pub(super) fn now(&self) -> Instant {
        self.began + Duration::from_micros(self.now_us())
    }

    pub(super) fn fraction(&self) -> f64 {
        self.locked().random.fraction()
    }

    pub(super) async fn sleep_until(&self, until_us: u64) {
        FleetSleep { objects: self, until_us, is_told: false }.await;
    }

    pub(super) async fn sleep(&self, time: Duration) {
        let until_us = self.now_us() + time.as_micros() as u64;
        self.sleep_until(until_us).await;
    }

    /// Sends one request; whether it is taken.
    async fn attempt(&self, key: &str, kind: RequestKind, latency_us: u64, moved: u64) -> bool {
        let (is_taken, until_us) = {
            let mut world = self.locked();
            let is_taken = world.ask(self.of, key, kind);
            let moves = if is_taken { moved * 1_000_000 / BYTES_PER_SECOND } else { 0 };
            let latency = world.random.between(latency_us / 2, latency_us * 3 / 2);
            (is_taken, world.now_us + latency + moves)
        };
        self.sleep_until(until_us).await;
        is_taken
    }

    /// What the crate below the tier does with a request: it tries some times by itself.
    async fn request(
        &self,
        key: &str,
        kind: RequestKind,
        latency_us: u64,
        moved: u64,
    ) -> Result<(), ObjectError> {
        let tries = tries_of_the_crate();
        let (began, first) = (self.now_us(), tries.backoff.init_backoff.as_secs_f64());
        let mut pause = first;
        for retries in 0.. {
            if self.attempt(key, kind, latency_us, moved).await {
                return Ok(());
            }
            let has_passed = Duration::from_micros(self.now_us() - began) > tries.retry_timeout;
            if retries >= tries.max_retries || has_passed {
                break;
            }
            let longest = (pause * tries.backoff.base).min(tries.backoff.max_backoff.as_secs_f64());
            let now = std::mem::replace(&mut pause, first + (longest - first) * self.fraction());
            self.sleep(Duration::from_secs_f64(now)).await;
        }
        Err(ObjectError::Throttled { key: key.to_owned(), why: "slow down".to_owned() })
    }

    /// A part of a pack, asked for once: whoever reads has a deadline.
    pub(super) async fn read_part(&self, key: &str, bytes: u64) -> bool {
        self.attempt(key, RequestKind::Read, LATENCY_US, bytes).await
    }
}

impl Objects for FleetObjects {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        Box::pin(async move {
            self.request(key, RequestKind::Read, LATENCY_US, 0).await?;
            let found = self.locked().object(key);
            let (bytes, version) = found.ok_or_else(|| ObjectError::Missing(key.to_owned()))?;
            let version = ObjectVersion { etag: Some(version.to_string()), version: None };
            Ok(TierObject { bytes, version })
        })
    }

    fn get_range<'a>(&'a self, _key: &'a str, _range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        unreachable!("guests read by attempts of their own")
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        Box::pin(async move {
            self.request(key, RequestKind::Read, LATENCY_US, 0).await?;
            let found = self.locked().bytes_of(key);
            let bytes = found.ok_or_else(|| ObjectError::Missing(key.to_owned()))?;
            Ok(ObjectMeta { key: key.to_owned(), bytes })
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            self.request(key, RequestKind::Write, LATENCY_US, 0).await?;
            self.locked().put(key, bytes, &when)
        })
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        _sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let length = from.length();
            let parts = (0..length.div_ceil(PART)).map(|part| PART.min(length - part * PART));
            // What begins and what ends an upload in parts moves nothing.
            let ends = (length > PART).then_some(0);
            for moved in ends.into_iter().chain(parts).chain(ends) {
                self.request(key, RequestKind::Write, LATENCY_US, moved).await?;
            }
            self.locked().packs.insert(key.to_owned(), length);
            Ok(())
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            self.request(key, RequestKind::Write, LATENCY_US, 0).await?;
            self.locked().written.insert(key.to_owned(), None);
            Ok(())
        })
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        Box::pin(async move {
            let found = self.locked().listed(folder);
            for _page in 0..(found.len() as u64).div_ceil(PAGE).max(1) {
                self.request(folder, RequestKind::Read, LIST_LATENCY_US, 0).await?;
            }
            Ok(found)
        })
    }

    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let time = spread_by(time, self.fraction());
            self.sleep(time).await;
            Ok(())
        })
    }

    fn now_s(&self) -> u64 {
        BEGINNING_S + self.now_us() / 1_000_000
    }
}

type FleetTask = Pin<Box<dyn Future<Output = ()>>>;

/// All tasks, and the time that they have together.
pub(super) struct Fleet {
    pub(super) world: Arc<Mutex<FleetWorld>>,
    tasks: Vec<Option<FleetTask>>,
    began: Instant,
}

impl Fleet {
    pub(super) fn new(world: FleetWorld) -> Self {
        Self { world: Arc::new(Mutex::new(world)), tasks: Vec::new(), began: Instant::now() }
    }

    /// Adds a task, which is given the object store.
    pub(super) fn add<F: Future<Output = ()> + 'static>(
        &mut self,
        of: AskedFor,
        task: impl FnOnce(FleetObjects) -> F,
    ) {
        let (world, began) = (Arc::clone(&self.world), self.began);
        let objects = FleetObjects { world, task: self.tasks.len(), of, began };
        self.tasks.push(Some(Box::pin(task(objects))));
    }

    fn poll(&mut self, task: usize) {
        let Some(future) = &mut self.tasks[task] else { return };
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tasks[task] = None;
        }
    }

    /// Goes on until all tasks have ended; says how many seconds that took.
    pub(super) fn run(&mut self) -> f64 {
        (0..self.tasks.len()).for_each(|task| self.poll(task));
        loop {
            let next = {
                let mut world = self.world.lock().unwrap();
                let next = world.wakes.pop();
                next.map(|Reverse((until_us, _, task))| {
                    world.now_us = world.now_us.max(until_us);
                    task
                })
            };
            match next {
                Some(task) => self.poll(task),
                None => break,
            }
        }
        assert!(self.tasks.iter().all(Option::is_none), "nobody waits for what does not come");
        self.world.lock().unwrap().now_us as f64 / 1e6
    }
}
