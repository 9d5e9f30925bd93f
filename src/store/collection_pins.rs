//! What a collection of packs leaves alone although no row of the catalogue names it: not yet, or not any
//! more.
//!
//! * Packs with chunks that an ingest has found or appended. They are held from the look-up until the
//!   transaction that names them is over. A collection notes all packs that are held while it runs: what
//!   names them by then was not there when it looked.
//! * Contents that are still read by those who opened them before the catalogue had others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::manifest::ManifestRoot;

/// One for each open store.
#[derive(Debug, Default)]
pub(crate) struct CollectionPins {
    state: Mutex<PinnedState>,
}

#[derive(Debug, Default)]
struct PinnedState {
    /// How many hold a pack.
    packs: BTreeMap<u64, usize>,
    /// Packs that were held at any time since the collection that runs has begun.
    noted: Option<BTreeSet<u64>>,
    /// Contents that are read, by the number of their reader.
    contents: BTreeMap<u64, ManifestRoot>,
    readers: u64,
}

/// Packs that somebody needs until this is dropped.
#[derive(Debug)]
pub(super) struct HeldPacks {
    pins: Arc<CollectionPins>,
    packs: BTreeSet<u64>,
}

/// Packs that are held while this is there. There is one at a time.
#[derive(Debug)]
pub(super) struct NotedPacks {
    pins: Arc<CollectionPins>,
}

/// Contents that are read until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldContents {
    pins: Arc<CollectionPins>,
    reader: u64,
}

impl CollectionPins {
    /// What a thread that panicked has left is whole: each change is one step.
    fn state(&self) -> MutexGuard<'_, PinnedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is read from a root on. Called by the thread that has the store, when it tells of the root.
    pub(crate) fn hold_contents(self: &Arc<Self>, root: &ManifestRoot) -> HeldContents {
        let mut state = self.state();
        state.readers += 1;
        let reader = state.readers;
        state.contents.insert(reader, *root);
        HeldContents { pins: Arc::clone(self), reader }
    }

    /// The roots of all contents that are read.
    pub(super) fn held_contents(&self) -> Vec<ManifestRoot> {
        self.state().contents.values().copied().collect()
    }

    /// Begins to note what is held; none while somebody else does.
    pub(super) fn note_packs(self: &Arc<Self>) -> Option<NotedPacks> {
        let mut state = self.state();
        if state.noted.is_some() {
            return None;
        }
        state.noted = Some(state.packs.keys().copied().collect());
        Some(NotedPacks { pins: Arc::clone(self) })
    }
}

impl HeldPacks {
    pub(super) fn new(pins: Arc<CollectionPins>) -> Self {
        Self { pins, packs: BTreeSet::new() }
    }

    pub(super) fn hold(&mut self, pack: u64) {
        if self.packs.insert(pack) {
            let mut state = self.pins.state();
            *state.packs.entry(pack).or_default() += 1;
            if let Some(noted) = &mut state.noted {
                noted.insert(pack);
            }
        }
    }

    pub(super) const fn packs(&self) -> &BTreeSet<u64> {
        &self.packs
    }
}

impl Drop for HeldPacks {
    fn drop(&mut self) {
        let mut state = self.pins.state();
        for pack in &self.packs {
            if let Some(count) = state.packs.get_mut(pack) {
                *count -= 1;
                if *count == 0 {
                    state.packs.remove(pack);
                }
            }
        }
    }
}

impl NotedPacks {
    pub(super) fn packs(&self) -> BTreeSet<u64> {
        self.pins.state().noted.clone().unwrap_or_default()
    }
}

impl Drop for NotedPacks {
    fn drop(&mut self) {
        self.pins.state().noted = None;
    }
}

impl Drop for HeldContents {
    fn drop(&mut self) {
        self.pins.state().contents.remove(&self.reader);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pack::{ChunkSpace, HashAlgorithm};

    #[test]
    fn what_is_held_at_any_time_is_noted_and_nothing_is_held_for_ever() {
        let pins = Arc::new(CollectionPins::default());
        let (mut one, mut other) = (HeldPacks::new(Arc::clone(&pins)), HeldPacks::new(Arc::clone(&pins)));
        one.hold(1);
        one.hold(1);
        other.hold(1);
        let noted = pins.note_packs().unwrap();
        assert!(pins.note_packs().is_none(), "one collection at a time");
        other.hold(2);
        drop(other);
        assert_eq!(noted.packs(), BTreeSet::from([1, 2]), "2 was held meanwhile");
        drop(noted);
        assert_eq!(pins.note_packs().unwrap().packs(), BTreeSet::from([1]));
        drop(one);
        assert!(pins.note_packs().unwrap().packs().is_empty());
        let space =
            ChunkSpace { algorithm: HashAlgorithm::Blake3, chunk_bytes: 4096, domain: uuid::Uuid::nil() };
        let held = pins.hold_contents(&ManifestRoot::zeroes(space, 5));
        assert_eq!(pins.held_contents().len(), 1);
        drop(held);
        assert!(pins.held_contents().is_empty());
    }
}
