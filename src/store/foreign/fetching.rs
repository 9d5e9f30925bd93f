//! Fetches ranges of packs: attempts until a limit, outages, and what is counted.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::clock::FetchClock;
use super::outage::{FetchAttempts, ReadDeadline, TierOutage};
use super::source::{RangeSource, SourceError, SourcePack};
use crate::mutex::lock;

/// Threads that fetch what somebody waits for: requests that are under way at once. They have the rights of
/// whoever opened the store, which the threads that read it may not have.
const FETCH_THREADS: usize = 16;
/// Requests that wait for them.
const MOST_WAITING: usize = 4096;
/// Threads that fetch what nobody waits for yet.
const AHEAD_THREADS: usize = 4;
/// Ranges that wait for them; more are not fetched ahead.
const MOST_AHEAD: usize = 256;
/// Between two warnings.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What a store grants its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TierLimits {
    /// How long a read waits for a tier that says nothing.
    pub(crate) wait: Duration,
    /// And for one that asks for less.
    pub(crate) refused_wait: Duration,
    /// Bytes that the caches of all packs take.
    pub(crate) cache_bytes: u64,
}

impl Default for TierLimits {
    fn default() -> Self {
        let (wait, refused_wait) = (Duration::from_secs(30), Duration::from_secs(300));
        Self { wait, refused_wait, cache_bytes: 20 << 30 }
    }
}

impl TierLimits {
    /// When a read fails that begins now.
    pub(in crate::store) fn deadline(&self, now: Instant) -> ReadDeadline {
        ReadDeadline { silent: now + self.wait, refused: now + self.refused_wait.max(self.wait) }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct TierCounts {
    /// Requests that were answered, and their bytes.
    pub(crate) fetches: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
    /// Attempts that were not, or with another number of bytes.
    pub(crate) failed: AtomicU64,
    /// Reads that ended with an error because of it.
    pub(crate) gave_up: AtomicU64,
    /// Ranges that were fetched again because they did not verify.
    pub(crate) wrong: AtomicU64,
    /// Reads that had to wait, and for how long.
    pub(crate) waits: AtomicU64,
    pub(crate) waited_ns: AtomicU64,
    /// Bytes that were given back for the cap.
    pub(crate) evicted_bytes: AtomicU64,
}

impl TierCounts {
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }
}

/// Fetches something.
type FetchJob = Box<dyn FnOnce() + Send>;

/// What leads to the threads. They end when this is dropped.
#[derive(Clone)]
struct FetchThreads {
    waited_for: Sender<FetchJob>,
    ahead: Sender<FetchJob>,
}

/// See the module. One for each open store.
pub(super) struct TierFetching {
    source: RwLock<Option<Arc<dyn RangeSource>>>,
    limits: RwLock<TierLimits>,
    pub(super) counts: TierCounts,
    outage: Mutex<TierOutage>,
    clock: FetchClock,
    /// When a failure was told last.
    told: Mutex<Option<Instant>>,
    threads: Mutex<Option<FetchThreads>>,
}

impl std::fmt::Debug for TierFetching {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TierFetching").field("source", &self.source()).finish_non_exhaustive()
    }
}

impl TierFetching {
    pub(super) fn new() -> Self {
        let (source, limits, counts, outage, clock, told, threads) = Default::default();
        Self { source, limits, counts, outage, clock, told, threads }
    }

    /// Bytes come from here. The calling thread's rights are those of the threads that fetch ahead.
    pub(super) fn set_source(&self, source: Arc<dyn RangeSource>) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
        let mut threads = lock(&self.threads);
        if threads.is_none() {
            let waited_for = start_threads(FETCH_THREADS, MOST_WAITING);
            *threads = Some(FetchThreads { waited_for, ahead: start_threads(AHEAD_THREADS, MOST_AHEAD) });
        }
    }

    fn threads(&self) -> Option<FetchThreads> {
        lock(&self.threads).clone()
    }

    pub(super) fn has_source(&self) -> bool {
        self.source().is_some()
    }

    /// See [`RangeSource::look`].
    pub(super) fn look(&self) {
        if let Some(Err(error)) = self.source().map(|source| source.look()) {
            tracing::warn!(%error, "what is not here of images of a tier cannot be read for now");
        }
    }

    fn source(&self) -> Option<Arc<dyn RangeSource>> {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_limits(&self, limits: TierLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    pub(super) const fn clock(&self) -> &FetchClock {
        &self.clock
    }

    /// When a read fails that begins now.
    pub(super) fn deadline(&self) -> ReadDeadline {
        self.limits().deadline(self.clock.now())
    }

    /// Until when a read with this deadline waits, as far as is known now.
    pub(super) fn wait_until(&self, deadline: ReadDeadline) -> Instant {
        lock(&self.outage).read_until(deadline, self.limits().wait)
    }

    pub(super) fn limits(&self) -> TierLimits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something fetched by others, if there is room for it.
    pub(super) fn ahead(&self, job: FetchJob) {
        let Some(threads) = self.threads() else { return };
        match threads.ahead.try_send(job) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// The bytes of a range, after as many attempts as fit before `deadline`; one at least.
    ///
    /// # Errors
    /// The last attempt's.
    pub(super) fn get(
        &self,
        pack: &SourcePack,
        range: &Range<u64>,
        deadline: Option<ReadDeadline>,
    ) -> Result<Vec<u8>, SourceError> {
        let no_source = || SourceError::Unreachable("this store has not been told where it is".to_owned());
        let source = self.source().ok_or_else(no_source)?;
        let mut attempts = FetchAttempts::until(deadline);
        loop {
            let answer = match deadline {
                Some(deadline) => {
                    let limit = self.limits().wait;
                    let until = lock(&self.outage).attempt_until(deadline, self.clock.now(), limit);
                    self.asked(&source, pack, range, until)
                }
                None => source.read_range(pack, range.clone()),
            };
            let error = match answer {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => {
                    TierCounts::add(&self.counts.fetches, 1);
                    TierCounts::add(&self.counts.fetched_bytes, bytes.len() as u64);
                    lock(&self.outage).end();
                    return Ok(bytes);
                }
                Ok(bytes) => SourceError::Unreachable(format!(
                    "{} bytes came of the {} from {} on",
                    bytes.len(),
                    range.end - range.start,
                    range.start
                )),
                Err(error) => error,
            };
            TierCounts::add(&self.counts.failed, 1);
            self.tell(&error);
            if matches!(error, SourceError::Missing(_)) {
                lock(&self.outage).end();
                return Err(error);
            }
            let (now, limit) = (self.clock.now(), self.limits().wait);
            let pause = {
                let mut outage = lock(&self.outage);
                match &error {
                    SourceError::Refused(_) => attempts.after_refusal(&mut outage, now),
                    _ => attempts.after_failure(&mut outage, now, limit),
                }
            };
            let Some(pause) = pause else { return Err(error) };
            self.clock.sleep(pause);
        }
    }

    /// One attempt, by another thread, which is not waited for longer than that.
    fn asked(
        &self,
        source: &Arc<dyn RangeSource>,
        pack: &SourcePack,
        range: &Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, SourceError> {
        let busy = || SourceError::Unreachable("it did not answer in time".to_owned());
        let threads = self.threads().ok_or_else(busy)?;
        let (answer, answered) = bounded(1);
        let (source, pack, range) = (Arc::clone(source), *pack, range.clone());
        let job = move || {
            let _nobody_waits_any_more = answer.send(source.read_range(&pack, range));
        };
        threads.waited_for.send_deadline(Box::new(job), deadline).map_err(|_| busy())?;
        answered.recv_deadline(deadline).map_err(|_| busy())?
    }

    /// The first failure is told at once, while it is asked again; later ones seldom.
    fn tell(&self, error: &SourceError) {
        let mut told = lock(&self.told);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(%error, "a tier does not give what is read; it is asked again as long as reads may wait");
        }
    }
}

fn start_threads(count: usize, most: usize) -> Sender<FetchJob> {
    let (sender, receiver) = bounded::<FetchJob>(most);
    for _ in 0..count {
        let jobs: Receiver<FetchJob> = receiver.clone();
        let thread = std::thread::Builder::new().name("ringnbd-tier".to_owned());
        if let Err(error) = thread.spawn(move || jobs.into_iter().for_each(|job| job())) {
            tracing::warn!(%error, "less is fetched at once: a thread cannot be had");
        }
    }
    sender
}
