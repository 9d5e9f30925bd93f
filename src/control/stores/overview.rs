//! What is shown of stores: their images and snapshots, as the thread of each store described them last.
//!
//! The thread has other things to do. It is asked when somebody looks, and its answers cost it a small part
//! of its time at most. One question to a store is open at a time. An answer that is late is not waited for:
//! what is known from before is shown.

use std::cell::{Ref, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::offers::Stores;
use super::one::OneStore;
use crate::control::plane::Plane;
use crate::stats::{PackStats, SnapshotStats, TierStats, UploadStats};
use crate::store::catalog::NodeName;
use crate::store::describe::FirstNodes;
use crate::store::error::StoreError;

/// Images and snapshots of a store that are described, however many it has.
const DESCRIBED: usize = 1000;
/// How long an answer is waited for; one that comes later still counts.
const PATIENCE: Duration = Duration::from_millis(250);
/// Between an answer and the next question.
const PERIOD: Duration = Duration::from_secs(1);
/// So many times as long as an answer took, the thread is left alone.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(60);

/// See the module.
pub(in crate::control) struct Overviews {
    stores: Rc<Stores>,
    /// By store.
    recent: RefCell<Vec<Recent>>,
    answered: Notify,
}

/// What is known of a store.
#[derive(Default)]
struct Recent {
    is_asked: bool,
    /// When the thread may be asked again.
    next: Option<Instant>,
    nodes: Option<(Rc<FirstNodes>, Instant)>,
    /// Why there is nothing newer.
    error: Option<String>,
}

/// A store for those who look at it.
pub(in crate::control) struct StoreOverview<'a> {
    plane: &'a Plane,
    one: &'a OneStore,
    /// With their age; none before the first answer.
    pub(in crate::control) nodes: Option<(Rc<FirstNodes>, Duration)>,
    pub(in crate::control) error: Option<String>,
}

/// Who uses an image or a snapshot now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct NodeUse {
    /// Its files are open.
    pub(in crate::control) is_open: bool,
    /// The export that clients ask for; none if it is no export.
    pub(in crate::control) export: Option<String>,
    pub(in crate::control) connections: usize,
}

/// How long the thread of a store is left alone after an answer that took so long.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(REST).clamp(PERIOD, LONGEST_REST)
}

impl Overviews {
    pub(in crate::control) fn new(stores: &Rc<Stores>) -> Rc<Self> {
        let recent = stores.all.iter().map(|_| Recent::default()).collect();
        Rc::new(Self { stores: Rc::clone(stores), recent: RefCell::new(recent), answered: Notify::new() })
    }

    /// Asks the threads that have not been asked for a while, and waits a moment for their answers.
    pub(in crate::control) async fn refresh(self: &Rc<Self>) {
        for store in self.begin_questions() {
            let overviews = Rc::clone(self);
            tokio_uring::spawn(async move { overviews.ask(store).await });
        }
        let settled = async {
            while self.recent.borrow().iter().any(|recent| recent.is_asked) {
                self.answered.notified().await;
            }
        };
        let _late = timeout(PATIENCE, settled).await;
    }

    fn begin_questions(&self) -> Vec<usize> {
        let (mut begun, now) = (Vec::new(), Instant::now());
        for (store, recent) in self.recent.borrow_mut().iter_mut().enumerate() {
            if !recent.is_asked && recent.next.is_none_or(|next| next <= now) {
                recent.is_asked = true;
                begun.push(store);
            }
        }
        begun
    }

    async fn ask(&self, store: usize) {
        let one = &self.stores.all[store];
        // Not between the steps of a snapshot: changes of images would wait for the description too.
        let turn = one.turn.lock().await;
        let described = one.ask(|store| {
            let begun = Instant::now();
            (store.describe_first(DESCRIBED), begun.elapsed())
        });
        let (nodes, took) = match described.await {
            Ok(answer) => answer,
            Err(error) => (Err(error), Duration::ZERO),
        };
        drop(turn);
        self.recent.borrow_mut()[store].take(nodes, Instant::now(), rest(took));
        self.answered.notify_waiters();
    }

    /// All stores that the server has open.
    pub(in crate::control) fn all(&self) -> Vec<StoreOverview<'_>> {
        let recent = self.recent.borrow();
        let pairs = self.stores.all.iter().zip(recent.iter());
        pairs
            .map(|(one, recent)| StoreOverview {
                plane: &self.stores.plane,
                one,
                nodes: recent.nodes.as_ref().map(|(nodes, at)| (Rc::clone(nodes), at.elapsed())),
                error: recent.error.clone(),
            })
            .collect()
    }

    /// The snapshots of each store since the start and what came into its packs, with its path.
    pub(in crate::control) fn snapshots(&self) -> Vec<(String, Ref<'_, SnapshotStats>, PackStats)> {
        let all = self.stores.all.iter();
        let path = |one: &OneStore| one.of.store.path().display().to_string();
        let packs = |one: &OneStore| {
            let (packed_bytes, needed_bytes) = one.of.store.packed();
            PackStats { packed_bytes, needed_bytes, ..*one.packs.borrow() }
        };
        all.map(|one| (path(one), one.snapshots.borrow(), packs(one))).collect()
    }

    /// What each store has fetched of packs on tiers, in the same order.
    pub(in crate::control) fn tiers(&self) -> Vec<Option<TierStats>> {
        let stats = |one: &OneStore| {
            one.of.store.tier_figures().map(|figures| TierStats {
                fetches: figures.fetches,
                fetched_bytes: figures.fetched_bytes,
                failed: figures.failed,
                gave_up: figures.gave_up,
                wrong: figures.wrong,
                waits: figures.waits,
                waited_ns: figures.waited_ns,
                evicted_bytes: figures.evicted_bytes,
                cached_bytes: figures.cached_bytes,
            })
        };
        self.stores.all.iter().map(stats).collect()
    }

    /// What each store brings to its tier without being asked for, in the same order.
    pub(in crate::control) fn uploads(&self) -> Vec<Option<UploadStats>> {
        self.stores.all.iter().map(OneStore::upload_stats).collect()
    }

    /// Reads of packs of each store that failed, in the same order.
    pub(in crate::control) fn failed_reads(&self) -> Vec<u64> {
        self.stores.all.iter().map(|one| one.of.store.failed_reads()).collect()
    }
}

impl Recent {
    /// What was known before stays if there is no answer.
    fn take(&mut self, answer: Result<FirstNodes, StoreError>, now: Instant, rest: Duration) {
        self.is_asked = false;
        self.next = Some(now + rest);
        match answer {
            Ok(nodes) => (self.nodes, self.error) = (Some((Rc::new(nodes), now)), None),
            Err(error) => self.error = Some(error.to_string()),
        }
    }
}

impl StoreOverview<'_> {
    pub(in crate::control) fn path(&self) -> &Path {
        self.one.of.store.path()
    }

    /// Who uses an image or a snapshot of this name.
    pub(in crate::control) fn use_of(&self, name: &str) -> NodeUse {
        let Ok(node) = name.parse::<NodeName>() else { return NodeUse::default() };
        let (export, entry) = match self.one.of.fixed.get(&node) {
            Some(export) => (Some(export.clone()), self.plane.find(export)),
            None => (self.one.of.all.as_ref().map(|_| name.to_owned()), self.one.entry(&node)),
        };
        NodeUse {
            is_open: entry.as_ref().is_some_and(|entry| entry.export().is_some()),
            export,
            connections: entry.map_or(0, |entry| entry.clients()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_store_is_asked_less_often() {
        assert_eq!(rest(Duration::from_millis(1)), PERIOD);
        assert_eq!(rest(Duration::from_millis(200)), Duration::from_secs(4));
        assert_eq!(rest(Duration::MAX), LONGEST_REST);
    }

    #[test]
    fn what_is_known_stays_when_there_is_no_answer() {
        let (mut recent, now) = (Recent { is_asked: true, ..Recent::default() }, Instant::now());
        let nodes = FirstNodes { nodes: Vec::new(), images: 3, snapshots: 2, missing: Vec::new() };
        recent.take(Ok(nodes), now, PERIOD);
        assert!(!recent.is_asked && recent.error.is_none() && recent.next == Some(now + PERIOD));
        recent.take(Err(StoreError::Interrupted), now + PERIOD, PERIOD);
        assert_eq!(recent.nodes.as_ref().map(|(nodes, at)| (nodes.images, *at)), Some((3, now)));
        assert!(recent.error.is_some());
    }
}
