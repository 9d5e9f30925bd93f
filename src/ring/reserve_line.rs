//! The line of those who wait for memory of the reserve.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Waker;

/// The line, shared by all who hold its pool.
pub(super) type ReserveLine<L> = RefCell<LeaseQueue<L>>;

/// Those who wait for leases `L`.
#[derive(Debug)]
pub(super) struct LeaseQueue<L> {
    pub(super) waiting: VecDeque<ReserveWaiter>,
    /// What was given to those who came first, by their tickets, until they take it.
    pub(super) given: Vec<(u64, L)>,
    pub(super) next: u64,
}

#[derive(Debug)]
pub(super) struct ReserveWaiter {
    pub(super) ticket: u64,
    /// Bytes.
    pub(super) length: usize,
    pub(super) waker: Option<Waker>,
}

impl<L> Default for LeaseQueue<L> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), given: Vec::new(), next: 0 }
    }
}
