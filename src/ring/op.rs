//! The table of operations in flight.
//!
//! *Keyspace contract*: the `user_data` of every SQE is the key of its entry here and nothing else. A key is
//! free again only after the terminal CQE was taken out, so a key names one operation at a time.
//!
//! *Ownership contract*: the entry owns the [`Operation`], and with it every byte that the kernel may touch,
//! from before the SQE is pushed until the terminal CQE. Nothing removes an entry earlier: not a dropped
//! future, not a closed connection.
//!
//! *Cancellation contract*: cancelling is a request ([`Operation::Cancel`]). The target still completes on
//! its own, with its real result or `ECANCELED`, and only then gives back what it owns.

use std::task::Waker;

use slab::Slab;

use super::key::{OpKey, Owner};
use super::operation::{FileIndex, Operation};

/// An operation in flight, or finished and not yet collected by its owner.
#[derive(Debug)]
pub(super) struct OpEntry {
    pub(super) owner: Owner,
    pub(super) operation: Operation,
    pub(super) result: Option<Result<u32, i32>>,
}

/// All operations in flight.
#[derive(Debug)]
pub(super) struct OpTable {
    entries: Slab<OpEntry>,
    in_flight: usize,
    /// Of those whose owner is [`Owner::Within`]. Whoever takes one out drops it elsewhere: a waker may do
    /// anything.
    wakers: Slab<Waker>,
}

impl OpTable {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { entries: Slab::with_capacity(capacity), in_flight: 0, wakers: Slab::new() }
    }

    /// Takes an operation in; the key goes into its SQE.
    pub(super) fn insert(&mut self, operation: Operation, owner: Owner) -> OpKey {
        self.in_flight += 1;
        OpKey(self.entries.insert(OpEntry { owner, operation, result: None }) as u32)
    }

    pub(super) fn operation_mut(&mut self, key: OpKey) -> &mut Operation {
        &mut self.entries[key.0 as usize].operation
    }

    /// Drops the result of an operation when it comes; the entry lives until its terminal CQE.
    pub(super) fn abandon(&mut self, key: OpKey) {
        let entry = &mut self.entries[key.0 as usize];
        entry.owner = Owner::Nobody;
        if entry.result.is_some() {
            self.discard(key);
        }
    }

    /// Nobody wants the result: a file that was opened is closed.
    #[cold]
    fn discard(&mut self, key: OpKey) {
        let OpEntry { operation, result, .. } = self.entries.remove(key.0 as usize);
        drop(result.and_then(|result| operation.opened(result)));
    }

    /// Records the terminal CQE of an operation. Returns its owner, which then collects the result; without
    /// an owner the result is dropped.
    pub(super) fn finish(&mut self, key: OpKey, result: Result<u32, i32>) -> Owner {
        self.in_flight -= 1;
        let entry = &mut self.entries[key.0 as usize];
        assert!(entry.result.replace(result).is_none(), "operation {key:?} completed twice");
        let owner = entry.owner;
        if owner == Owner::Nobody {
            self.discard(key);
        }
        owner
    }

    /// Takes out an operation, if it is finished.
    pub(super) fn collect(&mut self, key: OpKey) -> Option<(Result<u32, i32>, Operation)> {
        let result = self.entries[key.0 as usize].result?;
        Some((result, self.entries.remove(key.0 as usize).operation))
    }

    /// Somebody else waits for the result from now on.
    pub(super) fn set_owner(&mut self, key: OpKey, owner: Owner) {
        self.entries[key.0 as usize].owner = owner;
    }

    /// Keeps the waker of an [`Owner::Within`].
    pub(super) fn keep_waker(&mut self, waker: Waker) -> u32 {
        self.wakers.insert(waker) as u32
    }

    /// Puts another waker into its place.
    pub(super) fn replace_waker(&mut self, place: u32, waker: Waker) -> Waker {
        std::mem::replace(&mut self.wakers[place as usize], waker)
    }

    /// The waker is not needed any more.
    pub(super) fn withdraw_waker(&mut self, place: u32) -> Waker {
        self.wakers.remove(place as usize)
    }

    /// Whether a kept waker is this one.
    pub(super) fn will_wake(&self, place: u32, waker: &Waker) -> bool {
        self.wakers[place as usize].will_wake(waker)
    }

    /// Whom to wake when an operation of an [`Owner::Within`] is finished: once. `None` when its future is
    /// gone.
    pub(super) fn waker_of_finished(&mut self, key: OpKey) -> Option<Waker> {
        let entry = self.entries.get(key.0 as usize).filter(|entry| entry.result.is_some())?;
        let Owner::Within(place) = entry.owner else { return None };
        Some(self.replace_waker(place, Waker::noop().clone()))
    }

    /// Whether an operation on a file is in flight, or finished and not collected.
    pub(super) fn names(&self, file: FileIndex) -> bool {
        self.entries.iter().any(|(_, entry)| entry.operation.file() == Some(file))
    }

    /// Operations whose terminal CQE has not been seen.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for OpTable {
    /// Files that were opened and that nobody has taken are closed.
    fn drop(&mut self) {
        for (_, OpEntry { operation, result, .. }) in &self.entries {
            drop(result.and_then(|result| operation.opened(result)));
        }
    }
}
