//! What one export may have in the worker threads of a shard's ring.
//!
//! What cannot be done without blocking (`fallocate`, syncs, prefetches, everything on a file system without
//! `RWF_NOWAIT`) goes to worker threads of the kernel, which all exports of the ring share. Without a limit,
//! one export that floods them, or whose disk hangs, takes them all, and the others' requests queue behind
//! it.
//!
//! Writes through the page cache of a regular file are not counted: the kernel gives all writes of one inode
//! to one worker at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Poll;

use crate::exec::{ReadyList, Waiter};
use crate::ring::Ring;

/// The share of one export. Whoever comes when it is used up waits in line; each place that comes free is
/// handed to the next.
#[derive(Debug)]
pub(super) struct WorkerShare {
    state: RefCell<ShareState>,
    ready: ReadyList,
}

#[derive(Debug)]
struct ShareState {
    free: usize,
    next_ticket: u64,
    /// Those who wait, by ticket, in the order in which they came.
    waiting: VecDeque<(u64, Waiter)>,
    /// Tickets that were given a place which was not taken yet.
    granted: Vec<u64>,
}

/// A place in the worker threads; comes free on drop.
#[derive(Debug)]
pub(super) struct WorkerPlace<'a>(&'a WorkerShare);

/// A ticket in the line.
struct InLine<'a> {
    share: &'a WorkerShare,
    ticket: u64,
}

impl WorkerShare {
    pub(super) fn new(places: usize, ready: ReadyList) -> Self {
        assert!(places > 0, "an export without workers would wait for ever");
        let state =
            ShareState { free: places, next_ticket: 0, waiting: VecDeque::new(), granted: Vec::new() };
        Self { state: RefCell::new(state), ready }
    }

    /// A place, if there is one now.
    pub(super) fn try_enter(&self) -> Option<WorkerPlace<'_>> {
        let mut state = self.state.borrow_mut();
        if canary!(WorkersUnbounded) {
            state.free += 1;
        }
        // While anybody waits, nothing is free: what comes free is handed on.
        state.free = state.free.checked_sub(1)?;
        Some(WorkerPlace(self))
    }

    /// Waits for a place.
    pub(super) async fn enter(&self, ring: &Ring) -> WorkerPlace<'_> {
        if let Some(place) = self.try_enter() {
            return place;
        }
        let mut line = None;
        std::future::poll_fn(|context| {
            let waiter = Waiter::new(ring, context);
            let line = match &line {
                Some(line) => line,
                None => return self.line_up(waiter, &mut line),
            };
            match line.take() {
                Some(place) => Poll::Ready(place),
                None => {
                    line.waits(waiter);
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn line_up<'a>(&'a self, waiter: Waiter, line: &mut Option<InLine<'a>>) -> Poll<WorkerPlace<'a>> {
        let mut state = self.state.borrow_mut();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((ticket, waiter));
        *line = Some(InLine { share: self, ticket });
        Poll::Pending
    }

    /// A place comes free: it is the next one's, or nobody's.
    fn leave(&self) {
        let mut state = self.state.borrow_mut();
        match state.waiting.pop_front() {
            Some((ticket, waiter)) => {
                state.granted.push(ticket);
                drop(state);
                self.ready.notify(waiter);
            }
            None => state.free += 1,
        }
    }
}

impl<'a> InLine<'a> {
    fn take(&self) -> Option<WorkerPlace<'a>> {
        let mut state = self.share.state.borrow_mut();
        let index = state.granted.iter().position(|granted| *granted == self.ticket)?;
        state.granted.swap_remove(index);
        Some(WorkerPlace(self.share))
    }

    /// It is polled again before its turn, perhaps by another.
    fn waits(&self, waiter: Waiter) {
        let mut state = self.share.state.borrow_mut();
        let own = state.waiting.iter_mut().find(|(ticket, _)| *ticket == self.ticket);
        let replaced = own.map(|(_, waits)| std::mem::replace(waits, waiter));
        drop(state);
        drop(replaced);
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        // Given a place at the last moment, it hands it on.
        if self.take().is_some() {
            return;
        }
        let mut state = self.share.state.borrow_mut();
        let place = state.waiting.iter().position(|(ticket, _)| *ticket == self.ticket);
        let withdrawn = place.and_then(|place| state.waiting.remove(place));
        drop(state);
        drop(withdrawn);
    }
}

impl Drop for WorkerPlace<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;
    use crate::ring::RingOptions;

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn places_are_handed_to_one_after_the_other() {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let ready = ReadyList::detached();
        let share = WorkerShare::new(1, ready.clone());
        let place = share.try_enter().unwrap();
        let (mut first, mut second) = (pin!(share.enter(&ring)), pin!(share.enter(&ring)));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        assert!(ready.is_empty());
        drop(place);
        assert!(!ready.is_empty() && share.try_enter().is_none(), "it is the first one's");
        assert!(poll(&mut second).is_none());
        let place = poll(&mut first).unwrap();
        assert!(poll(&mut second).is_none());
        drop(place);
        drop(poll(&mut second).unwrap());
        assert!(share.try_enter().is_some());
    }

    #[test]
    fn who_gives_up_leaves_the_line_and_hands_its_place_on() {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let share = WorkerShare::new(1, ReadyList::detached());
        let place = share.try_enter().unwrap();
        let mut last = pin!(share.enter(&ring));
        {
            let (mut waits, mut gets) = (pin!(share.enter(&ring)), pin!(share.enter(&ring)));
            assert!(poll(&mut gets).is_none() && poll(&mut waits).is_none());
            assert!(poll(&mut last).is_none());
            drop(place);
        }
        drop(poll(&mut last).expect("the two before it are gone"));
        assert!(share.try_enter().is_some());
    }
}
