//! A thread that brings snapshots of a store to its tier while a server has the store, one at a time.
//!
//! It is told what to push, and by whom it is throttled and stopped. It reads what the store does not change
//! any more, beside the store's own thread, and has the rights of whoever started it: a confined process can
//! neither connect nor open a client. What was cut off goes on with the packs that are not there yet, after a
//! restart too, because the tier is asked for each.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::due_pushes::{DuePush, PushedContents};
use super::error::StoreError;
use super::foreign::is_of_network;
use super::map_files::MapFiles;
use super::open_store::{OpenStore, random_uuid};
use super::pace::owed;
use super::push_notes::note_push;
use super::push_plan::{pack_files, push_plan};
use super::tier_setting::tier_of;
use crate::pause::GrowingPause;
use crate::tier::own::{Pusher, host_name};
use crate::tier::push::{PushTo, find_pushed};
pub(crate) use crate::tier::spread;
use crate::tier::uri::{TierUri, TierUriError};
use crate::tier::{CountedObjects, ObjectCounts, ObjectError, Objects, Sent, TierError, TierWaiting};

/// After pushes that failed because of the tier.
const WAITS: GrowingPause = GrowingPause::new(Duration::from_secs(2), Duration::from_secs(600));

/// How long nothing is tried after so many failures, which hosts spread.
pub(crate) fn wait_after(failures: u32) -> Duration {
    WAITS.after(failures.saturating_sub(1))
}

/// How long a start waits for the first answer of a tier.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Why a snapshot did not come to the tier.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Tier(#[from] TierError),
    #[error("{0}")]
    Address(#[from] TierUriError),
    #[error("the push was stopped")]
    Stopped,
    #[error("the snapshot was removed meanwhile, or its layers became others")]
    Gone,
    #[error("the thread that pushes has ended: restart the server")]
    Ended,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushRemedy {
    /// Nothing: somebody wanted it to end.
    GoOn,
    /// Another store has the name: nothing of this image comes to the tier until somebody decides.
    LeaveImage,
    /// This snapshot waits, others may come.
    LeaveSnapshot,
    /// Nothing comes for now: all waits.
    BackOff,
    /// Others may not come either, or only this one: all waits, and this snapshot for longer.
    LeaveAndBackOff,
}

impl PushError {
    pub(crate) const fn remedy(&self) -> PushRemedy {
        match self {
            Self::Stopped | Self::Gone => PushRemedy::GoOn,
            // That may be its own file.
            Self::Tier(TierError::Objects(ObjectError::Other { .. })) => PushRemedy::LeaveAndBackOff,
            Self::Tier(TierError::NotOwner { .. }) => PushRemedy::LeaveImage,
            Self::Tier(TierError::Objects(_) | TierError::NoTier | TierError::OtherSpace { .. })
            | Self::Address(_)
            | Self::Ended => PushRemedy::BackOff,
            Self::Tier(_) | Self::Store(_) => PushRemedy::LeaveSnapshot,
        }
    }
}

/// What others see of the thread, and tell it.
#[derive(Debug)]
struct PushControl {
    /// Bytes a second.
    rate: AtomicU64,
    /// When the next bytes may be sent.
    next: Mutex<Instant>,
    sent_bytes: AtomicU64,
    is_stopped: AtomicBool,
    /// Of the thread, while it pushes.
    waker: Mutex<Option<Waker>>,
}

impl PushControl {
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        waker.iter().for_each(Waker::wake_by_ref);
    }

    /// Does something until it is done, or is stopped.
    async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, PushError>>,
    ) -> Result<T, PushError> {
        let mut work = std::pin::pin!(work);
        poll_fn(|context| {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            let is_stopped = || self.is_stopped.load(Ordering::SeqCst);
            if is_stopped() {
                return Poll::Ready(Err(PushError::Stopped));
            }
            match work.as_mut().poll(context) {
                // An upload that was told to end says so in words of its own.
                Poll::Ready(Err(_)) if is_stopped() => Poll::Ready(Err(PushError::Stopped)),
                polled => polled,
            }
        })
        .await
    }
}

impl Sent for PushControl {
    fn sent(&self, bytes: u64) -> Result<Duration, ObjectError> {
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(ObjectError::Other { key: "the upload".to_owned(), why: "stopped".to_owned() });
        }
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        let takes = owed(bytes, Some(self.rate.load(Ordering::Relaxed).max(1)), Duration::ZERO);
        let (mut next, now) = (self.next.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        *next = (*next).max(now) + takes;
        Ok(*next - now)
    }
}

/// Told when a push has ended.
type PushEnd = Box<dyn FnOnce(Result<bool, PushError>) + Send>;

struct PushJob {
    due: DuePush,
    contents: PushedContents,
    ended: PushEnd,
}

/// See the module. The thread ends when this is dropped.
pub(crate) struct StorePusher {
    /// There is one at a time.
    jobs: SyncSender<PushJob>,
    control: Arc<PushControl>,
    counts: Arc<ObjectCounts>,
}

impl fmt::Debug for StorePusher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StorePusher").field("control", &self.control).finish_non_exhaustive()
    }
}

impl Drop for StorePusher {
    fn drop(&mut self) {
        self.control.stop();
    }
}

impl StorePusher {
    /// Starts the thread, with the rights of the calling one, and has it open the tier: later the process may
    /// be confined. A tier that does not answer soon is not waited for.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(store: &Path, rate: u64) -> Result<Self, StoreError> {
        Self::started(store, rate).map_err(StoreError::at("start a thread that pushes snapshots of", store))
    }

    fn started(store: &Path, rate: u64) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(1);
        let control = PushControl {
            rate: AtomicU64::new(rate),
            next: Mutex::new(Instant::now()),
            sent_bytes: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            waker: Mutex::new(None),
        };
        let (control, counts) = (Arc::new(control), Arc::new(ObjectCounts::default()));
        let waiting = TierWaiting::new()?;
        let thread = PushThread {
            store: store.to_owned(),
            host: host_name(),
            control: Arc::clone(&control),
            counts: Arc::clone(&counts),
            tier: None,
        };
        let (ready, first) = sync_channel(1);
        let named = std::thread::Builder::new().name("ringnbd-push".to_owned());
        named.spawn(move || thread.work(&waiting, &queue, &ready))?;
        let _late_or_not = first.recv_timeout(FIRST_ANSWER);
        Ok(Self { jobs, control, counts })
    }

    /// Whether the tier of a store is asked over the network, or may be later.
    pub(crate) fn connects(store: &Path) -> bool {
        tier_of(store).ok().flatten().is_none_or(|address| is_of_network(&address))
    }

    /// Begins to push a snapshot. `ended` is called on the thread, with whether it was there before.
    pub(crate) fn push(
        &self,
        due: DuePush,
        contents: PushedContents,
        ended: impl FnOnce(Result<bool, PushError>) + Send + 'static,
    ) {
        self.control.is_stopped.store(false, Ordering::SeqCst);
        let job = PushJob { due, contents, ended: Box::new(ended) };
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.jobs.try_send(job) {
            (job.ended)(Err(PushError::Ended));
        }
    }

    /// Ends the push that is under way.
    pub(crate) fn stop(&self) {
        self.control.stop();
    }

    pub(crate) fn rate(&self) -> u64 {
        self.control.rate.load(Ordering::Relaxed)
    }

    /// Bytes a second from the next push on.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.control.rate.store(rate, Ordering::Relaxed);
        *self.control.next.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Bytes of packs that were sent, also of uploads that were cut.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.control.sent_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> &ObjectCounts {
        &self.counts
    }
}

/// The thread's own.
struct PushThread {
    store: PathBuf,
    host: String,
    control: Arc<PushControl>,
    counts: Arc<ObjectCounts>,
    /// The tier by the address that it was opened with.
    tier: Option<(String, Arc<dyn Objects>)>,
}

impl PushThread {
    fn work(mut self, waiting: &TierWaiting, queue: &Receiver<PushJob>, ready: &SyncSender<()>) {
        let control = Arc::clone(&self.control);
        // A tier that takes its time must not keep the first push from being stopped, which waits for this.
        match waiting.wait(control.until_stopped(self.look())) {
            // Whoever has the store gives it a tier later.
            Ok(()) | Err(PushError::Stopped | PushError::Tier(TierError::NoTier)) => {}
            Err(error) => {
                let store = self.store.display().to_string();
                tracing::warn!(store, %error, "snapshots do not come to the tier for now; it is asked again");
            }
        }
        let _nobody_waits_any_more = ready.try_send(());
        while let Ok(PushJob { due, contents, ended }) = queue.recv() {
            let control = Arc::clone(&self.control);
            ended(waiting.wait(control.until_stopped(self.push(&due, contents))));
        }
    }

    /// Has the C library load what looking up a host takes, before it cannot any more.
    async fn look(&mut self) -> Result<(), PushError> {
        let tier = self.tier()?;
        tier.head(crate::tier::keys::TIER).await.map(drop).map_err(|error| TierError::from(error).into())
    }

    fn tier(&mut self) -> Result<Arc<dyn Objects>, PushError> {
        let address = tier_of(&self.store)?.ok_or(TierError::NoTier)?;
        if let Some((known, tier)) = &self.tier
            && *known == address
        {
            return Ok(Arc::clone(tier));
        }
        let opened = address.parse::<TierUri>()?.objects()?;
        let tier: Arc<dyn Objects> = Arc::new(CountedObjects::new(opened, Arc::clone(&self.counts)));
        self.tier = Some((address, Arc::clone(&tier)));
        Ok(tier)
    }

    async fn push(&mut self, due: &DuePush, contents: PushedContents) -> Result<bool, PushError> {
        let tier = self.tier()?;
        let who = Pusher { store: contents.store, host: self.host.clone() };
        let name = due.node.snapshot.as_ref().map(ToString::to_string).unwrap_or_default();
        let asked = (due.node.image.as_str(), name.as_str(), due.uuid);
        // To go through the contents may take long, so that comes after what refuses it.
        let is_there = find_pushed(&*tier, &who, asked).await?.is_some();
        if !is_there {
            let opened = OpenStore::open_to_read(&self.store, MapFiles, &contents.rows);
            let packed = opened.and_then(|store| store.packed_snapshot(&due.node));
            let packed =
                packed.map_err(|error| if error.is_gone() { PushError::Gone } else { error.into() })?;
            let (plan, packs) = (push_plan(&due.node, &packed), pack_files(&packed));
            let (objects, sent) = (&*tier, &*self.control);
            let to = PushTo { objects, who: &who, packs: &packs, sent, new_id: &random_uuid };
            to.push(&plan).await?;
        }
        drop(contents.held);
        if let Err(error) = note_push(&self.store, due.uuid, tier.now_s()) {
            tracing::warn!(node = %due.node, %error, "`image ls` does not show that it was pushed");
        }
        Ok(is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        assert_eq!((wait_after(1), wait_after(2)), (WAITS.after(0), WAITS.after(1)));
        assert!((1..100).all(|failures| wait_after(failures) <= wait_after(failures + 1)));
        assert_eq!(wait_after(u32::MAX), Duration::from_secs(600));
    }
}
