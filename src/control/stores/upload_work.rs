//! What comes to the tier of a store, as those see it who ask how it stands.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::store::catalog::{NodeName, StoreName};
use crate::store::due_pushes::StoreLag;

/// See [`Stores::push_in_background`](super::offers::Stores::push_in_background).
#[derive(Debug, Default)]
pub(super) struct UploadWork {
    pub(super) is_paused: Cell<bool>,
    /// Another process wants the store: what is under way ends, and nothing begins.
    pub(super) gives_way: Cell<bool>,
    /// Looks at once what is to be done.
    pub(super) wake: Notify,
    /// A push has ended.
    pub(super) ended: Notify,
    pub(super) queue: Cell<u64>,
    pub(super) pushing: RefCell<Option<NodeName>>,
    pub(super) pushed: Cell<u64>,
    pub(super) failed: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) error: RefCell<Option<String>>,
    pub(super) last_success_s: Cell<Option<u64>>,
    pub(super) lag: RefCell<StoreLag>,
    pub(super) left: Arc<LeftOut>,
    /// Pushes one after the other that failed because of the tier.
    pub(super) failures: Cell<u32>,
}

/// What is not pushed for now, though it is due. The store's thread looks at it too.
#[derive(Debug, Default)]
pub(super) struct LeftOut(Mutex<LeftOutNames>);

#[derive(Debug, Default)]
struct LeftOutNames {
    /// Images that another store has, and snapshots that failed: when they are tried again.
    images: BTreeMap<StoreName, Instant>,
    snapshots: BTreeMap<Uuid, Instant>,
    /// Snapshots that were pushed since the start, whether that could be noted or not.
    pushed: BTreeSet<Uuid>,
    /// The tier that all this is about.
    tier: Option<String>,
}

impl LeftOut {
    fn names(&self) -> MutexGuard<'_, LeftOutNames> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, node: &NodeName, snapshot: Uuid, now: Instant) -> bool {
        let names = self.names();
        let waits = |until: Option<&Instant>| until.is_some_and(|until| *until > now);
        waits(names.images.get(&node.image))
            || waits(names.snapshots.get(&snapshot))
            || names.pushed.contains(&snapshot)
    }

    /// Another store has the image; true if that is new.
    pub(super) fn lose(&self, image: &StoreName, until: Instant) -> bool {
        self.names().images.insert(image.clone(), until).is_none()
    }

    pub(super) fn leave(&self, snapshot: Uuid, until: Instant) {
        self.names().snapshots.insert(snapshot, until);
    }

    pub(super) fn push(&self, node: &NodeName, snapshot: Uuid) {
        let mut names = self.names();
        names.images.remove(&node.image);
        names.snapshots.remove(&snapshot);
        names.pushed.insert(snapshot);
    }

    /// Forgets those that were to be tried again some time ago and were not: nothing of them is due.
    pub(super) fn forget(&self, now: Instant, patience: Duration) {
        let mut names = self.names();
        let is_known = |until: &Instant| *until + patience > now;
        names.images.retain(|_, until| is_known(until));
        names.snapshots.retain(|_, until| is_known(until));
    }

    /// All are tried again at once. Images are lost until one of them is pushed.
    pub(super) fn try_again(&self, now: Instant) {
        let mut names = self.names();
        names.images.values_mut().for_each(|until| *until = now);
        names.snapshots.clear();
    }

    /// On another tier nothing is there, and nothing was refused.
    pub(super) fn follow(&self, tier: &Option<String>) {
        let mut names = self.names();
        if names.tier != *tier {
            *names = LeftOutNames { tier: tier.clone(), ..LeftOutNames::default() };
        }
    }

    /// The first images that another store has, and how many there are.
    pub(super) fn lost(&self, most: usize) -> (Vec<String>, usize) {
        let names = self.names();
        (names.images.keys().take(most).map(ToString::to_string).collect(), names.images.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_comes_again() {
        let (left, now, soon) = (LeftOut::default(), Instant::now(), Duration::from_secs(600));
        let node: NodeName = "vm1@a".parse().unwrap();
        let other: NodeName = "vm2@a".parse().unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(left.lose(&node.image, now + soon) && !left.lose(&node.image, now + soon));
        left.leave(two, now + soon);
        assert!(left.has(&node, one, now) && left.has(&other, two, now) && !left.has(&other, one, now));
        assert!(!left.has(&node, one, now + soon) && left.lost(9) == (vec!["vm1".to_owned()], 1));
        left.try_again(now);
        assert!(!left.has(&node, one, now) && !left.has(&other, two, now));
        assert_eq!(left.lost(9).1, 1, "it is lost until it is pushed");
        left.push(&node, one);
        assert!(left.has(&node, one, now) && left.lost(9).1 == 0);
        left.lose(&node.image, now);
        left.forget(now + 2 * soon, soon);
        assert_eq!(left.lost(9).1, 0, "nothing of it is due");
        left.follow(&None);
        assert!(left.has(&node, one, now), "the tier is the same");
        left.follow(&Some("file:/a".to_owned()));
        assert!(!left.has(&node, one, now));
    }
}
